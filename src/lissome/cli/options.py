"""What several verbs have in common: options, and how they become settings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from lissome._errors import UsageError
from lissome.cli import completion
from lissome.recipes.course import USUAL
from lissome.recipes.settings import KINDS, pairs


def _told(text: str, *names: str, values: Sequence[str] = (), **more: Any) -> Any:
    """Return an option with its help, and the values that a shell completes."""
    return typer.Option(*names, help=text, autocompletion=completion.names(values) if values else None, **more)


# each option has one help wherever it stands, and they stand in this order
Data = Annotated[list[str] | None, _told("File of data, or a folder of them; where several are read, may repeat.")]
Text = Annotated[str | None, _told("File of text, or a folder of them.")]
Network = Annotated[str | None, _told(f"{', '.join(KINDS)}; its sizes by --set.", values=KINDS)]
Parameter = Annotated[list[str] | None, _told("name=number of the equation, such as c=0.5; may repeat.")]
Dimension = Annotated[int | None, _told("Space dimension, where the family leaves it open.")]
Constraint = Annotated[
    str | None,
    _told(
        "soft, boundary (exact boundary values) or exact (initial values too).", values=("soft", "boundary", "exact")
    ),
]
Tokenizer = Annotated[
    str | None, _told("Folder or file, if not beside the model; or bytes.", "--tokenizer", values=("bytes",))
]
Tokens = Annotated[int | None, _told("Tokens to read or to write, at most.")]
Batch = Annotated[int | None, _told("Rows of a step: points, or windows of text over all processes.")]
Out = Annotated[Path, _told("Where to write; must not exist yet.", "--out", "-o")]
Optimizer = Annotated[
    list[str] | None,
    _told(
        "Such as gauss-newton, or adam+ssbroyden: one after another; where several are compared, may repeat.",
        values=tuple(USUAL),
    ),
]
Steps = Annotated[int | None, _told("Training steps.")]
Seconds = Annotated[float | None, _told("Stop training after so many seconds.")]
Seeds = Annotated[int | None, _told("Repetitions, each with its own seed; the usual number if not given.")]
Seed = Annotated[int | None, _told("Seed of everything random.")]
Device = Annotated[str | None, _told("auto, cpu, cuda, cuda:1 or mps.", values=("auto", "cpu", "cuda", "mps"))]
Dtype = Annotated[str | None, _told("float32 or float64.", values=("float32", "float64"))]
SettingsFile = Annotated[Path | None, _told("YAML with any part of the settings.", "--settings")]
Changes = Annotated[list[str] | None, _told("key=value, such as training.rate=1e-3; may repeat.", "--set")]
Jobs = Annotated[
    int | None, _told("Trainings at once; as many as there are cores, or 1 on a GPU, if not given.", min=1)
]
Resume = Annotated[bool, _told("Go on from the checkpoint in --out.", "--resume")]
Quick = Annotated[bool, _told("A look in seconds or minutes, at little of everything.", "--quick")]
Json = Annotated[bool, _told("Print JSON for scripts instead of tables.", "--json")]


def merged(texts: Sequence[str]) -> dict[str, float]:
    """Read the parameters of one member; one value for each."""
    values: dict[str, float] = {}
    for text in texts:
        more = pairs(text)
        if twice := sorted(values.keys() & more.keys()):
            raise UsageError(f"parameter '{twice[0]}' is given twice; legal is one value, one member is solved")
        values |= more
    return values


def file_of(settings: Path | None, out: Path, resume: bool) -> Path | None:
    """Return the file of settings to read; a run that is gone on with brings its own."""
    kept = out / "settings.yaml"
    if resume and not kept.is_file():
        raise UsageError(f"'{out}' cannot be resumed: it holds no settings.yaml; leave out --resume to begin there")
    return kept if settings is None and resume else settings


def common(
    steps: int | None, seconds: float | None, seed: int | None, device: str | None, dtype: str | None, quick: bool
) -> dict[str, Any]:
    """Return settings of what every training has; `quick` makes it small."""
    given: dict[str, Any] = {"seed": seed, "device": device, "dtype": dtype}
    if quick:
        small = {"steps": 50, "evaluate": 10, "checkpoint": 25, "compile": False}
        given |= {f"training.{key}": value for key, value in small.items()}
        given |= {"points.interior": 256, "points.boundary": 64, "points.initial": 64}
    if steps is not None:
        given["training.steps"] = steps
    if seconds is not None:
        given["training.seconds"] = seconds
    return given


def split(texts: list[str] | None) -> list[str] | None:
    """Return the names of an option that may repeat, or hold several with commas."""
    return [name for text in texts for name in text.split(",")] if texts else None


def optimizers(texts: list[str] | None) -> dict[str, Any]:
    """Return the setting of one optimizer, or of several that are compared."""
    names = split(texts) or []
    return {"optimizers": names} if len(names) > 1 else {"training.optimizer": names[0] if names else None}


def only(option: str, texts: list[str] | None, more: str = "") -> str | None:
    """Return the value of an option that may repeat, for a verb that takes one."""
    found = texts or [None]
    if len(found) > 1:
        raise UsageError(f"{option} names {', '.join(map(str, found))}; legal here is one{more}")
    return found[0]


def optimizer_of(texts: list[str] | None) -> str | None:
    """Return the one optimizer of a verb that compares none."""
    found = split(texts) or []
    compared = "`lissome pde adapt` and `lissome pde bench` compare several"
    return only("--optimizer", found, f", or one after another: {'+'.join(found)}; {compared}")
