"""SA-Softmax, DAPE and separators beside torch's fused attention on a GPU: a step's attention, bfloat16, batch 1.

Floors, in matrix products of one head over all pairs. Fused attention has 2 forward and 5 backward. SA-Softmax has 3
and 7: a second sum forward, and scores and slopes of weights once for queries and once for keys backward, so that
nothing is added by atomics; 10 / 7 = 1.43 times, where 8 / 7 = 1.14 would be five products with atomics. DAPE with 12
heads, filled up to 16, and 32 neurons has 3 products a pair and head for scores, slopes and gradients, twice more for
values and parameters, and its network, whose products are as large as 1.5 of those of a head: some 20 in all, 2.9
times, if the small products ran at the speed of large ones, which they do not.

The expectation, before it was run on any GPU: 1.4 to 1.8 for SA-Softmax and 5 to 10 for DAPE. Wanted are 1.15 and 3.

Separators, 6 in 100 tokens, 4 sinks and a window of 256 leave 11 times fewer pairs at 16,384 tokens and 15 times at
65,536 (`compact`). Tiles of 128 queries and 64 keys compute 448 keys in place of 256: 8 and 13 times. Backward has
7 products a pair where fused attention has 5. Which keys are kept is some ten small launches, about 0.1 ms, which is as
much as the rest of a forward pass of 4 heads at 16,384. The first kept keys are seen by all queries, one tile of 64
after another in one program: with 4 heads at 16,384 there are 60 such programs, fewer than a large GPU runs at once.

The expectation, before it was run on any GPU, for 4 heads of 64 and for 32 of 128: 2 to 3 and 5 to 6 times faster at
16,384, 7 to 9 and 8 to 11 at 65,536, forward; two thirds of that with the gradient.

Memory beside inputs: SA-Softmax its output in float32 and 8 numbers a row and head, DAPE besides some tens of MB of
tiles for the gradients of tables, separators the output in float32 and 2 numbers a row and head.

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
from lissome.attention import Attention, Dape, Frame, Kerple, SelfAdjust, causal, separated
from lissome.attention.backends import compact, convolved, dape, naive, self_adjust

LENGTH, SHORT = 16_384, 512
HEADS, DIMENSION = 12, 64
SHARE = 0.06  # of tokens that are separators
FUSED = "sdpa"
NOT_MEASURED = "not measured: torch sees no GPU on this machine"

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
WAYS: dict[str, tuple[Callable[..., Tensor], Callable[[], Attention]]] = {
    "self_adjust(4)": (self_adjust.attend, lambda: Attention(normalize=SelfAdjust(4))),
    "dape": (dape.attend, lambda: Attention(causal, Kerple(HEADS), Dape(HEADS))),
    "dape(3)": (convolved.attend, lambda: Attention(causal, Kerple(HEADS), Dape(HEADS, kernel=3))),
    "compact": (compact.attend, lambda: Attention(separated([1], near=256))),
}
# tokens, heads, numbers of a head, and how many times faster is wanted
KEPT = ((16_384, 4, 64, 2.0), (65_536, 4, 64, 5.0), (16_384, 32, 128, 4.0), (65_536, 32, 128, 7.0))


def _drawn(length: int, heads: int, dimension: int) -> list[Tensor]:
    like = {"device": "cuda", "dtype": torch.bfloat16, "requires_grad": True}
    return [torch.randn(1, heads, length, dimension, **like) for _ in range(3)]


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


def steps(
    names: tuple[str, ...], *, backward: bool, length: int = LENGTH, heads: int = HEADS, dimension: int = DIMENSION
) -> dict[str, Contestant]:
    """Return the contestants, each held to the naive way on a short text."""
    torch.manual_seed(0)
    given, short = (_drawn(size, heads, dimension) for size in (length, SHORT))
    fused = functools.partial(F.scaled_dot_product_attention, is_causal=True)
    found: dict[str, Contestant] = {FUSED: functools.partial(_step, fused, given, [], backward=backward)}
    for name in names:
        way, make = WAYS[name]
        recipe = make().to("cuda")
        numbers = list(recipe.parameters())
        frames = {
            size: Frame.full(size, tokens=(torch.rand(1, size, device="cuda") < SHARE).long(), device="cuda")
            for size in (length, SHORT)
        }

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
    own = [
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
    ]
    kept = [
        Cell(
            f"compact, T = {length:,}, {heads} heads of {dimension}, "
            f"{'forward and backward' if backward else 'forward'}, {card}",
            functools.partial(steps, ("compact",), backward=backward, length=length, heads=heads, dimension=dimension),
            FUSED,
            rounds=20,
            targets=(Target(FUSED, "compact", least=least),),
            memory=backward,
        )
        for length, heads, dimension, least in KEPT
        for backward in (False, True)
    ]
    return (*own, *kept)


BENCHMARK = Benchmark(
    "gpu-attention",
    "Attention on a GPU, bfloat16: SA-Softmax, DAPE and separators beside torch's fused attention",
    _cells(),
    (
        "wanted: at most 1.15 times fused attention for SA-Softmax and 3 times for DAPE, at 16,384 tokens, "
        "12 heads of 64",
        "wanted of 6 in 100 separators, 4 sinks and a window of 256, with and without the gradient: 2 and 5 times "
        "faster than fused attention at 16,384 and 65,536 tokens with 4 heads of 64, 4 and 7 times with 32 of 128",
        "a call ends when the GPU has its results; peaks are those of torch's allocator over what was there before",
        *(() if torch.cuda.is_available() else (NOT_MEASURED,)),
    ),
    rooms=("attention", "attention/backends", "attention/backends/triton"),
)
