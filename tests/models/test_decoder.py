"""The decoder against itself in parts: cached, padded, cut; its sizes and its start."""

import copy
import math

import pytest
import torch
from torch.func import functional_call
from torch.nn import functional as F

from lissome.adapt import Adapted, lora
from lissome.attention import Attention, Dape, Kerple, SelfAdjust, causal, window
from lissome.models import PRESETS, Decoder, DecoderShape
from tests.models.decoders import ALL, SMALL, decoder, drawn, equal, every_kind


@every_kind
@pytest.mark.parametrize("chunks", [(1,) * 9, (4, 5), (3, 1, 2, 3), (9,)])
def test_reading_in_chunks_is_reading_at_once(kind, chunks):
    model, tokens = decoder(**ALL[kind]), drawn(3, 9)
    cache = model.cache()
    with torch.no_grad():
        parts = [model(part, cache=cache) for part in tokens.split(chunks, 1)]
        equal(torch.cat(parts, 1), model(tokens))


@every_kind
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_padded_row_is_the_row_alone(kind, side):
    model, lengths = decoder(**ALL[kind]), [6, 2, 4]
    tokens, present = drawn(3, 6), torch.zeros(3, 6, dtype=torch.bool)
    for row, length in enumerate(lengths):
        present[row, 6 - length :] = True
    tokens, present = (tokens, present) if side == "left" else (tokens.flip(1), present.flip(1))
    with torch.no_grad():
        together = model(tokens, present=present)
        for row, seen in enumerate(present):
            equal(together[row, seen], model(tokens[row, seen][None])[0])


@every_kind
def test_no_logit_reads_a_later_token(kind):
    model, tokens = decoder(**ALL[kind]), drawn(2, 7)
    other = tokens.clone()
    other[:, 4:] = (other[:, 4:] + 1) % 17
    with torch.no_grad():
        equal(model(other)[:, :4], model(tokens)[:, :4])
        assert (model(other)[:, 4:] - model(tokens)[:, 4:]).abs().amin((0, 2)).max() > 0


def test_last_gives_the_last_positions():
    model, tokens = decoder(), drawn(2, 7)
    equal(model(tokens, last=3), model(tokens)[:, -3:])
    assert model(tokens, last=1).shape == (2, 1, 17)


@every_kind
def test_every_weight_has_a_gradient(kind):
    model = decoder(**ALL[kind])
    loss = F.cross_entropy(model(drawn(2, 9)).flatten(0, 1), drawn(2, 9, seed=2).flatten())
    for (name, _), slope in zip(
        model.named_parameters(), torch.autograd.grad(loss, list(model.parameters())), strict=True
    ):
        assert slope.isfinite().all(), name
        # the first token alone has more than one key at distance 0: FIRE's start is far beyond 9 positions
        assert slope.abs().max() > 0 or name.endswith("multiplier"), name


def test_grouped_heads_are_copied_heads():
    few, many = decoder(key_heads=2), decoder()
    weights = few.state_dict()
    for layer in range(2):
        name = f"blocks.{layer}.heads.qkv.weight"
        q, k, v = weights[name].split((16, 8, 8))
        k, v = (x.unflatten(0, (2, 4)).repeat_interleave(2, 0).flatten(0, 1) for x in (k, v))
        weights[name] = torch.cat((q, k, v))
    many.load_state_dict(weights)
    equal(few(drawn(2, 6)), many(drawn(2, 6)))


def test_a_decoder_is_its_formula():
    """One layer written out, with the heads in a loop."""
    model, tokens = decoder(layers=1, position="none"), drawn(1, 5)
    weights = {name: value.detach() for name, value in model.named_parameters()}

    def norm(x, name):
        return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weights[name]

    x = weights["embedding.weight"][tokens[0]]  # (T, width)
    read = norm(x, "blocks.0.norm_heads.weight") @ weights["blocks.0.heads.qkv.weight"].T
    mixed = []
    for head in range(4):
        q, k, v = (read[:, 16 * part + 4 * head : 16 * part + 4 * head + 4] for part in range(3))
        rows = []
        for i in range(5):
            share = torch.softmax(torch.stack([q[i] @ k[j] / 2 for j in range(i + 1)]), 0)
            rows.append(sum(share[j] * v[j] for j in range(i + 1)))
        mixed.append(torch.stack(rows))
    x = x + torch.cat(mixed, -1) @ weights["blocks.0.heads.out.weight"].T
    y = norm(x, "blocks.0.norm_feed.weight")
    gate = y @ weights["blocks.0.feed.gate.weight"].T
    y = gate * torch.sigmoid(gate) * (y @ weights["blocks.0.feed.up.weight"].T)
    x = x + y @ weights["blocks.0.feed.down.weight"].T
    equal(model(tokens)[0].detach(), norm(x, "norm.weight") @ weights["embedding.weight"].T)


@pytest.mark.parametrize(
    ("name", "vocabulary", "count"),
    [("tiny", 256, 0.8e6), ("small", 256, 10.7e6), ("125m", 50_257, 125e6), ("350m", 50_257, 350e6)],
)
def test_the_presets_are_as_large_as_they_say(name, vocabulary, count):
    sizes = []
    for layers in (1, 2):
        with torch.device("meta"):
            model = Decoder(DecoderShape(vocabulary=vocabulary, **{**PRESETS[name], "layers": layers}))
        sizes.append(sum(weight.numel() for weight in model.parameters()))
    one, two = sizes
    assert one + (PRESETS[name]["layers"] - 1) * (two - one) == pytest.approx(count, rel=0.03)


@pytest.mark.parametrize("name", PRESETS)
def test_both_feeds_have_as_many_weights(name):
    sizes = []
    for feed in ("swiglu", "gelu"):
        with torch.device("meta"):
            block = Decoder(DecoderShape(vocabulary=2, **{**PRESETS[name], "layers": 1}, feed=feed)).blocks[0]
        sizes.append(sum(weight.numel() for weight in block.feed.parameters()))
    assert sizes[0] == pytest.approx(sizes[1], rel=0.02)


@pytest.mark.parametrize("tied", [True, False])
def test_it_begins_knowing_nothing(tied):
    torch.manual_seed(0)
    model = Decoder(DecoderShape(vocabulary=256, **PRESETS["tiny"], tied=tied))
    tokens = drawn(4, 65, size=256)
    loss = F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
    assert loss.item() == pytest.approx(math.log(256), rel=0.03)
    deep = model.blocks[0].feed.down.weight.std().item()
    assert deep == pytest.approx(math.sqrt(0.4 / 128) / math.sqrt(2 * 4), rel=0.05)
    assert model.embedding.weight.std().item() == pytest.approx(0.02, rel=0.05)


def test_stages_keep_their_own_start():
    torch.manual_seed(0)
    wanted = Dape(4, kernel=3)
    torch.manual_seed(0)
    model = Decoder(DecoderShape(**SMALL), lambda layer: Attention(causal, Kerple(4), copy.deepcopy(wanted)))
    for block in model.blocks:
        torch.testing.assert_close(block.heads.recipe.refine.state_dict(), wanted.state_dict(), rtol=0, atol=0)


def test_a_recipe_per_layer():
    def recipe(layer):
        return Attention(causal & window(2 + layer), Kerple(4), None, SelfAdjust(1) if layer else SelfAdjust(4))

    model = Decoder(DecoderShape(**SMALL), recipe)
    assert [block.heads.recipe.explain() for block in model.blocks] == [
        "causal & window(2); kerple; self_adjust(4)",
        "causal & window(3); kerple; self_adjust(1)",
    ]
    assert model(drawn(2, 5)).isfinite().all()


@pytest.mark.parametrize("kind", ["rotary", "dape v2"])
def test_dropout_acts_in_training_alone(kind):
    model, plain, tokens = decoder(dropout=0.5, **ALL[kind]), decoder(**ALL[kind]), drawn(2, 6)
    equal(model(tokens), plain(tokens))
    model.train()
    torch.manual_seed(0)
    one = model(tokens)
    torch.manual_seed(0)
    equal(model(tokens), one)
    assert (model(tokens) - one).abs().max() > 1e-3
    # the weights of attention are dropped too: with the residual parts whole, two passes still differ
    for block in model.blocks:
        block.dropout = 0.0
    assert (model(tokens) - model(tokens)).abs().max() > 1e-3


@every_kind
def test_half_precision_is_finite(kind):
    torch.manual_seed(0)
    model, tokens = Decoder(DecoderShape(**{**SMALL, **ALL[kind]})), drawn(2, 9)
    with torch.autocast("cpu", torch.bfloat16):
        found = model(tokens)
        loss = F.cross_entropy(found.flatten(0, 1).float(), tokens.flatten())
    slopes = torch.autograd.grad(loss, list(model.parameters()))
    assert all(slope.isfinite().all() for slope in slopes)
    truth = model(tokens)
    assert (found.float() - truth).abs().max() < 0.05 * truth.abs().max()
    half = copy.deepcopy(model).bfloat16()(tokens)
    assert half.dtype == torch.bfloat16
    assert (half.float() - truth).abs().max() < 0.1 * truth.abs().max()


@pytest.mark.slow  # a compiler runs
@pytest.mark.parametrize("kind", ["rotary", "dape v2", "self-adjusting"])
def test_it_compiles(kind):
    torch._dynamo.reset()
    model, tokens = decoder(**ALL[kind]), drawn(2, 6)
    fast = torch.compile(model)
    equal(fast(tokens), model(tokens))
    for ours, theirs in zip(
        torch.autograd.grad(fast(tokens).square().sum(), list(model.parameters())),
        torch.autograd.grad(model(tokens).square().sum(), list(model.parameters())),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("kind", ["rotary", "all at once", "untied"])
def test_copies_are_independent(kind):
    model, tokens = decoder(**ALL[kind]), drawn(2, 5)
    truth = model(tokens)
    other = copy.deepcopy(model)
    equal(other(tokens), truth)
    with torch.no_grad():
        for weight in other.parameters():
            weight.zero_()
    equal(model(tokens), truth)


@pytest.mark.parametrize("kind", ["rotary", "all at once", "untied"])
def test_it_is_a_function_of_its_weights(kind):
    model, tokens = decoder(**ALL[kind]), drawn(2, 5)
    others = {name: 1.1 * weight.detach() for name, weight in model.named_parameters()}
    found = functional_call(model, others, (tokens,))
    with torch.no_grad():
        for weight in model.parameters():
            weight *= 1.1
    equal(found, model(tokens))


def test_it_takes_adapters():
    model, tokens = decoder(), drawn(2, 5)
    paths = [name for name, weight in model.named_parameters() if weight.ndim == 2 and "blocks" in name]
    assert len(paths) == 2 * 5
    generator = torch.Generator().manual_seed(0)
    adapted = Adapted(model, {path: lora(model.get_parameter(path), 2, generator=generator) for path in paths})
    equal(adapted(tokens), model(tokens))
    with torch.no_grad():
        for weight in adapted.trainable().values():
            weight += 0.1
    cache = model.cache()
    parts = [adapted(part, cache=cache) for part in tokens.split(2, 1)]
    equal(torch.cat(parts, 1), adapted(tokens))
    merged = copy.deepcopy(model)
    with torch.no_grad():
        for path, weight in adapted.weights().items():
            merged.get_parameter(path).copy_(weight)
    equal(merged(tokens), adapted(tokens))
    assert (adapted(tokens) - model(tokens)).abs().max() > 1e-2


def test_a_shape_is_json():
    shape = DecoderShape(**SMALL, position="fire", length=9, key_heads=2)
    assert DecoderShape(**shape.told()) == shape


def test_stages_are_those_of_the_forward_pass():
    """Weights and values of the last layer, by hand, give what the model gives."""
    model, tokens = decoder(layers=2, position="kerple", refine="dape(3)"), drawn(2, 6)
    found = list(model.stages(tokens))
    assert [stages.weights.shape for stages in found] == [(2, 4, 6, 6)] * 2
    frame, x = model.frame(tokens), model.embedding(tokens)
    x = model.blocks[0](x, frame)
    block = model.blocks[1]
    v = block.heads.project(block.norm_heads(x), frame)[2]
    x = x + block.heads.out((found[1].weights @ v).transpose(1, 2).flatten(2))
    equal(model(tokens), model.norm(x + block.feed(block.norm_feed(x))) @ model.embedding.weight.T)
    assert [recipe.explain() for recipe in model.recipes] == ["causal; kerple; dape(3); softmax"] * 2


@pytest.mark.parametrize(
    ("validity", "layers"),
    [
        ("causal & window(2)", "2222"),
        ("h(causal & window(2))", "*222"),
        ("ht(causal & window(2))", "*22*"),
        ("hmt(causal & window(2))", "*2*2*"),
        ("hmt(causal & window(2))", "*"),
        ("causal & window(2), causal & window(3), window(4) & causal, causal", "234*"),
    ],
)
def test_each_layer_has_its_own_mask(validity, layers):
    model = decoder(validity=validity, layers=len(layers))
    frame = model.frame(drawn(1, 6))
    distance = frame.distance[0]
    for recipe, told in zip(model.recipes, layers, strict=True):
        near = (distance >= 0) & (distance < (6 if told == "*" else int(told)))
        assert torch.equal(recipe.validity(frame)[0, 0], near)
