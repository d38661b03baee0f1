"""What several verbs have in common: options, and how they become settings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from lissome._errors import UsageError
from lissome.recipes.settings import pairs

Out = Annotated[Path, typer.Option("--out", "-o", help="Directory to write; must not exist yet.")]
Seed = Annotated[int | None, typer.Option(help="Seed of everything random.")]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")]
Dtype = Annotated[str | None, typer.Option(help="float32 or float64.")]
SettingsFile = Annotated[Path | None, typer.Option("--settings", help="YAML with any part of the settings.")]
Changes = Annotated[list[str] | None, typer.Option("--set", help="key=value, such as training.rate=1e-3; may repeat.")]
Optimizer = Annotated[str | None, typer.Option(help="Such as adam, gauss-newton or adam+ssbroyden: one after another.")]
Steps = Annotated[int | None, typer.Option(help="Training steps.")]
Seconds = Annotated[float | None, typer.Option(help="Stop after so many seconds.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint in --out.")]
Jobs = Annotated[
    int | None, typer.Option(min=1, help="Trainings at once; as many as there are cores, or 1 on a GPU, if not given.")
]
Quick = Annotated[bool, typer.Option("--quick", help="A look in seconds: few steps, few points.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for scripts instead of tables.")]
Constraint = Annotated[
    str | None, typer.Option(help="soft, boundary (exact boundary values) or exact (initial values too).")
]


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
