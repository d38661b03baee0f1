r"""The two-layer KAN of the theorems on gradient descent (arXiv 2410.08041), in the scaling of the tangent kernel.

    f(x) = 1/sqrt(m) sum_q psi_q(tanh u_q(x)),   u_q(x) = sum_p sum_k A[q, k, p] phi_k(x_p)
    psi_q(v) = sum_k C[q, k] phi_k(v)

A and C start as normal numbers of mean 0, such that u_q and psi_q have variance 1 for points uniform in [-1, 1]; A may
be smaller. `centred` subtracts what the start gives, so that f = 0 there and the first residual is the same for all m:
the layers then hold a frozen copy of themselves beside them, and the network stays a plain chain.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from lissome._checks import check_whole
from lissome._errors import UsageError
from lissome.adapt.mixture import mixed
from lissome.models.bases import Basis, basis
from lissome.models.inputs import shift_by


class Sums(nn.Module):
    """y_q = scale sum_p sum_k W[q, k, p] phi_k(x_p): (N, inputs) -> (N, outputs), without any other function.

    Args:
        weight: W at the start (outputs, K, inputs); the trained parameter is a copy of it.
        basis: the K functions, for all inputs.
        scale: factor of all outputs.
        frozen: a constant piece of the tensor.
        axis: along which it follows the trained piece: 0 for more outputs, 2 for more inputs.
    """

    frozen: Tensor | None

    def __init__(
        self, weight: Tensor, basis: Basis, *, scale: float = 1.0, frozen: Tensor | None = None, axis: int = 0
    ):
        super().__init__()
        self.weight = nn.Parameter(weight.clone())
        self.basis, self.scale, self.axis = basis, scale, axis
        self.register_buffer("frozen", None if frozen is None else frozen.clone())

    def tensor(self) -> Tensor:
        """Return scale W, with the constant piece."""
        whole = self.weight if self.frozen is None else torch.cat([self.weight, self.frozen], self.axis)
        return whole if self.scale == 1 else self.scale * whole

    def forward(self, x: Tensor) -> Tensor:
        """Return y (N, outputs)."""
        return self.basis(x).flatten(1) @ self.tensor().flatten(1).T

    def mix(self, x: Tensor) -> tuple[Tensor, Tensor, Callable[[Tensor], Tensor]]:
        """Return y, its slopes (N, outputs, inputs), and how a gradient at y weighs second derivatives in x."""
        return mixed(self.basis.taylor(x), self.tensor())


class TwoLayerKAN(nn.Module):
    """m functions of sums of functions; (N, inputs) -> (N, 1), and 0 at the start.

    Args:
        inputs: d, numbers of a point; the grid is [-1, 1].
        width: m.
        name: of the basis of both layers: bspline, chebyshev, fourier or rbf.
        intervals: G of the basis.
        order: of B-splines; also adds to the degree of `chebyshev`.
        inner: size of A at the start, of what gives u_q variance 1.
        centred: subtract the start's output.
        offset: subtracted from the points, one number for each.
        generator: draws the start.

    Raises:
        UsageError: a size below 1 or not whole, an unknown basis, `inner` not above 0, an offset of another length or
            not finite.

    >>> net = TwoLayerKAN(3, width=8)
    >>> net(torch.rand(5, 3)).abs().max() < 1e-6, sum(p.numel() for p in net.parameters())
    (tensor(True), 256)
    """

    def __init__(
        self,
        inputs: int,
        *,
        width: int = 64,
        name: str = "bspline",
        intervals: int = 5,
        order: int = 3,
        inner: float = 1.0,
        centred: bool = True,
        offset: Sequence[float] | None = None,
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        for what, size in (("inputs", inputs), ("width", width)):
            check_whole(what, size)
        if not inner > 0:
            raise UsageError(f"inner is {inner}; legal is a number above 0")
        self.shift = shift_by(offset, inputs)
        hidden = 2 * width if centred else width
        bases = [basis(name, size, intervals=intervals, order=order) for size in (inputs, hidden)]
        size = 1 / bases[0].mean_square() ** 0.5  # of a weight that keeps the variance of one function
        A = torch.empty(width, bases[0].size, inputs).normal_(0, inner * size / inputs**0.5, generator=generator)
        C = torch.empty(1, bases[1].size, width).normal_(0, size, generator=generator)
        self.inner = Sums(A, bases[0], frozen=A if centred else None)
        self.outer = Sums(C, bases[1], scale=width**-0.5, frozen=-C if centred else None, axis=2)
        self.tanh = nn.Tanh()

    def forward(self, z: Tensor) -> Tensor:
        """Return f (N, 1) at points z (N, inputs)."""
        return self.outer(self.tanh(self.inner(self.shift(z))))

    def chain(self) -> list[nn.Module]:
        """Return the modules whose composition this is, for one-pass derivatives."""
        return [self.shift, self.inner, self.tanh, self.outer]
