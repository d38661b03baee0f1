"""The parts of a batch, each of points of one kind; the rows of a part stand alone."""

from __future__ import annotations

import torch

from lissome._types import Batch

INTERIOR = ("interior", "source", "weight", "along", "coins")  # what a batch says of its interior points
PLACES = "places"  # of the points of any other part


def interior(batch: Batch) -> Batch:
    """Return what a batch says of its interior points."""
    return {key: batch[key] for key in INTERIOR if key in batch}


def outside(batch: Batch) -> list[Batch]:
    """Return the other parts: two ends of a periodic box, a start with velocity, places where a value is asked."""
    return [part for part in (_ends(batch), _start(batch), _values(batch)) if part]


def _ends(batch: Batch) -> Batch:
    return {PLACES: batch["boundary"], "opposite": batch["opposite"]} if "opposite" in batch else {}


def _start(batch: Batch) -> Batch:
    if "initial_velocity" not in batch:
        return {}
    return {PLACES: batch["initial"], "value": batch["initial_value"], "velocity": batch["initial_velocity"]}


def _values(batch: Batch) -> Batch:
    """Return the points where a value is all that is asked, those on the boundary first."""
    names = ["boundary"] * ("boundary_value" in batch)
    names += ["initial"] * ("initial_value" in batch and "initial_velocity" not in batch)
    if not names:
        return {}
    return {PLACES: torch.cat([batch[n] for n in names]), "value": torch.cat([batch[f"{n}_value"] for n in names])}
