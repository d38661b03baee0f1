r"""A mean of functions to second order near a point, from one expansion each.

For f = 1/m (f_1 + ... + f_m), each a batch's loss as a function of a few numbers x in R^n,

    f(x + d) ~ f(x) + b^T d + 1/2 d^T A d        b = grad f,  A = its Hessian, or the Gauss-Newton matrix

Cost: one gradient and n products of the Hessian with a column for each batch. With several blocks of numbers and n
above a limit, A is made block by block: n^2 numbers are never held, and what couples two blocks is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lissome._errors import UsageError, unknown
from lissome._vector import flatten
from lissome.calculus.gram import gauss_newton
from lissome.calculus.products import expand, gradient, linearize
from lissome.calculus.ways import Function

LIMIT = 2000  # numbers above which the second derivatives between blocks are left out


@dataclass(frozen=True)
class Quadratic:
    """A function near a point, as the mean over m batches.

    Attributes:
        values: of the m functions, (m,).
        gradients: of each, (m, n).
        blocks: the matrix A of their mean: one (n, n), or one for each name of the point.
        deviations: standard deviation of A's entries over the batches, shaped as `blocks`; 0 for one batch.
    """

    values: Tensor
    gradients: Tensor
    blocks: tuple[Tensor, ...]
    deviations: tuple[Tensor, ...]

    @property
    def value(self) -> float:
        """The mean of the functions at the point."""
        return float(self.values.mean())

    @property
    def gradient(self) -> Tensor:
        """b, (n,)."""
        return self.gradients.mean(0)

    @property
    def hessian(self) -> Tensor | tuple[Tensor, ...]:
        """A (n, n), or its diagonal blocks where those alone were made."""
        return self.blocks[0] if len(self.blocks) == 1 else self.blocks

    @property
    def gradient_spread(self) -> float:
        """Norm of the standard deviation of b over the batches, as a part of the norm of b."""
        return _part([self.gradients.std(0, correction=int(len(self.gradients) > 1))], [self.gradient])

    @property
    def hessian_spread(self) -> float:
        """The same of A, in the Frobenius norm."""
        return _part(self.deviations, self.blocks)


def quadratic(
    functions: Iterable[Function],
    x: Mapping[str, Tensor],
    *,
    kind: str = "hessian",
    limit: int = LIMIT,
    chunk: int | None = None,
) -> Quadratic:
    """Return the mean of functions to second order at a point.

    Args:
        functions: one for each batch, from name -> tensor to a scalar; under `gauss-newton` to a residual (M,), whose
            mean square is meant.
        x: name -> tensor, n numbers in all; the names are the blocks.
        kind: `hessian`; `gauss-newton` where a second derivative is not to be had or not wanted; `linear` for A = 0,
            which costs one gradient.
        limit: n above which A is made block by block.
        chunk: as in `expand`.

    Raises:
        UsageError: no function, an unknown kind, or as in `expand`.
        RunError: as in `expand`.

    >>> found = quadratic([lambda x, k=k: k * (x["g"] ** 2).sum() for k in (1.0, 3.0)], {"g": torch.ones(2)})
    >>> found.value, found.gradient, found.hessian
    (4.0, tensor([4., 4.]), tensor([[4., 0.],
            [0., 4.]]))
    """
    if kind not in KINDS:
        raise unknown("kind of second derivative", kind, KINDS)
    whole = sum(tensor.numel() for tensor in x.values()) <= limit or len(x) == 1
    return merged(_one(KINDS[kind], f, x, whole, chunk) for f in functions)


def merged(parts: Iterable[Quadratic]) -> Quadratic:
    """Return the mean over the functions of several parts, as if they had been expanded together.

    Raises:
        UsageError: no part.
    """
    values, gradients = list[Tensor](), list[Tensor]()
    mean, square, m = list[Tensor](), list[Tensor](), 0
    for part in parts:
        k = len(part.values)
        values.append(part.values)
        gradients.append(part.gradients)
        if not mean:
            mean = [torch.zeros_like(block) for block in part.blocks]
            square = [torch.zeros_like(block) for block in part.blocks]
        for middle, off, block, spread in zip(mean, square, part.blocks, part.deviations, strict=True):
            # means and sums of squares of two samples as one (T. Chan, G. Golub and R. LeVeque, 1979)
            away = block - middle
            off += (k - 1) * spread.square() + away.square() * (m * k / (m + k))
            middle += away * (k / (m + k))
        m += k
    if not m:
        raise UsageError("no function is given to expand; give one for each batch, at least one")
    deviations = tuple((off / max(1, m - 1)).sqrt() for off in square)
    return Quadratic(torch.cat(values), torch.cat(gradients), tuple(mean), deviations)


Bend = Callable[[Function, Mapping[str, Tensor], int | None], tuple[Tensor, Tensor, Tensor]]


def _hessian(f: Function, x: Mapping[str, Tensor], chunk: int | None) -> tuple[Tensor, Tensor, Tensor]:
    found = expand(f, x, chunk=chunk)
    A = found.hessian.dense(limit=len(found.gradient) ** 2)
    return found.value, found.gradient, (A + A.mT) / 2  # its two halves differ by the rounding of f, in whatever dtype


def _gauss_newton(r: Function, x: Mapping[str, Tensor], chunk: int | None) -> tuple[Tensor, Tensor, Tensor]:
    value, J = linearize(r, x, chunk=chunk)  # (M,), (M, n)
    scale = 2 / len(value)
    return value.square().mean(), scale * (J.T @ value), gauss_newton(r, x, scale=scale, chunk=chunk).dense()


def _linear(f: Function, x: Mapping[str, Tensor], chunk: int | None) -> tuple[Tensor, Tensor, Tensor]:
    value, slope = gradient(f, x)
    return value, slope, slope.new_zeros(len(slope), len(slope))


KINDS: dict[str, Bend] = {"hessian": _hessian, "gauss-newton": _gauss_newton, "linear": _linear}


def _one(bend: Bend, f: Function, x: Mapping[str, Tensor], whole: bool, chunk: int | None) -> Quadratic:
    """Return one function to second order: A whole, or one block for each name, the others held."""
    if whole:
        found = [bend(f, x, chunk)]
    else:
        found = [bend(lambda own, name=name: f({**x, **own}), {name: x[name]}, chunk) for name in x]
    slope = torch.cat([slope for _, slope, _ in found])
    blocks = tuple(matrix for *_, matrix in found)
    return Quadratic(found[0][0][None], slope[None], blocks, tuple(torch.zeros_like(block) for block in blocks))


def _part(off: Sequence[Tensor], of: Sequence[Tensor]) -> float:
    """Return the norm of one over the norm of the other."""
    above, below = (flatten({str(i): each for i, each in enumerate(parts)}).norm() for parts in (off, of))
    return float(above / below) if below > 0 else 0.0
