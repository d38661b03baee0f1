"""One target, one method and one optimizer: the smallest piece of an adaptation, with a run directory of its own."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lissome._errors import RunError, UsageError
from lissome.adapt import METHODS, Adapted, large, singular_values
from lissome.adapt import adapt as adapter
from lissome.optim import Result
from lissome.optim.journal import read as read_rows
from lissome.optim.optimizers import build
from lissome.pde import Family, Problem
from lissome.recipes import directory
from lissome.recipes.archive import ADAPTER, Solution
from lissome.recipes.components import COMPONENTWISE, check_components, componentwise
from lissome.recipes.settings import AdaptSettings, GroupSettings, PhaseSettings, TrainingSettings, validate
from lissome.recipes.training import DTYPES, device_of, finish, methods, phases, problem_of, run, told, trained_of

FAILED_SHOWS = ("steps", "seconds", "loss", "fresh")


@dataclass(frozen=True)
class Begun:
    """A cell's problem, the adapted network, that under its constraint, and its singular values before any step."""

    problem: Problem
    adapted: Adapted
    model: nn.Module
    before: Mapping[str, Tensor]


@dataclass(frozen=True)
class Cell:
    """One target, one method and one optimizer.

    Attributes:
        settings: of this cell alone, so that it can be run again by itself.
        base: what is adapted.
        target: the member it is adapted to.
    """

    settings: AdaptSettings
    base: Solution
    target: Family

    @property
    def method(self) -> str:
        """The method's name."""
        return self.settings.methods[0]

    @property
    def label(self) -> str:
        """The method, and the optimizer's course where the comparison has several, such as svd, gauss-newton."""
        return ", ".join([self.method, *self.settings.optimizers])

    @property
    def name(self) -> str:
        """Where the cell lies below the comparison, such as c=2/svd."""
        values = ",".join(f"{key}={_short(value)}" for key, value in self.target.values.items())
        return f"{values or self.target.name}/{self.label.replace(', ', ',').replace(':', '')}"

    def adapted(self) -> Adapted:
        """Return the network ready to be trained by the method."""
        options: dict[str, Any] = {}
        if METHODS[self.method].formed:
            options = {"rank": self.settings.rank, "small": self.settings.small}
        if self.method == "lotra":
            options["ranks"] = self.settings.ranks
        generator = torch.Generator().manual_seed(self.settings.seed)
        return adapter(self.base.network, self.method, generator=generator, **options)

    def finished(self, out: Path) -> bool:
        """Say whether the cell is done below `out`, with these settings, and has not failed."""
        return directory.finished(out / self.name, self.settings)

    def train(
        self, out: Path, *, progress: bool = False, on_step: Callable[[int, nn.Module], None] | None = None
    ) -> dict[str, Any]:
        """Train, from the checkpoint if there is one, write the run directory and return its summary.

        Training that fails is a summary too: `failed` says why, and the error is null.
        """
        place, own = out / self.name, self.settings
        begun = self.begin()
        trained = trained_of(begun.model)
        resume = directory.holds(place)
        how: dict[str, Any] = {"resume": resume, "progress": progress, "on_step": on_step}
        try:
            with directory.claimed(place, own, resume=resume):
                result = run(begun.model, begun.problem, trained, own, place, **how)
        except RunError as error:
            return self._fail(place, error, self._facts(begun) | {"trained": begun.adapted.count()})
        return self.end(out, begun, result)

    def begin(self) -> Begun:
        """Return what is trained, as it stands before any step."""
        own = self.settings
        problem = problem_of(self.target, own, self.base.constraint)
        adapted = self.adapted()
        model = problem.wrap(adapted).to(device=device_of(own.device), dtype=DTYPES[own.dtype])
        return Begun(problem, adapted, model, _spectra(adapted))

    def end(self, out: Path, begun: Begun, result: Result, more: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Write what a run directory has beside settings, environment and rows; return its summary.

        Args:
            out: directory of the comparison.
            begun: of `begin`, trained.
            result: what came of it.
            more: what else the summary says.
        """
        place, after = out / self.name, _spectra(begun.adapted)
        begun.adapted.save(place / ADAPTER)
        curves = {f"singular/{path}/before": value for path, value in begun.before.items()}
        curves |= {f"singular/{path}/after": value for path, value in after.items()}
        facts = self._facts(begun) | dict(more or {})
        return finish(place, begun.problem, begun.model, result, self.settings, facts, curves)

    def _facts(self, begun: Begun) -> dict[str, Any]:
        own = self.settings
        facts = {"kind": "adapt", "method": self.method, "total": begun.adapted.total(), "from": own.run}
        return facts | ({"label": self.label, "optimizer": own.optimizers[0]} if own.optimizers else {})

    def _fail(self, place: Path, error: RunError, facts: dict[str, Any]) -> dict[str, Any]:
        if not (place / "metrics.jsonl").is_file():
            raise error  # it is the disk that fails
        rows = read_rows(place / "metrics.jsonl")
        last = {("steps" if key == "step" else key): value for key, value in (rows or [{"step": 0}])[-1].items()}
        known = {key: last[key] for key in FAILED_SHOWS if key in last}
        summary = {**facts, **told(self.target, self.settings), **known, "failed": str(error), "error": None}
        directory.write_json(place / "summary.json", summary)
        return summary


def cells(settings: AdaptSettings, base: Solution) -> list[Cell]:
    """Return all cells of an adaptation of a base, targets in the outer order, after a look at each.

    Raises:
        UsageError: an unknown parameter, a rank that does not fit, a group of parameters that
            is nowhere, an option that no method has.
    """
    if settings.rank is not None and not any(METHODS[method].formed for method in settings.methods):
        formed = ", ".join(name for name, method in METHODS.items() if method.formed)
        raise UsageError(f"rank={settings.rank} has no meaning for {', '.join(settings.methods)}; it is for {formed}")
    if settings.rank is not None and settings.ranks is not None:
        raise UsageError(f"rank={settings.rank} and ranks={settings.ranks} exclude each other; legal is one of both")
    if settings.ranks is not None and "lotra" not in settings.methods:
        raise UsageError(f"ranks={settings.ranks} has no meaning for {', '.join(settings.methods)}; it is for lotra")
    if COMPONENTWISE not in settings.methods:
        check_components(settings)
    targets = [base.family.at(**target) for target in settings.targets]
    owns = _owns(settings, base)
    found = [
        Cell(own.model_copy(update={"targets": [target.values]}), base, target) for target in targets for own in owns
    ]
    return [_rated(cell) for cell in {cell.name: cell for cell in found}.values()]


def _rated(cell: Cell) -> Cell:
    """Return the cell with learning rates by component, where they are asked for."""
    if cell.settings.components == "equal":
        return cell
    begun = cell.begin()
    return replace(cell, settings=componentwise(cell.settings, begun.problem, begun.adapted, begun.model))


def _short(value: float) -> str:
    """Write a number with as few digits as tell it from all others."""
    return f"{value:g}" if float(f"{value:g}") == value else repr(value)


def _owns(settings: AdaptSettings, base: Solution) -> list[AdaptSettings]:
    """Return the settings of each method alone: with those groups of parameters that it trains."""
    found, seen = [], dict[str, None]()
    for method, optimizer in itertools.product(settings.methods, settings.optimizers or [None]):
        own = settings.model_copy(update={"methods": [method]})
        own = own if optimizer is None else _moved(own, optimizer)
        if method == COMPONENTWISE:
            check_components(own)
        else:
            own = own.model_copy(update={"ranks": None, "components": "equal"})
        if not METHODS[method].formed:  # said of other methods, and refused where a cell is read again by itself
            own = own.model_copy(update={"rank": None})
        model = base.problem.wrap(Cell(own, base, base.family).adapted())
        trained = trained_of(model)
        own = own.model_copy(update={"training": _narrowed(own.training, trained)})
        for each in methods(own, trained, 1):
            build(each, trained)  # an unknown optimizer or option is said now
        seen |= dict.fromkeys(trained)
        found.append(own)
    for group in (group for phase in phases(settings.training) for group in phase.groups):
        if not any(fnmatchcase(name, group.pattern) for name in seen):
            raise UsageError(
                f"the pattern '{group.pattern}' of training.groups matches no parameter that is trained; "
                f"there are: {', '.join(seen)}"
            )
    return found


def _moved(settings: AdaptSettings, optimizer: str) -> AdaptSettings:
    """Return the settings of one course alone; budgets are the common ones, the rest is what is usual for it."""
    said = {"optimizer": optimizer, "then": [], "evaluate": None, "checkpoint": None}
    training = validate(TrainingSettings, settings.training.model_dump() | said)
    return settings.model_copy(update={"optimizers": [optimizer], "training": training})


def _narrowed(training: TrainingSettings, names: Iterable[str]) -> TrainingSettings:
    """Leave out the groups for which none of the names is left."""

    def kept(phase: PhaseSettings) -> list[GroupSettings]:
        left, groups = set(names), []
        for group in phase.groups:
            taken = {name for name in left if fnmatchcase(name, group.pattern)}
            left -= taken
            groups += [group] if taken else []
        return groups

    then = [phase.model_copy(update={"groups": kept(phase)}) for phase in training.then]
    return training.model_copy(update={"groups": kept(training), "then": then})


def _spectra(adapted: Adapted) -> dict[str, Tensor]:
    """Return the singular values of the large matrices, as they stand."""
    module = adapted.merged()
    paths = large(module)
    return singular_values({path: module.get_parameter(path).detach() for path in paths})
