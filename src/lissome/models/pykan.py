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
        UsageError: no such state, or parts of it of other shapes; nodes that multiply, symbolic functions or biases,
            which a KAN here does not have.

    Example:
        model = from_pykan(kan.KAN(width=[2, 5, 1], grid=5, k=3).state_dict())
    """
    if not isinstance(state, Mapping):
        raise UsageError(
            f"state is of type {type(state).__name__}; legal is model.state_dict() of a model of pykan 0.2"
        )
    depth = sum(1 for name in state if name.startswith("act_fun.") and name.endswith(".coef"))
    layers = [_layer(state, number) for number in range(depth)]
    if not layers:
        raise UsageError("the state holds no act_fun.0.coef; legal is the state_dict() of a model of pykan 0.2")
    sizes = [layers[0][1].shape[2], *(weight.shape[0] for _, weight in layers)]
    for number, (_, weight) in enumerate(layers):
        if weight.shape[2] != sizes[number]:
            came = f"layer {number} takes {weight.shape[2]} numbers and is given {sizes[number]}"
            raise UsageError(f"{came}: nodes that multiply have no counterpart here")
    splines = [_spline(*layer) for layer in layers]
    order, intervals = splines[0]
    if len(set(splines)) > 1:
        came = ", ".join(f"layer {number} has {G} of order {p}" for number, (p, G) in enumerate(splines))
        raise UsageError(f"the layers have different intervals: {came}; legal is one number of them and one order")
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
    part = {name: _tensor(state, f"act_fun.{number}.{name}") for name in PARTS}
    coef, grid = part["coef"], part["grid"]
    if coef.ndim != 3 or not coef.is_floating_point():
        came = f"shape {tuple(coef.shape)} and dtype {coef.dtype}"
        raise UsageError(f"act_fun.{number}.coef has {came}; legal are real numbers (in, out, G + p)")
    n, m, count = coef.shape
    for name in ("mask", "scale_base", "scale_sp"):
        if part[name].shape != (n, m):
            came = f"act_fun.{number}.{name} has shape {tuple(part[name].shape)}"
            raise UsageError(f"{came}; legal is ({n}, {m}), as its coef is (in, out, G + p)")
    # G + p splines stand on G + 2 p + 1 knots, with G at least 1 and p at least 0
    if grid.ndim != 2 or len(grid) != n or not count < grid.shape[1] <= 2 * count:
        came = f"act_fun.{number}.grid has shape {tuple(grid.shape)}"
        raise UsageError(f"{came}; legal is ({n}, {count + 1} to {2 * count}), G + 2 p + 1 knots for {count} splines")
    if bool(_tensor(state, f"symbolic_fun.{number}.mask", coef.new_zeros(1)).any()):
        raise UsageError(f"layer {number} has symbolic functions, which have no splines; unfix them in pykan first")
    scale = coef.new_ones(m)
    for node in ("subnode", "node"):
        if bool(_tensor(state, f"{node}_bias_{number}", coef.new_zeros(1)).any()):
            raise UsageError(f"layer {number} has a {node}_bias other than 0, which a KAN here does not have")
        factor = _tensor(state, f"{node}_scale_{number}", coef.new_ones(1))
        if factor.shape not in ((1,), (m,)):
            raise UsageError(f"layer {number} has nodes that multiply, which have no counterpart here")
        scale = scale * factor
    edge = part["mask"] * scale  # (in, out)
    splines = coef * (edge * part["scale_sp"])[:, :, None]  # (in, out, K)
    weight = torch.cat([splines, (edge * part["scale_base"])[:, :, None]], 2)
    return grid, weight.permute(1, 2, 0)


def _tensor(state: Mapping[str, Tensor], key: str, default: Tensor | None = None) -> Tensor:
    """Return a part of the state, without its graph."""
    if (found := state.get(key, default)) is None:
        raise UsageError(f"the state lacks {key}; legal is the state_dict() of a model of pykan 0.2")
    if not isinstance(found, Tensor):
        raise UsageError(f"{key} is of type {type(found).__name__}; legal is a tensor, as state_dict() gives it")
    return found.detach()


def _spline(knots: Tensor, weight: Tensor) -> tuple[int, int]:
    """Return the order and the number of intervals: there are G + 2 p + 1 knots and G + p splines."""
    count = weight.shape[1] - 1
    order = knots.shape[1] - 1 - count
    return order, count - order
