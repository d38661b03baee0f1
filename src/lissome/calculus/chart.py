r"""Derivatives of a network that reads fixed functions of its points, u(z) = v(f(z)), in one pass.

    u_i              = v'(f_i)
    sum w_i u_ii     = sum w_i v''(f_i, f_i) + v'(sum w_i f_ii)

so the tangents that enter v are the f_i, one for each point, and what is left are directions of first order.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lissome.calculus.carry import Weights
from lissome.calculus.nested import Derivatives
from lissome.calculus.onepass import Seeds, one_pass
from lissome.calculus.rules import Chart


def charted(
    chart: Chart, chain: list[nn.Module], z: Tensor, first: tuple[int, ...], second: Weights, along: Tensor | None
) -> Derivatives:
    """Return derivatives of the chain behind the chart at points z (N, D)."""
    used = [i for i in range(z.shape[1]) if any(row[i] for row in second)]
    asked = list(range(z.shape[1])) if along is not None else sorted({*first, *used})
    with torch.no_grad():  # a chart has no parameters
        value, slopes, bends = chart.chart(z, tuple(asked), second)  # (N, K), (c, N, K), (m, N, K)
    place = {i: k for k, i in enumerate(asked)}
    directions = [bends, slopes[[place[i] for i in first]]]
    if along is not None:
        directions.append(torch.einsum("and,dnk->ank", along, slopes))
    signs = tuple(tuple(row[i] for i in used) for row in second)
    seeds = Seeds((), (), signs, True)
    found = one_pass(chain, value, seeds, (), torch.cat(directions), slopes[[place[i] for i in used]])
    m, k = len(second), len(first)
    return Derivatives(found.value, found.along[m : m + k], found.second + found.along[:m], found.along[m + k :])
