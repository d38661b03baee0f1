"""Small models that read texts in parts with a cache that drops keys, and what lists say of it."""

from itertools import pairwise

import torch

from lissome.bridges.sepcache import SepCache
from tests.bridges import seven
from tests.oracles.sepcache import Row

PLAIN = {"mistral": dict(sliding_window=None), "qwen2": dict(use_sliding_window=False)}  # no windows of their own
NEW = 8
NAMES = tuple(seven.MODELS)
ENDS = (5, 11, 17, 23, 30)  # of 40 tokens
SMALL = dict(initial=2, separators_kept=3, local=4, capacity=12)


def made(name, **settings):
    """Return a model of drawn weights in float64 whose layers attend to all."""
    return seven.made(name, **PLAIN.get(name, {}) | settings)


def cached(model, separators=ENDS, **settings):
    return SepCache(model.config, separators, **SMALL | settings)


def cuts(*sizes, length):
    """Return the starts of parts of these sizes, the last of which goes on to the end, and the length."""
    found, at = [0], 0
    for size in sizes:
        found.append(at := at + size)
    while found[-1] < length:
        found.append(min(found[-1] + sizes[-1], length))
    return found


def read(model, cache, ids, at, mask=None, each=None):
    """Return the logits of a text that is read in parts; `each` is called after every part with its end."""
    found = []
    with torch.no_grad(), cache.attach(model):
        for start, stop in pairwise(at):
            present = None if mask is None else mask[:, :stop]
            named = dict(attention_mask=present, past_key_values=cache, use_cache=True)
            if present is not None:  # as generate does
                named["position_ids"] = (present.cumsum(1) - 1).clamp_min(0)[:, start:]
            found.append(model(input_ids=ids[:, start:stop], **named).logits)
            if each is not None:
                each(stop)
    return torch.cat(found, 1)


def rows_of(cache, count, window=None):
    """Return lists that keep what a cache should."""
    rule = cache.ledgers[0].rule

    def marked(token, place):
        return bool(rule.marks(torch.tensor([[token]]), torch.tensor([[place]])))

    return [Row(marked, rule.initial, rule.kept, rule.local, rule.capacity, window) for _ in range(count)]


def advance(rows, ids, start, stop, mask=None):
    """Let lists take in a part; return for each row what each of its tokens there sees."""
    found = []
    for number, row in enumerate(rows):
        there = range(start, stop) if mask is None else [i for i in range(start, stop) if mask[number, i]]
        found.append(row.forward([int(ids[number, i]) for i in there]))
    return found


def contents(cache, layer=0):
    return [[int(place) for place in row if place >= 0] for row in cache.kept(layer)]


def mask_of(rows, ids, at):
    """Return the mask (B, 1, T, T) of all that lists see, for texts without padding."""
    length = at[-1]
    seen = torch.zeros(len(rows), 1, length, length, dtype=torch.bool)
    for start, stop in pairwise(at):
        for number, part in enumerate(advance(rows, ids, start, stop)):
            for i, places in enumerate(part):
                seen[number, 0, start + i, places] = True
    return seen


def text(model, ids, cache, mask=None, **named):
    torch.manual_seed(4)
    settings = dict(min_new_tokens=NEW, max_new_tokens=NEW, do_sample=False) | named
    settings |= {} if mask is None else {"attention_mask": mask}
    with cache.attach(model) if isinstance(cache, SepCache) else torch.no_grad():
        return model.generate(ids, past_key_values=cache, **settings)


def padded(rows, length=9, seed=1):
    """Return texts of different lengths, padded at the left, and their mask."""
    ids = seven.tokens(rows, length, seed)
    mask = torch.ones_like(ids)
    for row in range(rows):
        mask[row, : 2 * row] = 0
    return ids * mask, mask
