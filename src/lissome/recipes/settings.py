"""What can be set, as checked data; loads neither torch nor anything heavy."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar, get_args

import yaml
from pydantic import BaseModel, BeforeValidator, Field, ValidationError, field_validator, model_validator

from lissome._errors import UsageError, unknown
from lissome._parsed import yaml_of
from lissome.recipes.course import USUAL, course, double, usual
from lissome.recipes.strict import Strict

Network = Literal["mlp", "kan", "slim-kan"]
KINDS = get_args(Network)
METHODS = ("svd", "lora", "lora-xs", "pissa", "lotra", "last", "full", "scratch")
AUTO = "auto"  # in the place of a method: the one that a short trial finds best
OPTIMIZER = "gauss-newton"  # docs/choosing.md compares


class NetworkSettings(Strict):
    """The network of a solution."""

    kind: Network = "mlp"
    width: int = Field(default=64, ge=1, description="neurons of each hidden layer")
    depth: int = Field(default=2, ge=1, description="hidden layers")
    activation: Literal["tanh", "sin", "gelu", "relu3"] = Field(default="gelu", description="of an mlp")
    basis: Literal["bspline", "chebyshev", "fourier", "rbf"] = Field(default="bspline", description="of a KAN")
    intervals: int = Field(default=5, ge=1, description="of the grid of a KAN")
    order: int = Field(default=3, ge=0, description="of B-splines")
    ranks: tuple[int, int, int] = Field(default=(8, 4, 8), description="of a Slim KAN: outputs, basis, inputs")

    @field_validator("ranks", mode="before")
    @classmethod
    def _three(cls, ranks: Any) -> Any:
        three = isinstance(ranks, list | tuple) and len(ranks) == 3
        if not three or not all(isinstance(r, int) and not isinstance(r, bool) and r >= 1 for r in ranks):
            raise ValueError(f"ranks are {ranks}; legal are three whole numbers of at least 1, such as [8, 4, 8]")
        return ranks

    @model_validator(mode="after")
    def _of_its_kind(self) -> Self:
        if self.kind != "slim-kan" and self.ranks != type(self).model_fields["ranks"].default:
            said = f"'ranks': {list(self.ranks)} are of a slim-kan, and the network is {self.kind}"
            raise ValueError(f"{said}; leave them out, or take slim-kan")
        return self


class PointSettings(Strict):
    """How many points a batch holds, and how they are drawn."""

    interior: int = Field(default=1000, ge=1)
    boundary: int = Field(default=500, ge=1)
    initial: int = Field(default=500, ge=1)
    draw: str | None = Field(
        default=None, description="published, uniform, mixed, sobol or latin; null is the family's"
    )
    resample: int | Literal["auto"] | None = Field(
        default="auto",
        description="new points every so many steps; null keeps the first ones; auto is 1, for line searches more",
    )
    adaptive: bool | None = Field(
        default=None, description="draw more of them where the residual is large; null is the family's"
    )

    @field_validator("resample")
    @classmethod
    def _counted(cls, resample: Any) -> Any:
        if isinstance(resample, int) and resample < 1:
            raise ValueError(f"{resample} is no number of steps; legal are 1 and more, auto, and null")
        return resample


class GroupSettings(Strict):
    """Parameters of one name pattern, moved by an optimizer of their own."""

    pattern: str = Field(description="shell pattern on names of trained parameters, such as '*core'")
    optimizer: str = "adam"
    rate: float | None = Field(default=None, gt=0, description="null is 5e-3 for adam, else the optimizer's default")
    options: dict[str, Any] = Field(default={}, description="further arguments of the optimizer")


class PhaseSettings(Strict):
    """How the numbers are moved, in one part of the training."""

    optimizer: str = Field(default=OPTIMIZER, description=", ".join(USUAL))
    rate: float | None = Field(default=None, gt=0, description="null is 5e-3 for adam, else the optimizer's default")
    schedule: Literal["constant", "cosine", "exponential"] = "cosine"
    options: dict[str, Any] = Field(default={}, description="further arguments of the optimizer")
    groups: list[GroupSettings] = Field(default=[], description="parameters that are moved otherwise")
    share: float = Field(default=1.0, gt=0, description="part of the steps, relative to the other phases")


class TrainingSettings(PhaseSettings):
    """How the numbers are moved; a second optimizer after the first is a phase in `then`."""

    then: list[PhaseSettings] = Field(default=[], description="phases after the first, such as lbfgs")
    steps: int | None = Field(
        default=None, ge=1, description="null without seconds is what is usual: 200 of gauss-newton, 4000 of adam"
    )
    seconds: float | None = Field(default=None, gt=0, description="stop after so many seconds, whichever comes first")
    evaluate: int | None = Field(default=None, ge=1, description="evaluate every so many steps; null is usual")
    checkpoint: int | None = Field(default=None, ge=1, description="a checkpoint every so many steps; null is usual")
    compile: bool | Literal["auto"] = "auto"
    tensorboard: bool = False

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, data: Any) -> Any:
        """Read a course such as `adam+ssbroyden`, and fill in what is usual for its optimizers."""
        if not isinstance(data, dict):
            return data
        data, name = dict(data), data.get("optimizer") or OPTIMIZER
        timed = data.get("steps") is None and data.get("seconds") is not None
        if isinstance(name, str) and set(name) & set("+:"):
            if data.get("then"):
                raise ValueError(f"the course '{name}' has its own phases, and 'then' gives others: leave one out")
            data |= {k: v for k, v in course(name, timed=timed).items() if k != "steps" or data.get(k) is None}
        last = [data.get("optimizer") or OPTIMIZER]
        then = data["then"] if isinstance(data.get("then"), list) else []  # anything else is told by its type
        last += [each.get("optimizer") or OPTIMIZER for each in then if isinstance(each, dict)]
        own = min((usual(str(each)) for each in last), key=lambda each: each.steps)
        filled = {"evaluate": own.evaluate, "checkpoint": own.checkpoint} | ({} if timed else {"steps": own.steps})
        return data | {key: value for key, value in filled.items() if data.get(key) is None}


def _weighing(weights: Any) -> Any:
    number = isinstance(weights, int | float) and not isinstance(weights, bool) and weights > 0
    if not number and weights not in ("balanced", None):
        raise ValueError(f"{weights!r} is no weight; legal are a number above 0, balanced, and null")
    return weights


Weights = Annotated[float | Literal["balanced"] | None, BeforeValidator(_weighing)]


class Common(Strict):
    """What every run has."""

    training: TrainingSettings = TrainingSettings()
    points: PointSettings = PointSettings()
    weights: Weights = Field(
        default=None,
        description="of the boundary and initial mismatch beside the residual's 1: a number, or balanced; null is "
        "balanced for first-order optimizers where the constraint is not soft, else 100",
    )
    seed: int = Field(default=0, ge=0, lt=2**63)
    device: str = "auto"
    dtype: Literal["float32", "float64"] = Field(
        default="float32", description="float64 is the default where an optimizer of second order is asked for"
    )

    @model_validator(mode="before")
    @classmethod
    def _precise(cls, data: Any) -> Any:
        """Choose float64 where it decides, unless told otherwise."""
        if isinstance(data, dict) and "weight" in data and "weights" not in data:
            data = {("weights" if key == "weight" else key): value for key, value in data.items()}  # its earlier name
        if isinstance(data, dict) and data.get("dtype") is None:
            kept = {key: value for key, value in data.items() if key != "dtype"}
            needed = double(data.get("training"), OPTIMIZER, data.get("optimizers") or [])
            return kept | ({"dtype": "float64"} if needed else {})
        return data


class SolveSettings(Common):
    """`lissome pde solve`: one member of a family, from scratch."""

    family: str
    dimension: int | None = Field(default=None, ge=1, le=100_000)
    parameters: dict[str, float] = Field(default={}, description="of the equation; its usual ones if not given")
    constraint: Literal["soft", "boundary", "exact"] = "boundary"
    network: NetworkSettings = NetworkSettings()


class AdaptSettings(Common):
    """`lissome pde adapt`: further members of the family of a run, by several methods."""

    run: str = Field(description="directory of the solved member")
    targets: list[dict[str, float]] = Field(min_length=1)
    methods: list[str] = Field(
        default=["svd"], min_length=1, description=f"{', '.join(METHODS)}, or auto: what a short trial finds best"
    )
    optimizers: list[str] = Field(
        default=[], description="courses such as adam+gauss-newton, each tried with each method; none is training's own"
    )
    rank: int | None = Field(
        default=None, ge=0, description="rank of the small forms; null takes the method's own default"
    )
    ranks: list[int] | None = Field(
        default=None, description="of lotra: outputs, basis, inputs; null is `rank` for each, up to its size"
    )
    components: Literal["equal", "closed", "measured"] = Field(
        default="equal", description="of lotra: learning rates of core and factors; see adapt.component_rates"
    )
    small: bool = Field(default=True, description="train biases, first and last layer beside the forms")

    @model_validator(mode="wrap")
    @classmethod
    def _each(cls, data: Any, handler: Any) -> Any:
        """Leave the steps open where several optimizers are tried: each takes what is usual for it."""
        found = handler(data)
        training = data.get("training") if isinstance(data, dict) else None
        said = training if isinstance(training, dict) else {}
        if not found.optimizers or said.get("steps") is not None or said.get("seconds") is not None:
            return found
        return found.model_copy(update={"training": found.training.model_copy(update={"steps": None})})

    @field_validator("optimizers")
    @classmethod
    def _courses(cls, optimizers: list[str]) -> list[str]:
        for each in optimizers:
            course(each)
        return list(dict.fromkeys(optimizers))

    @field_validator("methods")
    @classmethod
    def _known(cls, methods: list[str]) -> list[str]:
        for method in methods:
            if method not in (*METHODS, AUTO):
                raise ValueError(str(unknown("method", method, (*METHODS, AUTO))))
        return list(dict.fromkeys(methods))


S = TypeVar("S", bound=BaseModel)


def inherited(run: str | Path | None, file: Path | None = None) -> dict[str, Any]:
    """Return what an adaptation takes over from a run unless told otherwise: points, weight, and float64.

    Args:
        run: its directory.
        file: settings of the adaptation, which may name the run if `run` is None.
    """
    if run is None and file is not None:
        run = _read(file).get("run")
    kept = Path(str(run)) / "settings.yaml"
    data = _read(kept) if run is not None and kept.is_file() else {}
    kept = {key: data[key] for key in ("points", "weights", "dtype") if key in data}
    kept |= {"weights": data["weight"]} if "weight" in data else {}
    return {key: value for key, value in kept.items() if (key, value) != ("dtype", "float32")}


def load(
    kind: type[S],
    *,
    file: Path | None = None,
    given: Mapping[str, Any],
    changes: Iterable[str] = (),
    beneath: Mapping[str, Any] | None = None,
) -> S:
    """Make settings from a YAML file, then from what was given by name, then from `key.sub=value` changes.

    Args:
        kind: the class of settings.
        file: YAML with any part of the settings.
        beneath: what holds where nothing else is said.
        given: values by key; None means not given; keys may be dotted.
        changes: `--set` arguments, their values read as YAML.

    Raises:
        UsageError: a file that cannot be read, an unknown key, a value of the wrong kind.
    """
    data = _over(copy.deepcopy(dict(beneath or {})), _read(file) if file is not None else {})
    for key, value in given.items():
        if value is not None:
            _put(data, key, copy.deepcopy(value))
    for change in changes:
        key, equals, text = change.partition("=")
        if not equals or not key:
            raise UsageError(f"--set takes key=value, such as training.steps=2000; '{change}' is none")
        try:
            _put(data, key.strip(), yaml_of(text))
        except yaml.YAMLError as error:
            raise UsageError(f"--set {key}: '{text}' is no YAML value: {_one_line(error)}") from error
    return validate(kind, data)


def validate(kind: type[S], data: Mapping[str, Any]) -> S:
    """Check data against a class of settings.

    Raises:
        UsageError: the first thing that is wrong, with its key, what came, and what is legal.
    """
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        raise UsageError(_sentence(kind, error)) from error


def dump(settings: BaseModel) -> str:
    """Write settings, complete, as YAML that `load` reads."""
    return yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def pairs(text: str, option: str = "--parameter") -> dict[str, float]:
    """Read `c=0.5` or `a=1,b=2`.

    >>> pairs("a=1,b=2.5")
    {'a': 1.0, 'b': 2.5}

    Raises:
        UsageError: not of that form, or a value that is no finite number.
    """
    out: dict[str, float] = {}
    for part in text.split(","):
        name, equals, value = part.partition("=")
        try:
            number = float(value)
        except ValueError:
            number = float("nan")
        if not equals or not name.strip() or number != number or abs(number) == float("inf"):
            raise UsageError(f"{option} takes name=number, such as c=0.5; '{part}' is none")
        if name.strip() in out:
            raise UsageError(f"{option} '{text}' names '{name.strip()}' twice; several targets are several {option}")
        out[name.strip()] = number
    return out


def _read(file: Path) -> dict[str, Any]:
    try:
        data = yaml_of(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"settings file '{file}' cannot be read: {error.strerror or error}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"settings file '{file}' is no YAML: {_one_line(error)}") from error
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise UsageError(f"settings file '{file}' holds a {type(data).__name__}; legal is a mapping of keys to values")
    return data


def _over(data: dict[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """Lay settings over settings, group by group; return the first, changed."""
    for key, value in more.items():
        below = data.get(key)
        data[key] = _over(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return data


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _put(data: dict[str, Any], key: str, value: Any) -> None:
    *path, last = key.split(".")
    for part in path:
        inner = data.setdefault(part, {})
        if not isinstance(inner, dict):
            raise UsageError(f"setting '{key}': '{part}' is a single value and has no parts")
        data = inner
    data[last] = value


def _fields(kind: type[BaseModel], path: tuple[Any, ...]) -> Mapping[str, Any]:
    """Return the legal keys of the group of settings at a path; numbers in it count the items of a list."""
    for part in path:
        if isinstance(part, int):
            continue
        field = kind.model_fields.get(part)
        inner = [field.annotation, *get_args(field.annotation)] if field else []
        groups = [each for each in inner if isinstance(each, type) and issubclass(each, BaseModel)]
        if not groups:
            return {}
        kind = groups[0]
    return kind.model_fields


def _sentence(kind: type[BaseModel], error: ValidationError) -> str:
    errors = error.errors()  # a key that is unknown is often the misspelt one that is missing
    first = next((each for each in errors if each["type"] == "extra_forbidden"), errors[0])
    path = first["loc"]
    while (
        len(path) > 1
        and isinstance(path[-1], str)
        and path[-1] not in _fields(kind, path[:-1])
        and (first["type"] not in ("extra_forbidden", "missing"))
    ):
        path = path[:-1]  # the name of one of several legal kinds
    key = ".".join(str(part) for part in path)
    if first["type"] == "extra_forbidden":
        return str(unknown("setting", key, (".".join(map(str, (*path[:-1], f))) for f in _fields(kind, path[:-1]))))
    if first["type"] == "missing":
        field = _fields(kind, path[:-1]).get(str(path[-1])) if path else None
        return f"setting '{key}' is missing" + (f": {field.description}" if field and field.description else "")
    if first["type"] == "value_error":
        told = first.get("ctx", {}).get("error")
        return f"setting '{key}': {told}" if key else str(told)  # of several settings at once
    said = first["msg"][0].lower() + first["msg"][1:]
    return f"setting '{key}' is {first['input']!r}: {said}"
