"""Value, first derivatives and weighted Laplacians of a function of points, by the cheapest exact way.

See `onepass` for the mathematics, `nested` for the truth it is held to.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from lissome._errors import UsageError, unknown
from lissome.calculus.carry import Weights
from lissome.calculus.chart import charted
from lissome.calculus.nested import Derivatives, nested
from lissome.calculus.onepass import Seeds, one_pass, plan
from lissome.calculus.rules import Chart, chain_of, first_width

MODES = ("auto", "one-pass", "compressed", "nested", "stochastic")
Function = Callable[[Tensor], Tensor]


@runtime_checkable
class Derivable(Protocol):
    """A module with a rule of its own, such as a hard constraint around a network."""

    def derive(
        self,
        z: Tensor,
        first: tuple[int, ...],
        second: Weights,
        along: Tensor | None,
        recurse: Callable[..., Derivatives],
    ) -> Derivatives:
        """Return derivatives, by `recurse(module, z, first, second, along)` on what it wraps."""
        ...


def derivatives(
    u: Function,
    z: Tensor,
    first: tuple[int, ...] = (),
    second: Weights = (),
    along: Tensor | None = None,
    *,
    mode: str = "auto",
    generator: torch.Generator | None = None,
) -> Derivatives:
    r"""Return the value of u and the asked derivatives in its input, at every point.

    Args:
        u: module or function (N, D) -> (N, 1) or (N,), each row by itself.
        z: points (N, D), any floating dtype.
        first: coordinates i of the wanted du/dz_i.
        second: m rows of D weights; a row w gives sum_i w_i d2u/dz_i^2: for z = (t, x), (0, 1, 1) is the
            Laplacian in x.
        along: directions (a, N, D), one per point; gives sum_i v_i du/dz_i.
        mode: `auto` takes one pass where every part of u has a rule, compressed where that is cheaper, and nested
            reverse mode elsewhere. `one-pass` never compresses and can be differentiated in the parameters any
            number of times, `compressed` twice. `stochastic` estimates `second` without bias from one Rademacher
            direction per point and sign; its variance per point is 2 sum_{i != j} |w_i w_j| H_ij^2 over coordinates
            of equal sign.
        generator: randomness of `stochastic`.

    Returns:
        value (N,), first (k, N), second (m, N), along (a, N), with the graph to the parameters of u.

    Raises:
        UsageError: an unknown mode, a mode without a rule for u, a coordinate or a weight row that does not fit D.

    >>> z = torch.tensor([[2.0, 3.0]])
    >>> derivatives(lambda z: z[:, 0] ** 2 * z[:, 1], z, first=(0,), second=((1.0, 1.0),)).second
    tensor([[6.]])
    """
    _check(z, first, second, mode)

    def recurse(u: Function, z: Tensor, first: tuple[int, ...] = (), second: Weights = (), along: Tensor | None = None):
        return derivatives(u, z, first, second, along, mode=mode, generator=generator)

    if isinstance(u, Derivable):
        return u.derive(z, first, second, along, recurse)
    chain = None if mode == "nested" else chain_of(u)
    if chain is None and mode in ("auto", "nested"):
        return nested(u, z, first, second, along)
    if chain is None:
        raise UsageError(
            f"mode '{mode}' needs a stack of linear maps and smooth activations, and {type(u).__name__} is none; "
            "take 'nested' or 'auto'"
        )
    if chain and isinstance(chain[0], Chart):  # few inputs: nothing to compress, nothing to estimate
        return charted(chain[0], chain[1:], z, tuple(first), second, along)
    if mode == "stochastic" and second:
        return _stochastic(chain, z, first, second, along, generator)
    choose = _choose if torch.compiler.is_compiling() else _chosen  # the compiler objects to caches
    compress, seeds = choose(first_width(chain), tuple(map(tuple, second)), mode)
    return one_pass(chain, z, seeds, tuple(first), along, compress=compress)


def explain(u: Function, dimension: int, first: tuple[int, ...] = (), second: Weights = ()) -> str:
    """Say in one sentence how `derivatives(u, ...)` with mode `auto` goes about points of D = `dimension` coordinates.

    >>> net = torch.nn.Sequential(torch.nn.Linear(10, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1))
    >>> explain(net, 10, second=((1.0,) * 10,))
    'one pass, compressed after the first layer: 6 products per point and layer in place of 12'
    """
    _check(torch.empty(0, dimension), first, second, "auto")
    used = {i for row in second for i, weight in enumerate(row) if weight}
    if isinstance(u, Derivable):
        return f"{type(u).__name__} adds its own product rule around what it wraps"
    chain = chain_of(u)
    if chain is None:
        return (
            f"nested reverse mode, {2 + 2 * len(used)} passes: {type(u).__name__} is no plain stack of linear maps and "
            "smooth activations"
        )
    width = first_width(chain)
    if _compresses(width, second, "auto"):
        kept = sum(min(width, size) for size in _sign_sizes(second))
        return (
            f"one pass, compressed after the first layer: {2 + kept} products per point and layer in place of "
            f"{2 + len(used)}"
        )
    nested_passes = 2 + 2 * len(used)
    return (
        f"one pass: {2 + len(used)} products per point and layer, where nested reverse mode runs {nested_passes} passes"
    )


def _check(z: Tensor, first: tuple[int, ...], second: Weights, mode: str) -> None:
    if mode not in MODES:
        raise unknown("mode", mode, MODES)
    if z.ndim != 2:
        raise UsageError(f"points have shape {tuple(z.shape)}; legal is (N, D)")
    for i in first:
        if not 0 <= i < z.shape[1]:
            raise UsageError(f"coordinate {i} is asked of points with {z.shape[1]} coordinates (0 to {z.shape[1] - 1})")
    for row in second:
        if len(row) != z.shape[1]:
            raise UsageError(f"a row of {len(row)} weights does not fit points with {z.shape[1]} coordinates")


def _choose(width: int, second: Weights, mode: str) -> tuple[bool, Seeds]:
    """Return whether to compress behind a first layer of that width (0: none), and the tangents."""
    return _compresses(width, second, mode), plan(second)


_chosen = functools.lru_cache(maxsize=64)(_choose)  # 10,000 weights are slow to read


def _sign_sizes(second: Weights) -> tuple[int, int]:
    return sum(w > 0 for w in second[0]), sum(w < 0 for w in second[0])


def _compresses(width: int, second: Weights, mode: str) -> bool:
    """Compress when asked, or when the first layer is narrower than the tangents of one sign are many."""
    if not width or len(second) != 1 or mode not in ("auto", "compressed"):
        return False
    return max(_sign_sizes(second)) > width


def _stochastic(chain, z, first, second, along, generator) -> Derivatives:
    # one Rademacher direction for the positive, one for the negative weights of each row
    groups = [(m, sign) for m, row in enumerate(second) for sign in (1.0, -1.0) if any(sign * w > 0 for w in row)]
    rows = z.new_tensor(second)  # (m, D)
    scales = z.new_tensor([sign for _, sign in groups])[:, None] * rows[[m for m, _ in groups]]  # (q, D)
    scales = scales.clamp_min(0).sqrt()
    coins = torch.randint(0, 2, (len(groups), *z.shape), generator=generator, device=z.device).to(z.dtype) * 2 - 1
    directions = coins * scales[:, None]  # (q, N, D)
    signs = tuple(tuple(sign if m == row else 0.0 for m, sign in groups) for row in range(len(second)))
    return one_pass(chain, z, replace(plan(()), signs=signs), tuple(first), along, directions)
