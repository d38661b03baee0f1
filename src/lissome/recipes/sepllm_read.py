"""A trained model read by each reader: within its trained length by mask and by cache, and as one long stream."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lissome.attention import SeparatorCache
from lissome.attention.validity import Validity
from lissome.language import perplexity_by_length
from lissome.language.score import cross_entropy, scoring
from lissome.language.stream import Progress, Stream, stream
from lissome.models import Decoder, read_decoder
from lissome.recipes.paper import Row, Tick, kept
from lissome.recipes.sepllm_names import FULL, MASK, Look
from lissome.recipes.sepllm_rules import ids_of, mask, matched_cache, matched_mask, parts
from lissome.recipes.sepllm_text import Source, read

CHUNK, STREAM_CHUNK = 8, 32  # tokens of a forward within the trained length, and of the stream
TOGETHER = 1 << 13  # tokens that are read at once
TENTHS = 10  # parts of a stream that are told
BEYOND = (1, 2, 4, 8)  # trained lengths at which the full model is read


def trained_at(place: Path, seed: int) -> Path:
    """Return the directory of the model that a seed has trained with full attention."""
    return place / f"full-{seed}"


def trained(place: Path, seed: int) -> Decoder:
    """Return the model that a seed has trained with full attention.

    Raises:
        RunError: it has not.
    """
    kept(trained_at(place, seed) / "shape.json")
    return read_decoder(trained_at(place, seed))


def under(model: Decoder, rule: Validity) -> Decoder:
    """Return a model of the same weights whose queries see what the rule allows."""
    other = Decoder(dataclasses.replace(model.shape, validity=rule.name))
    other.load_state_dict(model.state_dict(), assign=True)
    return other.eval()


def free(tick: Tick, place: Path, *, label: str, seed: int, mode: str, look: Look) -> Row:
    """Read windows of the trained length by mask or cache; return nats of the scored half and the keys used."""
    source, model = read(place), trained(place, seed)
    rows, marked = source.windows(look), source.marked(seed)
    tokens = rows[:, :-1]
    whole = look.length - (look.scored - 1) / 2  # keys of a query of full attention, the mean over those scored
    if mode == MASK:
        sees, used, wanted = matched_mask(label, marked, look.mask, tokens, look.scored)
        told = {"window": None if label == FULL else sees.near, "used": used, "most": None}
        model, begun = under(model, mask(label, marked, sees)), time.process_time()
        nats = by_mask(model, rows, look.scored, tick)
    else:
        own, wanted = matched_cache(label, marked, look.short, tokens, CHUNK, look.scored)
        cache, begun = model.separator_cache(ids_of(label, marked), **own), time.process_time()
        nats, used, most = by_cache(model, cache, rows, look.scored, tick)
        told = {"window": own["local"], "used": used, "most": most}
    seconds = time.process_time() - begun
    return told | {
        "wanted": wanted,
        "share": told["used"] / (whole if mode == MASK else _held_by_full(look)),
        "nats": float(nats.mean()),
        "each": seconds / tokens.numel(),
        "scored": nats.numel(),
    }


def _held_by_full(look: Look) -> float:
    """Return what a cache that drops nothing would hold after a part, the mean over the scored ones."""
    ends = [place + CHUNK for place in range(0, look.length, CHUNK) if place >= look.length - look.scored]
    return sum(ends) / len(ends)


def by_mask(model: Decoder, rows: Tensor, scored: int, tick: Tick) -> Tensor:
    """Return the nats of the last `scored` tokens of rows (n, T + 1), read at once, (n, scored)."""
    found = []
    with scoring(model):
        for some in rows.split(max(1, TOGETHER // rows.shape[1])):
            tick()
            found.append(cross_entropy(model(some[:, :-1], last=scored), some[:, -scored:]))
    return torch.cat(found)


def by_cache(model: Decoder, cache: SeparatorCache, rows: Tensor, scored: int, tick: Tick) -> tuple[Tensor, float, int]:
    """Read rows (n, T + 1) in parts through a cache that drops.

    Returns:
        The nats of the last `scored` tokens (n, scored); how many keys are held after a part, the mean over rows and
        scored parts; and the most that one row held.
    """
    nats, held, most, first = list[Tensor](), list[Tensor](), 0, rows.shape[1] - 1 - scored
    with scoring(model):
        for place, part in parts(rows[:, :-1], CHUNK):
            tick()
            logits = model(part, cache=cache)
            most = max(most, int(cache.held.max()))
            if place >= first:
                nats.append(cross_entropy(logits, rows[:, place + 1 : place + 1 + part.shape[1]]))
                held.append(cache.held.double().mean())
    return torch.cat(nats, 1), float(torch.stack(held).mean()), most


@dataclasses.dataclass
class Reader:
    """A model with a cache that drops, as `stream` reads with it."""

    model: Decoder
    cache: SeparatorCache

    def read(self, tokens: Tensor) -> Tensor:
        """Return logits (1, T, V)."""
        return self.model(tokens, cache=self.cache)

    @property
    def held(self) -> int:
        """How many entries the cache holds."""
        return int(self.cache.held[0])


def streamed(tick: Tick, place: Path, *, label: str, seed: int, look: Look) -> Row:
    """Read one long stream with positions in the cache; return nats by tenth, keys held and seconds."""
    source, model = read(place), trained(place, seed)
    row, marked = source.stream(look), source.marked(seed)  # (1, N + 1)
    count = row.shape[1] - 1
    if label == FULL:
        return _windows(model, row, look, tick) | _beyond(model, source, look, tick)
    own, wanted = matched_cache(label, marked, look.long, row[:, :-1], STREAM_CHUNK, count)
    cache = model.separator_cache(ids_of(label, marked), positions="cache", **own)
    ids: Any = row[0].numpy()
    progress, begun = Progress(), time.process_time()
    with scoring(model):
        stream(Reader(model, cache), Stream(ids), progress, tokens=count, chunk=STREAM_CHUNK,
               interval=-(-count // TENTHS), on_part=lambda _: tick())  # fmt: skip
    all_ = progress.all
    used = all_.held / all_.tokens
    return {"window": own["local"], "used": used, "most": all_.most, "wanted": wanted,
            "share": used / ((count + STREAM_CHUNK) / 2), "nats": all_.nats / all_.tokens, "tokens": count,
            "tenths": [each["nats"] for each in progress.rows],
            "each": (time.process_time() - begun) / count}  # fmt: skip


def _windows(model: Decoder, row: Tensor, look: Look, tick: Tick) -> Row:
    """Return nats by tenth of the same tokens, read in windows of the trained length whose second half is scored."""
    half = look.length - look.scored
    rows = row[0].unfold(0, look.length + 1, look.scored)  # (n, T + 1)
    begun = time.process_time()
    nats = by_mask(model, rows, look.scored, tick).flatten()  # of tokens half + 1 and on
    each, size = (time.process_time() - begun) / len(nats), -(-(row.shape[1] - 1) // TENTHS)
    tenths = [nats[max(0, k * size - half) : (k + 1) * size - half].mean().item() for k in range(TENTHS)]
    used = look.length - (look.scored - 1) / 2
    return {"window": None, "used": used, "most": look.length, "wanted": used, "share": None, "tokens": len(nats),
            "nats": float(nats.mean()), "tenths": tenths, "each": each}  # fmt: skip


def _beyond(model: Decoder, source: Source, look: Look, tick: Tick) -> Row:
    """Return nats of the full model at lengths beyond that of training, the same tokens scored at each."""
    lengths = [times * look.length for times in BEYOND if times * look.length < len(source.held)]
    found = perplexity_by_length(model, source.held, lengths, scored=look.scored, windows=look.windows // 8 or 1,
                                 tick=lambda _: tick())  # fmt: skip
    return {"beyond": {str(each.length): each.nats for each in found}}
