"""A training step of a decoder, forward, backward and AdamW, beside the same model as nanoGPT arranges it.

The floor is the matrix products: 6 operations per weight and token, so 0.8 million weights and 2,048 tokens of `tiny`
are 10 GFLOP and 10.7 million weights and 1,024 tokens of `small` 66 GFLOP: at 100 GFLOP/s of one core 0.1 s and 0.66
s. The products are the same in both models, but for positions that are learned there and turned here.

The expectation. What differs is passes over memory. Turning q and k costs about 7 passes over each, forward and
backward, where learned positions cost one: 1 to 4% of an eager step. SwiGLU in two layers costs what GELU costs, and
keeps a third more numbers for the backward pass. Compiled, the turn is fused into its neighbours. So 1.0 compiled, and
up to 1.04 eager where memory is slow.

The peer is written here: LayerNorm without bias, GELU, learned positions, q, k and v from one layer, torch's
`scaled_dot_product_attention`, the embedding as output layer. It is held to ours in its loss at the start, which is
that of equal logits, and in the number of weights: the models are alike, not the same. Ours compiled is held to ours
eager, and the peer's compiled to its own, in loss and gradients.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.race import Contestant
from benchmarks.registry import Benchmark, Cell, DisagreementError, Target, agree
from lissome.models import PRESETS, Decoder, DecoderShape

VOCABULARY = 256
TEXTS = {"tiny": (16, 128), "small": (4, 256)}  # rows and tokens of a batch
OURS, PEER = "ours", "nanoGPT's way"


class _Layer(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.first, self.second = nn.LayerNorm(width, bias=False), nn.LayerNorm(width, bias=False)
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.up, self.down = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        parts = self.qkv(self.first(x)).split(x.shape[-1], -1)  # 3 of (B, T, width)
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)  # (B, H, T, D)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.second(x))))


class _Peer(nn.Module):
    def __init__(self, layers: int, width: int, heads: int, length: int):
        super().__init__()
        self.embedding, self.places = nn.Embedding(VOCABULARY, width), nn.Embedding(length, width)
        self.layers = nn.ModuleList(_Layer(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width, bias=False)
        for weight in self.parameters():
            if weight.ndim == 2:
                nn.init.normal_(weight, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens) + self.places.weight[: tokens.shape[1]]
        for layer in self.layers:
            x = layer(x)
        return F.linear(self.norm(x), self.embedding.weight)


def _loss(model: nn.Module, tokens: Tensor) -> Tensor:
    return F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())


def _step(model: nn.Module, tokens: Tensor) -> Contestant:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

    def step() -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        loss = _loss(model, tokens)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def _told(model: nn.Module, tokens: Tensor) -> list[Tensor]:
    """Return loss and gradients."""
    loss = _loss(model, tokens)
    return [loss.detach(), *torch.autograd.grad(loss, list(model.parameters()))]


def steps(name: str, threads: int, *, compiled: bool) -> dict[str, Contestant]:
    """Return the contestants on a preset."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    rows, length = TEXTS[name]
    tokens = torch.randint(VOCABULARY, (rows, length + 1))
    models = {
        OURS: Decoder(DecoderShape(vocabulary=VOCABULARY, **PRESETS[name])),  # type: ignore[arg-type]
        PEER: _Peer(**PRESETS[name], length=length),
    }
    # equal logits are the start of both; the models themselves differ, so that no more can be asked of the pair
    agree(PEER, [_loss(models[PEER], tokens).detach()], [_loss(models[OURS], tokens).detach()], 0.02)
    sizes = [sum(weight.numel() for weight in model.parameters()) for model in models.values()]
    if not 0.95 < sizes[0] / sizes[1] < 1.05:
        raise DisagreementError(f"'{PEER}' has {sizes[1]} weights, and '{OURS}' has {sizes[0]}")
    if compiled:
        for kind, model in models.items():
            truth = _told(model, tokens)
            models[kind] = torch.compile(model)  # type: ignore[assignment]
            agree(kind, _told(models[kind], tokens), truth, 1e-3)
    return {kind: _step(model, tokens) for kind, model in models.items()}


BENCHMARK = Benchmark(
    "decoder",
    "A training step of a decoder, float32, beside the same model as nanoGPT arranges it",
    tuple(
        Cell(
            f"{name}, {'compiled' if compiled else 'eager'}, {threads} thread{'s' if threads > 1 else ''}",
            functools.partial(steps, name, threads, compiled=compiled),
            PEER,
            rounds=20 if name == "tiny" else 8,
            burst=2 if name == "tiny" else 1,
            targets=(Target(OURS, PEER, most=1.0),),
            memory=True,
        )
        for threads in (1, 2)
        for name in ("tiny", "small")
        for compiled in (False, True)
    ),
    (
        "tokens a second are 2,048 (tiny: 16 rows of 128) and 1,024 (small: 4 rows of 256) over a step's time; a ratio "
        "below 1 is more tokens a second than the peer",
        "wanted: at most 1.0 times the peer's step",
        "weights: tiny 812,160 beside 836,736, small 10,720,128 beside 10,818,432; the difference is learned positions "
        "and, in tiny, a rounded width",
    ),
    rooms=("attention", "attention/backends", "models"),
)
