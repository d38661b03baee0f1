"""A decoder that runs layers again: in parts as at once, and as the layers written out."""

import copy
import itertools

import pytest
import torch
from torch.nn import functional as F

from lissome._errors import UsageError
from lissome.adapt import Adapted, lora
from lissome.bridges.llama import config_of
from lissome.models import Decoder, DecoderShape, LoopedShape, generate, read_decoder, save_decoder
from lissome.models.looped import Looped
from tests.models.decoders import decoder, drawn, equal

LOOPS = {
    "algoformer": {"layers": 3, "body": "algoformer(4)"},
    "no injection": {"layers": 3, "body": "algoformer(3, inject=False)"},
    "two in the loop": {"layers": 4, "body": "algoformer(2, pre=2, post=0)", "position": "kerple", "refine": "dape(3)"},
    "looped": {"layers": 2, "body": "looped(3)", "normalize": "self_adjust(4)", "key_heads": 2},
    "rules by layer": {"layers": 3, "body": "algoformer(2)", "validity": "causal, causal & window(3), causal"},
}
every_loop = pytest.mark.parametrize("kind", LOOPS)


def unrolled(model, tokens):
    """Run the blocks in the order of the passes, each with no cache and angles of its own."""
    x, first, frame = model.embedding(tokens), None, model.frame(tokens)
    for block, inject in model.shape.passes:
        if inject:
            first = x if first is None else first
            x = x + first
        x = model.blocks[block](x, frame)
    return F.linear(model.norm(x), model.embedding.weight)


@every_loop
def test_a_loop_is_its_layers_written_out(kind):
    model, tokens = decoder(**LOOPS[kind]), drawn(2, 6)
    equal(model(tokens), unrolled(model, tokens))
    assert model.shape.depth == len(model.recipes) == len(list(model.stages(tokens))) > len(model.blocks)


@every_loop
@pytest.mark.parametrize("cuts", [[1, 2, 3, 4, 5, 6], [4]])
def test_each_run_has_its_own_place_in_a_cache(kind, cuts):
    model, tokens = decoder(**LOOPS[kind]), drawn(2, 7)
    cache, edges = model.cache(), [0, *cuts, 7]
    parts = [model(tokens[:, a:b], cache=cache) for a, b in itertools.pairwise(edges)]
    equal(torch.cat(parts, 1), model(tokens))
    assert len(cache.layers) == model.shape.depth


def test_a_cache_of_separators_serves_a_loop():
    model, tokens = decoder(**LOOPS["algoformer"]), drawn(1, 12)
    cache = model.separator_cache([3], initial=1, separators_kept=2, local=4, capacity=8)
    with torch.no_grad():
        found = torch.cat([model(tokens[:, t : t + 1], cache=cache) for t in range(12)], 1)
    equal(found[:, :8], model(tokens[:, :8]))  # nothing was dropped yet
    assert found.isfinite().all()


@every_loop
def test_loops_of_a_decoder_are_loops_of_a_body(kind):
    """The same states by `Looped`, which holds the blocks in three stages."""
    values = LOOPS[kind]
    if "key_heads" in values or "validity" in values:
        values = {name: value for name, value in values.items() if name not in ("key_heads", "validity")}
    model, tokens = decoder(**values), drawn(2, 6)
    passes = model.shape.passes
    counts = [sum(one.block == block for one in passes) for block in range(model.shape.layers)]
    iterations = max(counts)
    pre = counts.index(iterations)
    shape = LoopedShape(
        width=16,
        heads=4,
        pre=pre,
        loop=counts.count(iterations),
        post=len(counts) - pre - counts.count(iterations),
        iterations=iterations,
        inject="add" if any(one.inject for one in passes) else "none",
        feed="swiglu",
        **{name: value for name, value in values.items() if name not in ("layers", "body")},
    )
    body = Looped(shape).double()
    mine = [block for stage in (body.pre, body.loop, body.post) for block in stage.blocks]
    for block, other in zip(mine, model.blocks, strict=True):
        block.load_state_dict(other.state_dict())
    body.post.norm.load_state_dict(model.norm.state_dict())
    equal(F.linear(body(model.embedding(tokens)), model.embedding.weight), model(tokens))


def test_gradients_of_all_runs_are_added():
    model, tokens = decoder(**LOOPS["algoformer"]), drawn(2, 6)
    weight = model.blocks[1].heads.qkv.weight
    found, truth = (
        torch.autograd.grad(run.square().sum(), [weight])[0] for run in (model(tokens), unrolled(model, tokens))
    )
    equal(found / truth.abs().max(), truth / truth.abs().max())


def test_a_loop_is_kept_copied_adapted_and_written_on(tmp_path):
    model, tokens = decoder(**LOOPS["algoformer"]), drawn(2, 6)
    save_decoder(model, tmp_path)
    again = read_decoder(tmp_path)
    assert again.shape == model.shape
    path, generator = "blocks.1.heads.qkv.weight", torch.Generator().manual_seed(0)
    adapted = Adapted(model, {path: lora(model.get_parameter(path), 2, generator=generator)})
    for other in (again, copy.deepcopy(model), adapted):
        equal(other(tokens), model(tokens))
    assert generate(again, tokens, 3, temperature=0).shape == (2, 9)


def test_a_shape_of_before_is_a_plain_one():
    told = DecoderShape(vocabulary=5, layers=2, width=4, heads=1).told()
    assert told.pop("body") == "plain"
    shape = DecoderShape(**told)
    assert shape.depth == 2
    assert [tuple(one) for one in shape.passes] == [(0, False), (1, False)]
    assert len(Decoder(shape).cache().layers) == 2


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ("algoforma(3)", "unknown body 'algoforma'; legal are: plain, algoformer, looped (did you mean 'algoformer'?)"),
        ("algoformer(0)", "iterations of the body is 0; legal are whole numbers, 1 and more"),
        ("algoformer(-2)", "iterations of the body is -2; legal are whole numbers, 1 and more"),
        ("algoformer(2, pre=-1)", "pre of the body is -1; legal are whole numbers, 0 and more"),
        (
            "algoformer(2, pre=2)",
            "a body with pre=2 and post=1 has no layer left for its loop, as there are 3 in all; "
            "legal are 4 and more layers",
        ),
        (
            "looped(4000)",
            "4,000 iterations of the body run 12,000 layers; legal are up to 3,333 iterations of 3 layers",
        ),
        ("looped(2, inject=maybe)", "inject of the body is 'maybe'; legal are True and False"),
        ("plain(3)", "the body 'plain(3)' is given wrongly; plain takes no values"),
        (4, "the body is 4; legal are the texts plain, algoformer, looped"),
    ],
)
def test_wrong_bodies_are_told(body, sentence):
    with pytest.raises(UsageError) as error:
        DecoderShape(vocabulary=5, layers=3, width=4, heads=1, body=body)
    assert str(error.value) == sentence


def test_no_class_of_transformers_has_a_loop():
    model = decoder(**LOOPS["algoformer"])
    with pytest.raises(
        UsageError, match=r"body is 'algoformer\(4\)', which no class of transformers has; legal is plain"
    ):
        config_of(model.shape, model.recipes, eps=1e-5, end=None, dtype=torch.float32)


def test_a_compiler_sees_one_graph():
    model, tokens = decoder(**LOOPS["algoformer"]), drawn(2, 6)
    equal(torch.compile(model, backend="eager", fullgraph=True)(tokens), model(tokens))
