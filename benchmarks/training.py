"""A training step, forward, backward and AdamW, of one long text: all keys in sight, or separators (SepLLM) alone.

What `lissome lm train --visible separators` changes of a step: attention by gathered keys in place of causal attention
by torch's fused kernel, everything else alike. The text is the source of Python's argparse in bytes, 6 in 100 of them
separators; 4 sinks, a window of n = 64 or 256.

Floor, in operations. Weights cost 6 a weight and token, forward and backward: of `tiny` (0.81 million) 20 G at 4,096
tokens and 40 G at 8,192, of `small` (10.7 million) 263 and 527 G. Full attention costs 14 a number of the width, layer
and pair, 4 forward and 10 backward, for T^2 / 2 pairs: 60 and 241 G, 271 and 1,082 G. With separators 7.7 and 6.8 in
100 of the pairs are seen for n = 64, 16.2 and 11.1 for n = 256; the gathered way computes whole blocks, 12.3 and 9.3,
20.7 and 13.6 in 100 (`lissome.recipes.language.sight` counts them). A step is then shorter

                    tiny, 4,096    tiny, 8,192    small, 4,096    small, 8,192
    n = 64              2.9            4.5            1.8             2.6
    n = 256             2.5            3.9            1.7             2.4       times, at one rate of all operations

In bytes: the weights and AdamW's moments are read and written once a step, 16 MB of `tiny` and 210 MB of `small`, and
activations are some 30 numbers of the width a token and layer, 250 to 1,100 MB: both the same in all contestants, a
tenth of the time of products where memory gives 10 GB/s.

The expectation, before it was run. Gathered keys reach 80 to 95 parts in 100 of the rate of causal attention, and
norms, softmax and AdamW stand in both: 2.4 and 3.5 times as many tokens a second for `tiny` and n = 64, 1.6 and 2.2 for
`small`; n = 256 a tenth less. Losses and gradients have to be those of a dense mask on the same weights.
"""

from __future__ import annotations

import argparse
import functools
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.race import Contestant
from benchmarks.registry import Benchmark, Cell, Target, agree
from lissome.attention import Attention, Rotary, Validity, separated
from lissome.bridges.separators import separator_ids
from lissome.language import Bytes
from lissome.models import PRESETS, Decoder, DecoderShape

FULL, WINDOWS = "full attention", (64, 256)
CHECKED = 1024  # tokens on which a dense mask is held to
LEAST = {("tiny", 4096): (2.2, 1.9), ("tiny", 8192): (3.2, 2.8), ("small", 4096): (1.4, 1.3), ("small", 8192): (2, 1.8)}


def _name(near: int) -> str:
    return f"separators, n = {near}"


def _loss(model: Decoder, tokens: Tensor) -> Tensor:
    return F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())


def _told(model: Decoder, tokens: Tensor) -> list[Tensor]:
    """Return loss and gradients."""
    loss = _loss(model, tokens)
    return [loss.detach(), *torch.autograd.grad(loss, list(model.parameters()))]


def _step(model: Decoder, tokens: Tensor) -> Contestant:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

    def step() -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        loss = _loss(model, tokens)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def steps(preset: str, length: int) -> dict[str, Contestant]:
    """Return the contestants, which begin with the same weights, on one thread."""
    torch.set_num_threads(1)
    text = Path(argparse.__file__).read_bytes()[: length + 1]
    tokens = torch.tensor(list(text))[None]  # (1, T + 1)
    torch.manual_seed(0)
    shape = DecoderShape(vocabulary=256, **PRESETS[preset])  # type: ignore[arg-type]
    full = Decoder(shape)
    found = {FULL: _step(full, tokens)}
    for near in WINDOWS:
        rule = separated(separator_ids(Bytes()), near=near)
        # a rule of which nothing but its pairs is known is run under a mask
        model, masked = (_like(full, each) for each in (rule, Validity(rule.see, "mask", causal=True)))
        few = tokens[:, : CHECKED + 1]
        agree(_name(near), _told(model, few), _told(masked, few), 1e-3)
        found[_name(near)] = _step(model, tokens)
    return found


def _like(model: Decoder, rule: Validity) -> Decoder:
    """Return a model of the same weights under another rule."""
    shape = model.shape
    other = Decoder(shape, lambda layer: Attention(rule, rotary=Rotary(shape.width // shape.heads)))
    other.load_state_dict(model.state_dict())
    return other


BENCHMARK = Benchmark(
    "training",
    "A training step of one long text, full attention beside separators, float32, one thread",
    tuple(
        Cell(
            f"{preset}, {length:,} tokens",
            functools.partial(steps, preset, length),
            FULL,
            rounds=8 if preset == "tiny" else 4,
            targets=tuple(
                Target(FULL, _name(near), least=least)
                for near, least in zip(WINDOWS, LEAST[preset, length], strict=True)
            ),
            memory=True,
        )
        for preset in ("tiny", "small")
        for length in (4096, 8192)
    ),
    (
        "tokens a second are the tokens over a step's time; full / separators is how many times as many",
        "wanted: 2.2 and 1.9 times (n = 64 and 256) for tiny at 4,096 tokens, 3.2 and 2.8 at 8,192; for small 1.4 and "
        "1.3, 2 and 1.8",
    ),
    rooms=("attention", "attention/backends", "models"),
)
