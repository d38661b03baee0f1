"""SA-Softmax by tiles against the naive way: outputs, every gradient, precision, memory and refusals."""

import functools
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd.gradcheck import GradcheckError
from torch.profiler import ProfilerActivity, profile

from lissome._errors import UsageError
from lissome.attention import (
    Alibi,
    Attention,
    Dape,
    Fire,
    Frame,
    Kerple,
    SelfAdjust,
    attend,
    causal,
    everything,
    window,
)
from lissome.attention.attend import chosen
from lissome.attention.backends import distances, naive, strips
from lissome.attention.backends import self_adjust as tiles

BIASES = {"none": lambda heads: None, "alibi": Alibi, "kerple": Kerple, "power": lambda heads: Kerple(heads, "power")}
ALL = [SelfAdjust(variant, detach) for variant in (1, 2, 3, 4) for detach in (False, True)]


def drawn(heads=2, groups=2, rows=7, keys=7, *, batch=1, size=4, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = (heads, rows), (groups, keys), (groups, keys)
    return [torch.randn(batch, *s, size, generator=generator, dtype=dtype, requires_grad=True) for s in shapes]


def framed(rows, keys):
    return Frame.full(keys).rows(keys - rows, keys)


def recipe_of(normalize, bias="none", heads=2):
    return Attention(causal, BIASES[bias](heads), normalize=normalize).double()


def both(q, k, v, recipe):
    """Return output and gradients by the naive way and by tiles."""
    frame, found = framed(q.shape[2], k.shape[2]), []
    slope = torch.randn(*q.shape[:3], v.shape[3], generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for way in (naive, tiles):
        out = way.attend(q, k, v, frame, recipe)
        found.append([out, *torch.autograd.grad(out, [q, k, v, *recipe.parameters()], slope.to(out.dtype))])
    return found


def hold(q, k, v, recipe, tolerance=1e-9):
    for truth, ours in zip(*both(q, k, v, recipe), strict=True):
        assert ours.shape == truth.shape
        assert ours.dtype == truth.dtype
        torch.testing.assert_close(ours, truth, rtol=tolerance, atol=tolerance * (1 + truth.abs().max().item()))


@settings(max_examples=20, deadline=None)
@given(
    st.sampled_from(ALL),
    st.sampled_from(sorted(BIASES)),
    st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3)),
    st.tuples(st.integers(1, 70), st.integers(0, 70)),
    st.sampled_from([2**4, 2**9, 2**18]),
    st.integers(0, 1000),
)
def test_tiles_are_the_naive_way(normalize, bias, sizes, lengths, pairs, seed):
    batch, groups, share = sizes
    rows, before = lengths
    heads = groups * share
    torch.manual_seed(seed)
    recipe = recipe_of(normalize, bias, heads)
    with pytest.MonkeyPatch.context() as patch:
        # tiles of a few rows, and several heads at once
        for name, size in (("PAIRS", pairs), ("FEWEST", 8), ("MOST", 32), ("LANES", 4)):
            patch.setattr(strips, name, size)
        hold(*drawn(heads, groups, rows, rows + before, batch=batch, size=3, seed=seed), recipe)


@pytest.mark.parametrize("normalize", ALL, ids=lambda one: one.name)
def test_sizes_as_they_are(normalize):
    hold(*drawn(4, 2, 300, 333, batch=2), recipe_of(normalize, "kerple", 4))


def test_one_query_as_in_decoding():
    hold(*drawn(4, 2, 1, 50, batch=3), recipe_of(SelfAdjust(4), "alibi", 4))


def test_values_of_another_size():
    q, k, _ = drawn()
    hold(q, k, torch.randn(1, 2, 7, 5, dtype=torch.float64, requires_grad=True), recipe_of(SelfAdjust(4)))


def test_no_query_and_no_text():
    for q, k, v in (drawn(rows=0), drawn(batch=0)):
        assert tiles.attend(q, k, v, framed(q.shape[2], 7), recipe_of(SelfAdjust(4), "alibi")).shape == q.shape


@pytest.mark.parametrize("normalize", ALL, ids=lambda one: one.name)
def test_finite_differences(normalize):
    recipe = recipe_of(normalize, "kerple")

    def run(q, k, v, p, a):
        call = Call(recipe, functools.partial(tiles.attend, q, k, v, framed(5, 6), scale=0.5))
        return torch.func.functional_call(call, {"recipe.bias.p": p, "recipe.bias.a": a}, ())

    numbers = (*drawn(2, 1, 5, 6, size=2), *recipe.parameters())
    if normalize.detach_extrema and normalize.variant > 1:  # what is held constant moves in a difference
        with pytest.raises(GradcheckError):
            torch.autograd.gradcheck(run, numbers)
        return
    assert torch.autograd.gradcheck(run, numbers)


@pytest.mark.parametrize("normalize", ALL, ids=lambda one: one.name)
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_ties_split_as_in_the_naive_way(normalize, sign):
    """Keys that repeat, as tokens without positions do, and scores that are all 0."""
    q, k, v = drawn(rows=40, keys=40)
    with torch.no_grad():
        q *= torch.eye(4, dtype=torch.float64)[torch.arange(40) % 4]  # one product a score: no sum that may be rounded
        k[:, :, 3::4] = sign * k[:, :, :1]
        k[:, :, 5::6] = k[:, :, 1:2]
        q[:, 0, 7] = 0
    hold(q, k, v, recipe_of(normalize))


@pytest.mark.parametrize("normalize", ALL, ids=lambda one: one.name)
@pytest.mark.parametrize("z", [2.0, 0.0, -2.0])
def test_one_visible_key(normalize, z):
    q, k, v = (torch.ones(1, 1, 1, 1, dtype=torch.float64, requires_grad=True) for _ in range(3))
    with torch.no_grad():
        q.mul_(z)
    hold(q, k, v, recipe_of(normalize, heads=1))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("variant", [1, 4])
def test_half_precision(dtype, variant):
    recipe = Attention(causal, Kerple(2), normalize=SelfAdjust(variant))
    q, k, v = (x.detach().to(dtype).requires_grad_() for x in drawn(2, 1, 40, 40))
    hold(q, k, v, recipe, tolerance=torch.finfo(dtype).eps)


def test_autocast_changes_nothing():
    recipe = recipe_of(SelfAdjust(4), "kerple").float()
    q, k, v = drawn(2, 2, 40, 40, dtype=torch.float32)
    plain = both(q, k, v, recipe)[1]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = both(q, k, v, recipe)[1]
    assert all(torch.equal(*pair) for pair in zip(plain, cast, strict=True))


def test_views_of_other_strides():
    """Heads as a network makes them, and a slope that is one number."""
    recipe = recipe_of(SelfAdjust(4), "alibi")
    q, k, v = (x.detach().transpose(1, 2).contiguous().requires_grad_() for x in drawn(batch=2))
    found = []
    for way in (naive, tiles):
        out = way.attend(*(x.transpose(1, 2) for x in (q, k, v)), Frame.full(7), recipe)
        found.append(torch.autograd.grad(out.sum(), [q, k, v]))
    torch.testing.assert_close(*found)


def test_the_operators_keep_torchs_rules():
    for bias in ("none", "kerple"):
        recipe = recipe_of(SelfAdjust(4), bias)
        q, k, v = (x.detach() for x in drawn())
        table = None if recipe.bias is None else distances.table(recipe.bias, q, 7).flip(-1).detach()
        inputs = [q, k, v, table, 4, False, 0.5]
        torch.library.opcheck(tiles._run, inputs, test_utils=("test_schema", "test_faketensor"))
        slope, (out, known) = torch.ones_like(inputs[0]), tiles._run(*inputs)
        asked = [slope, out, known, *inputs]
        torch.library.opcheck(tiles._run_backward, asked, test_utils=("test_schema", "test_faketensor"))


def test_compiled_without_a_break():
    recipe, (q, k, v) = recipe_of(SelfAdjust(4), "kerple"), drawn()

    def loss(q, k, v):
        return tiles.attend(q, k, v, Frame.full(7), recipe).square().sum()

    wanted = [q, k, v, *recipe.parameters()]
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    found = [torch.autograd.grad(run(q, k, v), wanted) for run in (loss, compiled)]
    torch.testing.assert_close(*found)


def test_functional_gradient():
    recipe, inputs = recipe_of(SelfAdjust(4), "kerple"), drawn()

    def loss(numbers, way):
        run = functools.partial(way.attend, *inputs, Frame.full(7))
        module = Call(recipe, run)
        return torch.func.functional_call(module, numbers, ()).square().sum()

    numbers = {f"recipe.{name}": number.detach() + 0.5 for name, number in recipe.named_parameters()}
    truth, ours = (torch.func.grad(functools.partial(loss, way=way))(numbers) for way in (naive, tiles))
    torch.testing.assert_close(ours, truth)


class Call(torch.nn.Module):
    """A recipe that is run with the numbers it has then."""

    def __init__(self, recipe, run):
        super().__init__()
        self.recipe, self.run = recipe, run

    def forward(self):
        return self.run(self.recipe)


@pytest.mark.parametrize("bias", ["none", "kerple"])
def test_rows_of_a_batch(bias):
    recipe, (q, k, v) = recipe_of(SelfAdjust(4), bias), (x.detach() for x in drawn(batch=3))

    def loss(way, q, k, v):
        return way.attend(q[None], k[None], v[None], Frame.full(7), recipe).square().sum()

    rows = [torch.func.grad(functools.partial(loss, naive), (0, 1, 2))(q[i], k[i], v[i]) for i in range(3)]
    found = torch.func.vmap(torch.func.grad(functools.partial(loss, tiles), (0, 1, 2)))(q, k, v)
    for x, *y in zip(found, *rows, strict=True):
        torch.testing.assert_close(x, torch.stack(y), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("of", ["q", "recipe.bias.p"])
def test_auto_takes_another_way_in_forward_mode(monkeypatch, of):
    """Where the tangent comes with the queries, and where it comes with a parameter."""
    monkeypatch.setattr(tiles, "LEAST", 1)
    recipe, frame = recipe_of(SelfAdjust(4), "kerple"), framed(20, 20)
    q, k, v = (x.detach() for x in drawn(rows=20, keys=20))
    assert chosen(q, k, frame, recipe) == tiles.NAME
    given = {"q": q, **{f"recipe.{name}": number.detach() for name, number in recipe.named_parameters()}}

    def call(way, x):
        numbers = {**given, of: x}
        run = functools.partial(way, numbers.pop("q"), k, v, frame)
        return torch.func.functional_call(Call(recipe, run), numbers, ())

    slope = torch.randn_like(given[of])
    found, truth = (
        torch.func.jvp(functools.partial(call, way), (given[of],), (slope,)) for way in (attend, naive.attend)
    )
    torch.testing.assert_close(found, truth, rtol=1e-12, atol=1e-12)
    with pytest.raises(UsageError, match="backend self_adjust cannot run this: it has no forward-mode derivative"):
        torch.func.jvp(functools.partial(call, functools.partial(attend, backend=tiles.NAME)), (given[of],), (slope,))


def test_a_class_made_of_it_is_another_normalizer():
    class Other(SelfAdjust):
        pass

    q, k, v = drawn()
    assert "the normalizer is self_adjust(4)" in tiles.refusal(q, k, v, Frame.full(7), recipe_of(Other(4)), 0.0)


def test_a_second_derivative_is_refused_and_not_wrong():
    q, k, v = drawn()
    out = tiles.attend(q, k, v, Frame.full(7), recipe_of(SelfAdjust(4)))
    (slope,) = torch.autograd.grad(out.square().sum(), q, create_graph=True)
    with pytest.raises(UsageError, match="backend self_adjust has no second derivative"):
        slope.sum().backward()


@pytest.mark.parametrize("normalize", ALL, ids=lambda one: one.name)
def test_nothing_comes_from_the_future(normalize):
    """To the last bit, in the output and in the gradient of what came before."""
    recipe, found = recipe_of(normalize, "kerple").float(), []
    q, k, v = drawn(2, 2, 40, 40, dtype=torch.float32)
    for later in (0.0, 1e4):
        q_, k_, v_ = (torch.cat([x[:, :, :17], x[:, :, 17:] + later], 2).detach().requires_grad_() for x in (q, k, v))
        out = tiles.attend(q_, k_, v_, Frame.full(40), recipe)[:, :, :17]
        slopes = torch.autograd.grad(out.square().sum(), [q_, k_, v_])
        assert all(slope[:, :, 17:].abs().max() == 0 for slope in slopes)
        found.append([out, *slopes])
    assert all(torch.equal(*pair) for pair in zip(*found, strict=True))


def test_memory_is_that_of_a_tile():
    """No tensor of T x T numbers is made, forward or backward."""
    length = 2048
    q, k, v = drawn(1, 1, length, length, dtype=torch.float32)
    recipe = Attention(causal, Kerple(1), normalize=SelfAdjust(4))
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
        tiles.attend(q, k, v, Frame.full(length), recipe).sum().backward()
    assert watched.profiler is not None
    events = [event for event in watched.profiler.kineto_results.events() if event.name() == "[memory]"]
    assert 0 < max(event.nbytes() for event in events) < 0.1 * 4 * length**2


def test_a_bias_for_other_heads():
    with pytest.raises(UsageError, match="the bias is for 3 heads, and q has 2"):
        tiles.attend(*drawn(), Frame.full(7), recipe_of(SelfAdjust(4), "alibi", heads=3))


@pytest.mark.parametrize(
    ("recipe", "dropout", "clause"),
    [
        (Attention(), 0.0, "it runs self_adjust alone, and the normalizer is another"),
        (Attention(everything, normalize=SelfAdjust(4)), 0.0, "the validity is everything"),
        (Attention(causal & window(3), normalize=SelfAdjust(4)), 0.0, r"the validity is causal & window\(3\)"),
        (Attention(refine=Dape(2), normalize=SelfAdjust(4)), 0.0, "it runs no refinement"),
        (
            Attention(bias=Fire(2, 8), normalize=SelfAdjust(4)),
            0.0,
            "depend on the distance alone and say so, and fire does not",
        ),
        (Attention(normalize=SelfAdjust(4)), 0.5, "dropout"),
        (Attention(normalize=SelfAdjust(4)), 0.0, "^$"),
        (Attention(bias=Alibi(2), normalize=SelfAdjust(4, detach_extrema=True)), 0.0, "^$"),
        (Attention(bias=Kerple(2), normalize=SelfAdjust(1)), 0.0, "^$"),
    ],
)
def test_what_is_refused(recipe, dropout, clause):
    q, k, v = drawn()
    assert re.search(clause, tiles.refusal(q, k, v, Frame.full(7), recipe, dropout))


def test_frames_that_are_refused():
    recipe, (q, k, v) = Attention(normalize=SelfAdjust(4)), drawn()
    holes = Frame.full(7, present=torch.ones(1, 7).bool())
    assert "the last of all keys" in tiles.refusal(q, k, v, holes, recipe, 0.0)
    assert "the last of all keys" in tiles.refusal(q[:, :, :3], k, v, Frame.full(7).rows(0, 3), recipe, 0.0)
    assert tiles.refusal(q[:, :, :3], k, v, framed(3, 7), recipe, 0.0) == ""
