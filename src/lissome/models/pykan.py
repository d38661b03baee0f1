r"""A network of pykan 0.2 as one of ours, from its state dict: the same numbers, layer by layer.

pykan computes, with splines on a grid of each input's own and silu as its base function,

    y_q = node_scale_q (subnode_scale_q sum_p mask_pq (scale_base_pq silu(x_p) + scale_sp_pq sum_k coef_pqk B_k(x_p))
          + subnode_bias_q) + node_bias_q

Without biases that is one tensor (out, K, in).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from lissome._errors import UsageError
from lissome.models.kan import KAN
from lissome.models.splines import BSpline

PARTS = ("grid", "coef", "mask", "scale_base", "scale_sp")


def from_pykan(state: Mapping[str, Tensor]) -> KAN:
    """Return a KAN that computes what a pykan model with this state does, in the dtype of its coefficients.

    Args:
        state: `model.state_dict()` of pykan's `KAN` or `MultKAN`, whose base function is silu.

    Raises:
        UsageError: no such state; nodes that multiply, symbolic functions or biases, which a KAN here does not have.

    Example:
        model = from_pykan(kan.KAN(width=[2, 5, 1], grid=5, k=3).state_dict())
    """
    depth = sum(1 for name in state if name.startswith("act_fun.") and name.endswith(".coef"))
    layers = [_layer(state, number) for number in range(depth)]
    if not layers:
        raise UsageError("the state holds no act_fun.0.coef; legal is the state_dict() of a model of pykan 0.2")
    sizes = [layers[0][1].shape[2], *(weight.shape[0] for _, weight in layers)]
    for number, (_, weight) in enumerate(layers):
        if weight.shape[2] != sizes[number]:
            came = f"layer {number} takes {weight.shape[2]} numbers and is given {sizes[number]}"
            raise UsageError(f"{came}: nodes that multiply have no counterpart here")
    order, intervals = _spline(layers[0][0], layers[0][1])
    if any(_spline(*layer) != (order, intervals) for layer in layers):
        raise UsageError("the layers have grids of different sizes; legal is one number of intervals and one order")
    model = KAN(sizes[0], width=sizes[1:-1], outputs=sizes[-1], intervals=intervals, order=order)
    model = model.to(layers[0][1].dtype)
    with torch.no_grad():
        for layer, (knots, weight) in zip(model.layers, layers, strict=True):
            basis = layer.basis
            assert isinstance(basis, BSpline)
            basis.set_knots(knots)
            layer.get_parameter("weight").copy_(weight)
    return model


def _layer(state: Mapping[str, Tensor], number: int) -> tuple[Tensor, Tensor]:
    """Return the knots (in, G + 2 p + 1) and the tensor (out, K, in) of a layer."""
    part = {}
    for name in PARTS:
        if (key := f"act_fun.{number}.{name}") not in state:
            raise UsageError(f"the state lacks {key}; legal is the state_dict() of a model of pykan 0.2")
        part[name] = state[key].detach()
    if bool(state.get(f"symbolic_fun.{number}.mask", torch.zeros(1)).any()):
        raise UsageError(f"layer {number} has symbolic functions, which have no splines; unfix them in pykan first")
    scale = torch.ones_like(part["coef"][0, :, 0])  # (out,)
    for node in ("subnode", "node"):
        if bool(state.get(f"{node}_bias_{number}", torch.zeros(1)).any()):
            raise UsageError(f"layer {number} has a {node}_bias other than 0, which a KAN here does not have")
        factor = state.get(f"{node}_scale_{number}", scale.new_ones(1)).detach()
        if len(factor) not in (1, len(scale)):
            raise UsageError(f"layer {number} has nodes that multiply, which have no counterpart here")
        scale = scale * factor
    edge = part["mask"] * scale  # (in, out)
    splines = part["coef"] * (edge * part["scale_sp"])[:, :, None]  # (in, out, K)
    weight = torch.cat([splines, (edge * part["scale_base"])[:, :, None]], 2)
    return part["grid"], weight.permute(1, 2, 0)


def _spline(knots: Tensor, weight: Tensor) -> tuple[int, int]:
    """Return the order and the number of intervals: there are G + 2 p + 1 knots and G + p splines."""
    count = weight.shape[1] - 1
    order = knots.shape[1] - 1 - count
    return order, count - order
