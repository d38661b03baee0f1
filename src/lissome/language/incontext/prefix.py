"""What statistics makes of the examples so far: each position of a prompt is told from the examples before it.

Many prompts are solved at once, in float64.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lissome._checks import check_number
from lissome._errors import UsageError

NEW = 1e-9  # part of a row's square that has to lie outside the rows before it, to count as a direction of its own
STILL = 1e-5  # largest change of a coefficient in a sweep of the Lasso that counts as none
SWEEPS = 400  # at most; what moves still is taken as it is
AT_ONCE = 128  # prompts, whose matrices X^T X are all there


def least_squares(x: Tensor, y: Tensor, ridge: float = 0.0) -> Tensor:
    r"""Return what least squares on the examples before each position predicts there.

    The coefficients minimise |X w - y|^2 + ridge |w|^2; without ridge they are those of minimum norm, updated row by
    row as Greville does (SIAM Review 2, 1960, p. 15): with P the pseudo-inverse of X^T X, Q the projector on what no
    row has touched yet and a the new row,

        w <- w + g (y - a^T w),   g = Q a / a^T Q a  if Q a is not 0, else  P a / (1 + a^T P a).

    Args:
        x: (n, N, d).
        y: (n, N, m).
        ridge: 0 or more.

    Returns:
        (n, N, m) in float64; zeros at the first position.

    Raises:
        UsageError: shapes that do not go together, or a negative ridge.

    >>> x = torch.eye(2).repeat(1, 2, 1)  # e1, e2, e1, e2
    >>> least_squares(x, x @ torch.tensor([[3.0], [5.0]]))[0, :, 0]
    tensor([0., 0., 3., 5.], dtype=torch.float64)
    """
    x, y = _checked(x, y)
    check_number("ridge", ridge, "are numbers of at least 0", lambda value: 0 <= value < math.inf)
    n, N, d = x.shape
    one = torch.eye(d, dtype=x.dtype, device=x.device).repeat(n, 1, 1)
    P, Q = (one / ridge, None) if ridge else (torch.zeros_like(one), one)
    w, told = x.new_zeros(n, d, y.shape[2]), torch.zeros_like(y)
    for i in range(N):
        a = x[:, i, :, None]  # (n, d, 1)
        told[:, i] = (a * w).sum(1)
        Pa = P @ a
        inside = (a * Pa).sum(1, keepdim=True)  # (n, 1, 1)
        g = Pa / (1 + inside)
        if Q is None:
            P -= g * Pa.mT
        else:
            g = _grow(P, Q, a, Pa, inside, g)
        w += g * (y[:, i] - told[:, i])[:, None]
    return told


def affine(x: Tensor, y: Tensor, ridge: float) -> Tensor:
    """Return what ridge regression with a constant predicts at each position from those before, (n, N, m).

    The constant is shrunk as the coefficients are.

    >>> affine(torch.zeros(1, 3, 2), torch.ones(1, 3, 1), 1e-9)[0, :, 0].round(decimals=6)
    tensor([0., 1., 1.], dtype=torch.float64)
    """
    return least_squares(torch.cat([x, torch.ones_like(x[..., :1])], -1), y, ridge)


def lasso(x: Tensor, y: Tensor, penalty: float) -> Tensor:
    """Return what the Lasso on the i examples before each position predicts there, (n, N, m).

    The coefficients minimise |X w - y|^2 / (2 i) + penalty |w|_1, by coordinate descent on all positions at once.

    Raises:
        UsageError: shapes that do not go together, or a penalty that is not positive.

    >>> x = torch.eye(2).repeat(1, 2, 1)
    >>> lasso(x, x @ torch.tensor([[3.0], [0.0]]), 0.1)[0, :, 0].round(decimals=6)
    tensor([0.0000, 0.0000, 2.8000, 0.0000], dtype=torch.float64)
    """
    x, y = _checked(x, y)
    check_number("the penalty of the Lasso", penalty, "are numbers above 0", lambda value: 0 < value < math.inf)
    found = [_lasso(*each, penalty) for each in zip(x.split(AT_ONCE), y.split(AT_ONCE), strict=True)]
    return torch.cat(found)


def _grow(P: Tensor, Q: Tensor, a: Tensor, Pa: Tensor, inside: Tensor, g: Tensor) -> Tensor:
    """Take a row (n, d, 1) into P and Q, in place; return the gain, which is g where the row is no new direction."""
    c = Q @ a
    outside = (a * c).sum(1, keepdim=True)
    new = outside > NEW * (a * a).sum(1, keepdim=True)  # (n, 1, 1)
    g = torch.where(new, c / outside.where(new, 1), g)
    cross = g * Pa.mT
    P -= torch.where(new, cross + cross.mT - (1 + inside) * g * g.mT, cross)
    Q -= torch.where(new, c * g.mT, 0)
    return g


def _lasso(x: Tensor, y: Tensor, penalty: float) -> Tensor:
    n, N, _ = x.shape
    count = torch.arange(1, N, dtype=x.dtype, device=x.device)[:, None, None]
    G = (x[:, :-1, :, None] * x[:, :-1, None]).cumsum(1) / count  # (n, N - 1, d, d)
    b = (x[:, :-1, :, None] * y[:, :-1, None]).cumsum(1) / count  # (n, N - 1, d, m)
    w = _descend(G.flatten(0, 1).movedim(0, 2).contiguous(), b.flatten(0, 1).movedim(0, 1).contiguous(), penalty)
    w = w.movedim(0, 1).unflatten(0, (n, N - 1))  # (n, N - 1, d, m)
    return torch.cat([torch.zeros_like(y[:, :1]), (x[:, 1:, :, None] * w).sum(2)], 1)


def _descend(G: Tensor, b: Tensor, penalty: float) -> Tensor:
    """Minimise w^T G w / 2 - b^T w + penalty |w|_1, G (d, d, M), b (d, M, m); what stands still is left out."""
    w, left = torch.zeros_like(b), torch.arange(G.shape[2], device=G.device)
    g, c, v = G, b, w.clone()
    for sweep in range(SWEEPS):
        before = v.clone()
        for j in range(len(g)):
            diagonal = g[j, j, :, None]  # (M, 1)
            slope = c[j] - (g[j, :, :, None] * v).sum(0) + diagonal * v[j]  # (M, m)
            v[j] = (slope - slope.clamp(-penalty, penalty)) / diagonal.clamp(min=1e-300)
        if sweep % 5 == 0:
            w[:, left] = v
            moves = (v - before).abs().amax((0, 2)) > STILL
            g, c, v, left = g[..., moves], c[:, moves], v[:, moves], left[moves]
            if not len(left):
                break
    w[:, left] = v
    return w


def _checked(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    if x.dim() != 3 or y.dim() != 3 or x.shape[:2] != y.shape[:2]:
        raise UsageError(f"x {tuple(x.shape)} and y {tuple(y.shape)} do not fit; legal are (n, N, d) and (n, N, m)")
    return x.detach().double(), y.detach().double()
