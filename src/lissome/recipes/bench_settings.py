"""What a benchmark of families asks; loads neither torch nor anything heavy."""

from __future__ import annotations

from typing import Any

from pydantic import Field, field_validator, model_validator

from lissome._errors import UsageError, unknown
from lissome.recipes.course import course
from lissome.recipes.settings import METHODS, NetworkSettings, PointSettings, Strict, Weights, pairs

PLACES = ("near", "middle", "far")
OPTIMIZERS = ("adam", "lbfgs", "ssbroyden", "gauss-newton")
ONLY = "-only"  # behind the name of an adapter with forms: its forms alone are trained, no small layer
FORMED = ("svd", "lora", "lora-xs", "pissa", "lotra")
ADAPTERS = (*METHODS, *(f"{name}{ONLY}" for name in FORMED))
OF_KANS = ("lotra", f"lotra{ONLY}", "last", "full", "scratch")
QUICK: dict[str, Any] = {
    "families": ["allen-cahn", "heat", "helmholtz"],
    "seeds": 1,
    "seconds": 1.0,
    "operations": 1.5e9,
    "start": 60,
    "network": {"width": 32},
    "points": {"interior": 256, "boundary": 64, "initial": 64},
}


class BenchSettings(Strict):
    """`lissome pde bench`: adapters by optimizers by families, at targets near and far, under equal budgets."""

    families: list[str] = Field(default=[], description="names or files; none is all that name targets")
    targets: list[str] = Field(default=list(PLACES), min_length=1, description="near, middle, far, or such as c=3")
    adapters: list[str] = Field(default=["svd", f"svd{ONLY}", *METHODS[1:]], min_length=1)
    optimizers: list[str] = Field(default=list(OPTIMIZERS), min_length=1)
    rank: int | None = Field(default=None, ge=0, description="of the small forms; null is each adapter's own")
    seeds: int = Field(default=5, ge=1, description="networks, each adapted with its own seed")
    seconds: float | None = Field(default=10.0, gt=0, description="of each run on one thread; null leaves them out")
    operations: float | None = Field(
        default=2e11, gt=0, description="of each run, where its optimizer's are counted; null leaves them out"
    )
    start: int = Field(default=100, ge=1, description="Gauss-Newton steps for the network that is adapted")
    network: NetworkSettings = NetworkSettings()
    points: PointSettings = PointSettings()
    weights: Weights = Field(
        default=None, description="of the initial mismatch: a number, balanced, or null: as is usual for the optimizer"
    )
    quick: bool = Field(default=False, description="three families, small networks, a second for each run")

    @model_validator(mode="before")
    @classmethod
    def _small(cls, data: Any) -> Any:
        """Fill in what a quick look takes, where nothing else is said."""
        if not (isinstance(data, dict) and data.get("quick")):
            return data
        said = {key: value for key, value in data.items() if value is not None or key in ("seconds", "operations")}
        return QUICK | said

    @model_validator(mode="before")
    @classmethod
    def _fitting(cls, data: Any) -> Any:
        """Compare the adapters of KANs where the network is one and none are named."""
        network = data.get("network") if isinstance(data, dict) else None
        kan = isinstance(network, dict) and network.get("kind", "mlp") != "mlp"
        return data | {"adapters": list(OF_KANS)} if kan and not data.get("adapters") else data

    @model_validator(mode="after")
    def _budgeted(self) -> BenchSettings:
        if self.seconds is None and self.operations is None:
            raise ValueError("seconds and operations are both null; legal is one of them at least")
        return self

    @field_validator("families")
    @classmethod
    def _once(cls, families: list[str]) -> list[str]:
        return list(dict.fromkeys(families))

    @field_validator("adapters")
    @classmethod
    def _known(cls, adapters: list[str]) -> list[str]:
        for adapter in adapters:
            if adapter not in ADAPTERS:
                raise ValueError(str(unknown("adapter", adapter, ADAPTERS)))
        return list(dict.fromkeys(adapters))

    @field_validator("optimizers")
    @classmethod
    def _courses(cls, optimizers: list[str]) -> list[str]:
        for each in optimizers:
            course(each, timed=True)
        return list(dict.fromkeys(optimizers))

    @field_validator("targets")
    @classmethod
    def _readable(cls, targets: list[str]) -> list[str]:
        for target in targets:
            if target not in PLACES and "=" not in target:
                raise ValueError(str(unknown("target", target, [*PLACES, "a member such as c=3"])))
            if target not in PLACES:
                pairs(target, "targets")
        return list(dict.fromkeys(targets))


def member_of(family: str, targets: dict[str, dict[str, float]], target: str) -> dict[str, float]:
    """Return the parameters of a target.

    Args:
        family: its name, for the sentence.
        targets: the near, middle and far members that the family names.
        target: one of these names, or such as `c=3`.

    Raises:
        UsageError: the family names no such target.
    """
    if target not in PLACES:
        return pairs(target, "targets")
    if target not in targets:
        raise UsageError(f"family '{family}' names no {target} member; give the target by its value, such as c=3")
    return targets[target]
