"""One layer of attention, 12 heads of 64, batch 1, float32, one thread: DAPE and DAPE V2 beside plain Kerple.

Floors, at T tokens, P = T^2 pairs, H = 12. Operations per pair: scores and mixing 4 H D = 3,072 forward. DAPE (kernel
1) adds 2 (2 H 32 + 32 H) = 2,304, and V2 (kernel 3) three times that, 6,912. Backward is twice forward. So in
operations kernel 1 costs 1.75 and kernel 3 costs 3.25 times Kerple, at every length.

Bytes. Kerple eager holds scores, bias, their sum and weights: 4 H P numbers, 12.6 MB each at T = 512 and 201 MB at
2,048, and makes about 8 passes over them forward. DAPE holds besides the joined input (2 H P), and before and after
the nonlinearity 32 P each (2.7 H P); V2 holds the masked input and map too.

The expectation, before it was run. Passes over memory and the exponentials weigh as much as the products: kernel 1
some 3 times and kernel 3 some 5 times Kerple, naive. Tiles skip the keys that lie in the future, about half, and each
is run twice in a training step: forward 0.6 of naive, with the gradient about 0.8. The peak is that of one tile of 4
million scores, 150 to 300 MB, where naive grows with P: a tenth of naive's. With the allocator as it comes every
tensor above 32 MB is given back and its pages are faulted in anew, one fault per 4 kB: some 0.25 s per GB, so naive at
2,048 gains by `lissome.optim.keep_memory`, and tiles, whose tensors are smaller than that, less.

The allocator is a setting of a process that cannot be taken back, and the benchmarks run with memory kept: cells of
the allocator as it comes run in a process of their own, where a call goes through a pipe, which costs some 0.1 ms.
Tiled has to give naive's output and gradients.

"""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection

import torch
from torch import Tensor

from benchmarks.race import Contestant
from benchmarks.registry import Benchmark, Cell, DisagreementError, agree
from lissome.attention import Attention, Dape, Frame, Kerple, attend, causal

HEADS, DIMENSION = 12, 64
KINDS: dict[str, Callable[[], Dape | None]] = {
    "kerple": lambda: None,
    "dape": lambda: Dape(HEADS),
    "dape(3)": lambda: Dape(HEADS, kernel=3),
}
NAMES = [f"{kind}, {way}" for kind in KINDS for way in ("naive", "tiled")]
UNIT = "kerple, naive"


def calls(length: int, *, backward: bool) -> dict[str, Callable[[], list[Tensor]]]:
    """Return a call for each of `NAMES`: the output, and the gradients where they are asked for."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, HEADS, length, DIMENSION, requires_grad=backward) for _ in range(3))
    slope, frame = torch.randn(1, HEADS, length, DIMENSION), Frame.full(length)

    def call(recipe: Attention, way: str) -> list[Tensor]:
        with contextlib.nullcontext() if backward else torch.no_grad():
            out = attend(q, k, v, frame, recipe, backend=way)
        if not backward:
            return [out]
        wanted = [q, k, v, *recipe.parameters()]
        return [out.detach(), *torch.autograd.grad(out, wanted, slope)]

    found = {}
    for kind, refine in KINDS.items():
        recipe = Attention(causal, Kerple(HEADS), refine())
        for way in ("naive", "tiled"):
            found[f"{kind}, {way}"] = functools.partial(call, recipe, way)
        agree(f"{kind}, tiled", found[f"{kind}, tiled"](), found[f"{kind}, naive"](), 1e-3)
    return found


def _serve(pipe: Connection, length: int, backward: bool) -> None:
    """Say whether the numbers are right, then run what is asked for by name, until the other end goes."""
    try:
        known = calls(length, backward=backward)
    except DisagreementError as error:
        pipe.send(str(error))
        return
    pipe.send("")
    with contextlib.suppress(EOFError):
        while True:
            known[pipe.recv()]()
            pipe.send(None)


def elsewhere(length: int, *, backward: bool) -> dict[str, Contestant]:
    """Return the calls in a process whose allocator is as it comes; it ends with this one."""
    context = multiprocessing.get_context("spawn")  # a fork would keep this process's allocator
    pipe, other = context.Pipe()
    context.Process(target=_serve, args=(other, length, backward), daemon=True).start()
    other.close()
    if wrong := pipe.recv():
        raise DisagreementError(wrong)

    def ask(name: str) -> None:
        pipe.send(name)
        pipe.recv()

    return {name: functools.partial(ask, name) for name in NAMES}


def _cell(length: int, *, backward: bool, tuned: bool) -> Cell:
    what = "forward and backward" if backward else "forward"
    return Cell(
        f"T = {length:,}, {what}, {'memory kept' if tuned else 'allocator as it comes'}",
        functools.partial(calls if tuned else elsewhere, length, backward=backward),
        UNIT,
        rounds=10 if length < 1000 else 5,
        memory=tuned,
    )


BENCHMARK = Benchmark(
    "dape",
    "A layer of attention, 12 heads of 64, batch 1, one thread: DAPE and DAPE V2 beside Kerple",
    tuple(
        _cell(length, backward=backward, tuned=tuned)
        for length in (512, 2048)
        for backward in (False, True)
        for tuned in (True, False)
    ),
    (
        "no target: what a refinement costs is told, the expectation stands in the module",
        "peaks are those of torch's allocator and the same both ways, so they are told once",
    ),
    rooms=("attention", "attention/backends"),
)
