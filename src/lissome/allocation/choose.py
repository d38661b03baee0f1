"""Which terms each layer keeps when their number is limited: the basis first, then curvature, then a rule.

SubLoRA (arXiv 2507.01841) for any model that has `Terms`: nothing is written into it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from lissome._errors import UsageError, unknown
from lissome.adapt.basis import BASES, Rotation, rotation, unturned
from lissome.adapt.choice import RankChoice
from lissome.adapt.ranks import select_ranks, smoothed
from lissome.allocation.moments import Moments, by_listening, by_residual
from lissome.allocation.terms import Terms
from lissome.calculus import Quadratic, quadratic
from lissome.calculus.quadratic import LIMIT

Loss = Callable[[nn.Module, Any], Tensor]


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


class Gates:
    """A model's loss as a function of one gate on each term of a basis.

    Args:
        terms: the model.
        loss: (model, batch) -> scalar.
        batches: over which the loss is averaged.
        rotations: layer -> basis.
    """

    def __init__(self, terms: Terms, loss: Loss, batches: Sequence[Any], rotations: Mapping[str, Rotation]):
        self.batches = batches
        self.inner = terms.function(loss)
        self.parts: dict[str, tuple[Tensor, Tensor]] = {}  # X (r, r), X^-1 A (r, in), float64
        self.like: dict[str, Tensor] = {}
        sizes: list[Tensor] = []
        for layer, (B, A) in terms.halves().items():
            X = rotations[layer]
            left, right = B.double() @ X.forth, X.back @ A.double()
            self.parts[layer], self.like[layer] = (X.forth, right), A
            sizes.append(left.norm(dim=0) * right.norm(dim=1))
        self.magnitude = torch.cat(sizes)  # (n,)
        self.layers = {layer: len(right) for layer, (_, right) in self.parts.items()}

    def ones(self) -> dict[str, Tensor]:
        """Return the gates as trained: layer -> (r,), in the model's dtype."""
        return {layer: A.new_ones(len(A)) for layer, A in self.like.items()}

    def at(self, gates: Mapping[str, Tensor], batch: Any) -> Tensor:
        """Return the loss of a batch."""
        right = {}
        for layer, (X, A) in self.parts.items():
            # in float64: at gates of 1 this is A to rounding, however skew X is
            right[layer] = (X @ (gates[layer].double()[:, None] * A)).to(self.like[layer])
        return self.inner(right, batch)

    def mean(self, gates: Tensor) -> float:
        """Return the mean loss at gates (n,)."""
        named = dict(zip(self.layers, gates.split(list(self.layers.values())), strict=True))
        with torch.no_grad():
            return math.fsum(float(self.at(named, batch)) for batch in self.batches) / len(self.batches)


def rotations(
    terms: Terms,
    basis: str,
    batches: Sequence[Any],
    *,
    residual: Callable[..., Tensor] | None = None,
    probe: Callable[..., Tensor] | None = None,
) -> dict[str, Rotation]:
    """Return the basis of each layer's terms.

    Args:
        terms: the model.
        basis: `trained`, `svd`, `whitened` or `kronecker`.
        batches: on which moments are measured.
        residual: (model, batch) -> (M,), see `moments.by_residual`.
        probe: (model, batch) -> scalar, see `moments.by_listening`.

    Raises:
        UsageError: an unknown basis, one that needs a residual or a probe and got none, or untrained terms.
    """
    if basis not in BASES:
        raise unknown("basis", basis, BASES)
    halves = terms.halves()
    _check_trained(halves)
    if basis == "trained":
        return {layer: unturned(len(A), A.device) for layer, (_, A) in halves.items()}
    moments: Moments = {}
    if basis != "svd":
        if residual is None and probe is None:
            raise UsageError(f"the basis '{basis}' needs a residual or a probe to measure moments by; or take 'svd'")
        with measuring(terms.model):
            moments = (
                by_residual(terms, residual, batches) if residual is not None else by_listening(terms, probe, batches)  # type: ignore[arg-type]
            )
    found = {}
    for layer, (B, A) in halves.items():
        M, K = moments.get(layer, (None, None))
        found[layer] = rotation(B, A, inputs=M, outputs=K if basis == "kronecker" else None)
    return found


def choose(
    terms: Terms,
    loss: Loss,
    batches: Sequence[Any],
    budget: int,
    *,
    rule: str = "reverse",
    basis: str | None = None,
    residual: Callable[..., Tensor] | None = None,
    probe: Callable[..., Tensor] | None = None,
    least: int | Mapping[str, int] = 0,
    most: int | Mapping[str, int] | None = None,
    compensate: bool = True,
    kind: str = "hessian",
    limit: int = LIMIT,
    chunk: int | None = None,
    generator: torch.Generator | None = None,
) -> Allocation:
    """Choose which terms to keep, and measure what that does to the loss; the model is left as it is.

    Args:
        terms: the model.
        loss: (model, batch) -> scalar with its graph.
        batches: a fixed few; gradient and Hessian are averaged over them.
        budget: how many terms may stay in all.
        rule: see `adapt.select_ranks`.
        basis: see `rotations`; None is `kronecker` with a residual or a probe, and `svd` without.
        residual: (model, batch) -> (M,), whose mean square is the loss, or about it.
        probe: (model, batch) -> scalar; for models without a residual.
        least: terms that a layer keeps at least, one number or by layer.
        most: terms that a layer keeps at most.
        compensate: let the kept gates move to make up for the cut ones.
        kind: `hessian`, or `gauss-newton`, which needs a residual.
        limit: number of gates above which second derivatives between layers are left out.
        chunk: products of the Hessian done at once; None chooses by a trial.
        generator: draws, for the rule `random`.

    Raises:
        UsageError: anything asked wrongly; a loss that is not finite or has no graph; terms that were never trained.
    """
    if not batches:
        raise UsageError("batches is empty; give at least one, a fixed few are enough")
    if kind == "gauss-newton" and residual is None:
        raise UsageError("kind 'gauss-newton' needs a residual; give one, or take 'hessian'")
    basis = basis or ("svd" if residual is None and probe is None else "kronecker")
    turned = rotations(terms, basis, batches, residual=residual, probe=probe)
    gates = Gates(terms, loss, batches, turned)
    bent = gates if kind == "hessian" else Gates(terms, residual, batches, turned)  # type: ignore[arg-type]
    with measuring(terms.model):
        _check_finite(gates)
        functions = [lambda g, batch=batch: bent.at(g, batch) for batch in batches]
        expansion = quadratic(functions, gates.ones(), kind=kind, limit=limit, chunk=chunk)
        choice = select_ranks(
            expansion.gradient,
            expansion.hessian,
            budget,
            rule=rule,
            layers=gates.layers,
            least=least,
            most=most,
            compensate=compensate,
            magnitude=gates.magnitude,
            sensitivity=smoothed(expansion.gradients),
            loss=gates.mean,
            generator=generator,
        ).measure(gates.mean)
    return Allocation(choice, turned, basis, expansion)


@contextmanager
def measuring(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation, and its attention on a kernel that has second derivatives, for the time."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with sdpa_kernel([SDPBackend.MATH]):
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def _check_trained(halves: Mapping[str, tuple[Tensor, Tensor]]) -> None:
    for layer, (_, A) in halves.items():
        if A.dtype not in (torch.float32, torch.float64):
            raise UsageError(
                f"the terms of '{layer}' are {A.dtype}, in which curvature is 3 to 4% off; legal are float32 and "
                "float64: call model.float() first"
            )
    if not any(B.any() and A.any() for B, A in halves.values()):
        raise UsageError(
            f"all {len(halves)} low-rank updates are 0, as those of an untrained LoRA are (B = 0): no term does "
            "anything yet; train first, then choose"
        )


def _check_finite(gates: Gates) -> None:
    ones = gates.ones()
    for number, batch in enumerate(gates.batches):
        with torch.no_grad():
            value = gates.at(ones, batch)
        if isinstance(value, Tensor) and value.numel() == 1 and not bool(value.isfinite()):
            raise UsageError(
                f"the loss of batch {number} is {float(value)}; legal is a finite number: look at the batch, its "
                "labels and the model's dtype"
            )
