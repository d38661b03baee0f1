"""One door for all ways: shapes that go together, dropout, precision, frames and caches."""

from functools import partial

import pytest
import torch
from torch.func import functional_call

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
    attend,
    attention,
    causal,
    everything,
    explain,
    stages,
    window,
)
from lissome.attention.attend import SPECIAL
from lissome.attention.backends import naive, tiled


def drawn(*heads, length=5, batch=1):
    return [torch.randn(batch, count, length, 4) for count in heads]


@pytest.mark.parametrize(
    ("heads", "length", "frame", "sentence"),
    [
        ((3, 2, 2), 5, Frame.full(5), "3 query heads do not divide into groups of 2 key heads"),
        ((2, 2, 1), 5, Frame.full(5), r"q \(1, 2, 5, 4\), k \(1, 2, 5, 4\) and v \(1, 1, 5, 4\) do not go together"),
        ((2, 2, 2), 5, Frame.full(4), "the frame has 4 queries and 4 keys, and q and k have 5 and 5"),
        ((2, 2, 2), 5, Frame.full(5).rows(0, 2), "the frame has 2 queries and 5 keys, and q and k have 5 and 5"),
        ((2, 2, 2), 5, Frame.full(5, present=torch.ones(3, 5).bool()), "the frame has 3 rows, and q has 1"),
    ],
)
def test_shapes_that_do_not_go_together(heads, length, frame, sentence):
    q, k, v = drawn(*heads, length=length)
    with pytest.raises(UsageError, match=sentence):
        attend(q, k, v, frame, Attention())


def test_tensors_of_other_dimensions():
    with pytest.raises(UsageError, match="legal are four dimensions"):
        attend(*[torch.randn(2, 5, 4)] * 3, Frame.full(5), Attention())


def test_a_bias_for_other_heads():
    with pytest.raises(UsageError, match="the bias is for 3 heads, and q has 2"):
        attend(*drawn(2, 2, 2), Frame.full(5), Attention(causal, Kerple(3)))


def test_backends_by_name():
    with pytest.raises(UsageError, match="unknown backend 'tile'; legal are: auto, .*did you mean 'tiled'?"):
        attend(*drawn(2, 2, 2), Frame.full(5), Attention(), backend="tile")
    with pytest.raises(UsageError, match="backend sdpa cannot run this: it runs softmax without bias and ref"):
        attend(*drawn(2, 2, 2), Frame.full(5), Attention(everything, Alibi(2)), backend="sdpa")


def test_auto_takes_tiles_for_long_texts():
    q, k = torch.empty(1, 12, 2048, 1, device="meta"), torch.empty(1, 12, 2048, 1, device="meta")
    recipe = Attention(causal, Alibi(12))
    assert "; by tiled: 50,331,648 pairs are more than are held at once (" in explain(q, k, Frame.full(2048), recipe)
    last = Frame.full(2048).rows(2047, 2048)
    assert "; by naive: 24,576 pairs are held at once (not compact: " in explain(q[:, :, -1:], k, last, recipe)


@pytest.mark.parametrize("backend", ["naive", "tiled"])
def test_dropout_acts_after_the_adjustment(backend):
    """Whole weights fall and the rest grow, so that the mean over draws is what no dropout gives."""
    recipe = Attention(causal, None, None, SelfAdjust(4))
    q, k = (x.double().expand(1500, -1, -1, -1) for x in drawn(2, 2, length=4))  # each row draws for itself
    weights = stages(q[:1], k[:1], Frame.full(4), recipe).weights
    eye = torch.eye(4, dtype=torch.float64).expand(1500, 2, 4, 4)  # the mix of unit vectors is the weights
    draws = attend(q, k, eye, Frame.full(4), recipe, dropout=0.25, backend=backend)
    kept = torch.isclose(draws, weights / 0.75) & (weights > 0)
    assert (kept | (draws == 0)).all()
    spread = weights.abs().max().item() / 1500**0.5
    torch.testing.assert_close(draws.mean(0), weights[0], rtol=0, atol=4 * spread)


@pytest.mark.parametrize("backend", ["naive", "tiled"])
def test_dropout_has_the_gradient_of_its_own_draw(backend):
    q, k, v = (x.double().requires_grad_() for x in drawn(2, 2, 2))
    torch.manual_seed(3)
    out = attend(q, k, v, Frame.full(5), Attention(causal), dropout=0.5, backend=backend)
    (slope,) = torch.autograd.grad(out.sum(), v)
    torch.testing.assert_close((slope * v).sum(), out.sum())  # the mix is linear in the values


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("stage", ["rotary", "alibi", "fire"])
def test_half_precision_does_not_round_positions(dtype, stage):
    """Position 3,001 is no number of half precision, and neither are most wavelengths and slopes."""
    here = torch.tensor([[3001, 8191]])
    frame = Frame(here, torch.tensor([[0, 2999, 3001]]))
    if stage == "rotary":
        x = torch.ones(1, 1, 2, 64)
        torch.testing.assert_close(Rotary(64).to(dtype)(x, here), Rotary(64)(x, here), rtol=0, atol=0)
    elif stage == "alibi":
        torch.testing.assert_close(Alibi(6).to(dtype)(frame), Alibi(6)(frame), rtol=0, atol=0)
    else:
        fire = Fire(2, 64)
        fire.load_state_dict({name: p.to(dtype).float() for name, p in fire.state_dict().items()})
        truth = fire(frame)
        torch.testing.assert_close(fire.to(dtype)(frame), truth, rtol=1e-6, atol=1e-6)


def test_autocast_leaves_scores_in_float32():
    recipe, x = Attention(causal, Kerple(2), Dape(2, kernel=3)), torch.randn(1, 2, 5, 4)
    truth = attend(x, x, x, Frame.full(5), recipe)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(attend(x, x, x, Frame.full(5), recipe), truth)


def test_scores_depend_on_differences_alone_under_rotary():
    q, k = drawn(1, 1)
    turn, places = Rotary(4), torch.arange(5)[None]
    near = turn(q, places) @ turn(k, places).mT
    far = turn(q, places + 100) @ turn(k, places + 100).mT
    torch.testing.assert_close(near, far, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(turn(q, places).norm(dim=-1), q.norm(dim=-1))


def test_positions_count_the_tokens_that_are_there():
    present = torch.tensor([[False, True, True, False], [True, True, True, True]])
    frame = Frame.full(4, present=present)
    assert frame.queries.tolist() == [[-1, 0, 1, -1], [0, 1, 2, 3]]
    assert causal(frame)[0, 0].int().tolist() == [[0, 0, 0, 0], [0, 1, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0]]
    assert not frame.whole
    assert Frame.full(4).whole


def test_queries_that_are_not_the_last_are_no_whole_frame():
    """A fused kernel would show one row all keys."""
    frame, (q, k, v) = Frame.full(5), drawn(2, 2, 2)
    assert not frame.rows(1, 2).whole
    assert frame.rows(4, 5).whole
    whole = attend(q, k, v, frame, Attention(), backend="naive")
    torch.testing.assert_close(attend(q[:, :, 1:2], k, v, frame.rows(1, 2), Attention()), whole[:, :, 1:2])


@pytest.mark.parametrize(("name", "dtype"), [("tokens", torch.long), ("present", torch.bool)])
def test_frames_of_another_length(name, dtype):
    with pytest.raises(UsageError, match=rf"{name} has shape \(1, 3\); legal is \(B, 4\)"):
        Frame.full(4, **{name: torch.ones(1, 3, dtype=dtype)})


def test_a_cache_counts_on_after_padding():
    cache = GrowingCache(1)
    cache.begin(torch.tensor([[0, 5], [5, 5]]), torch.tensor([[False, True], [True, True]]))
    frame = cache.begin(torch.tensor([[6], [6]]))
    assert frame.queries.tolist() == [[1], [2]]
    assert frame.keys.tolist() == [[-1, 0, 1], [0, 1, 2]]
    assert frame.tokens.tolist() == [[0, 5, 6], [5, 5, 6]]


def test_a_cache_refuses_another_batch():
    cache = GrowingCache(1)
    cache.begin(torch.zeros(2, 3).long())
    with pytest.raises(UsageError, match="the cache holds 2 rows, and 1 came"):
        cache.begin(torch.zeros(1, 1).long())
    with pytest.raises(UsageError, match=r"present has shape \(2, 3\); legal is that of tokens, \(2, 1\)"):
        cache.begin(torch.zeros(2, 1).long(), torch.ones(2, 3).bool())


def test_a_cache_refuses_keys_that_were_not_announced():
    cache, k = GrowingCache(1), torch.randn(1, 1, 2, 4)
    cache.begin(torch.zeros(1, 2).long())
    cache.append(0, k, k)
    with pytest.raises(UsageError, match="a layer holds 2 keys where 0 were announced; call begin once a forward"):
        cache.append(0, k, k)


def test_a_cache_leaves_what_it_was_given():
    cache, k = GrowingCache(1), torch.randn(1, 1, 2, 4)
    before = k.clone()
    cache.begin(torch.zeros(1, 2).long())
    cache.append(0, k, k)
    cache.begin(torch.zeros(1, 2).long())
    cache.append(0, k + 1, k + 1)
    assert torch.equal(k, before)


def test_tiles_have_the_gradient_at_the_parameters_of_a_functional_call():
    """A tile is run again in the backward pass, when the module has its own parameters back."""
    torch.manual_seed(0)

    class Layer(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.recipe = Attention(causal, Kerple(2), Dape(2, kernel=3)).double()

        def forward(self, q, k, v, backend):
            run = {"naive": naive.attend, "tiled": partial(tiled.attend, tile=2)}[backend]
            return run(q, k, v, Frame.full(5), self.recipe)

    layer, (q, k, v) = Layer(), [x.double() for x in drawn(2, 2, 2)]
    others = {name: (p + 0.5).detach().requires_grad_() for name, p in layer.named_parameters()}
    slopes = {}
    for backend in ("naive", "tiled"):
        out = functional_call(layer, others, (q, k, v, backend)).square().sum()
        slopes[backend] = torch.autograd.grad(out, list(others.values()))
    torch.testing.assert_close(slopes["tiled"], slopes["naive"])


def test_tiles_have_second_derivatives_and_serve_torch_func():
    recipe, frame = Attention(causal, Kerple(2), Dape(2, kernel=3), SelfAdjust(4)).double(), Frame.full(5)
    q, k, v = (x.double().requires_grad_() for x in drawn(2, 1, 1))

    def bend(run):
        (slope,) = torch.autograd.grad(run(q).square().sum(), q, create_graph=True)
        return torch.autograd.grad(slope.square().sum(), [q, k, v, *recipe.parameters()])

    def run(way, q, **settings):
        return way.attend(q, k, v, frame, recipe, **settings)

    for one, other in zip(bend(partial(run, tiled, tile=2)), bend(partial(run, naive)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)
    by_func = [torch.func.grad(lambda q, way=way: run(way, q).square().sum())(q) for way in (tiled, naive)]
    torch.testing.assert_close(*by_func)


def test_tiles_skip_what_a_window_hides():
    """Keys that no query of a tile may reach are not read: NaN there would spread by any product."""
    recipe = Attention(causal & window(3), Kerple(2), Dape(2, kernel=3))
    q, k, v = drawn(2, 2, 2, length=12)
    frame = Frame.full(12).rows(8, 12)
    truth = naive.attend(q[:, :, 8:], k, v, frame, recipe)
    k[:, :, :6], v[:, :, :6] = torch.nan, torch.nan
    torch.testing.assert_close(tiled.attend(q[:, :, 8:], k, v, frame, recipe, tile=2), truth)


def test_a_mask_serves_padding_and_windows_by_fused_kernels():
    holes = torch.ones(2, 6).bool()
    holes[0, :3] = False
    q, k, v = drawn(2, 1, 1, length=6, batch=2)
    for recipe in (Attention(), Attention(causal & window(2)), Attention(everything)):
        frame = Frame.full(6, present=holes)
        found = attend(q, k, v, frame, recipe, backend="sdpa")
        torch.testing.assert_close(found, attend(q, k, v, frame, recipe, backend="naive"))
        assert not found[0, :, :3].any()  # a padded query sees nothing


def test_a_step_of_decoding_takes_no_tiles():
    k, recipe = torch.empty(64, 4, 2000, 8, device="meta"), Attention(causal, None, None, SelfAdjust(4))
    frame = Frame.full(2000)
    assert "; by self_adjust: " in explain(k, k, frame, recipe)
    said = explain(k[:, :, -1:], k, frame.rows(1999, 2000), recipe)
    assert "; by naive: 512,000 pairs are held at once (" in said
    assert "not self_adjust: that is for 524,288 pairs and 16 queries, and more" in said


def test_a_step_of_decoding_asks_no_way_of_own_tiles(monkeypatch):
    asked = []
    for name, way in SPECIAL.items():
        monkeypatch.setattr(way, "refusal", lambda *given, name=name: asked.append(name) or "not now")
    (k,) = drawn(2, length=7)
    attend(k[:, :, -1:], k, k, Frame.full(7).rows(6, 7), Attention())
    assert asked == ["sdpa"]
    attend(k, k, k, Frame.full(7), Attention())
    assert asked[1:] == list(SPECIAL)


@pytest.mark.parametrize("names", [{}, {"position": "kerple"}, {"refine": "dape(3)"}, {"normalize": "self_adjust(4)"}])
@pytest.mark.parametrize("backend", ["auto", "naive", "tiled"])
@pytest.mark.parametrize(("batch", "length"), [(0, 5), (2, 0)])
def test_nothing_gives_nothing(names, backend, batch, length):
    x = torch.randn(batch, 2, length, 4, requires_grad=True)
    out = attend(x, x, x, Frame.full(length), attention(2, 4, **names), backend=backend)
    assert out.shape == x.shape
    assert torch.autograd.grad(out.sum(), x)[0].shape == x.shape


def test_fused_kernels_compile_for_lengths_that_stay_open():
    recipe = Attention()

    def run(q, k, v, frame):
        return attend(q, k, v, frame, recipe, backend="sdpa")

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    for length in (20, 33, 1):
        tensors, frame = drawn(2, 2, 2, length=length), Frame.full(length)
        torch.testing.assert_close(compiled(*tensors, frame), run(*tensors, frame))


@pytest.mark.parametrize(
    ("q", "sentence"),
    [
        (
            torch.zeros(1, 0, 5, 4),
            r"q \(1, 0, 5, 4\) or k \(1, 0, 5, 4\) has no head or no number; legal are 1 and more",
        ),
        (torch.zeros(1, 2, 5, 0), "has no head or no number"),
        (torch.zeros(1, 2, 5, 4).to(torch.float8_e4m3fn), "dtype torch.float8_e4m3fn; legal are float16, bfloat16"),
    ],
)
def test_tensors_that_hold_nothing_to_compare(q, sentence):
    with pytest.raises(UsageError, match=sentence):
        attend(q, q, q, Frame.full(5), Attention())
