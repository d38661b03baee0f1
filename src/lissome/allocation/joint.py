r"""Ranks chosen while training goes on: SubLoRA's alternation (arXiv 2507.01841) on AdaLoRA's schedule.

Every so many steps gradient b and Hessian A are taken at the gates as they are, g0 in {0, 1}^n, on fresh batches, and
moved to where all terms are at work, by the quadratic model itself,

    b at 1  =  b at g0 + A (1 - g0)

so that a term out of work can be weighed against one at work, and may come back. In between, terms out of work keep
their weights and what the optimizer holds of them. With a basis, the terms at work are turned among themselves before
each choice; what optimizers hold of the old ones means nothing then, and they begin anew.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lissome._errors import UsageError, unknown
from lissome._types import Objective, Residual
from lissome.adapt.basis import BASES, unturned
from lissome.adapt.quota import Count, shares
from lissome.adapt.ranks import select_ranks, smoothed
from lissome.adapt.rules import STRAIGHT, check_rule
from lissome.allocation.gated import Frozen, Gated, GatedForms, opened
from lissome.allocation.gates import CHUNK, Gates, measuring
from lissome.allocation.moments import rotations
from lissome.allocation.schedule import Schedule
from lissome.allocation.terms import least_of, of_tensor
from lissome.calculus import quadratic
from lissome.calculus.quadratic import LIMIT


class JointRanks:
    """A callback for `optim.fit(..., on_step=)` that puts terms out of work and back.

    It holds nothing that a checkpoint of the model does not, so a resumed run goes on as it would have.

    Args:
        model: an `Adapted`, alone or within the module that the objective is asked about, or another `Gated` model.
        objective: whose fresh batches and loss the terms are weighed by.
        schedule: when, and how many stay.
        rule: a name in `adapt.RULES`; in training AdaLoRA's was seen the best, at a gradient for each batch.
        regrow: whether a term may come back; else a cut is final.
        basis: into which terms at work are turned before a choice: `trained` leaves them; see `rotations`. None is
            `kronecker` where the objective has a residual, and `trained` elsewhere: under equations turning took
            0.3 off the loss, on language models nothing.
        probe: for bases that need one, where the objective has no residual.
        batches: how many fresh ones, at each choice.
        points: n of `objective.sample`.
        least: terms that a layer keeps at least, one number or by layer; None is 1 for a mode of a tensor, which may
            not have fewer, else 0.
        most: and at most.
        limit: gates above which second derivatives between layers are left out.
        seed: of the batches.

    Attributes:
        history: one entry for each choice: step, budget, ranks by layer, how many went and came back.

    Raises:
        UsageError: an unknown rule, a budget above the number of terms, forms without a gate for each term.
    """

    def __init__(
        self,
        model: nn.Module | Gated,
        objective: Objective,
        schedule: Schedule,
        *,
        rule: str = "adalora",
        regrow: bool = False,
        basis: str | None = None,
        probe: Callable[..., Tensor] | None = None,
        batches: int = 2,
        points: int = 1024,
        least: int | Mapping[str, int] | None = None,
        most: int | Mapping[str, int] | None = None,
        limit: int = LIMIT,
        seed: int = 0,
    ):
        residual = objective.residual if isinstance(objective, Residual) else None
        basis = basis or ("trained" if residual is None else "kronecker")
        if basis not in BASES:
            raise unknown("basis", basis, BASES)
        if basis in ("whitened", "kronecker") and probe is None and residual is None:
            raise UsageError(f"the basis '{basis}' needs an objective with a residual, or a probe; or take 'svd'")
        if batches < 1:
            raise UsageError(f"batches is {batches}; legal are 1 and more")
        self.gated: Gated = model if isinstance(model, Gated) else GatedForms(model)
        self.objective, self.schedule, self.rule, self.regrow = objective, schedule, rule, regrow
        self.batches, self.points, self.most = batches, points, most
        self.limit, self.seed = limit, seed
        self.basis, self.moments = basis, {"probe": probe} if probe is not None else {"residual": residual}
        self.layers = {layer: len(work) for layer, work in self.gated.at_work().items()}
        check_rule(rule, sum(self.layers.values()))
        self.least = _kept_modes(least_of(self.layers, least), self.layers)
        shares(schedule.budget, self.layers, self.least, most)
        self.history: list[dict[str, Any]] = []
        self.optimizers: list[torch.optim.Optimizer] = []
        self.frozen = Frozen(self.gated, [])

    def begin(self, step: int, model: nn.Module, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        """Take note of the optimizers, before the first step or at a resume."""
        self.optimizers = list(optimizers)
        self.frozen = Frozen(self.gated, self.optimizers)

    def __call__(self, step: int, model: nn.Module) -> None:
        """Hold the terms out of work, and choose anew where that is due."""
        self.frozen.hold()
        if self.schedule.due(step):
            self.choose(step)

    def choose(self, step: int) -> None:
        """Weigh all terms on fresh batches and put to work those that the rule keeps."""
        work = torch.cat(list(self.gated.at_work().values()))  # (n,)
        budget = self.schedule.at(step, len(work))
        if budget == len(work) and bool(work.all()):
            return
        fresh = self._fresh(step)
        if self.basis != "trained":
            self._turn(fresh)
        gradient, blocks, score, gates = self._weigh(fresh, work)
        open_ = torch.ones_like(work) if self.regrow else work
        layers, index = _shared(self.layers, open_), open_.nonzero().flatten()
        if not len(index):
            return
        choice = select_ranks(
            gradient[index],
            _restricted(blocks, open_),
            min(budget, len(index)),
            rule=self.rule,
            layers=layers,
            least=_bounded(self.least, layers),
            most=self.most,
            magnitude=gates.magnitude[index],
            sensitivity=score[index],
            loss=lambda g: gates.mean(torch.zeros(len(work)).to(g).index_copy(0, index, g)),
            generator=torch.Generator().manual_seed(self.seed + step),
        )
        now = torch.zeros_like(work)
        now[index] = choice.gates.to(work.device) != 0
        self.gated.put(dict(zip(self.layers, now.split(list(self.layers.values())), strict=True)))
        self.frozen = Frozen(self.gated, self.optimizers)
        ranks = {layer: choice.ranks.get(layer, 0) for layer in self.layers}
        went, came = int((work & ~now).sum()), int((now & ~work).sum())
        self.history.append({"step": step, "budget": budget, "ranks": ranks, "went": went, "came": came})

    def _fresh(self, step: int) -> list[dict[str, Tensor]]:
        """Return the batches of a choice."""
        generator = torch.Generator().manual_seed(self.seed + step)
        device = next(self.gated.terms.model.parameters()).device
        drawn = [self.objective.sample(generator, self.points) for _ in range(self.batches)]
        return [{name: value.to(device) for name, value in batch.items()} for batch in drawn]

    def _turn(self, batches: list[dict[str, Tensor]]) -> None:
        """Turn the terms at work, and let the optimizers begin anew."""
        work = self.gated.at_work()
        self.gated.turn(rotations(self.gated.terms, self.basis, batches, turned=work, **self.moments))
        for optimizer in self.optimizers:
            optimizer.state.clear()

    def _weigh(self, fresh: Sequence[Any], work: Tensor) -> tuple[Tensor, tuple[Tensor, ...], Tensor, Gates]:
        """Return b where all terms are at work, A, AdaLoRA's score, and the loss as a function of gates."""
        terms = self.gated.terms
        with opened(self.gated), measuring(terms.model):
            gates = Gates(terms, self.objective.loss, fresh, {name: unturned(r) for name, r in self.layers.items()})
            gates.check()
            like = gates.ones()
            now = dict(zip(like, work.split(list(self.layers.values())), strict=True))
            at = {layer: now[layer].to(one) for layer, one in like.items()}
            functions: list[Callable[..., Tensor]] = [lambda g, batch=batch: gates.at(g, batch) for batch in fresh]
            # where terms are out of work, the gradient has to be moved by A to where they are not
            straight = self.rule in STRAIGHT and not (self.regrow and self.rule == "first_order")
            found = quadratic(functions, at, kind="linear" if straight else "hessian", limit=self.limit, chunk=CHUNK)
        away = 1 - torch.cat(list(at.values()))
        sizes = [len(block) for block in found.blocks]
        moved = torch.cat([A @ part for A, part in zip(found.blocks, away.split(sizes), strict=True)])
        return found.gradient + moved, found.blocks, smoothed(found.gradients), gates


def _shared(layers: Mapping[str, int], open_: Tensor) -> dict[str, int]:
    """Return layer -> how many of its terms are looked at, of those that have any."""
    parts = zip(layers, open_.split(list(layers.values())), strict=True)
    return {layer: int(part.sum()) for layer, part in parts if bool(part.any())}


def _restricted(blocks: tuple[Tensor, ...], open_: Tensor) -> Tensor | list[Tensor]:
    masks = open_.split([len(block) for block in blocks])
    found = [block[mask][:, mask] for block, mask in zip(blocks, masks, strict=True) if bool(mask.any())]
    return found[0] if len(blocks) == 1 else found


def _kept_modes(least: Count, layers: Mapping[str, int]) -> Count:
    """Refuse a mode that may lose all its terms: a core whose gates are all 0 does not tell which are at work."""
    for layer in filter(of_tensor, layers):
        if (least if isinstance(least, int) else least.get(layer, 0)) < 1:
            raise UsageError(f"least is 0 for '{layer}', a mode of a tensor; in training legal are 1 and more")
    return least


def _bounded(least: Count, layers: Mapping[str, int]) -> dict[str, int]:
    """Return what each layer keeps at least: never more than it has."""
    wanted = {layer: least if isinstance(least, int) else least.get(layer, 0) for layer in layers}
    return {layer: min(number, layers[layer]) for layer, number in wanted.items()}
