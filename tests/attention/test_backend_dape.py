"""DAPE by tiles: what naive gives, and what the tiles promise besides, for kernels of 1 and above alike."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from torch.func import functional_call
from torch.utils import checkpoint

from lissome._errors import UsageError
from lissome.attention import Alibi, Attention, Dape, Fire, Frame, Kerple, SelfAdjust, causal, everything
from lissome.attention.backends import chunks, convolved, dape, naive, toeplitz
from lissome.attention.backends.refined import numbers_of
from tests.attention.alike import Largest, Plan, assert_alike, plans, run

WAYS = [pytest.param(dape, 1, id="dape"), pytest.param(convolved, 3, id="convolved")]


@given(plan=plans([1], longest=9))
@settings(max_examples=40, deadline=None)
def test_small_shapes_give_what_naive_gives(plan):
    assert_alike(dape, plan)


@given(plan=plans([1], longest=150))
@settings(max_examples=8, deadline=None)
def test_long_shapes_give_what_naive_gives(plan):
    assert_alike(dape, plan)


@pytest.mark.parametrize(("way", "kernel"), WAYS)
@pytest.mark.parametrize("form", ["residual", "plain", "sum"])
@pytest.mark.parametrize(("rows", "pairs", "chunk"), [(1, 1, 1), (3, 40, 20), (4, 200, 70), (64, 10**6, 10**5)])
def test_any_cut_gives_what_naive_gives(monkeypatch, way, kernel, form, rows, pairs, chunk):
    """Tiles of one row or of all, texts alone or together, chunks of parts of a tile or of several texts."""
    for name, value in (("ROWS", rows), ("PAIRS", pairs), ("CHUNK", chunk)):
        monkeypatch.setattr(chunks, name, value)
    monkeypatch.setattr(toeplitz, "CHUNK", chunk)
    assert_alike(way, Plan(kernel=kernel, form=form, batch=5, share=2, queries=8, keys=11))
    assert_alike(way, Plan(kernel=kernel, form=form, batch=1, groups=1, queries=9, keys=9))


@pytest.mark.parametrize(("way", "kernel"), WAYS)
@pytest.mark.parametrize("bias", ["none", "log"])
def test_finite_differences(way, kernel, bias):
    plan = Plan(kernel=kernel, bias=bias, batch=1, groups=1, share=2, queries=3, keys=4, width=3)
    recipe, (*qkv, _), frame = plan.recipe(), plan.tensors(), plan.frame()
    names, numbers = zip(*recipe.named_parameters(), strict=True)

    class Layer(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.recipe = recipe

        def forward(self, *qkv):
            return way.attend(*qkv, frame, self.recipe)

    def call(q, k, v, *numbers):
        given = {f"recipe.{name}": number for name, number in zip(names, numbers, strict=True)}
        return functional_call(Layer(), given, (q, k, v))

    assert torch.autograd.gradcheck(call, (*qkv, *numbers), eps=1e-6, atol=1e-6)


@pytest.mark.parametrize(("way", "kernel"), WAYS)
def test_the_last_bias_of_the_network_has_no_gradient(way, kernel):
    """A shift of all scores of a row is nothing to the softmax."""
    recipe = Plan(kernel=kernel).recipe()
    place = [name for name, _ in recipe.named_parameters()].index("refine.outer.bias")
    found, truth = (run(attend, Plan(kernel=kernel))[4 + place] for attend in (way.attend, naive.attend))
    assert not found.any()
    assert truth.abs().max() < 1e-12


@pytest.mark.parametrize(("way", "kernel"), WAYS)
def test_nothing_leaks_from_the_future(way, kernel):
    plan = Plan(kernel=kernel, batch=1, queries=150, keys=150)
    recipe, (q, k, v, _), frame = plan.recipe(), plan.tensors(), plan.frame()
    truth = way.attend(q, k, v, frame, recipe)
    for cut in (1, 63, 64, 100, 149):
        other_k, other_v = (torch.cat((x[:, :, :cut], 3 * x[:, :, cut:]), 2) for x in (k, v))
        found = way.attend(q, other_k, other_v, frame, recipe)
        assert torch.equal(found[:, :, :cut], truth[:, :, :cut])
        assert not torch.equal(found[:, :, cut:], truth[:, :, cut:])
    _, dk, dv = torch.autograd.grad(truth[:, :, :100].square().sum(), (q, k, v))
    assert not dk[:, :, 100:].any()
    assert not dv[:, :, 100:].any()


@pytest.mark.parametrize(("way", "kernel"), WAYS)
@pytest.mark.parametrize("factor", [1e2, 1e4])
def test_large_scores_stay_finite(way, kernel, factor):
    plan = Plan(kernel=kernel, queries=70, keys=70)
    recipe, (q, k, v, slope) = plan.recipe(), plan.tensors()
    found = []
    for attend in (way.attend, naive.attend):
        out = attend(factor * q, k, v, plan.frame(), recipe)
        found.append([out, *torch.autograd.grad(out, (k, v), slope)])
    for x, truth in zip(*found, strict=True):
        assert x.isfinite().all()
        torch.testing.assert_close(x, truth, rtol=1e-6, atol=1e-6 * factor)


@pytest.mark.parametrize(("way", "kernel"), WAYS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(way, kernel, dtype):
    plan = Plan(kernel=kernel, share=2, queries=70, keys=70)
    inputs = [x.detach().to(dtype) for x in plan.tensors()]
    found = []
    for attend, recipe, wider in (
        (way.attend, plan.recipe().float(), dtype),
        (naive.attend, plan.recipe(), torch.double),
    ):
        *qkv, slope = (x.to(wider) for x in inputs)
        out = attend(*(x.requires_grad_() for x in qkv), plan.frame(), recipe)
        found.append([out, *torch.autograd.grad(out, [*qkv, *recipe.parameters()], slope)])
    for x, truth in zip(*found, strict=True):
        exact = torch.finfo(dtype).eps if x.dtype is dtype else 1e-4  # one rounding at the end, of the parameters none
        torch.testing.assert_close(x.double(), truth, rtol=exact, atol=1e-5 * truth.abs().max().item() + 1e-4)


@pytest.mark.parametrize(("way", "kernel"), WAYS)
def test_a_model_held_in_half_precision(way, kernel):
    plan = Plan(kernel=kernel)
    recipe = plan.recipe().to(torch.bfloat16)
    q, k, v, _ = (x.to(torch.bfloat16) for x in plan.tensors())
    found, truth = (attend(q, k, v, plan.frame(), recipe) for attend in (way.attend, naive.attend))
    torch.testing.assert_close(found, truth, rtol=0.02, atol=0.02)
    slopes = torch.autograd.grad(found.sum(), list(recipe.parameters()))
    assert all(x.dtype is torch.bfloat16 and x.isfinite().all() for x in slopes)


@pytest.mark.parametrize(("way", "kernel"), WAYS)
def test_autocast_rounds_nothing(way, kernel):
    plan = Plan(kernel=kernel)
    recipe = plan.recipe().float()
    *qkv, slope = (x.detach().float() for x in plan.tensors())
    wanted = [x.requires_grad_() for x in qkv] + list(recipe.parameters())

    def both():
        out = way.attend(*qkv, plan.frame(), recipe)
        return [out, *torch.autograd.grad(out, wanted, slope)]

    truth = both()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = both()
    assert all(torch.equal(x, y) for x, y in zip(found, truth, strict=True))


@pytest.mark.parametrize(("way", "kernel"), WAYS)
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compile_goes_over_it_in_one_graph(way, kernel, backend):
    plan = Plan(kernel=kernel)
    recipe, (*qkv, slope) = plan.recipe(), plan.tensors()

    def call(q, k, v):
        return way.attend(q, k, v, Frame.full(7), recipe)

    torch.compiler.reset()
    out = torch.compile(call, backend=backend, fullgraph=True)(*qkv)
    found = [out, *torch.autograd.grad(out, [*qkv, *recipe.parameters()], slope)]
    for x, truth in zip(found, run(naive.attend, plan), strict=True):
        torch.testing.assert_close(x, truth, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize(("way", "kernel"), WAYS)
def test_the_operators_keep_the_rules_of_torch(way, kernel):
    """Fake tensors have the shapes of real ones, nothing is written into what is given, no output is an input."""
    q, k, v, slope = Plan(kernel=kernel).tensors()
    recipe = Plan(kernel=kernel).recipe()
    given = [x.detach() for x in (q, k, v, *numbers_of(recipe.refine, recipe.bias, q, 7))]
    forward, backward = (getattr(torch.ops.lissome, name).default for name in (way.NAME, f"{way.NAME}_backward"))
    torch.library.opcheck(forward, (*given, 0.5, True))
    out, lse = forward(*given, 0.5, True)
    torch.library.opcheck(backward, (slope, out, lse, *given, 0.5, True))


@pytest.mark.parametrize(("way", "kernel"), WAYS)
def test_functional_gradients_and_rows_of_a_batch(way, kernel):
    plan = Plan(kernel=kernel)
    recipe, (*qkv, _) = plan.recipe(), [x.detach() for x in plan.tensors()]

    def loss(q, k, v):
        return way.attend(q[None], k[None], v[None], plan.frame(), recipe).square().sum()

    def truth(q, k, v):
        return naive.attend(q[None], k[None], v[None], plan.frame(), recipe).square().sum()

    rows = [torch.func.grad(truth, (0, 1, 2))(*(x[i] for x in qkv)) for i in range(2)]
    found = torch.func.grad(loss, (0, 1, 2))(*(x[0] for x in qkv))
    for x, y in zip(found, rows[0], strict=True):
        torch.testing.assert_close(x, y, rtol=1e-9, atol=1e-10)
    found = torch.func.vmap(torch.func.grad(loss, (0, 1, 2)))(*qkv)
    for x, *y in zip(found, *rows, strict=True):
        torch.testing.assert_close(x, torch.stack(y), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize(("way", "kernel"), WAYS)
def test_a_second_derivative_is_refused(way, kernel):
    plan = Plan(kernel=kernel)
    q, k, v, slope = plan.tensors()
    out = way.attend(q, k, v, plan.frame(), plan.recipe())
    (first,) = torch.autograd.grad(out, q, slope, create_graph=True)
    with pytest.raises(UsageError, match=f"backend {way.NAME} has no second derivative; backend naive has"):
        torch.autograd.grad(first.sum(), k)


@pytest.mark.parametrize(("way", "kernel"), WAYS)
def test_under_a_checkpoint(way, kernel):
    plan = Plan(kernel=kernel)

    def attend(q, k, v, frame, recipe):
        return checkpoint.checkpoint(way.attend, q, k, v, frame, recipe, use_reentrant=False)

    for x, truth in zip(run(attend, plan), run(way.attend, plan), strict=True):
        assert torch.equal(x, truth)


@pytest.mark.parametrize(("way", "kernel"), WAYS)
def test_no_tensor_holds_all_pairs(way, kernel):
    length, heads = 1024, 2
    plan = Plan(kernel=kernel, batch=1, width=4, queries=length, keys=length)
    q, k, v, slope = plan.tensors()
    with Largest() as seen, torch.no_grad():  # the operators as they are: a mode does not look into them
        numbers = numbers_of(plan.recipe().refine, plan.recipe().bias, q, length)
        out, lse = toeplitz.forward(q, k, v, numbers, 0.5, True)
        toeplitz.backward(slope, q, k, v, numbers, out, lse, 0.5, True)
    tile = chunks.ROWS * (length + kernel // 2) * heads + 2 * (kernel // 2)
    assert seen.numbers == tile < heads * length**2 / 10


@pytest.mark.parametrize(("way", "kernel"), WAYS)
def test_keys_apart_in_memory(way, kernel):
    """As a projection gives them: (B, T, heads * D) seen as (B, heads, T, D)."""
    plan = Plan(kernel=kernel)
    apart = [x.detach().transpose(1, 2).contiguous().transpose(1, 2) for x in plan.tensors()[:3]]
    assert not apart[0].is_contiguous()
    found = way.attend(*apart, plan.frame(), plan.recipe())
    torch.testing.assert_close(found, run(naive.attend, plan)[0], rtol=1e-9, atol=1e-10)


def refusal(way, recipe, frame=None, dropout=0.0, length=5, heads=2):
    q = torch.randn(1, heads, length, 4)
    return way.refusal(q, q, q, Frame.full(length) if frame is None else frame, recipe, dropout)


@pytest.mark.parametrize(("way", "kernel"), WAYS)
def test_what_is_refused(way, kernel):
    refine, bias = Dape(2, kernel=kernel), Kerple(2)
    holes = Frame.full(5, present=torch.tensor([[False, True, True, True, True]]))
    assert refusal(way, Attention(causal, bias, refine)) == ""
    assert refusal(way, Attention(causal, Alibi(2), refine)) == ""
    for sentence, recipe, more in [
        ("it runs dape alone, and the refinement is NoneType", Attention(causal, bias), {}),
        ("the validity is everything", Attention(everything, bias, refine), {}),
        ("the normalizer is self_adjust(4)", Attention(causal, bias, refine, SelfAdjust(4)), {}),
        ("the distance alone and say so, and fire does not", Attention(causal, Fire(2, 8), refine), {}),
        ("for a bias where there is none", Attention(causal, None, refine), {}),
        ("made for other heads", Attention(causal, bias, refine), {"heads": 3}),
        ("its queries are the last of all keys", Attention(causal, bias, refine), {"frame": holes}),
        ("there is nothing to attend to", Attention(causal, bias, refine), {"length": 0}),
        ("it has no dropout, and 0.1 is asked for", Attention(causal, bias, refine), {"dropout": 0.1}),
    ]:
        assert sentence in refusal(way, recipe, **more)


def test_kernels_are_refused():
    assert refusal(dape, Attention(causal, None, Dape(2, biased=False, kernel=3))) == (
        "its kernel is 1, and that of the refinement 3"
    )
    assert refusal(convolved, Attention(causal, None, Dape(2, biased=False))) == (
        "its kernel is 3 or more, and that of the refinement 1"
    )
    published = Attention(causal, None, Dape(2, biased=False, kernel=3, hidden="published"))
    assert refusal(convolved, published) == "its hidden map is masked, and that of the refinement published"


@pytest.mark.parametrize("of", ["q", "a parameter"])
def test_forward_mode_is_refused(of):
    recipe, q = Attention(causal, None, Dape(2, biased=False)), torch.randn(1, 2, 5, 4)
    weight = recipe.get_parameter("refine.inner.weight").detach()
    said = []

    class Layer(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.recipe = recipe

        def forward(self, q):
            said.append(dape.refusal(q, q, q, Frame.full(5), self.recipe, 0.0))
            return q

    def call(x):
        weights = {} if of == "q" else {"recipe.refine.inner.weight": x}
        return functional_call(Layer(), weights, (x if of == "q" else q,))

    start = q if of == "q" else weight
    torch.func.jvp(call, (start,), (start,))
    call(start)
    assert said == ["it has no forward-mode derivative", ""]


def test_a_stage_of_ones_own():
    """A bias joins by saying that it depends on the distance alone; a class made of Dape is another refinement."""

    class Step(torch.nn.Module):
        stationary = True

        def __init__(self):
            super().__init__()
            self.size = torch.nn.Parameter(torch.randn(2, dtype=torch.float64))

        def forward(self, frame):
            return self.size[:, None, None] * (frame.distance[:, None] > 2).double()

    class Other(Dape):
        pass

    recipe = replace_bias(Plan(), Step())
    *qkv, slope = Plan().tensors()
    found = []
    for attend in (dape.attend, naive.attend):
        out = attend(*qkv, Plan().frame(), recipe)
        found.append(torch.autograd.grad(out, [*qkv, *recipe.parameters()], slope))
    for x, truth in zip(*found, strict=True):
        torch.testing.assert_close(x, truth, rtol=1e-9, atol=1e-10)
    assert "the refinement is dape(1)" in refusal(dape, Attention(causal, Kerple(2), Other(2)))


def replace_bias(plan, bias):
    recipe = plan.recipe()
    recipe.bias = bias
    return recipe


def test_a_bias_for_other_heads():
    recipe = replace_bias(Plan(), Kerple(3).double())
    with pytest.raises(UsageError, match="the bias is for 3 heads, and q has 2"):
        dape.attend(*Plan().tensors()[:3], Plan().frame(), recipe)


def test_the_scale_is_that_of_the_products():
    plan = replace(Plan(), queries=4)
    *qkv, _ = plan.tensors()
    found, truth = (attend(*qkv, plan.frame(), plan.recipe(), 0.3) for attend in (dape.attend, naive.attend))
    torch.testing.assert_close(found, truth, rtol=1e-9, atol=1e-10)
