"""Writing on: by a cache as by full passes, in batches as alone, and the draws against sums of probabilities."""

import math

import pytest
import torch
from torch.nn import Linear

from lissome._errors import UsageError
from lissome.models import Decoder, DecoderShape, generate
from lissome.models.generation import draw, streamed
from tests.models.decoders import ALL, decoder, drawn, every_kind

BEGUN = "legal is (B, T) int64 with at least one token to go on from"


def by_full_passes(model, tokens, count):
    with torch.no_grad():
        for _ in range(count):
            tokens = torch.cat((tokens, model(tokens)[:, -1:].argmax(-1)), 1)
    return tokens


@every_kind
def test_a_cache_writes_as_full_passes_do(kind):
    model, tokens = decoder(**ALL[kind]), drawn(2, 4)
    assert generate(model, tokens, 8, temperature=0).tolist() == by_full_passes(model, tokens, 8).tolist()


@every_kind
def test_a_padded_batch_writes_as_its_rows(kind):
    model, tokens = decoder(**ALL[kind]), drawn(3, 5)
    present = torch.tensor([[True] * 5, [False] * 3 + [True] * 2, [False] * 1 + [True] * 4])
    together = generate(model, tokens, 6, temperature=0, present=present)
    for row, seen in enumerate(present):
        alone = generate(model, tokens[row, seen][None], 6, temperature=0)
        assert together[row, 5:].tolist() == alone[0, -6:].tolist()


@pytest.mark.parametrize("kind", ["rotary", "all at once"])
def test_it_goes_on_from_a_cache(kind):
    model, tokens = decoder(**ALL[kind]), drawn(2, 4)
    cache = model.cache()
    first = generate(model, tokens, 3, temperature=0, cache=cache)
    # the last token has been written and not read
    rest = generate(model, first[:, -1:], 4, temperature=0, cache=cache)
    assert torch.cat((first, rest[:, 1:]), 1).tolist() == by_full_passes(model, tokens, 7).tolist()


@every_kind
@pytest.mark.parametrize("positions", ["text", "cache"])
def test_a_cache_of_separators_writes_as_all_do_until_it_drops(kind, positions):
    model, tokens = decoder(**ALL[kind]), drawn(3, 5)
    present = torch.tensor([[True] * 5, [False] * 3 + [True] * 2, [False] * 1 + [True] * 4])
    truth = generate(model, tokens, 6, temperature=0, present=present)
    for chunk in (None, 1, 2):
        sizes = {"initial": 1, "separators_kept": 2, "local": 3, "capacity": 11, "positions": positions}
        cache = model.separator_cache([3, 5], **sizes)
        found = generate(model, tokens, 6, temperature=0, present=present, cache=cache, chunk=chunk)
        assert found.tolist() == truth.tolist()
        assert not cache.dropped


@pytest.mark.parametrize("positions", ["text", "cache"])
def test_a_cache_of_separators_goes_on_beyond_its_capacity(positions):
    model, tokens = decoder(position="kerple"), drawn(2, 30)
    sizes = {"initial": 1, "separators_kept": 2, "local": 3, "capacity": 12, "positions": positions}
    cache = model.separator_cache([3, 5], **sizes)
    written = generate(model, tokens, 40, temperature=0, cache=cache, chunk=4)
    assert written.shape == (2, 70)
    assert cache.dropped
    assert cache.held.max() <= 12
    for row in (0, 1):
        alone = model.separator_cache([3, 5], **sizes)
        found = generate(model, tokens[row : row + 1], 40, temperature=0, cache=alone, chunk=4)
        assert found.tolist() == written[row : row + 1].tolist()


def test_a_prompt_in_parts_is_the_prompt():
    model, tokens = decoder(), drawn(2, 7)
    truth = by_full_passes(model, tokens, 4).tolist()
    assert all(generate(model, tokens, 4, temperature=0, chunk=chunk).tolist() == truth for chunk in (1, 3, 7, 20))
    with pytest.raises(UsageError, match="chunk is 0; legal are whole numbers, 1 and more"):
        generate(model, tokens, 4, chunk=0)


def test_a_generator_repeats_a_text():
    model, tokens = decoder(), drawn(2, 3)
    texts = [
        generate(model, tokens, 12, generator=torch.Generator().manual_seed(seed), top_k=9, top_p=0.95).tolist()
        for seed in (3, 3, 4)
    ]
    assert texts[0] == texts[1] != texts[2]


def test_a_batch_draws_its_rows_apart():
    written = generate(decoder(), torch.zeros(6, 1, dtype=torch.long), 10, generator=torch.Generator().manual_seed(0))
    assert len({tuple(row) for row in written.tolist()}) == 6


def test_the_model_stays_as_it_was():
    model = decoder(dropout=0.9)
    for training in (True, False):
        model.train(training)
        written = generate(model, drawn(1, 3), 4, temperature=0)
        assert model.training is training
        assert all(weight.grad is None for weight in model.parameters())
        assert written.tolist() == by_full_passes(model.eval(), drawn(1, 3), 4).tolist()


def test_training_goes_on_after_an_error():
    model = decoder().train()

    def fail(column):
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        generate(model, drawn(1, 3), 4, on_token=fail)
    assert model.training


def test_a_caller_sees_each_token_and_may_end_it():
    model, seen = decoder(), []

    def note(column):
        seen.append(column.tolist())
        return len(seen) == 3

    written = generate(model, drawn(2, 4), 9, temperature=0, on_token=note)
    assert written.shape == (2, 7)
    assert written[:, 4:].T.tolist() == seen


def test_nothing_asked_is_nothing_written():
    assert generate(decoder(), drawn(2, 4), 0).tolist() == drawn(2, 4).tolist()


def likely(row, temperature, top_k, top_p):
    """The legal tokens and their probabilities, by a loop over the sorted ones."""
    total = sum(math.exp(value / temperature) for value in row)
    ranked = sorted(((math.exp(value / temperature) / total, token) for token, value in enumerate(row)), reverse=True)
    ranked = ranked[:top_k]
    total = sum(share for share, _ in ranked)
    ranked = [(share / total, token) for share, token in ranked]
    kept, held = {}, 0.0
    for share, token in ranked:
        if top_p is None or held < top_p:
            kept[token] = share
        held += share
    total = sum(kept.values())
    return {token: share / total for token, share in kept.items()}


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
@pytest.mark.parametrize("top_k", [None, 1, 4, 8, 100])
@pytest.mark.parametrize("top_p", [None, 1e-9, 0.3, 0.8, 1.0])
def test_draws_are_of_the_likeliest(temperature, top_k, top_p):
    generator, count = torch.Generator().manual_seed(5), 4000
    row = torch.randn(8, generator=generator)
    found = draw(row.expand(count, -1), temperature, top_k, top_p, generator).bincount(minlength=8) / count
    wanted = likely(row.tolist(), temperature, top_k, top_p)
    for token in range(8):
        share = wanted.get(token, 0.0)
        # 5 standard deviations of a count; a token that is not legal never comes
        assert abs(found[token].item() - share) <= 5 * math.sqrt(share * (1 - share) / count)


def test_a_small_temperature_takes_the_likeliest():
    logits = torch.randn(50, 9, generator=torch.Generator().manual_seed(0))
    for temperature in (0, 1e-7, 1e-30, 5e-45, 1e-300):
        assert draw(100 * logits, temperature).tolist() == logits.argmax(-1).tolist()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_draws_are_in_single_precision(dtype):
    logits = torch.randn(3, 9, generator=torch.Generator().manual_seed(0)).to(dtype)
    one, other = (draw(x, 1.0, generator=torch.Generator().manual_seed(1)) for x in (logits, logits.float()))
    assert one.tolist() == other.tolist()


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (
            {"tokens": torch.zeros(1, 0, dtype=torch.long)},
            f"tokens have shape (1, 0) and dtype torch.int64; {BEGUN}",
        ),
        (
            {"tokens": torch.zeros(3)},
            f"tokens have shape (3,) and dtype torch.float32; {BEGUN}",
        ),
        ({"tokens": torch.tensor([[1, 17]])}, "the tokens reach from 1 to 17; legal are 0 to 16"),
        ({"tokens": torch.tensor([[1, -1]])}, "the tokens reach from -1 to 1; legal are 0 to 16"),
        (
            {"present": torch.tensor([[True, True], [True, False]])},
            "row 1 ends in padding; legal is padding before the tokens that are gone on from",
        ),
        (
            {"present": torch.tensor([[True, True, True]])},
            "present has shape (1, 3); legal is that of tokens, (2, 2)",
        ),
        (
            {"present": torch.ones(2, 2)},
            "present has shape (2, 2) and dtype torch.float32; legal is (B, T) of torch.bool",
        ),
        ({"tokens": [1, 2]}, "tokens is [1, 2]; legal is a tensor (B, T) of torch.int64"),
        ({"model": Linear(2, 2)}, f"model is {Linear(2, 2)!r}; legal is a Decoder"),
        ({"cache": 3}, "cache is 3; legal is such as model.cache(), or None"),
        ({"generator": 3}, "generator is 3; legal is a torch.Generator on the CPU, or None"),
        ({"on_token": 3}, "on_token is 3; legal is a function of a column (B,), or None"),
        ({"count": -1}, "count is -1; legal are whole numbers, 0 and more"),
        ({"count": 1.5}, "count is 1.5; legal are whole numbers, 0 and more"),
        ({"temperature": "hot"}, "temperature is 'hot'; legal are 0 and positive numbers"),
        ({"temperature": -0.5}, "temperature is -0.5; legal are 0 and positive numbers"),
        ({"temperature": math.nan}, "temperature is nan; legal are 0 and positive numbers"),
        ({"temperature": math.inf}, "temperature is inf; legal are 0 and positive numbers"),
        ({"top_k": 0}, "top_k is 0; legal are whole numbers, 1 and more"),
        ({"top_k": 1.5}, "top_k is 1.5; legal are whole numbers, 1 and more"),
        ({"top_p": "a"}, "top_p is 'a'; legal are numbers above 0 and up to 1, or none"),
        ({"top_p": 0.0}, "top_p is 0.0; legal are numbers above 0 and up to 1, or none"),
        ({"top_p": 1.5}, "top_p is 1.5; legal are numbers above 0 and up to 1, or none"),
    ],
)
def test_wrong_values_are_one_sentence(values, sentence):
    model = Decoder(DecoderShape(vocabulary=17, layers=1, width=4, heads=2)).train()
    with pytest.raises(UsageError) as told:
        generate(**{"model": model, "tokens": torch.zeros(2, 2, dtype=torch.long), "count": 2, **values})
    assert str(told.value) == sentence
    assert model.training


def shown(ids):
    return bytes(ids).decode("utf-8", "replace")


def sent(tokens, text=shown):
    pieces = streamed(text)
    assert next(pieces) == ""
    return [pieces.send(token) for token in [*tokens, None]]


@pytest.mark.parametrize("text", ["plain", "aé", "日本語", "😀 and 👩‍👩‍👧", "a\ufffdb\ufffd", "é" * 40, ""])
def test_pieces_are_the_text(text):
    assert "".join(sent(text.encode())) == text
    for piece in sent(text.encode()):
        assert "\ufffd" not in piece or "\ufffd" in text


def test_a_character_is_held_back_until_it_is_whole():
    assert sent("é😀".encode()) == ["", "é", "", "", "", "😀", ""]


@pytest.mark.parametrize("ids", [[255] * 9, [0xE6, 0x61, 0x62], [0xF0, 0x9F, 0xF0, 0x9F, 0x98, 0x80], [0x80, 0xC3]])
def test_bytes_that_are_no_text_delay_one_character(ids):
    pieces = sent(ids)
    assert "".join(pieces) == shown(ids)
    for count in range(1, len(ids) + 1):
        assert len("".join(pieces[:count])) >= len(shown(ids[:count])) - 1


def test_a_token_may_end_one_character_and_begin_the_next():
    table = ["😀".encode()[:2], "😀".encode()[2:] + "é".encode()[:1], "é".encode()[1:] + b"!"]
    pieces = sent([0, 1, 2], lambda ids: b"".join(table[i] for i in ids).decode("utf-8", "replace"))
    assert pieces == ["", "😀", "é!", ""]
