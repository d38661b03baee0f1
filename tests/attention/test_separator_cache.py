"""What a cache that drops holds, step by step against lists, and what is attended to over it against every pair."""

import itertools
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lissome._errors import UsageError
from lissome.attention import (
    Alibi,
    Attention,
    Dape,
    Fire,
    Frame,
    GrowingCache,
    Kerple,
    Rotary,
    SelfAdjust,
    SeparatorCache,
    Validity,
    attend,
    causal,
    every_kth,
    separated,
    sinks,
    window,
)
from lissome.attention.backends import naive
from tests.oracles.separators import Row, visible

VOCABULARY = 8


@dataclass(frozen=True)
class Stream:
    """Texts in parts, padding anywhere, and the sizes of a cache."""

    tokens: torch.Tensor  # (B, T)
    present: torch.Tensor  # (B, T) bool
    cuts: list[int]
    ids: set[int]
    sizes: dict[str, int]

    def parts(self):
        edges = sorted({0, self.tokens.shape[1], *self.cuts})
        return [
            (slice(a, b), None if self.present.all() else self.present[:, a:b]) for a, b in itertools.pairwise(edges)
        ]

    def cache(self, **more):
        return SeparatorCache(1, self.ids, **self.sizes, **more)

    def rows(self):
        names = (self.sizes["initial"], self.sizes["separators_kept"], self.sizes["local"], self.sizes["capacity"])
        return [Row(self.ids, *names) for _ in self.tokens]


@st.composite
def streams(draw, length=40):
    rows, length = draw(st.integers(1, 3)), draw(st.integers(1, length))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    a, s, w = draw(st.integers(0, 3)), draw(st.integers(0, 4)), draw(st.integers(1, 5))
    present = torch.rand(rows, length, generator=generator) < draw(st.sampled_from([0.6, 1.0, 1.0]))
    return Stream(
        torch.randint(0, VOCABULARY, (rows, length), generator=generator),
        present,
        draw(st.just(list(range(length))) | st.lists(st.integers(0, length), max_size=12)),
        draw(st.sets(st.integers(0, VOCABULARY - 1), min_size=1, max_size=3)),
        {"initial": a, "separators_kept": s, "local": w, "capacity": a + s + w + draw(st.integers(1, 6))},
    )


def listed(frame, row):
    """What a row holds, as (position, token)."""
    keys = frame.keys.expand(len(frame.tokens), -1)[row].tolist()
    there = [True] * len(keys) if frame.present is None else frame.present[row].tolist()
    return [
        entry for entry, here in zip(zip(keys, frame.tokens[row].tolist(), strict=True), there, strict=True) if here
    ]


@settings(max_examples=40, deadline=None)
@given(stream=streams())
def test_it_holds_what_lists_hold_after_each_step(stream):
    caches, rows = (stream.cache(), stream.cache(positions="cache", rotary=[None])), stream.rows()
    for part, there in stream.parts():
        text, places = (cache.begin(stream.tokens[:, part], there) for cache in caches)
        for row, slow in enumerate(rows):
            slow.begin(stream.tokens[row, part][stream.present[row, part]].tolist())
            assert listed(text, row) == slow.held()
            assert listed(places, row) == [(place, token) for place, (_, token) in enumerate(slow.held())]
            assert caches[0].held[row] == len(slow.held())
        if text.whole:
            assert text.present is None
            assert text.keys.tolist() == [list(range(text.keys.shape[1]))]


def seen_by_lists(stream):
    """(B, T, T) bool: which columns of the whole text each column sees."""
    seen = torch.zeros(*stream.tokens.shape, stream.tokens.shape[1], dtype=torch.bool)
    for row, slow in enumerate(stream.rows()):
        column = stream.present[row].nonzero()[:, 0].tolist()
        for part, _ in stream.parts():
            inside = [t for t in column if part.start <= t < part.stop]
            for t, sees in zip(
                inside, slow.begin(stream.tokens[row, part][stream.present[row, part]].tolist()), strict=True
            ):
                seen[row, t, [column[place] for place, _ in sees]] = True
    return seen


def drawn(stream, heads=2, groups=1, dimension=4):
    generator = torch.Generator().manual_seed(0)
    rows, length = stream.tokens.shape
    sizes = [(rows, count, length, dimension) for count in (heads, groups, groups)]
    return [torch.randn(size, generator=generator, dtype=torch.float64) for size in sizes]


def over(cache, stream, recipe, q, k, v):
    """The mix of values, part by part over a cache."""
    found = []
    for part, there in stream.parts():
        frame = cache.begin(stream.tokens[:, part], there)
        keys, values = cache.append(0, recipe.rotate(k[:, :, part], frame.queries), v[:, :, part])
        found.append(naive.attend(recipe.rotate(q[:, :, part], frame.queries), keys, values, frame, recipe))
    return torch.cat(found, 2)


RECIPES = {
    "rotary": lambda: Attention(rotary=Rotary(4)),
    "alibi": lambda: Attention(bias=Alibi(2)),
    "kerple and dape": lambda: Attention(bias=Kerple(2), refine=Dape(2)),
    "fire and self_adjust": lambda: Attention(bias=Fire(2, 16), normalize=SelfAdjust(4)),
    "its own mask": lambda: Attention(causal & (sinks(2) | window(4)), Kerple(2), normalize=SelfAdjust(1)),
}
every_kind = pytest.mark.parametrize("kind", RECIPES)


@every_kind
@settings(max_examples=6, deadline=None)
@given(stream=streams(20))
def test_what_was_dropped_is_as_masked(kind, stream):
    """Positions in the text: a full pass in which the lists say who sees whom gives the same."""
    recipe, (q, k, v) = RECIPES[kind]().double(), drawn(stream)
    seen = seen_by_lists(stream)
    masked = Attention(recipe.validity & Validity(lambda frame: seen), recipe.bias, recipe.refine, recipe.normalize)
    whole = Frame.full(q.shape[2], tokens=stream.tokens, present=stream.present)
    truth = naive.attend(recipe.rotate(q, whole.queries), recipe.rotate(k, whole.keys), v, whole, masked)
    found = over(stream.cache(), stream, recipe, q, k, v)
    torch.testing.assert_close(found, truth, rtol=1e-9, atol=1e-9)


@every_kind
@settings(max_examples=6, deadline=None)
@given(stream=streams(20))
def test_positions_in_the_cache(kind, stream):
    """What each row holds, turned afresh to 0, 1, 2, ..., gives the same as keys turned by differences."""
    recipe, (q, k, v) = RECIPES[kind]().double(), drawn(stream)
    found = over(stream.cache(positions="cache", rotary=[recipe.rotary]), stream, recipe, q, k, v)
    for row, slow in enumerate(stream.rows()):
        column = stream.present[row].nonzero()[:, 0].tolist()
        for part, _ in stream.parts():
            inside = [t for t in column if part.start <= t < part.stop]
            slow.begin(stream.tokens[row, part][stream.present[row, part]].tolist())
            if not inside:
                continue
            columns = [column[place] for place, _ in slow.held()]
            places = torch.arange(len(columns))[None]
            frame = Frame(places[:, -len(inside) :], places, stream.tokens[row, columns][None])
            turned = (
                recipe.rotate(q[row, None, :, inside], frame.queries),
                recipe.rotate(k[row, None, :, columns], places),
            )
            truth = naive.attend(*turned, v[row, None, :, columns], frame, recipe)
            torch.testing.assert_close(found[row, None, :, inside], truth, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("positions", ["text", "cache"])
@settings(max_examples=8, deadline=None)
@given(stream=streams(25))
def test_a_row_is_as_the_row_alone(positions, stream):
    recipe, (q, k, v) = RECIPES["rotary"]().double(), drawn(stream)
    more = {"positions": positions, "rotary": [recipe.rotary]}
    together = over(stream.cache(**more), stream, recipe, q, k, v)
    for row in range(len(stream.tokens)):
        one = slice(row, row + 1)
        alone = Stream(stream.tokens[one], stream.present[one], stream.cuts, stream.ids, stream.sizes)
        found = over(alone.cache(**more), alone, recipe, q[one], k[one], v[one])
        torch.testing.assert_close(together[one], found, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("chunk", [1, 3, 7])
def test_a_model_that_was_trained_with_the_mask_does_not_notice(chunk):
    """While no separator is dropped, the mask hides all that the cache has dropped."""
    tokens = torch.randint(0, VOCABULARY, (2, 60))
    stream = Stream(
        tokens,
        torch.ones_like(tokens).bool(),
        list(range(0, 60, chunk)),
        {3},
        {"initial": 2, "separators_kept": 30, "local": 5, "capacity": 45},
    )
    recipe, (q, k, v) = Attention(separated({3}, initial=2, near=5), rotary=Rotary(4)).double(), drawn(stream)
    whole = Frame.full(60, tokens=tokens)
    assert recipe.validity(whole).tolist() == [[visible(row, {3}, 2, 5)] for row in tokens.tolist()]
    truth = naive.attend(recipe.rotate(q, whole.queries), recipe.rotate(k, whole.keys), v, whole, recipe)
    cache = stream.cache()
    torch.testing.assert_close(over(cache, stream, recipe, q, k, v), truth, rtol=1e-9, atol=1e-9)
    assert cache.dropped


@pytest.mark.parametrize("positions", ["text", "cache"])
def test_until_something_is_dropped_it_is_a_growing_cache(positions):
    tokens = torch.randint(0, VOCABULARY, (2, 20))
    present = torch.ones_like(tokens).bool()
    for there in (present, present.index_put((torch.tensor(0), torch.arange(4)), torch.tensor(False))):
        stream = Stream(
            tokens, there, [3, 4, 11], {1}, {"initial": 1, "separators_kept": 2, "local": 3, "capacity": 20}
        )
        recipe, (q, k, v) = RECIPES["rotary"](), [x.float() for x in drawn(stream)]
        cache, growing = stream.cache(positions=positions, rotary=[recipe.rotary]), GrowingCache(1)
        assert torch.equal(over(cache, stream, recipe, q, k, v), over(growing, stream, recipe, q, k, v))
        assert growing.frame.whole is cache.whole


@pytest.mark.parametrize("positions", ["text", "cache"])
def test_a_long_stream_stays_within_its_capacity(positions):
    rotary = Rotary(4)
    cache = SeparatorCache(
        2, {0}, initial=2, separators_kept=3, local=4, capacity=16, positions=positions, rotary=[rotary] * 2
    )
    generator, most = torch.Generator().manual_seed(0), 0
    for _ in range(60):
        frame = cache.begin(torch.randint(0, 4, (2, 1), generator=generator))
        for layer in (0, 1):
            keys, values = cache.append(layer, torch.randn(2, 1, 1, 4), torch.randn(2, 1, 1, 4))
        most = max(most, frame.keys.shape[1])
        assert keys.shape == values.shape == (2, 1, frame.keys.shape[1], 4)
        assert keys.untyped_storage().nbytes() <= 2 * 16 * 4 * 4
        assert frame.whole or positions == "text" or cache.held.min() < cache.held.max()
    assert most == 16
    assert cache.held.min() >= 9


def test_what_was_handed_out_stays_what_it_was():
    cache, handed = SeparatorCache(1, {0}, initial=0, separators_kept=0, local=1, capacity=3), []
    for step in range(9):
        cache.begin(torch.zeros(1, 1).long())
        new = torch.full((1, 1, 1, 1), float(step))
        keys, _ = cache.append(0, new, new)
        handed.append((keys, keys.flatten().tolist()))
    assert [held for _, held in handed[:5]] == [[0], [0, 1], [0, 1, 2], [2, 3], [2, 3, 4]]
    assert all(keys.flatten().tolist() == held for keys, held in handed)


def test_keys_are_turned_once_from_as_they_came():
    """After many drops a key that stays is as near to its true turn as float32 allows."""
    rotary, first = Rotary(4), torch.randn(1, 1, 1, 4)
    cache = SeparatorCache(
        1, {1}, initial=0, separators_kept=1, local=2, capacity=5, positions="cache", rotary=[rotary]
    )
    for step in range(200):
        frame = cache.begin(torch.tensor([[int(step == 5)]]))
        keys, _ = cache.append(0, rotary(first, frame.queries), first)
    assert frame.tokens[0, 0] == 1
    torch.testing.assert_close(keys, rotary(first.expand(-1, -1, keys.shape[2], -1), frame.keys))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_finite_and_keeps_its_dtype(dtype):
    rotary = Rotary(4)
    cache = SeparatorCache(
        1, {1}, initial=1, separators_kept=1, local=2, capacity=6, positions="cache", rotary=[rotary]
    )
    for _ in range(20):
        frame = cache.begin(torch.randint(0, 3, (2, 1)))
        k, v = cache.append(0, *(torch.randn(2, 1, 1, 4, dtype=dtype) for _ in "kv"))
        out = attend(torch.randn(2, 1, 1, 4, dtype=dtype), k, v, frame, Attention(rotary=rotary))
        assert out.dtype is k.dtype is dtype
        assert out.isfinite().all()


def test_every_kth_token_and_none_at_all():
    fixed = SeparatorCache(1, every_kth(5), initial=1, separators_kept=3, local=2, capacity=8)
    streaming = SeparatorCache(1, (), initial=1, separators_kept=0, local=2, capacity=8)
    for _ in range(30):
        frames = [cache.begin(torch.zeros(1, 1).long()) for cache in (fixed, streaming)]
    assert frames[0].keys[0].tolist() == [0, 15, 20, 25, 27, 28, 29]
    assert frames[1].keys[0].tolist() == [0, 26, 27, 28, 29]


@pytest.mark.parametrize(("given_", "said"), [
    ({"capacity": 324}, "324, and 4 first tokens, 64 separators and 256 neighbours stay; legal are 325 and more"),
    ({"local": 0}, "local is 0; legal are whole numbers, 1 and more"),
    ({"initial": -1}, "initial is -1; legal are whole numbers, 0 and more"),
    ({"separators_kept": 1.5}, "separators_kept is 1.5; legal are whole numbers, 0 and more"),
    ({"positions": "txt"}, r"unknown positions 'txt'; legal are: text, cache \(did you mean 'text'\?\)"),
    ({"positions": "cache"}, "positions in the cache move, and keys are turned along by the rotary stage"),
    ({"positions": "cache", "rotary": [None]}, "legal is such as rotary="),
    ({"ids": ()}, r"ids of separators is \(\); legal are several whole numbers"),
    ({"ids": 13}, "ids of separators is 13; legal are several whole numbers"),
    ({"ids": window(3)}, r"the rule 'window\(3\)' reads more than the key; legal are such as every_kth\(8\)"),
    ({"layers": 0}, "layers is 0"),
])  # fmt: skip
def test_what_is_no_cache_is_refused(given_, said):
    with pytest.raises(UsageError, match=said):
        SeparatorCache(**({"layers": 2, "ids": [13]} | given_))


def test_what_was_not_announced_is_refused():
    cache, x = SeparatorCache(2, [1], initial=0, separators_kept=1, local=1, capacity=4), torch.zeros(1, 1, 2, 4)
    with pytest.raises(UsageError, match="adds 2 where 0 to 0 were announced; call begin once a forward"):
        cache.append(0, x, x)
    cache.begin(torch.zeros(1, 2).long())
    cache.append(0, x, x)
    with pytest.raises(UsageError, match="holds 2 keys adds 2 where 2 to 0 were announced"):
        cache.append(0, x, x)
    with pytest.raises(UsageError, match="layer 2 adds to a cache for 2"):
        cache.append(2, x, x)
    with pytest.raises(UsageError, match="the cache holds 1 rows, and 2 came"):
        cache.begin(torch.zeros(2, 1).long())
    with pytest.raises(UsageError, match=r"present has shape \(1, 1\); legal is that of tokens, \(1, 2\)"):
        cache.begin(torch.zeros(1, 2).long(), torch.ones(1, 1).bool())


def test_a_state_of_other_layers_is_refused():
    sizes = {"initial": 1, "separators_kept": 1, "local": 1, "capacity": 4}
    with pytest.raises(UsageError, match="the state is of 1 layers, and the cache has 2"):
        SeparatorCache(2, [3], **sizes).restore(SeparatorCache(1, [3], **sizes).state())


def test_the_oracle_drops_by_hand():
    """A text by hand: 9 is the separator; a, s, w, c = 1, 1, 2, 6."""
    row = Row({9}, 1, 1, 2, 6)
    for token in (5, 9, 6, 9, 7, 8):
        row.begin([token])
    assert row.held() == [(0, 5), (1, 9), (2, 6), (3, 9), (4, 7), (5, 8)]
    row.begin([4])
    assert row.held() == [(0, 5), (3, 9), (4, 7), (5, 8), (6, 4)]
