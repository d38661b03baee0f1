r"""A KAN layer on another grid, with the function that it was.

Knots go where the data are: between uniform ones on the range of the data and its quantiles. The coefficients c' of
each edge's splines then solve, over data x_n, points g_m spread over the new grid, and with c the old ones,

    least  sum_n (B'(x_n) c' - B(x_n) c)^2 / N  +  e sum_m (B'(g_m) c' - B(g_m) c)^2 / M  +  d |c'|^2

for all outputs at once. The second part says what no data say, the third what neither does: with few, repeated or
outlying data the solution still is one.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lissome._checks import check_whole
from lissome._errors import UsageError
from lissome.models.kan import KAN, Edges, KANLayer
from lissome.models.splines import BSpline

GRID = 1e-4  # e
RIDGE = 1e-12  # d
UNIFORM = 0.2  # share of uniform knots: gaps never fall below that share of the mean one
PER_INTERVAL = 8  # points g in each interval


@torch.no_grad()
def update_grid(model: KAN | KANLayer, data: Tensor, intervals: int | None = None, uniform: float = UNIFORM) -> float:
    """Move the grids of a network of B-splines to where its data are; the function there stays, as far as they hold it.

    Over the same range, uniform and a multiple of the intervals as fine, they hold it to five digits; other knots hold
    another space of splines, and what is returned says how near they come.

    A layer's data are what the network gave it before. With other intervals its weight is another parameter: make the
    optimizer anew.

    Args:
        model: of B-splines.
        data: (N, inputs); they are brought to the network's dtype and device.
        intervals: of every edge from now on; None keeps how many there are.
        uniform: share of uniform knots, above 0 to 1; the others are quantiles of the data.

    Returns:
        the root mean square of what the outputs on the data changed by, over that of the outputs.

    Raises:
        UsageError: no KAN; a basis without a grid; data of another shape, none, or not finite; a share or number out
            of range.
    """
    if not isinstance(model, KAN | Edges):
        raise UsageError(f"model is of type {type(model).__name__}; legal are a KAN and a KANLayer")
    inputs = model.inputs if isinstance(model, Edges) else model.layers[0].inputs
    if data.ndim != 2 or data.shape[1] != inputs or not len(data):
        raise UsageError(f"data have shape {tuple(data.shape)}; legal is (N, {inputs}) with N at least 1")
    data = data.to(next(model.parameters()))
    if not bool(data.isfinite().all()):
        raise UsageError("data hold numbers that are not finite; leave those rows out")
    if not 0 < uniform <= 1:
        raise UsageError(f"uniform is {uniform}; legal is a share above 0 and up to 1")
    if intervals is not None:
        check_whole("intervals", intervals)
    layers = [module for module in model.modules() if isinstance(module, Edges)]
    for layer in layers:
        if not isinstance(layer, KANLayer):
            raise UsageError("the grid of a Slim KAN stays: its few numbers do not hold every other function's")
        if not isinstance(layer.basis, BSpline):
            raise UsageError(f"a basis of kind {type(layer.basis).__name__} has no grid; legal is bspline")
    before, entered = _run(model, layers, data)
    for layer, x in zip(layers, entered, strict=True):
        assert isinstance(layer, KANLayer)
        _move(layer, x, intervals, uniform)
    size = before.square().mean().sqrt()
    change = (model(data) - before).square().mean().sqrt()
    return float(change / size) if size > 0 else float(change)


def _run(model: nn.Module, layers: list[Edges], data: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Return the outputs, and what entered each layer."""
    entered = list[Tensor]()
    handles = [layer.register_forward_pre_hook(lambda _, given: entered.append(given[0])) for layer in layers]
    try:
        return model(data), entered
    finally:
        for handle in handles:
            handle.remove()


def _move(layer: KANLayer, x: Tensor, intervals: int | None, uniform: float) -> None:
    old = layer.basis
    assert isinstance(old, BSpline)
    new = BSpline(layer.inputs, intervals=intervals or old.intervals, order=old.order).to(x.device)
    new.set_knots(_knots(old, x.double(), new.intervals, uniform))
    edge = new.knots[:, new.order], new.knots[:, -1 - new.order]
    spread = torch.linspace(0, 1, PER_INTERVAL * new.intervals + 1, device=x.device, dtype=torch.float64)[:, None]
    points = edge[0] + spread * (edge[1] - edge[0])  # (M, inputs)
    parts = [(x.double(), len(x) ** -0.5), (points, (GRID / len(points)) ** 0.5)]
    ours = torch.cat([scale * new(at) for at, scale in parts]).permute(2, 0, 1)  # (inputs, N + M, K')
    theirs = torch.cat([scale * old(at) for at, scale in parts]).permute(2, 0, 1)  # (inputs, N + M, K)
    wanted = theirs @ layer.weight[:, :-1].double().permute(2, 1, 0)  # (inputs, N + M, outputs)
    ridge = RIDGE**0.5 * torch.eye(new.size, device=x.device, dtype=torch.float64).expand(layer.inputs, -1, -1)
    nothing = wanted.new_zeros(layer.inputs, new.size, layer.outputs)
    found = torch.linalg.lstsq(torch.cat([ours, ridge], 1), torch.cat([wanted, nothing], 1)).solution
    weight = torch.cat([found.permute(2, 1, 0).to(layer.weight), layer.weight[:, -1:]], 1)
    layer.basis = new
    if weight.shape == layer.weight.shape:
        layer.weight.copy_(weight)
    else:
        layer.weight = nn.Parameter(weight, requires_grad=layer.weight.requires_grad)


def _knots(old: BSpline, x: Tensor, intervals: int, uniform: float) -> Tensor:
    """Return knots (inputs, G + 2 p + 1): uniform ones mixed with quantiles; from old end to end where data are one."""
    p = old.order
    low, high = x.amin(0), x.amax(0)
    kept = old.knots[:, p], old.knots[:, -1 - p]
    # data at one place say nothing of a range; it has to reach them where the old splines, beyond their ends, do
    bare = (high - low) <= 1e-6 * (kept[1] - kept[0])
    reached = kept[0].minimum(low.maximum(old.knots[:, 0])), kept[1].maximum(high.minimum(old.knots[:, -1]))
    low, high = torch.where(bare, reached[0], low), torch.where(bare, reached[1], high)
    share = torch.linspace(0, 1, intervals + 1, device=x.device, dtype=torch.float64)
    even = low[:, None] + share * (high - low)[:, None]  # (inputs, G + 1)
    places = torch.where(bare[:, None], even, torch.quantile(x, share, dim=0).T)
    inner = uniform * even + (1 - uniform) * places
    steps = torch.arange(1, p + 1, device=x.device, dtype=torch.float64) * ((high - low) / intervals)[:, None]
    return torch.cat([inner[:, :1] - steps.flip(1), inner, inner[:, -1:] + steps], 1)
