"""A body that iterates, against the stack of layers that it abbreviates, and what is said of wrong ones."""

import copy
import math
import pickle

import pytest
import torch
from torch.func import functional_call

from lissome._errors import UsageError
from lissome.attention import Attention, Dape, Frame, Kerple, everything
from lissome.models import BODIES, Decoder, DecoderShape, Looped, LoopedShape

SMALL = {"width": 8, "heads": 2, "iterations": 4}
KINDS = {
    "algoformer": {},
    "injected": {"inject": "add"},
    "looped": BODIES["looped"],
    "two layers": {"pre": 0, "loop": 2, "post": 0},
    "dape": {"position": "kerple", "refine": "dape(3)", "normalize": "self_adjust(4)"},
    "linear": {"norm": "none", "normalize": "linear(mean=True)", "position": "none", "validity": "but_last"},
    "attention alone": {"feed": "none"},
    "swiglu": {"feed": "swiglu", "feed_width": 12},
    "normed in the loop": {"norm_in_loop": True, "inject": "add"},
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def body(dtype=torch.float64, **values):
    """Return a body whose every number counts."""
    torch.manual_seed(0)
    model = Looped(LoopedShape(**{**SMALL, **values})).to(dtype)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.1 * torch.randn(weight.shape, dtype=dtype)
    return model


def drawn(*shape, seed=1, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def slopes(model, found, *more):
    weights = drawn(*found.shape, seed=2, dtype=found.dtype)
    return torch.autograd.grad((found * weights).sum(), [*model.parameters(), *more], materialize_grads=True)


def unrolled(model, x, iterations):
    """Return what the layers give one after another, each written out, with the sum of what is injected."""
    frame, shape = Frame.full(x.shape[1]), model.shape
    for block in model.pre.blocks:
        x = block(x, frame)
    first, h = x, torch.zeros_like(x) if shape.inject == "from_zero" else x
    for _ in range(iterations):
        h = h if shape.inject == "none" else h + first
        for block in model.loop.blocks:
            h = block(h, frame)
        h = model.loop.norm(h) if shape.norm_in_loop else h
    for block in model.post.blocks:
        h = block(h, frame)
    return h if model.post.norm is None else model.post.norm(h)


@every_kind
def test_iterations_are_layers_that_share_their_weights(kind):
    model, x = body(**KINDS[kind]), drawn(2, 5, 8).requires_grad_()
    found, truth = model(x), unrolled(model, x, 4)
    torch.testing.assert_close(found, truth, rtol=0, atol=1e-12)
    for ours, theirs in zip(slopes(model, found, x), slopes(model, truth, x), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-11)


def test_a_loop_is_a_plain_stack_of_copies():
    loop = body(pre=0, post=0)
    plain = Looped(LoopedShape(**{**SMALL, **BODIES["plain"], "pre": 4})).double()
    for block in plain.pre.blocks:
        block.load_state_dict(loop.loop.blocks[0].state_dict())
    plain.post.load_state_dict(loop.post.state_dict())
    x = drawn(2, 5, 8)
    assert torch.equal(plain(x), loop(x))


def test_a_plain_body_is_that_of_a_decoder():
    decoder = Decoder(DecoderShape(vocabulary=11, layers=3, width=8, heads=2)).double()
    plain = body(**{**BODIES["plain"], "feed": "swiglu"})
    plain.pre.blocks.load_state_dict(decoder.blocks.state_dict())
    plain.post.norm.load_state_dict(decoder.norm.state_dict())
    tokens = torch.randint(11, (2, 6), generator=torch.Generator().manual_seed(0))
    assert torch.equal(plain(decoder.embedding(tokens)) @ decoder.embedding.weight.T, decoder(tokens))


@every_kind
def test_each_iteration_of_a_window_is_a_shorter_run(kind):
    model, x = body(**KINDS[kind]), drawn(2, 5, 8)
    found = model.outputs(x, window=6, iterations=6)
    states = list(model.iterates(x, iterations=6))
    for t in range(1, 7):
        assert torch.equal(found[t - 1], model(x, iterations=t))
        assert torch.equal(found[t - 1], model.finish(states[t - 1]))
    assert torch.equal(model.outputs(x, window=2), found[2:4])  # the shape's own number of iterations


@every_kind
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_checkpoints_change_no_bit_of_a_gradient(kind, dtype):
    model, x = body(dtype, **KINDS[kind]), drawn(2, 5, 8, dtype=dtype).requires_grad_()
    plain = model.outputs(x, window=3, iterations=5)
    truth = slopes(model, plain, x)
    model.checkpoint = True
    found = model.outputs(x, window=3, iterations=5)
    assert torch.equal(found, plain)
    for ours, theirs in zip(slopes(model, found, x), truth, strict=True):
        assert torch.equal(ours, theirs)


def test_checkpoints_see_the_parameters_of_a_functional_call():
    model, x = body(), drawn(2, 5, 8)
    other = {name: (1.1 * weight).detach().requires_grad_() for name, weight in model.named_parameters()}
    found = []
    for model.checkpoint in (False, True):
        out = functional_call(model, other, (x,))
        found.append(torch.autograd.grad(out.square().sum(), list(other.values())))
    assert all(torch.equal(one, two) for one, two in zip(*found, strict=True))


def test_a_cut_gradient_is_that_of_a_constant_start():
    model, x, frame = body(inject="add"), drawn(2, 5, 8), Frame.full(5)
    found = model.outputs(x, window=2, cut=True)
    whole = model.outputs(x, window=2)
    assert torch.equal(found, whole)
    first = model.pre.blocks[0](x, frame)
    h, truth = list(model.iterates(x, iterations=2))[-1].detach(), []
    for _ in range(2):
        h = model.loop.blocks[0](h + first, frame)
        truth.append(model.finish(h))
    cut = slopes(model, found)
    for ours, theirs in zip(cut, slopes(model, torch.stack(truth)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    assert any((one - two).abs().max() > 1e-3 for one, two in zip(slopes(model, whole), cut, strict=True))


def test_without_injection_a_cut_gradient_leaves_nothing_to_pre():
    model, x = body(), drawn(2, 5, 8)
    for cut, learns in ((True, False), (False, True)):
        weight = model.pre.blocks[0].heads.qkv.weight
        (slope,) = torch.autograd.grad(
            model.outputs(x, window=2, cut=cut).sum(), [weight], allow_unused=True, materialize_grads=True
        )
        assert bool(slope.any()) == learns


@pytest.mark.parametrize("kind", ["injected", "looped", "dape", "linear"])
def test_gradients_are_those_of_finite_differences(kind):
    model, x = body(**{**KINDS[kind], "width": 4}), drawn(1, 3, 4).requires_grad_()
    names = [name for name, _ in model.named_parameters()]

    def run(x, *weights):
        return functional_call(model, dict(zip(names, weights, strict=True)), (x,))

    assert torch.autograd.gradcheck(run, (x, *model.parameters()), fast_mode=True)


def test_a_padded_row_is_the_row_alone():
    model, x = body(), drawn(2, 6, 8)
    present = torch.tensor([[False, False, True, True, True, True], [True] * 6])
    found = model(x, frame=Frame.full(6, present=present))
    torch.testing.assert_close(found[0, 2:], model(x[:1, 2:])[0], rtol=0, atol=1e-12)
    torch.testing.assert_close(found[1], model(x[1:])[0], rtol=0, atol=1e-12)


def test_the_last_token_is_nobodys_key():
    model, x = body(**KINDS["linear"]), drawn(2, 6, 8)
    other = x.clone()
    other[:, -1] += 1
    assert torch.equal(model(other)[:, :-1], model(x)[:, :-1])
    other = x.clone()
    other[:, 2] += 1
    assert not torch.equal(model(other)[:, -1], model(x)[:, -1])
    assert not torch.equal(model(other)[:, 0], model(x)[:, 0])


def test_what_is_not_finite_is_not_hidden():
    grown = body(norm="none", normalize="linear", position="none", dtype=torch.float32)
    assert not grown(10 * drawn(2, 5, 8, dtype=torch.float32), iterations=60).isfinite().any()
    model, x = body(), drawn(2, 5, 8)
    x[0, 3, 1] = math.nan
    found = model(x)
    assert found[0, 3:].isnan().all()
    assert found[1].isfinite().all()


def test_stages_of_ones_own():
    made = [Attention(everything, Kerple(2), Dape(2, kernel=3)) for _ in range(3)]
    model = Looped(LoopedShape(**SMALL), made.__getitem__)
    assert [recipe is own for recipe, own in zip(model.recipes, made, strict=True)] == [True] * 3
    assert model(drawn(2, 5, 8, dtype=torch.float32)).shape == (2, 5, 8)


def test_rules_may_differ_by_layer():
    model = body(validity="causal & window(2), causal, causal & window(1)")
    assert [recipe.validity.name for recipe in model.recipes] == ["causal & window(2)", "causal", "causal & window(1)"]


@every_kind
def test_copies_are_alike(kind):
    model, x = body(**KINDS[kind]), drawn(2, 5, 8)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other(x), model(x))
    shape = LoopedShape(**model.shape.told())
    assert shape == model.shape
    assert hash(shape) == hash(model.shape)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"iterations": 0}, "iterations is 0; legal are whole numbers, 1 and more"),
        ({"iterations": -3}, "iterations is -3; legal are whole numbers, 1 and more"),
        ({"iterations": 2.0}, "iterations is 2.0; legal are whole numbers, 1 and more"),
        ({"pre": -1}, "pre is -1; legal are whole numbers, 0 and more"),
        ({"heads": 3}, "3 heads do not divide the width 8; legal are: 1, 2, 4, 8"),
        ({"inject": "ad"}, "unknown inject 'ad'; legal are: none, add, from_zero (did you mean 'add'?)"),
        ({"norm": "post"}, "unknown norm 'post'; legal are: pre, none"),
        ({"feed": "gelo"}, "unknown feed 'gelo'; legal are: swiglu, gelu, none (did you mean 'gelu'?)"),
        ({"norm_in_loop": 1}, "norm_in_loop is 1; legal are True and False"),
        ({"pre": 0, "loop": 0, "post": 0}, "pre, loop and post are all 0; legal is at least one layer in one of them"),
        ({"loop": 0}, "iterations is 4 and loop is 0; legal without a loop is iterations=1"),
        (
            {"loop": 0, "iterations": 1, "inject": "add"},
            "inject is add and loop is 0; legal without a loop is inject=none",
        ),
        ({"normalize": 4}, "normalize is 4; legal are the texts softmax, self_adjust, linear"),
    ],
)
def test_wrong_shapes_are_told(values, sentence):
    with pytest.raises(UsageError) as error:
        LoopedShape(**{**SMALL, **values})
    assert str(error.value) == sentence


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (
            lambda m: m(drawn(2, 5, 7)),
            "x has shape (2, 5, 7) and dtype torch.float64; legal is (B, T, 8) in floating point",
        ),
        (lambda m: m(drawn(5, 8)), "x has shape (5, 8) and dtype torch.float64; legal is (B, T, 8) in floating point"),
        (
            lambda m: m(drawn(2, 5, 8).long()),
            "x has shape (2, 5, 8) and dtype torch.int64; legal is (B, T, 8) in floating point",
        ),
        (lambda m: m([1.0]), "x is [1.0]; legal is a tensor (B, T, 8)"),
        (lambda m: m(drawn(2, 5, 8), iterations=0), "iterations is 0; legal are whole numbers, 1 and more"),
        (lambda m: m.iterates(drawn(2, 5, 8), iterations=-1), "iterations is -1; legal are whole numbers, 1 and more"),
        (lambda m: m.outputs(drawn(2, 5, 8), window=5), "window is 5; legal are whole numbers, 1 to 4"),
        (lambda m: m.outputs(drawn(2, 5, 8), window=2, cut="no"), "cut is 'no'; legal are True and False"),
        (lambda m: m(drawn(2, 5, 8), frame=5), "frame is 5; legal is such as Frame.full(5), or None"),
        (
            lambda m: m(drawn(2, 5, 8), frame=Frame.full(4)),
            "the frame has 4 queries and 4 keys, and x has 5 tokens",
        ),
        (
            lambda _: body(**BODIES["plain"] | {"iterations": 1})(drawn(2, 5, 8), iterations=3),
            "iterations are 3, and this body has no loop; legal is 1",
        ),
        (lambda _: Looped(DecoderShape(vocabulary=2, layers=1, width=2, heads=1)), None),
        (
            lambda _: body(normalize="liner"),
            "unknown normalize 'liner'; legal are: softmax, self_adjust, linear (did you mean 'linear'?)",
        ),
        (
            lambda _: body(validity="butlast"),
            "unknown validity 'butlast'; legal are: causal, everything, every_kth, separators, sinks, window",
        ),
    ],
)
def test_wrong_calls_are_told(call, sentence):
    model = body()
    with pytest.raises(UsageError) as error:
        call(model)
    assert sentence is None or str(error.value) == sentence


@pytest.mark.parametrize("kind", ["algoformer", "looped", "linear"])
def test_a_compiler_sees_one_graph(kind):
    model, x = body(**KINDS[kind]), drawn(2, 5, 8)
    found = torch.compile(model, backend="eager", fullgraph=True)(x)
    torch.testing.assert_close(found, model(x), rtol=0, atol=1e-12)
