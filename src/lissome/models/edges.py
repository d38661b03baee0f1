r"""The functions on the edges of a KAN, over what each edge has seen, and how much of the output passes there.

With e_qp = phi_qp(x_p) over the data and s its standard deviation, a node's importance is shared out among the edges
that enter it, and a node has what the edges that leave it have, beginning with 1 for all outputs together:

    importance_qp = s(e_qp) / sum_p' s(e_qp') * node_q        node_p = sum_q importance_qp

This is the attribution of KAN 2.0 (arXiv 2408.10205). Differs from the paper: a share is taken of the sum of the edges'
deviations, not of the node's own, so that each layer's importances sum to 1 also where edges cancel.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lissome._errors import UsageError
from lissome.models.kan import KAN, Edges
from lissome.models.splines import BSpline

POINTS = 61  # at which a function is told: a dozen for each of the usual five intervals
STILL = 1e-7  # deviation, of a function's size, below which it is rounding: covariances leave half the digits


@dataclass(frozen=True)
class EdgeFunctions:
    """The functions of one layer, in float64.

    Attributes:
        x: (inputs, n), evenly spaced from the least to the greatest number that each input has seen.
        values: (outputs, inputs, n), phi_qp there; summed over the inputs they are the layer's outputs.
        importance: (outputs, inputs), the part of the network's output that passes over each edge; 0 for a dead one.
        ends: (inputs, 2), where the grid begins and ends; [-1, 1] until it moves.
    """

    x: Tensor
    values: Tensor
    importance: Tensor
    ends: Tensor


@torch.no_grad()
def edge_functions(network: KAN | Edges, z: Tensor, n: int = POINTS) -> list[EdgeFunctions]:
    """Return the functions on the edges of each layer, over the range of what enters it at z.

    A network that is adapted is merged first, `Adapted.merged`.

    Args:
        network: a KAN, or one layer.
        z: (N, inputs), the data; at one point nothing deviates, and all importances are 0.
        n: points of each function, at least 2.

    Returns:
        One for each layer, the first layer first; what enters the first is z shifted and scaled onto its grid.

    Raises:
        UsageError: points of another shape, none, or not finite; n below 2.

    >>> [layer.values.shape for layer in edge_functions(KAN(2, width=3, depth=1), torch.rand(9, 2), n=5)]
    [torch.Size([3, 2, 5]), torch.Size([1, 3, 5])]
    """
    layers = [module for module in network.modules() if isinstance(module, Edges)]
    inputs = layers[0].inputs
    if z.ndim != 2 or z.shape[1] != inputs or not len(z):
        raise UsageError(f"points have shape {tuple(z.shape)}; legal is (N, {inputs}) with N at least 1")
    if not bool(z.isfinite().all()):
        raise UsageError("points hold numbers that are not finite; leave those rows out")
    if n < 2:
        raise UsageError(f"n is {n}; legal are 2 points and more")
    z = z.to(layers[0].tensor())
    x = network.scale(network.shift(z)) if isinstance(network, KAN) else z
    found = list[tuple[Tensor, Tensor, Tensor, Tensor]]()
    for layer in layers:
        found.append(_functions(layer, x.double(), n))
        x = layer(x)
    node = z.new_full((layers[-1].outputs,), 1 / layers[-1].outputs, dtype=torch.float64)
    out = list[EdgeFunctions]()
    for points, values, spread, ends in reversed(found):
        share = spread / spread.sum(1, keepdim=True).clamp_min(torch.finfo(spread.dtype).tiny)  # (outputs, inputs)
        importance = share * node[:, None]
        node = importance.sum(0)
        out.append(EdgeFunctions(points, values, importance, ends))
    return out[::-1]


def _functions(layer: Edges, x: Tensor, n: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return points (inputs, n), values (outputs, inputs, n), deviations over x (N, inputs), and ends of the grid."""
    W = layer.tensor().double()  # (outputs, K, inputs)
    low, high = x.amin(0), x.amax(0)
    points = low[:, None] + torch.linspace(0, 1, n, dtype=x.dtype, device=x.device) * (high - low)[:, None]
    values = torch.einsum("nkp,qkp->qpn", layer.functions(points.T), W)
    basis = layer.functions(x)
    basis = basis - basis.mean(0)
    joint = torch.einsum("nkp,nlp->pkl", basis, basis) / len(x)  # covariances: (N, outputs, inputs) would be large
    variance = torch.einsum("qkp,pkl,qlp->qp", W, joint, W).clamp_min(0)
    ends = torch.tensor([-1.0, 1.0], dtype=x.dtype, device=x.device).expand(layer.inputs, 2)
    if isinstance(layer.basis, BSpline):
        order = layer.basis.order
        ends = layer.basis.knots[:, [order, -1 - order]]
    deviation = variance.sqrt()
    return points, values, torch.where(deviation > STILL * values.abs().amax(2), deviation, 0), ends
