"""What is added to a score for its distance alone: ALiBi, Kerple, FIRE.

With d = i - j >= 0 for the query at position i and the key at j, per head h:

    Alibi            -slope_h d                                              arXiv 2108.12409
    Kerple, log      -p_h log(1 + a_h d)                                     arXiv 2205.09921, eq. 7
    Kerple, power    -a_h d^{p_h}, 0 < p_h <= 2                              arXiv 2205.09921, eq. 6
    Fire             g(log(1 + |c d|) / (log(1 + |c max(i, |m L|)|) + eps))  arXiv 2310.04418, eq. 8

A bias is a module that takes a frame and returns (1 or B, H, Tq, Tk); in the future, which no causal query sees, d
counts as 0, so that every number is finite. One that depends on d alone says `stationary = True`: fast ways take it
from a table of distances.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.func import functional_call

from lissome._checks import check_whole
from lissome._errors import unknown
from lissome.attention.frame import Frame

LEAST = 1e-2  # Kerple's numbers stay above it, as in the published code
FIRE_WIDTH = 32  # neurons of its network, arXiv 2310.04418, section 4
FIRE_EPS = 1e-6  # keeps the quotient finite at the first position


def slopes(heads: int) -> list[float]:
    """Return ALiBi's slopes: 2^(-8h/H), interleaved with those of the next power of two where H is none.

    >>> slopes(4)
    [0.25, 0.0625, 0.015625, 0.00390625]
    """
    unit, steps = _steps(heads)
    return [2 ** (-unit * step) for step in steps]


def _steps(heads: int) -> tuple[float, list[int]]:
    check_whole("the number of heads", heads)
    power = 2 ** math.floor(math.log2(heads))
    return 4 / power, [*range(2, 2 * power + 1, 2), *range(1, 2 * (heads - power), 2)]


class Alibi(nn.Module):
    """Linear decay with fixed slopes; nothing is learned.

    Args:
        heads: H.

    Raises:
        UsageError: fewer than 1 head.
    """

    stationary = True
    steps: Tensor
    like: Tensor

    def __init__(self, heads: int):
        super().__init__()
        # whole numbers stay as they are where a model is turned to half precision; slopes would be rounded
        self.unit, steps = _steps(heads)
        self.register_buffer("steps", torch.tensor(steps), persistent=False)
        self.register_buffer("like", torch.zeros(0), persistent=False)  # follows the model's dtype

    def forward(self, frame: Frame) -> Tensor:
        """Return the bias (1 or B, H, Tq, Tk)."""
        d = _past(frame, self.like.dtype)  # (., 1, Tq, Tk)
        return -torch.exp2(-self.unit * self.steps.to(d.dtype))[:, None, None] * d


class Kerple(nn.Module):
    """Logarithmic or power decay with two learned numbers per head.

    Args:
        heads: H.
        kind: log or power.

    Raises:
        UsageError: fewer than 1 head, or another kind.
    """

    stationary = True

    def __init__(self, heads: int, kind: str = "log"):
        super().__init__()
        check_whole("the number of heads", heads)
        if kind not in ("log", "power"):
            raise unknown("kind of Kerple", kind, ("log", "power"))
        self.kind = kind
        self.name = "kerple" if kind == "log" else "kerple(power)"
        self.p = nn.Parameter(torch.rand(heads) * 2)
        self.a = nn.Parameter(torch.rand(heads))

    def forward(self, frame: Frame) -> Tensor:
        """Return the bias (1 or B, H, Tq, Tk)."""
        d = _past(frame, self.p.dtype)  # (., 1, Tq, Tk)
        p, a = self.p.clamp(min=LEAST)[:, None, None], self.a.clamp(min=LEAST)[:, None, None]
        return -p * torch.log1p(a * d) if self.kind == "log" else -a * d ** p.clamp(max=2)


class Fire(nn.Module):
    """A learned function of the distance relative to the query's position.

    Args:
        heads: H.
        length: the training length; positions below half of it share one denominator.

    Raises:
        UsageError: fewer than 1 head, or a length below 2.
    """

    def __init__(self, heads: int, length: int):
        super().__init__()
        check_whole("the number of heads", heads)
        check_whole("the training length of FIRE", length, 2)
        self.threshold = length / 2
        self.c = nn.Parameter(torch.tensor(0.1))
        self.multiplier = nn.Parameter(torch.tensor(1.0))
        self.network = nn.Sequential(nn.Linear(1, FIRE_WIDTH), nn.ReLU(), nn.Linear(FIRE_WIDTH, heads))

    def forward(self, frame: Frame) -> Tensor:
        """Return the bias (1 or B, H, Tq, Tk)."""
        d = _past(frame, self.c.dtype)[:, 0]  # (., Tq, Tk)
        i = frame.queries[:, :, None].clamp(min=0).to(d.dtype)  # (., Tq, 1)
        far = torch.maximum(i, (self.multiplier * self.threshold).abs())
        share = torch.log1p((self.c * d).abs()) / (torch.log1p((self.c * far).abs()) + FIRE_EPS)
        numbers = {name: number.to(d.dtype) for name, number in self.network.named_parameters()}
        return functional_call(self.network, numbers, (share[..., None],)).permute(0, 3, 1, 2)


def _past(frame: Frame, dtype: torch.dtype) -> Tensor:
    """Return the distance, 0 in the future, (1 or B, 1, Tq, Tk) in at least float32: half precision has no 2,049."""
    dtype = torch.promote_types(dtype, torch.float32)
    return frame.distance.clamp(min=0).to(dtype)[:, None]
