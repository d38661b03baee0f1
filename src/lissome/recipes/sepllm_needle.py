"""Facts that stand far behind the window and are asked for at the end: whether a separator carries them there.

    filler . k3:v5 . filler filler k0:v2 . filler ... filler k0 [v2] k3 [v5]

A fact is one token with a separator behind it; others stand among the filler. The last fact lies farther behind the
first question than windows reach over all layers: what a question is told of it went through a token that is kept.
"""

from __future__ import annotations

import functools
from pathlib import Path

import torch
from torch import Tensor

from lissome.language import Task
from lissome.language.tasks.definition import APART, answered, orders, questions, uniform
from lissome.models import Decoder
from lissome.recipes.language_contest import Asked, Judged, Sizes, at_its_best, decoder, rate_file
from lissome.recipes.language_contest_data import APART as ASIDE
from lissome.recipes.language_contest_data import FEW, HELD
from lissome.recipes.paper import Row, Tick
from lissome.recipes.sepllm_names import FULL, NEEDLE, READERS, Sees
from lissome.recipes.sepllm_read import under
from lissome.recipes.sepllm_rules import mask, matched_mask
from lissome.recipes.sepllm_text import Marked

KEYS, VALUES, FACTS = 4, 8, 2
FILLER = 12  # words that mean nothing
PAIRS = KEYS * VALUES  # tokens that are facts; those of keys and of values come behind them
DOT = PAIRS + KEYS + VALUES  # the separator
SHARE = 1 / 16  # of the filler that is a separator
LEAD = 5  # filler before the first fact, more than the first tokens that stay
BETWEEN = 2  # filler among the facts, so many words for each
GAP = (28, 36)  # filler between the facts and the questions
SIZES = Sizes(layers=2, width=64, steps=1500, rates=(5e-3,))
MASK = Sees(4, 4)


def needle(*, rows: int, seed: int) -> Task:
    """Return the task, tested with the longest gap."""
    keys, values = [f"k{key}" for key in range(KEYS)], [f"v{value}" for value in range(VALUES)]
    facts = [f"{key}:{value}" for key in keys for value in values]
    words = (*facts, *keys, *values, ".", *(f"w{word}" for word in range(FILLER)))
    return Task(name=NEEDLE, what="facts, filler, and each fact asked for.", symbols=words, rule=write,
                chance=functools.partial(uniform, VALUES), train=GAP, test=GAP[1:], rows=rows, seed=seed)  # fmt: skip


def write(generator: torch.Generator, n: int, length: int) -> tuple[Tensor, Tensor]:
    """Return rows (n, T + 1) with a gap of so many words, and which of their places are answers."""
    key = orders(generator, n, KEYS)[:, :FACTS]  # (n, facts)
    value = torch.randint(VALUES, (n, FACTS), generator=generator)
    facts = orders(generator, n, FACTS * (1 + BETWEEN)) < FACTS  # (n, items): facts among single words
    starts = ((1 + facts.long()).cumsum(1) - 2)[facts].view(n, FACTS)  # a fact and its separator are two tokens
    told = _filler(generator, n, FACTS * (2 + BETWEEN)).scatter(1, starts, VALUES * key + value)
    told = told.scatter(1, starts + 1, DOT)
    order = orders(generator, n, FACTS)
    prompt = torch.cat([_filler(generator, n, LEAD), told, _filler(generator, n, length)], 1)
    return answered(prompt, *questions(PAIRS + key.gather(1, order), PAIRS + KEYS + value.gather(1, order)))


def _filler(generator: torch.Generator, n: int, length: int) -> Tensor:
    words = DOT + 1 + torch.randint(FILLER, (n, length), generator=generator)
    ends = torch.rand(n, length, generator=generator) < SHARE
    return words.masked_fill(ends, DOT)


def drawn(own: Task, seed: int) -> tuple[Tensor, Tensor]:
    """Return the rows that are tested, tokens and targets (n, T)."""
    return own.draw(torch.Generator().manual_seed(APART + seed), own.rows, own.test[0])


def marked_of(tokens: Tensor, seed: int) -> Marked:
    """Return who is kept beyond the window: as many words of the filler, drawn by the seed, as there are dots."""
    share = float((tokens == DOT).double().mean())
    filler = float((tokens > DOT).double().mean()) / FILLER  # share of one word
    words = torch.randperm(FILLER, generator=torch.Generator().manual_seed(seed))[: max(1, round(share / filler))]
    return Marked((DOT,), tuple((DOT + 1 + words).tolist()), max(1, round(1 / share)), share)


def run(tick: Tick, place: Path, *, label: str, seed: int, quick: bool) -> Row:
    """Train one decoder with its mask; return its accuracy, and of full attention that under each mask."""
    sizes = SIZES.quick() if quick else SIZES
    own = needle(rows=8 if quick else 512, seed=seed)
    tokens, targets = drawn(own, seed)
    marked, scored = marked_of(tokens, seed), 2 * FACTS - 1  # from the first question on
    sees = {other: matched_mask(other, marked, MASK, tokens, scored) for other in READERS}
    rules = {other: mask(other, marked, sees[other][0]) for other in READERS}

    def make() -> Decoder:
        return decoder(sizes, own.size, seed, validity=rules[label].name)

    held = own.draw(torch.Generator().manual_seed(ASIDE + seed), FEW if quick else HELD, GAP[1])
    judged = Judged(own, {"tokens": held[0], "targets": held[1]})
    asked = Asked(sizes, seed, rate_file(place, NEEDLE, label, seed), follows=False)
    best, told = at_its_best(asked, make, judged, tick)
    if best is None:
        return told
    found, used, wanted = sees[label]
    told |= {"window": None if label == FULL else found.near, "used": used, "wanted": wanted,
             "reach": sizes.layers * (found.near - 1), "chance": own.chance(GAP[1]),
             "accuracy": own.score(best.model, tokens, targets)[0]}  # fmt: skip
    if label == FULL:
        told["free"] = {other: own.score(under(best.model, rules[other]), tokens, targets)[0] for other in READERS}
        told["free used"] = {other: sees[other][1] for other in READERS}
    return told
