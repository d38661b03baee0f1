r"""Kolmogorov-Arnold networks: layers whose outputs are sums of functions of one input each (arXiv 2404.19756).

    y_q = sum_p sum_k W[q, k, p] phi_k(x_p)

with silu(x) as one more phi_k, so that one tensor (out, K, in) holds all. The basis lies K-major, (N, K, in), which
makes the sum one matrix product.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lissome._checks import check_whole, is_whole
from lissome._errors import UsageError
from lissome.adapt import Tucker, slim
from lissome.adapt.mixture import mixed
from lissome.models.bases import Basis, basis
from lissome.models.inputs import scale_by, shift_by

SMALL = 0.15  # splines at the start, of what keeps the variance: at 1 a network fails on its own task
SILU_SQUARE = 0.094  # mean square of silu on [-1, 1]
SILU = 1.5  # silu part at the start, over the root of the inputs


class Edges(nn.Module):
    """What layers share that have a function of one number on each edge: (N, inputs) -> (N, outputs).

    Args:
        inputs: numbers of a point.
        outputs: numbers of a value.
        name: of the basis: bspline, chebyshev, fourier or rbf; see `bases`.
        intervals: G of the basis.
        order: of B-splines; also adds to the degree of `chebyshev`.
    """

    def __init__(self, inputs: int, outputs: int, name: str, intervals: int, order: int):
        super().__init__()
        for what, size in (("inputs", inputs), ("outputs", outputs)):
            check_whole(what, size)
        self.inputs, self.outputs = inputs, outputs
        self.basis: Basis = basis(name, inputs, intervals=intervals, order=order)

    def tensor(self) -> Tensor:
        """Return W (outputs, K, inputs)."""
        raise NotImplementedError

    def functions(self, x: Tensor) -> Tensor:
        """Return all functions at x (N, inputs), (N, K, inputs), silu last."""
        return torch.cat([self.basis(x), F.silu(x)[:, None]], 1)

    def jet(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return all functions at x (N, inputs), their first and their second derivatives, (N, K, inputs) each."""
        value, first, second = self.basis.taylor(x)
        s = torch.sigmoid(x)
        d = s * (1 - s)
        bends = (x * s, s + x * d, d * (2 + x * (1 - 2 * s)))
        value, first, second = (
            torch.cat([part, bend[:, None]], 1) for part, bend in zip((value, first, second), bends, strict=True)
        )
        return value, first, second

    def mix(self, x: Tensor) -> tuple[Tensor, Tensor, Callable[[Tensor], Tensor]]:
        """Return y, its slopes (N, outputs, inputs), and how a gradient at y weighs second derivatives in x."""
        return mixed(self.jet(x), self.tensor())


class KANLayer(Edges):
    """A layer with all of W, one number for each function on each edge.

    Splines start at normal numbers of 0.15 times the size that keeps the variance, silu at 1.5 / sqrt(inputs).

    Args:
        inputs: numbers of a point.
        outputs: numbers of a value.
        name: of the basis: bspline, chebyshev, fourier or rbf; see `bases`.
        intervals: G of the basis.
        order: of B-splines; also adds to the degree of `chebyshev`.
        generator: draws the start.

    Raises:
        UsageError: a size below 1 or not whole, an unknown basis.

    >>> KANLayer(3, 2)(torch.zeros(5, 3)).shape
    torch.Size([5, 2])
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        name: str = "bspline",
        intervals: int = 5,
        order: int = 3,
        generator: torch.Generator | None = None,
    ):
        super().__init__(inputs, outputs, name, intervals, order)
        self.weight = nn.Parameter(torch.empty(outputs, self.basis.size + 1, inputs))
        self.reset(generator)

    def reset(self, generator: torch.Generator | None = None) -> None:
        """Draw a new start."""
        size = SMALL / (self.inputs * self.basis.mean_square()) ** 0.5
        with torch.no_grad():
            self.weight[:, :-1].normal_(0, size, generator=generator)
            self.weight[:, -1].normal_(0, SILU / self.inputs**0.5, generator=generator)

    def tensor(self) -> Tensor:
        """Return W (outputs, K, inputs)."""
        return self.weight

    def forward(self, x: Tensor) -> Tensor:
        """Return y (N, outputs)."""
        return self.functions(x).flatten(1) @ self.weight.flatten(1).T


class SlimKANLayer(Edges):
    """A layer whose tensor is a Tucker form from the start, without a full one behind it: Slim KAN (arXiv 2502.06153).

    Args:
        inputs: numbers of a point.
        outputs: numbers of a value.
        ranks: (out, basis, in), of which each is cut to the size of its mode; one number stands for all.
        name: as in `KANLayer`.
        intervals: as there.
        order: as there.
        generator: draws the start.

    Raises:
        UsageError: as there, or ranks that are not one or three whole numbers of at least 1.

    >>> sum(p.numel() for p in SlimKANLayer(64, 64, 4).parameters()), 64 * 9 * 64
    (612, 36864)
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        ranks: int | Sequence[int],
        *,
        name: str = "bspline",
        intervals: int = 5,
        order: int = 3,
        generator: torch.Generator | None = None,
    ):
        asked = each_of(ranks, 3)
        if len(asked) != 3 or not all(is_whole(r) and r >= 1 for r in asked):
            legal = "one number, or three for (out, basis, in), each whole and at least 1"
            raise UsageError(f"ranks are {ranks!r}; legal are {legal}")
        super().__init__(inputs, outputs, name, intervals, order)
        self.ranks = [min(r, d) for r, d in zip(asked, (outputs, self.basis.size + 1, inputs), strict=True)]
        self.form = self._drawn(generator)

    def reset(self, generator: torch.Generator | None = None) -> None:
        """Draw a new start."""
        drawn = dict(self._drawn(generator).named_parameters())
        with torch.no_grad():
            for name, part in self.form.named_parameters():
                part.copy_(drawn[name])

    def _drawn(self, generator: torch.Generator | None) -> Tucker:
        shape = (self.outputs, self.basis.size + 1, self.inputs)
        power = self.basis.mean_square() + SILU_SQUARE
        return slim(shape, self.ranks, power=power, generator=generator or torch.default_generator)

    def tensor(self) -> Tensor:
        """Return W (outputs, K, inputs)."""
        return self.form.dense()

    def forward(self, x: Tensor) -> Tensor:
        """Return y (N, outputs), without forming W."""
        return self.form(self.functions(x), modes=2)


class KAN(nn.Module):
    """Layers of `KANLayer` or, with ranks, of `SlimKANLayer`; (N, inputs) -> (N, outputs).

    Args:
        inputs: numbers of a point; the grid is [-1, 1].
        width: of each hidden layer; or one number for each, whatever the depth, and none for a single layer.
        depth: number of hidden layers, at least 1.
        outputs: numbers of a value.
        name: of the basis.
        intervals: G of the basis.
        order: of B-splines.
        ranks: of Slim KAN layers (out, basis, in), each at most the size of its mode; None is full layers.
        offset: subtracted from the points, one number for each.
        extent: what they are divided by then, so that they lie in [-1, 1].
        generator: draws the start.

    Raises:
        UsageError: a size below 1 or not whole, an unknown basis, an offset or extent of another length, an offset
            that is not finite, an extent not above 0.

    >>> KAN(3, width=8, depth=2)(torch.zeros(5, 3)).shape
    torch.Size([5, 1])
    """

    def __init__(
        self,
        inputs: int,
        *,
        width: int | Sequence[int] = 16,
        depth: int = 2,
        outputs: int = 1,
        name: str = "bspline",
        intervals: int = 5,
        order: int = 3,
        ranks: int | Sequence[int] | None = None,
        offset: Sequence[float] | None = None,
        extent: Sequence[float] | None = None,
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        check_whole("depth", depth)
        hidden = each_of(width, depth)
        for what, size in [("inputs", inputs), *(("width", each) for each in hidden), ("outputs", outputs)]:
            check_whole(what, size)
        self.shift, self.scale = shift_by(offset, inputs), scale_by(extent, inputs)
        sizes = [inputs, *hidden, outputs]
        same = {"name": name, "intervals": intervals, "order": order, "generator": generator}
        if ranks is None:
            layers = [KANLayer(before, after, **same) for before, after in itertools.pairwise(sizes)]
        else:
            layers = [SlimKANLayer(before, after, ranks, **same) for before, after in itertools.pairwise(sizes)]
        self.layers = nn.Sequential(*layers)

    def reset(self, generator: torch.Generator | None = None) -> None:
        """Draw a new start."""
        for layer in self.layers:
            layer.reset(generator)  # type: ignore[operator]

    def forward(self, z: Tensor) -> Tensor:
        """Return the outputs (N, outputs) at points z (N, inputs)."""
        return self.layers(self.scale(self.shift(z)))

    def chain(self) -> list[nn.Module]:
        """Return the modules whose composition this is, for one-pass derivatives."""
        return [self.shift, self.scale, *self.layers]


def each_of(sizes: object, times: int) -> list[Any]:
    """Return several sizes as they are, and one so many times; whether they are legal is not looked at.

    >>> each_of(4, 2), each_of((4, 5, 6), 2)
    ([4, 4], [4, 5, 6])
    """
    if isinstance(sizes, Iterable) and not isinstance(sizes, str):
        return list(sizes)
    return [sizes] * times
