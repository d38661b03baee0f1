"""What `lissome pde diagnose` asks; loads neither torch nor anything heavy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from lissome._errors import UsageError
from lissome.recipes.settings import SolveSettings, Strict, load


class DiagnoseSettings(Strict):
    """`lissome pde diagnose`: whether a network will train, how fast, with which step and weights."""

    run: str | None = Field(default=None, description="directory of a solved or adapted run, whose weights are taken")
    solve: SolveSettings | None = Field(
        default=None, description="what `lissome pde solve` is given; its start is taken"
    )
    points: int = Field(default=300, ge=2, description="in all, shared out as a batch of the training is")
    steps: int = Field(default=100, ge=1, description="of gradient descent, to hold the prediction against")
    rate: float = Field(default=0.5, gt=0, description="step, as a part of the largest stable one")
    batch: int | None = Field(default=None, ge=1, description="rows of a step of SGD; null is 32, or all if fewer")
    widths: list[Annotated[int, Field(ge=1)]] | None = Field(
        default=None, description="of networks to compare; null is 3 of moderate size, [] none"
    )
    limit: int = Field(default=2000, ge=1, description="rows up to which the whole spectrum is found")
    products: int = Field(default=80, ge=8, description="with a larger kernel, for each of prediction and extremes")
    seed: int = Field(default=0, ge=0, lt=2**63, description="of the points")
    device: str = "auto"


def subject(text: str | None, solve: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Say what a person means by a run's directory, a file of settings, or a family's name.

    Args:
        text: None where a file of settings of the diagnosis says it.
        solve: what was given beside it of the settings of `lissome pde solve`.

    Returns:
        settings that lie beneath all others, and settings that were given.

    Raises:
        UsageError: there is no such directory or file; or a run was named, and settings of another beside it.

    >>> subject("poisson", {"network.kind": "kan"})
    ({}, {'solve.family': 'poisson', 'solve.network.kind': 'kan'})
    """
    given = {f"solve.{key}": value for key, value in solve.items() if value is not None}
    if text is None:
        return {}, given
    place = Path(text)
    if place.is_dir():
        if said := sorted(key for key, value in solve.items() if value is not None and key != "seed"):
            raise UsageError(f"'{text}' is a run and has its own {said[0]}; leave that out, or name a family instead")
        return {}, {"run": text}
    if place.suffix in (".yaml", ".yml"):
        return {"solve": load(SolveSettings, file=place, given={}).model_dump(mode="json")}, given
    if place.suffix != ".py" and ("/" in text or "\\" in text):
        raise UsageError(
            f"there is no '{text}'; legal are the directory of a solved or adapted run, a .yaml file of settings of "
            "`lissome pde solve`, and a family's name"
        )
    return {}, {"solve.family": text} | given
