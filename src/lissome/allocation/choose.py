"""Which terms each layer keeps when their number is limited: the basis first, then curvature, then a rule.

SubLoRA (arXiv 2507.01841) for any model that has `Terms`: nothing is written into it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lissome._errors import RunError, UsageError, unknown
from lissome.adapt.basis import Rotation
from lissome.adapt.choice import RankChoice
from lissome.adapt.quota import shares
from lissome.adapt.ranks import compensated, select_ranks, smoothed
from lissome.adapt.rules import check_rule
from lissome.allocation.gates import CHUNK, Gates, Loss, measuring
from lissome.allocation.moments import rotations
from lissome.allocation.terms import Terms, least_of
from lissome.calculus import Quadratic, quadratic
from lissome.calculus.quadratic import LIMIT

# parts of the mean curvature by which a compensation is damped, of which the loss takes its pick: a model of many
# terms is no good far away. A Llama of 192 terms cut to 144: 1.85 plain, 2.27 at 1e-6, 1.83 at 0.3
DAMPINGS = (1e-6, 1e-3, 1e-2, 0.1, 0.3, 1.0, 3.0)


BENT = ("hessian", "gauss-newton")


@dataclass(frozen=True)
class Allocation:
    """What was chosen, and in which basis.

    Attributes:
        choice: kept gates, their values, predicted and measured change.
        rotations: layer -> X and its inverse; `choice` speaks of the terms of B X and X^-1 A.
        basis: its name.
        expansion: the loss in the gates to second order, over the batches.
    """

    choice: RankChoice
    rotations: dict[str, Rotation]
    basis: str
    expansion: Quadratic

    @property
    def ranks(self) -> dict[str, int]:
        """Layer -> how many terms it keeps."""
        return self.choice.ranks


@dataclass(frozen=True)
class Weighed:
    """A model's terms in a basis, and its loss in their gates to second order: what every budget is chosen from.

    Attributes:
        gates: the loss as a function of gates.
        rotations: layer -> X and its inverse.
        basis: its name.
        expansion: the loss at gates of 1, over the batches.
    """

    gates: Gates
    rotations: dict[str, Rotation]
    basis: str
    expansion: Quadratic

    def choose(
        self,
        budget: int,
        *,
        rule: str = "reverse",
        least: int | Mapping[str, int] | None = None,
        most: int | Mapping[str, int] | None = None,
        compensate: bool = True,
        generator: torch.Generator | None = None,
    ) -> Allocation:
        """Choose which terms to keep, and measure what that does to the loss; see `choose`."""
        b, A = self.expansion.gradient, self.expansion.hessian
        with measuring(self.gates.model):
            choice = select_ranks(
                b,
                A,
                budget,
                rule=rule,
                layers=self.gates.layers,
                least=least_of(self.gates.layers, least),
                most=most,
                magnitude=self.gates.magnitude,
                sensitivity=smoothed(self.expansion.gradients),
                loss=self.gates.mean,
                generator=generator,
            ).measure(self.gates.mean)
            if compensate:
                choice = self._compensated(choice)
        return Allocation(choice, self.rotations, self.basis, self.expansion)

    def _compensated(self, choice: RankChoice) -> RankChoice:
        """Return the choice with its gates moved as far as the measured loss falls, or as it is where it never does."""
        found = [choice]
        for damping in DAMPINGS:
            moved = compensated(choice, self.expansion.gradient, self.expansion.hessian, damping=damping)
            try:
                found.append(moved.measure(self.gates.mean))
            except RunError:  # so far away that the loss is not finite
                continue
        best = min(found, key=lambda each: math.inf if each.measured is None else each.measured)
        return replace(best, seconds=sum(each.seconds for each in found) - (len(found) - 1) * choice.seconds)


def weigh(
    terms: Terms,
    loss: Loss,
    batches: Sequence[Any],
    *,
    basis: str | None = None,
    residual: Callable[..., Tensor] | None = None,
    probe: Callable[..., Tensor] | None = None,
    kind: str = "hessian",
    limit: int = LIMIT,
    chunk: int | None = CHUNK,
) -> Weighed:
    """Find the basis and the curvature from which terms are chosen; the model is left as it is.

    Args:
        terms: the model.
        loss: (model, batch) -> scalar with its graph.
        batches: a fixed few; gradient and Hessian are averaged over them.
        basis: see `rotations`; None is `kronecker` with a residual or a probe, and `svd` without.
        residual: (model, batch) -> (M,), whose mean square is the loss, or about it.
        probe: (model, batch) -> scalar; for models without a residual.
        kind: `hessian`, or `gauss-newton`, which needs a residual.
        limit: number of gates above which second derivatives between layers are left out.
        chunk: products of the Hessian done at once; None chooses by a trial, whose outcome may differ in rounding.

    Raises:
        UsageError: anything asked wrongly; a loss that is not finite or has no graph; terms that were never trained.
    """
    if isinstance(batches, Mapping | Tensor) or not isinstance(batches, Iterable):
        raise UsageError(f"batches is a {type(batches).__name__}; legal is a list of batches")
    batches = list(batches)
    if not batches:
        raise UsageError("batches is empty; give at least one, a fixed few are enough")
    if kind not in BENT:
        raise unknown("kind of second derivative", kind, BENT)
    if kind == "gauss-newton" and residual is None:
        raise UsageError("kind 'gauss-newton' needs a residual; give one, or take 'hessian'")
    basis = basis or ("svd" if residual is None and probe is None else "kronecker")
    turned = rotations(terms, basis, batches, residual=residual, probe=probe)
    gates = Gates(terms, loss, batches, turned)
    bent = gates if kind == "hessian" else Gates(terms, residual, batches, turned)  # type: ignore[arg-type]
    with measuring(terms.model):
        gates.check()
        functions = [lambda g, batch=batch: bent.at(g, batch) for batch in batches]
        try:
            expansion = quadratic(functions, gates.ones(), kind=kind, limit=limit, chunk=chunk)
        except (UsageError, RunError) as error:
            raise type(error)(f"the loss as a function of gates x: {error}") from error
    return Weighed(gates, turned, basis, expansion)


def choose(
    terms: Terms,
    loss: Loss,
    batches: Sequence[Any],
    budget: int,
    *,
    rule: str = "reverse",
    least: int | Mapping[str, int] | None = None,
    most: int | Mapping[str, int] | None = None,
    compensate: bool = True,
    generator: torch.Generator | None = None,
    **weighing: Any,
) -> Allocation:
    """Choose which terms to keep, and measure what that does to the loss; the model is left as it is.

    Args:
        terms: the model.
        loss: (model, batch) -> scalar with its graph.
        batches: a fixed few.
        budget: how many terms may stay in all; those of a tensor's modes cost different numbers, and count as one each.
        rule: see `adapt.select_ranks`.
        least: terms that a layer keeps at least, one number or by layer; None is 1 for a mode of a tensor, else 0.
        most: terms that a layer keeps at most.
        compensate: let the kept gates move to make up for the cut ones, by as much as the measured loss falls.
        generator: draws, for the rule `random`.
        weighing: `basis`, `residual`, `probe` and the others of `weigh`.

    Raises:
        UsageError: as `weigh` and `adapt.select_ranks`.
    """
    sizes = {layer: len(A) for layer, (_, A) in terms.halves().items()}
    check_rule(rule, sum(sizes.values()))  # said before anything is measured
    shares(budget, sizes, least_of(sizes, least), most)
    found = weigh(terms, loss, batches, **weighing)
    return found.choose(budget, rule=rule, least=least, most=most, compensate=compensate, generator=generator)
