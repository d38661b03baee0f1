"""SA-Softmax by tiles of whole rows beside causal softmax by torch's fused kernel: 4 heads of 64, float32, one thread.

Floors, at T tokens, H = 4, D = 64, P = H T^2 / 2 pairs of the past. Products: two forward, 4 D operations a pair, and
five backward, 10 D; the fused kernel has the same. So in operations the ratio is 1, and it can be below 1 where plain
products are faster than those of the kernel: on one core of an AMD EPYC, beside other work, 80 to 95 GFLOP/s in
products of a tile by themselves, 70 in the kernel: 0.8.

Bytes. Forward makes 7 passes over a tile's scores in variant 4 (min, max, difference, power, sum, difference, product)
and 5 in variant 1; backward some 8 and a search for the extrema. A pass over 1 MB in cache takes 15 to 25 us where one
product takes 350, the power 75: forward 200 us beside 700, backward 330 beside 1,800.

The expectation from these figures, taken before a line was tuned: 1.0 to 1.15 forward, 0.9 to 1.1 forward and backward
at 4,096. Calls from Python, which it left out, take about a tenth of a tile forward.

What was seen on two cores beside five to ten other processes, best of several in processor time: variant 4 1.24 to 1.61
forward and 1.51 to 1.68 forward and backward at 2,048 and 4,096; variant 1 1.17 to 1.35 and 1.21 to 1.27; variant 4
with Kerple 1.44 to 1.51 and 1.68 to 1.71. The expectation was missed. Products had 73 GFLOP/s in the loop; that
the third cache was shared may be why, and was not tested. At 16,384 single calls took 2.6 and 1.8 at a load of 13, with
68 and 149 MB over the inputs.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.race import Contestant
from benchmarks.registry import Benchmark, Cell, Target, agree
from lissome.attention import Attention, Frame, Kerple, SelfAdjust, causal
from lissome.attention.backends import naive, self_adjust

HEADS, DIMENSION = 4, 64
FUSED = "softmax, fused"
RECIPES: dict[str, Callable[[], Attention]] = {
    "V1": lambda: Attention(normalize=SelfAdjust(1)),
    "V4": lambda: Attention(normalize=SelfAdjust(4)),
    "V4, kerple": lambda: Attention(causal, Kerple(HEADS), normalize=SelfAdjust(4)),
}
SMALL = 2048  # the longest text that the naive way is given
MOST = {4096: (1.6, 1.7), 16384: (1.8, 1.9)}  # wanted of V4: forward, forward and backward


def calls(length: int, *, backward: bool) -> dict[str, Contestant]:
    """Return the contestants; the tiles have to give what the naive way gives, at lengths that it can hold."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, HEADS, length, DIMENSION, requires_grad=backward) for _ in range(3))
    slope = torch.randn(1, HEADS, length, DIMENSION)

    def call(run: Callable[[], Tensor], numbers: list[Tensor]) -> list[Tensor]:
        with contextlib.nullcontext() if backward else torch.no_grad():
            out = run()
        return [out.detach(), *(torch.autograd.grad(out, [q, k, v, *numbers], slope) if backward else ())]

    fused = functools.partial(F.scaled_dot_product_attention, q, k, v, is_causal=True)
    found: dict[str, Contestant] = {FUSED: functools.partial(call, fused, [])}
    for name, make in RECIPES.items():
        recipe = make()
        for way in (self_adjust, naive) if length <= SMALL else (self_adjust,):
            run = functools.partial(way.attend, q, k, v, Frame.full(length), recipe)
            told = name if way is self_adjust else f"{name}, naive"
            found[told] = functools.partial(call, run, list(recipe.parameters()))
        if length <= SMALL:
            agree(name, found[name](), found[f"{name}, naive"](), 1e-3)
    return found


def _cell(length: int, *, backward: bool) -> Cell:
    most = MOST.get(length)
    return Cell(
        f"T = {length:,}, {'forward and backward' if backward else 'forward'}",
        functools.partial(calls, length, backward=backward),
        FUSED,
        rounds=10 if length < 10_000 else 5,
        targets=(Target("V4", FUSED, most=most[backward]),) if most else (),
        memory=True,
    )


BENCHMARK = Benchmark(
    "self-adjust",
    "SA-Softmax by tiles, 4 heads of 64, batch 1, one thread, beside fused causal softmax",
    tuple(_cell(length, backward=backward) for length in (2048, 4096, 16384) for backward in (False, True)),
    (
        "wanted of V4: 1.6 forward and 1.7 forward and backward at 4,096; 1.8, 1.9 and at most 200 MB at 16,384",
        "the first call is the fused kernel's, which is softmax and no SA-Softmax: the unit of time, not a rival",
    ),
    rooms=("attention", "attention/backends"),
)
