"""Loss and gradient of a body of 20 iterations, beside 20 plain layers, and with a checkpoint at each iteration.

The floor is the matrix products of 20 passes through a layer, which are the same in all three, and once more the
forward third of them where iterations are run again: 4/3. A layer of width 256 has 0.79 million weights, so 8 prompts
of 79 tokens are 6 * 0.79e6 * 632 * 20 = 60 GFLOP, 0.6 s at 100 GFLOP/s of one core.

The expectation. An iteration is a call of the same layer, whose weights lie in the cache already, and gradients of 20
iterations are added where 20 layers write 20: 0.97 to 1.03 times the plain layers; at most 1.05 is wanted. Checkpoints
before each 4 iterations, and before each within the 4 that are run again, cost 1.75 forward passes: 1.6 of the whole,
and a functional call for each; at most 1.65 is wanted. Memory: a layer holds 18 numbers of the width for each token,
and checkpoints 5 and 3, so that 8 + 18 remain of 366, and beside them what the backward pass of one layer needs for a
moment and the gradient of the weights, twice: a twelfth; a tenth is wanted. One checkpoint an iteration would leave
20 + 18: an eighth, for 1.35 times the time.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.race import Contestant
from benchmarks.registry import Benchmark, Cell, Target, agree
from lissome.models import BODIES, Looped, LoopedShape
from lissome.models.decoder import draw_layers

PLAIN, OURS, AGAIN = "20 plain layers", "20 iterations", "20 iterations, checkpointed"
T = 20
ALONE = {"pre": 0, "post": 0, "iterations": T}
SIZES = {  # width, heads, prompts, tokens
    "width 256, 8 prompts of 40 pairs": (256, 8, 8, 79),
    "width 32, 64 prompts of 11 pairs": (32, 2, 64, 21),
}


def _step(body: Looped, x: Tensor, y: Tensor) -> Contestant:
    weights = list(body.parameters())

    def step() -> list[Tensor]:
        loss = (body(x) - y).square().mean()  # of what is normed the mean square alone would be 1
        return [loss.detach(), *torch.autograd.grad(loss, weights)]

    return step


def _summed(plain: Looped, step: Callable[[], list[Tensor]]) -> list[Tensor]:
    """Return loss and gradients of the plain layers, those of the same weight added: what the loop has."""
    loss, *slopes = step()
    by_name: dict[str, Tensor] = {}
    for (name, _), slope in zip(plain.named_parameters(), slopes, strict=True):
        kind = name.split(".", 3)[-1] if name.startswith("pre") else name
        by_name[kind] = by_name[kind] + slope if kind in by_name else slope
    return [loss, *by_name.values()]


def steps(width: int, heads: int, prompts: int, tokens: int) -> dict[str, Contestant]:
    """Return the contestants, all with the weights of one layer, once each is known to compute the same."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    x, y = torch.randn(2, prompts, tokens, width)
    loop = Looped(LoopedShape(width=width, heads=heads, **ALONE))  # type: ignore[arg-type]
    draw_layers(loop, width, T)  # a new body is the identity, on which contestants agree whatever they iterate
    again = Looped(loop.shape, checkpoint=True)
    again.load_state_dict(loop.state_dict())
    plain = Looped(LoopedShape(width=width, heads=heads, **{**BODIES["plain"], "pre": T}))
    for block in plain.pre.blocks:
        block.load_state_dict(loop.loop.blocks[0].state_dict())
    found = {name: _step(body, x, y) for name, body in ((PLAIN, plain), (OURS, loop), (AGAIN, again))}
    truth = found[OURS]()
    agree(PLAIN, _summed(plain, found[PLAIN]), truth, 1e-4)  # type: ignore[arg-type]
    agree(AGAIN, found[AGAIN](), truth, 0.0)
    return found


BENCHMARK = Benchmark(
    "looped",
    "Loss and gradient of 20 iterations of a layer, beside 20 plain layers, float32, one thread",
    tuple(
        Cell(
            name,
            functools.partial(steps, *sizes),
            PLAIN,
            rounds=8 if sizes[0] == 256 else 20,
            targets=(Target(OURS, PLAIN, most=1.05), Target(AGAIN, PLAIN, most=1.65)),
            memory=True,
        )
        for name, sizes in SIZES.items()
    ),
    (
        "without the optimizer: 20 plain layers have 20 times the numbers, and the loop's step of Adam is a twentieth",
        "checkpointed gradients are those of the loop to the bit; the peak is wanted at a tenth of that of the loop",
    ),
    rooms=("attention", "attention/backends", "models"),
)
