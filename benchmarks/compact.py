"""Separators gathered beside causal attention: 4 heads of 64, window 256, 4 sinks, 6 in 100 tokens separators, float32.

Floor, in pairs of a query and a key. Causal attention has T^2 / 2 of them. With separators a query needs its window of
256 and the kept keys that are older, on average 0.06 (T / 2 - 256) + 4: 367 of 2,048 at T = 4,096, 736 of 8,192 at
16,384 and 1,228 of 16,384 at 32,768, so 5.6, 11.1 and 13.3 times fewer, forward and backward alike. Blocks of 64
queries compute 320 keys in place of 256, and kept keys that only part of a band sees are filled to 80, half of which
are too many: 4.3, 9.7 and 12.3.

The expectation, before it was run. Calls on few keys reach 80 to 95 parts in 100 of the rate of causal attention, and
masks and joining cost a tenth: 3.2 to 3.6 at 4,096, 8 at 16,384 and 9 to 10 at 32,768, not below 1 at 1,024. A dense
mask on the same kernel computes all T^2 pairs and skips none: 2 to 3 times slower than causal. FlexAttention skips
blocks without a separator, which are few: slower than causal, and it has no gradient on CPUs, so it stands beside the
forward pass alone, where its compiler runs. A ragged batch has a plan a row and is as fast; grouped heads are gathered
once a group. Two threads share calls over heads.

What comes out has to be what a dense mask gives, output and gradients.
"""

from __future__ import annotations

import contextlib
import functools

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.race import Contestant
from benchmarks.registry import Benchmark, Cell, Target, agree
from lissome.attention import Attention, Frame, separated
from lissome.attention.backends import compact

DIMENSION, NEAR, SHARE = 64, 256, 0.06
UNIT, OURS, MASKED, FLEX = "causal SDPA", "compact", "dense mask on SDPA", "FlexAttention, forward alone"
CHECKED = 4096  # tokens up to which a dense mask is held
LEAST = {1024: (1.0, 1.0), 4096: (2.8, 3.3), 16384: (6.5, 6.5), 32768: (7.5, 7.5)}


def calls(
    length: int,
    *,
    backward: bool,
    rows: int = 1,
    heads: int = 4,
    groups: int = 4,
    threads: int = 1,
    others: bool = False,
) -> dict[str, Contestant]:
    """Return the contestants, on texts whose separators lie anywhere."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    sizes = [(rows, count, length, DIMENSION) for count in (heads, groups, groups)]
    q, k, v = (torch.randn(size, requires_grad=backward) for size in sizes)
    slope = torch.randn(sizes[0])
    frame = Frame.full(length, tokens=(torch.rand(rows, length) < SHARE).long())
    recipe, together = Attention(separated([1], near=NEAR)), heads != groups

    def run(mix) -> list[Tensor]:
        with contextlib.nullcontext() if backward else torch.no_grad():
            out = mix()
        return [out.detach(), *torch.autograd.grad(out, (q, k, v), slope)] if backward else [out]

    def masked(mask: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, mask, enable_gqa=together)

    ways = {
        UNIT: lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=together),
        OURS: lambda: compact.attend(q, k, v, frame, recipe),
    }
    found: dict[str, Contestant] = {name: functools.partial(run, way) for name, way in ways.items()}
    if length <= CHECKED:
        dense = functools.partial(run, functools.partial(masked, recipe.validity(frame)))
        agree(OURS, found[OURS](), dense(), 1e-4)
        if others:
            found[MASKED] = dense
    if others and not backward and (flex := _flex(frame, q, k, v)):
        agree(FLEX, [flex()], found[OURS](), 1e-4)
        found[FLEX] = flex
    return found


def _flex(frame: Frame, q: Tensor, k: Tensor, v: Tensor) -> Contestant | None:
    """Return FlexAttention under the same rule, or None where it cannot be compiled."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    assert frame.tokens is not None
    kept = frame.tokens[0] == 1
    kept[:4] = True

    def rule(b, h, i, j):
        return (i >= j) & ((i - j < NEAR) | kept[j])

    length = q.shape[2]
    try:
        mask = create_block_mask(rule, None, None, length, length, device="cpu")
        compiled = torch.compile(flex_attention)
        with torch.no_grad():
            compiled(q, k, v, block_mask=mask)
    except Exception as error:  # whatever a compiler says on this machine
        print(f"{FLEX}: not run, {type(error).__name__}")
        return None

    def call() -> Tensor:
        with torch.no_grad():
            return compiled(q, k, v, block_mask=mask)  # type: ignore[return-value]

    return call


def _cell(name: str, length: int, *, backward: bool, rounds: int, targets: bool = True, **sizes) -> Cell:
    least = LEAST[length][backward] if targets else None
    return Cell(
        f"T = {length:,}, {'forward and backward' if backward else 'forward'}{name}",
        functools.partial(calls, length, backward=backward, **sizes),
        UNIT,
        rounds=rounds,
        targets=() if least is None else (Target(UNIT, OURS, least=least),),
    )


BENCHMARK = Benchmark(
    "compact",
    "Separators, sinks and a window of 256 beside causal attention, 4 heads of 64, float32",
    (
        *(
            _cell("", length, backward=backward, rounds=rounds, others=length == CHECKED)
            for length, rounds in ((1024, 20), (4096, 8), (16384, 4), (32768, 3))
            for backward in (False, True)
        ),
        *(
            _cell(name, length, backward=backward, rounds=5, targets=False, **sizes)
            for name, length, sizes in (
                (", 4 ragged rows", 4096, {"rows": 4}),
                (", 8 heads on 2 key heads", 4096, {"heads": 8, "groups": 2}),
                (", 2 threads", 4096, {"threads": 2}),
                (", 2 threads", 16384, {"threads": 2}),
            )
            for backward in (False, True)
        ),
    ),
    (
        "wanted, times faster than causal attention on one thread, forward / with the gradient: 2.8 / 3.3 at 4,096, "
        "6.5 / 6.5 at 16,384, 7.5 / 7.5 at 32,768, and never slower from 1,024 on",
        "a dense mask is held at 4,096 alone: at 16,384 it would be 1 GB",
    ),
    rooms=("attention", "attention/backends"),
)
