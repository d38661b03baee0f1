"""One layer of attention, 12 heads of 64, batch 1, float32, one thread: DAPE and DAPE V2 beside plain Kerple.

Floors, at T tokens, P = T^2 pairs, H = 12. Operations per pair: scores and mixing 4 H D = 3,072 forward. DAPE (kernel
1) adds 2 (2 H 32 + 32 H) = 2,304, and V2 (kernel 3) three times that, 6,912. Backward is twice forward. So in
operations kernel 1 costs 1.75 and kernel 3 costs 3.25 times Kerple, at every length.

Bytes. Kerple eager holds scores, bias, their sum and weights: 4 H P numbers, 12.6 MB each at T = 512 and 201 MB at
2,048, and makes about 8 passes over them forward. DAPE holds besides the joined input (2 H P), and before and after
the nonlinearity 32 P each (2.7 H P); V2 holds the masked input and map too.

The expectation, before it was run. Passes over memory and the exponentials weigh as much as the products: kernel 1
some 3 times and kernel 3 some 5 times Kerple, naive. Tiles skip the keys that lie in the future, about half, and each
is run twice in a training step: forward 0.6 of naive, with the gradient about 0.8. The peak is that of one tile of a
million scores, 25 to 150 MB, where naive grows with P: a seventeenth of it, and less. With the allocator as it comes
every tensor above 32 MB is given back and its pages are faulted in anew, one fault per 4 kB: some 0.25 s per GB, so
naive at 2,048 gains by `lissome.optim.keep_memory`, and tiles, whose tensors are smaller than that, less.

Tiles made for DAPE, `own`, and causal attention by torch's fused kernel, `sdpa`, the unit they are held to. Operations
per pair of the past: sdpa 4 H D = 3,072 forward and 10 H D = 7,680 backward; the network on scores 4 k H W = 1,536 k
forward, the bias's half of it being a table, and backward three times that, as it is run again. Floors over sdpa: 1.5
and 1.57 (kernel 1, forward / forward and backward), 2.5 and 2.71 (kernel 3). Bytes: 32 + 12 numbers a pair in cache,
some 10 passes forward and 25 backward, each 0.1 ns a number; one tile of 64 queries, 6 MB, and three of them backward.
Products so thin reach 60 to 80% of the rate of the fused kernel's. Expected before tuning: 2.2 and 3.3 times sdpa, 7
times faster than naive with memory kept; memory 50 MB forward and 130 backward at 2,048, 150 and 320 MB at 8,192.

What was seen while five to ten other processes ran on two cores, in processor time, memory kept, T = 2,048: kernel 1
2.2 to 2.4 and 2.4 to 2.5 times sdpa, kernel 3 4.0 to 4.3 and 3.9 to 4.6. Faster than naive 5.0 and 3.3 times; with the
allocator as it comes 8.5 and 6.4 times, kernel 3 12 and 8 times. Its products run at the rate of those with
keys and values, 60% of the kernel's; 36 shifted copies a pair, forward, are a tenth. Three products in place of one on
copies: 1.2 to 1.5 times slower each. Tiles of 128 queries gain nothing, chunks of 4,096 pairs lose 5%. Peaks at 2,048:
18 and 75 MB, kernel 3 23 and 81.

The allocator is a setting of a process that cannot be taken back, and the benchmarks run with memory kept: cells of
the allocator as it comes run in a process of their own, where a call goes through a pipe, which costs some 0.1 ms.
Tiled and own have to give naive's output and gradients; at 8,192 naive would need 30 to 45 GB, and nothing is compared.
"""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.race import Contestant
from benchmarks.registry import Benchmark, Cell, DisagreementError, Target, agree
from lissome.attention import Attention, Dape, Frame, Kerple, causal
from lissome.attention.backends import convolved, dape, naive, tiled

HEADS, DIMENSION = 12, 64
KINDS: dict[str, Callable[[], Dape | None]] = {
    "kerple": lambda: None,
    "dape": lambda: Dape(HEADS),
    "dape(3)": lambda: Dape(HEADS, kernel=3),
}
GENERAL = {"naive": naive.attend, "tiled": tiled.attend}
WAYS: dict[str, dict[str, Callable[..., Tensor]]] = {
    "kerple": GENERAL,
    "dape": GENERAL | {"own": dape.attend},
    "dape(3)": GENERAL | {"own": convolved.attend},
}
UNIT, FUSED = "kerple, naive", "sdpa"
NAMES = [FUSED, *(f"{kind}, {way}" for kind, ways in WAYS.items() for way in ways)]
LONG = 8192  # too long for naive, and tiled takes a minute
# naive over own, and own over sdpa; forward, forward and backward
FASTER = {"dape": {True: (4, 2), False: (10, 5)}, "dape(3)": {False: (8, 5)}}
SLOWER = {"dape": (3.0, 3.2), "dape(3)": (5.0, 5.5)}


def calls(length: int, *, backward: bool) -> dict[str, Callable[[], list[Tensor]]]:
    """Return a call for each of `NAMES`, if long for the quickest: output, and gradients where they are asked for."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, HEADS, length, DIMENSION, requires_grad=backward) for _ in range(3))
    slope, frame = torch.randn(1, HEADS, length, DIMENSION), Frame.full(length)

    def call(run: Callable[[], Tensor], numbers: list[Tensor]) -> list[Tensor]:
        with contextlib.nullcontext() if backward else torch.no_grad():
            out = run()
        if not backward:
            return [out]
        return [out.detach(), *torch.autograd.grad(out, [q, k, v, *numbers], slope)]

    fused = functools.partial(F.scaled_dot_product_attention, q, k, v, is_causal=True)
    found: dict[str, Callable[[], list[Tensor]]] = {FUSED: functools.partial(call, fused, [])}
    for kind, ways in WAYS.items():
        recipe = Attention(causal, Kerple(HEADS), KINDS[kind]())
        # softmax forgets a shift: what naive gives for the gradient of the last bias is rounding
        numbers = [p for name, p in recipe.named_parameters() if name != "refine.outer.bias"]
        for way, attend in ways.items():
            if length < LONG or way == "own":
                run = functools.partial(attend, q, k, v, frame, recipe)
                found[f"{kind}, {way}"] = functools.partial(call, run, numbers)
            if length < LONG and way != "naive":
                agree(f"{kind}, {way}", found[f"{kind}, {way}"](), found[f"{kind}, naive"](), 1e-3)
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


def _targets(length: int, *, backward: bool, tuned: bool) -> tuple[Target, ...]:
    found = []
    for kind, most in SLOWER.items() if length == 2048 else ():
        if tuned in FASTER[kind]:
            found.append(Target(f"{kind}, naive", f"{kind}, own", least=FASTER[kind][tuned][backward]))
        if tuned:
            found.append(Target(f"{kind}, own", FUSED, most=most[backward]))
    return tuple(found)


def _cell(length: int, *, backward: bool, tuned: bool) -> Cell:
    what = "forward and backward" if backward else "forward"
    return Cell(
        f"T = {length:,}, {what}, {'memory kept' if tuned else 'allocator as it comes'}",
        functools.partial(calls if tuned else elsewhere, length, backward=backward),
        UNIT if length < LONG else FUSED,
        rounds=10 if length < 1000 else 5 if length < LONG else 3,
        targets=_targets(length, backward=backward, tuned=tuned),
        memory=tuned,
    )


BENCHMARK = Benchmark(
    "dape",
    "A layer of attention, 12 heads of 64, batch 1, one thread: DAPE and DAPE V2 beside Kerple",
    (
        *(
            _cell(length, backward=backward, tuned=tuned)
            for length in (512, 2048)
            for backward in (False, True)
            for tuned in (True, False)
        ),
        *(_cell(LONG, backward=backward, tuned=True) for backward in (False, True)),
    ),
    (
        "wanted of own at 2,048, forward / forward and backward: kernel 1 at least 4 / 2 times faster than naive with "
        "memory kept and 10 / 5 times with the allocator as it comes, at most 3 / 3.2 times sdpa and 1/15 of naive's "
        "peak; kernel 3 at least 8 / 5 times faster than naive with the allocator as it comes, at most 5 / 5.5 times "
        "sdpa. At 8,192: kernel 1 at most 400 MB",
        "sdpa is softmax without bias and without refinement: the unit of what they cost, not a rival",
        "peaks are those of torch's allocator and the same both ways, so they are told once",
    ),
    rooms=("attention", "attention/backends"),
)
