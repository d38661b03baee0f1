r"""Second moments of what passes between the factors of B A: M = E[y y^T] of y = A x, K = E[h h^T] of its gradient.

Two ways. *By listening*: hooks see y and h of every row while a probe is evaluated and differentiated, a scalar such as
the log-probability of labels drawn from the model itself: over the draws the rows do not mix, and K is a factor of the
Fisher matrix (J. Martens and R. Grosse, arXiv 1503.05671). *By the residual*: with a matrix T between B and A the
Gauss-Newton matrix in T is known exactly, and K and M are its nearest Kronecker product. That needs r^2 products for
each layer and no hooks: it sees through derivatives in x, through layers that are used many times, and through any
network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from lissome._errors import UsageError, unknown
from lissome.adapt.basis import BASES, Rotation, among, nearest_kronecker, rotation, unturned
from lissome.allocation.gates import measuring
from lissome.allocation.terms import Tap, Terms
from lissome.calculus import gauss_newton

Moments = Mapping[str, tuple[Tensor, Tensor]]  # layer -> M and K, (r, r) each, float64


def by_residual(terms: Terms, residual: Callable[..., Tensor], batches: Iterable[Any]) -> Moments:
    """Return M and K of each layer from the Gauss-Newton matrix in a matrix between its factors.

    Args:
        terms: the model.
        residual: (model, batch) -> (M,), whose mean square is the loss.
        batches: over which it is averaged.
    """
    f, halves, found = terms.function(residual), terms.halves(), {}
    for layer, (_, A) in halves.items():
        r = len(A)
        total = A.new_zeros(r, r, r, r, dtype=torch.float64)
        for batch in batches:
            G = gauss_newton(
                lambda T, A=A, layer=layer, batch=batch: f({layer: T["T"] @ A}, batch),
                {"T": torch.eye(r, dtype=A.dtype, device=A.device)},
            )
            total += G.dense().double().reshape(r, r, r, r)
        K, M = nearest_kronecker(total)
        found[layer] = (M, K)
    return found


def by_listening(terms: Terms, probe: Callable[..., Tensor], batches: Iterable[Any]) -> Moments:
    """Return M and K of each layer over the rows whose gradient is not 0, so that padding counts for nothing.

    Args:
        terms: the model.
        probe: (model, batch) -> scalar, whose gradient in what enters B is h.
        batches: over which it is averaged.

    Raises:
        UsageError: the probe is no scalar, has no graph, or reaches no layer.
    """
    sums: dict[str, tuple[Tensor, Tensor]] = {}
    for batch in batches:
        with ExitStack() as stack, torch.enable_grad():
            leaves: list[Tensor] = []
            for layer, tap in terms.taps().items():
                handle = tap.module.register_forward_hook(_listener(layer, tap, sums, leaves))
                stack.callback(handle.remove)
            value = probe(terms.model, batch)
            if not isinstance(value, Tensor) or value.ndim or not value.requires_grad:
                raise UsageError("the probe has to return a scalar tensor with its graph, such as a log-probability")
            if leaves:
                torch.autograd.grad(value, leaves, allow_unused=True)
    for layer in terms.taps():
        if layer not in sums:
            raise UsageError(f"the probe never reached the layer '{layer}'; take batches that use all of the model")
    return sums


def _listener(
    layer: str, tap: Tap, sums: dict[str, tuple[Tensor, Tensor]], leaves: list[Tensor]
) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
    """Return a forward hook that adds up y y^T and h h^T when the gradient comes back."""

    def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        leaf = output.new_zeros((), requires_grad=True)  # nothing else in the model has to want a gradient
        leaves.append(leaf)
        out = output + leaf
        y = tap.y(inputs[0], output).detach()

        def see(gradient: Tensor) -> None:
            h = tap.h(gradient.detach())
            r = h.shape[-1]
            left, right = h.reshape(-1, r).double(), y.reshape(-1, r).double()
            seen = left.any(1)
            left, right = left[seen], right[seen]
            M, K = sums.get(layer, (left.new_zeros(r, r), left.new_zeros(r, r)))
            sums[layer] = (M + right.mT @ right, K + left.mT @ left)

        out.register_hook(see)
        return out

    return hook


def rotations(
    terms: Terms,
    basis: str,
    batches: Sequence[Any],
    *,
    residual: Callable[..., Tensor] | None = None,
    probe: Callable[..., Tensor] | None = None,
    turned: Mapping[str, Tensor] | None = None,
) -> dict[str, Rotation]:
    """Return the basis of each layer's terms.

    Args:
        terms: the model.
        basis: `trained`, `svd`, `whitened` or `kronecker`.
        batches: on which moments are measured.
        residual: (model, batch) -> (M,), see `moments.by_residual`.
        probe: (model, batch) -> scalar, see `moments.by_listening`.
        turned: layer -> (r,) bool, the terms that are turned among themselves; None is all.

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
        r, (M, K) = len(A), moments.get(layer, (None, None))
        at = torch.arange(r, device=A.device) if turned is None else turned[layer].nonzero().flatten().to(A.device)
        inputs, outputs = (
            None if each is None else each[at][:, at] for each in (M, K if basis == "kronecker" else None)
        )
        found[layer] = (
            among(rotation(B[:, at], A[at], inputs=inputs, outputs=outputs), at, r) if len(at) else unturned(r)
        )
    return found


def _check_trained(halves: Mapping[str, tuple[Tensor, Tensor]]) -> None:
    for layer, (_, A) in halves.items():
        if A.dtype not in (torch.float32, torch.float64):
            raise UsageError(
                f"the terms of '{layer}' are {A.dtype}, in which curvature is 3 to 4% off; legal are float32 and "
                "float64: call model.float() first"
            )
        if not all(bool(half.isfinite().all()) for half in halves[layer]):
            raise UsageError(f"the terms of '{layer}' hold numbers that are not finite; legal are finite weights")
    if not any(B.any() and A.any() for B, A in halves.values()):
        raise UsageError(
            f"all {len(halves)} low-rank updates are 0, as those of an untrained LoRA are (B = 0): no term does "
            "anything yet; train first, then choose"
        )
