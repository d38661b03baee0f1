"""SA-Softmax and DAPE beside torch's fused attention on a GPU: a training step's attention, bfloat16, batch 1.

Floors, in matrix products of one head over all pairs. Fused attention has 2 forward and 5 backward. SA-Softmax has 3
and 7: a second sum forward, and scores and slopes of weights once for queries and once for keys backward, so that
nothing is added by atomics; 10 / 7 = 1.43 times, where 8 / 7 = 1.14 would be five products with atomics. DAPE with 12
heads, filled up to 16, and 32 neurons has 3 products a pair and head for scores, slopes and gradients, twice more for
values and parameters, and its network, whose products are as large as 1.5 of those of a head: some 20 in all, 2.9
times, if the small products ran at the speed of large ones, which they do not.

The expectation, before it was run on any GPU: 1.4 to 1.8 for SA-Softmax and 5 to 10 for DAPE. Wanted are 1.15 and 3.

Memory beside inputs: SA-Softmax its output in float32 and 8 numbers a row and head, DAPE besides some tens of MB of
tiles for the gradients of tables.

The kernels are held to the naive way on texts of 512 in the same precision before any time is taken.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

import lissome.attention.backends.triton  # noqa: F401  adds the kernels to the operators where there is a GPU
from benchmarks.race import Contestant
from benchmarks.registry import Benchmark, Cell, Target, agree
from lissome.attention import Attention, Dape, Frame, Kerple, SelfAdjust, causal
from lissome.attention.backends import convolved, dape, naive, self_adjust

LENGTH, SHORT = 16_384, 512
HEADS, DIMENSION = 12, 64
FUSED = "sdpa"
NOT_MEASURED = "not measured: torch sees no GPU on this machine"

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
WAYS: dict[str, tuple[Callable[..., Tensor], Callable[[], Attention]]] = {
    "self_adjust(4)": (self_adjust.attend, lambda: Attention(normalize=SelfAdjust(4))),
    "dape": (dape.attend, lambda: Attention(causal, Kerple(HEADS), Dape(HEADS))),
    "dape(3)": (convolved.attend, lambda: Attention(causal, Kerple(HEADS), Dape(HEADS, kernel=3))),
}


def _drawn(length: int) -> list[Tensor]:
    like = {"device": "cuda", "dtype": torch.bfloat16, "requires_grad": True}
    return [torch.randn(1, HEADS, length, DIMENSION, **like) for _ in range(3)]


def _step(attend: Attend, given: Sequence[Tensor], numbers: Sequence[Tensor], *, backward: bool) -> list[Tensor]:
    """Return the output, and the gradients where they are asked for, when the GPU has them."""
    if backward:
        out = attend(*given)
        found = [out.detach(), *torch.autograd.grad(out, [*given, *numbers], torch.ones_like(out))]
    else:
        with torch.no_grad():
            found = [attend(*given)]
    torch.cuda.synchronize()
    return found


def steps(names: tuple[str, ...], *, backward: bool) -> dict[str, Contestant]:
    """Return the contestants, each held to the naive way on a short text."""
    torch.manual_seed(0)
    given, short = _drawn(LENGTH), _drawn(SHORT)
    fused = functools.partial(F.scaled_dot_product_attention, is_causal=True)
    found: dict[str, Contestant] = {FUSED: functools.partial(_step, fused, given, [], backward=backward)}
    for name in names:
        way, make = WAYS[name]
        recipe = make().to("cuda")
        numbers = list(recipe.parameters())
        frames = {length: Frame.full(length, device="cuda") for length in (LENGTH, SHORT)}

        def attend(q: Tensor, k: Tensor, v: Tensor, way=way, recipe=recipe, frames=frames) -> Tensor:
            return way(q, k, v, frames[q.shape[2]], recipe)

        def truth(q: Tensor, k: Tensor, v: Tensor, recipe=recipe, frames=frames) -> Tensor:
            return naive.attend(q, k, v, frames[q.shape[2]], recipe)

        held = [_step(one, short, numbers, backward=True) for one in (attend, truth)]
        # the gradient of a shift of all scores of a head is nothing but rounding
        keep = [i for i, x in enumerate(held[1]) if float(x.abs().max()) > 1e-3]
        agree(name, *([one[i].float() for i in keep] for one in held), tolerance=3e-2)
        found[name] = functools.partial(_step, attend, given, numbers, backward=backward)
    return found


def _cells() -> tuple[Cell, ...]:
    if not torch.cuda.is_available():
        return ()
    card = torch.cuda.get_device_name()
    asked = ((("self_adjust(4)",), 1.15), (("dape", "dape(3)"), 3.0))
    return tuple(
        Cell(
            f"{names[0]}, T = {LENGTH:,}, {'forward and backward' if backward else 'forward'}, {card}",
            functools.partial(steps, names, backward=backward),
            FUSED,
            rounds=20,
            targets=(Target(names[0], FUSED, most=most),),
            memory=backward,
        )
        for names, most in asked
        for backward in (False, True)
    )


BENCHMARK = Benchmark(
    "gpu-attention",
    "Attention of 12 heads of 64 on a GPU, bfloat16: SA-Softmax and DAPE beside torch's fused attention",
    _cells(),
    (
        "wanted: at most 1.15 times fused attention for SA-Softmax and 3 times for DAPE, at 16,384 tokens",
        "a call ends when the GPU has its results; peaks are those of torch's allocator over what was there before",
        *(() if torch.cuda.is_available() else (NOT_MEASURED,)),
    ),
    rooms=("attention", "attention/backends", "attention/backends/triton"),
)
