"""A text as one stream: scored as a whole pass scores it, and as lists and a mask say where a cache drops keys."""

import math

import numpy as np
import pytest
import torch

from lissome._errors import UsageError
from lissome.attention import Attention, Rotary, Validity
from lissome.language import Bytes, read_tokens, write_tokens
from lissome.language.stream import Progress, Stream, stream
from lissome.models import Decoder, DecoderShape
from tests.oracles.sepcache import Row

ENDS = {3, 5}
SIZES = dict(initial=2, separators_kept=3, local=5, capacity=24)
CLOCKS = ("tokens_per_second", "tokens_per_processor_second", "seconds", "resident_mb")
LENGTH = 150


def model(recipe=None):
    torch.manual_seed(0)
    made = Decoder(DecoderShape(vocabulary=8, layers=2, width=16, heads=2), recipe).double().eval()
    with torch.no_grad():  # as drawn, attention is even and nothing could be told apart
        for weight in made.parameters():
            weight.mul_(3)
    return made


def ids(length=LENGTH):
    return torch.randint(0, 8, (length,), generator=torch.Generator().manual_seed(1)).numpy()


class Cached:
    """A decoder with a cache; notes what it was given."""

    def __init__(self, cache, count):
        self.model, self.cache, self.count, self.parts = model(), cache, count, []

    def read(self, tokens):
        self.parts.append(tokens[0].tolist())
        return self.model(tokens, cache=self.cache)

    @property
    def held(self):
        return self.count(self.cache)


def dropping(**more):
    return Cached(model().separator_cache(ENDS, **SIZES | more), lambda cache: int(cache.held[0]))


def growing():
    return Cached(model().cache(), lambda cache: cache.length)


def nats_of(logits, asked):
    """Return -log p of each asked token, one at a time, from logits (1, T, V)."""
    rows = logits[0].tolist()
    return [math.log(sum(map(math.exp, row))) - row[token] for row, token in zip(rows, asked.tolist(), strict=True)]


def run(reader, text, progress=None, **asked):
    progress = progress or Progress()
    ended = stream(reader, text, progress, **{"tokens": 10**6, "chunk": 8, "interval": 30} | asked)
    return progress, ended


def rows_of(progress):
    return [{key: value for key, value in row.items() if key not in CLOCKS} for row in progress.rows]


def test_with_a_cache_that_keeps_all_the_perplexity_is_that_of_one_pass():
    text = ids()
    progress, ended = run(growing(), Stream(text))
    with torch.no_grad():
        want = nats_of(model()(torch.from_numpy(text[:-1])[None]), text[1:])
    assert ended
    assert progress.all.tokens == LENGTH - 1
    assert progress.all.nats == pytest.approx(sum(want), rel=1e-12)
    assert progress.rows[-1]["perplexity_so_far"] == pytest.approx(math.exp(sum(want) / len(want)), rel=1e-12)
    last = sum(row["interval"] for row in progress.rows[:2])
    assert progress.rows[1]["nats"] == pytest.approx(np.mean(want[progress.rows[0]["interval"] : last]), rel=1e-12)


@pytest.mark.parametrize("chunk", [1, 5, 8])
def test_with_a_cache_that_drops_it_is_that_of_lists_and_one_pass_with_their_mask(chunk):
    text = ids()
    lists = Row(lambda token, _: token in ENDS, *SIZES.values())
    table, held = torch.zeros(LENGTH - 1, LENGTH - 1, dtype=torch.bool), []
    for start in range(0, LENGTH - 1, chunk):
        for query, places in enumerate(lists.forward(text[start : min(start + chunk, LENGTH - 1)].tolist()), start):
            table[query, places] = True
        held.append(len(lists.kept))
    assert lists.dropped
    slow = model(lambda layer: Attention(Validity(lambda _: table[None], causal=True), rotary=Rotary(8)))
    with torch.no_grad():
        want = nats_of(slow(torch.from_numpy(text[:-1])[None]), text[1:])

    marks = np.isin(np.arange(8), list(ENDS))
    progress, _ = run(dropping(), Stream(text), chunk=chunk, marks=marks)
    assert progress.all.nats == pytest.approx(sum(want), rel=1e-12)
    assert progress.all.most == max(held)
    widths = [min(chunk, LENGTH - 1 - start) for start in range(0, LENGTH - 1, chunk)]
    assert progress.all.held == sum(n * own for n, own in zip(widths, held, strict=True))
    assert progress.all.marked == marks[text[:-1]].sum()


def test_the_cut_of_a_text_changes_what_a_token_sees():
    one, other = (run(dropping(), Stream(ids()), chunk=chunk)[0].all.nats for chunk in (1, 8))
    assert one != pytest.approx(other, rel=1e-6)


@pytest.mark.parametrize("made", [growing, dropping, lambda: dropping(positions="cache")])
def test_a_stream_that_was_stopped_goes_on_to_the_last_bit(made):
    whole, _ = run(made(), Stream(ids()))
    for stop in (1, 4, 11):
        first, left = made(), iter(range(stop - 1))
        half, ended = run(first, Stream(ids()), on_part=lambda _, left=left: next(left, None) is None)
        assert not ended
        second = made()
        second.cache.restore(first.cache.state())
        half, ended = run(second, Stream(ids()), Progress.of(half.state()))
        assert ended
        assert rows_of(half) == rows_of(whole)
        assert half.all.nats == whole.all.nats


def test_rows_are_as_many_as_intervals_and_hold_all_tokens():
    progress, _ = run(growing(), Stream(ids()), tokens=100, chunk=7, interval=20)
    assert [row["step"] for row in progress.rows] == [21, 42, 63, 84, 100]
    assert sum(row["interval"] for row in progress.rows) == progress.all.tokens == 100


def test_what_begins_a_line_is_read_and_never_asked_for():
    text, reader = np.array([0, 1, 2, 0, 3, 0, 4, 6, 7, 0]), growing()
    progress, ended = run(reader, Stream(text, begin=0), chunk=4)
    assert ended
    assert reader.parts == [[0, 1, 0], [0, 4, 6]]
    assert progress.all.tokens == 6
    want = growing().model(torch.tensor([[0, 1, 0, 0, 4, 6]]))
    assert progress.all.nats == pytest.approx(sum(nats_of(want, np.array([1, 2, 3, 4, 6, 7]))), rel=1e-12)


def test_lines_of_nothing_are_passed_over():
    text = np.array([0] * 20 + [1, 2])
    progress, ended = run(growing(), Stream(text, begin=0), chunk=4)
    assert ended
    assert progress.all.tokens == 2


def test_a_file_of_tokens_is_read_in_parts(tmp_path):
    kept = write_tokens(tmp_path / "tokens.bin", [["of a line"]], Bytes())
    found = read_tokens(tmp_path / "tokens.bin", Bytes())
    assert len(found) == 9
    assert [bytes(found[part]) for part in (slice(0, 4), slice(7, 99), slice(9, 12))] == [b"of a", b"ne", b""]
    assert kept.ids.tolist() == found[0:9].tolist()


@pytest.mark.parametrize("name", ["tokens", "chunk", "interval"])
def test_numbers_below_one_are_refused(name):
    with pytest.raises(UsageError, match=f"{name} is 0; legal are whole numbers, 1 and more"):
        run(growing(), Stream(ids()), **{name: 0})
