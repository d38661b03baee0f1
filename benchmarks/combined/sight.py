"""One decoder with separators in sight, SA-Softmax and DAPE V2, beside decoders that lack one of the three."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from benchmarks.combined.ways import Figures, Row, clocked
from lissome.attention import Frame
from lissome.bridges.separators import separator_ids
from lissome.language import Bytes, Text, read_corpus, split_tokens
from lissome.language.score import cross_entropy
from lissome.models import Decoder, DecoderShape
from lissome.optim import Budget, Group, Method, fit

LENGTH, NEAR, KEPT, CHARACTERS = 64, 8, 20, 2_000_000
IDS = separator_ids(Bytes())
SIGHT = f"causal & (sinks(2) | separators({', '.join(map(str, IDS))}) | window({NEAR}))"
ALL = {"validity": SIGHT, "normalize": "self_adjust(4)", "refine": "dape(3)"}
WHOLE = "all three"
WAYS: dict[str, dict[str, str]] = {
    WHOLE: ALL,
    "all keys in sight": ALL | {"validity": "causal"},
    "softmax": ALL | {"normalize": "softmax"},
    "no DAPE": ALL | {"refine": "none"},
    "none of them": {"validity": "causal", "normalize": "softmax", "refine": "none"},
}


def run(seed: int, *, quick: bool) -> Figures:
    """Train each way for as many steps; return nats a byte of held-out text, and read through the cache."""
    text = _text()
    return {"ways": {way: clocked(_trained, text, stages, seed, 3 if quick else 120) for way, stages in WAYS.items()}}


def _text() -> Text:
    whole = "".join(itertools.islice(read_corpus(None).texts(), 200))[:CHARACTERS]
    return Text(*split_tokens(Bytes().encode(whole)), length=LENGTH, scored=8192)


def _trained(text: Text, stages: dict[str, str], seed: int, steps: int) -> Row:
    shape = DecoderShape(vocabulary=256, layers=2, width=32, heads=4, position="kerple", **stages)  # type: ignore[arg-type]
    torch.manual_seed(seed)  # of this process alone
    model = Decoder(shape)
    group = Group(lr=1e-2, options={"betas": (0.9, 0.95)})
    method = Method((group,), schedule="cosine", final=0.1, warmup=0.05, clip=1.0, resample_every=1, points=8)
    found = fit(model, text, method, Budget(steps=steps), seed=seed, evaluate_every=max(1, steps // 8), progress=False)
    rows = text.validation[:16]
    seen = model.recipes[0].validity(Frame.full(LENGTH, tokens=rows[:, :-1])).float()  # (16, 1, T, T)
    with torch.no_grad():
        whole, stepwise, most = model.eval()(rows[:, :-1]), *_by_cache(model, rows[:, :-1])
    return {
        "numbers": found.trained,
        "nats": found.metrics["validation_loss"],
        "keys in sight": float(seen.sum() / len(seen) / (LENGTH * (LENGTH + 1) / 2)),
        "entries at most": most,
        "cache off by": float((whole - stepwise).abs().max()),
        "cache nats": float(cross_entropy(stepwise, rows[:, 1:]).mean()),
        "mask nats": float(cross_entropy(whole, rows[:, 1:]).mean()),
        "curve": {"step": [row["step"] for row in found.history],
                  "nats": [row["validation_loss"] for row in found.history]},
    }  # fmt: skip


def _by_cache(model: Decoder, tokens: Tensor) -> tuple[Tensor, int]:
    """Return logits (B, T, V) token by token through a cache of separators, and the most entries that it held."""
    cache, found, most = model.separator_cache(
        IDS, initial=2, separators_kept=KEPT, local=NEAR, capacity=2 + KEPT + NEAR + 6
    ), [], 0  # fmt: skip
    for t in range(tokens.shape[1]):
        found.append(model(tokens[:, t : t + 1], cache=cache))
        most = max(most, int(cache.held.max()))
    return torch.cat(found, 1), most
