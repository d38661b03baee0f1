r"""Sums of functions of one number each, y_q = sum_p sum_k W[q, k, p] phi_k(x_p), as the layers of a KAN are.

Their slopes are M[q, p] = sum_k W[q, k, p] phi_k'(x_p), and second derivatives stand on the diagonal alone, so that a
tangent costs out x in products for each point, whatever the basis. W may be dense, a Tucker form, or the sum of both.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from lissome.adapt.tucker import Tucker

Jet = tuple[Tensor, Tensor, Tensor]  # phi, phi', phi'' at points, (N, K, in) each
Mixed = tuple[Tensor, Tensor, Callable[[Tensor], Tensor]]


def mixed(jet: Jet, W: Tensor) -> Mixed:
    """Return y (N, out), its slopes (N, out, in), and how a gradient at y weighs second derivatives in x.

    Args:
        jet: the functions with their derivatives.
        W: (out, K, in).

    Returns:
        The last maps (N or 1, out) to sum_q g_q d2y_q / dx_p^2, (N, in); y has no mixed ones.
    """
    value, first, second = jet

    def curve(gradient: Tensor) -> Tensor:
        return ((gradient @ W.flatten(1)).view(-1, *W.shape[1:]) * second).sum(1)

    return value.flatten(1) @ W.flatten(1).mT, torch.einsum("nkp,qkp->nqp", first, W), curve


def _product(jet: Jet, core: Tensor, factors: Sequence[Tensor]) -> Mixed:
    """Return the same of W = C x1 U1 x2 U2 x3 U3, which is never formed."""
    outputs, basis, inputs = factors
    value, first, second = jet
    ahead = (basis.mT @ (value @ inputs)).flatten(1) @ core.flatten(1).mT  # (N, r1)
    inner = torch.einsum("npb,pab->nap", first.mT @ basis, torch.einsum("pc,abc->pab", inputs, core))  # (N, r1, in)

    def curve(gradient: Tensor) -> Tensor:
        pulled = ((gradient @ outputs) @ core.flatten(1)).view(-1, *core.shape[1:])  # (N or 1, r2, r3)
        return ((basis @ (pulled @ inputs.mT)) * second).sum(1)

    return ahead @ outputs.mT, outputs @ inner, curve


@runtime_checkable
class Edged(Protocol):
    """A layer of such sums, of which W is `weight`."""

    weight: Tensor

    def functions(self, x: Tensor) -> Tensor:
        """Return all phi_k at x (N, in), (N, K, in)."""
        ...

    def jet(self, x: Tensor) -> Jet:
        """Return them with their first and second derivatives."""
        ...


class Mixture(nn.Module):
    """Such a layer with another W: a dense one (out, K, in), a form with a full core, or their sum."""

    def __init__(self, layer: Edged, dense: Tensor | None, form: Tucker | None):
        super().__init__()
        self.of = (layer, dense, form)  # in a tuple: no optimizer and no file sees them

    def forward(self, x: Tensor) -> Tensor:
        """Return y (N, out)."""
        layer, dense, form = self.of
        functions = layer.functions(x)
        if form is not None:
            return form(functions, dense, modes=2)
        assert dense is not None
        return functions.flatten(1) @ dense.flatten(1).mT

    def mix(self, x: Tensor) -> Mixed:
        """Return y, its slopes, and how a gradient at y weighs second derivatives, see `mixed`."""
        layer, dense, form = self.of
        jet = layer.jet(x)
        parts = [] if dense is None else [mixed(jet, dense)]
        scale = 1.0 if form is None else form.scale
        parts += [] if form is None else [_product(jet, scale * core, factors) for core, factors in form.terms()]
        return functools.reduce(_both, parts)


def _both(one: Mixed, other: Mixed) -> Mixed:
    return one[0] + other[0], one[1] + other[1], lambda gradient: one[2](gradient) + other[2](gradient)
