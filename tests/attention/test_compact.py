"""Gathered keys against every pair: outputs, gradients, and which keys a plan reads."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lissome._errors import UsageError
from lissome.attention import (
    Alibi,
    Attention,
    Dape,
    Frame,
    SelfAdjust,
    attention,
    causal,
    every_kth,
    everything,
    separated,
    separators,
    sinks,
    window,
)
from lissome.attention.backends import compact, dense, naive, plan
from tests.oracles import attention as oracle

SEPARATORS = (3, 5)


def drawn(batch, heads, groups, rows, keys, dimension=8, *, dtype=torch.float64, vocabulary=16):
    sizes = [(batch, heads, rows), (batch, groups, keys), (batch, groups, keys)]
    q, k, v = (torch.randn(*size, dimension, dtype=dtype, requires_grad=True) for size in sizes)
    return q, k, v, torch.randint(0, vocabulary, (batch, keys))


def framed(tokens, rows):
    return Frame.full(tokens.shape[1], tokens=tokens).rows(tokens.shape[1] - rows, tokens.shape[1])


def both(q, k, v, frame, recipe, scale=None):
    """The outputs and the gradients of compact, and of naive."""
    assert not compact.refusal(q, k, v, frame, recipe, 0.0)
    found = []
    for way in (compact, naive):
        out = way.attend(q, k, v, frame, recipe, scale)
        weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        slopes = torch.autograd.grad(out, (q, k, v), weights.to(out.dtype))
        found.append((out.detach(), *slopes))
    return found


def equal(q, k, v, frame, recipe, scale=None, tolerance=1e-10):
    for ours, truth in zip(*both(q, k, v, frame, recipe, scale), strict=True):
        assert ours.dtype is truth.dtype
        torch.testing.assert_close(ours, truth, rtol=tolerance, atol=tolerance)


@pytest.fixture
def small(monkeypatch):
    """Blocks so small that a short text has many, and bands of two."""
    monkeypatch.setattr(plan, "ROWS", 4)
    monkeypatch.setattr(plan, "LANE", 2)
    monkeypatch.setattr(plan, "BLOCKS", 2)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_it_equals_naive(data):
    """Any lengths, heads, windows and shares of separators, with blocks from one query to the usual size."""
    groups, share = data.draw(st.integers(1, 2)), data.draw(st.integers(1, 3))
    keys = data.draw(st.integers(1, 70))
    rows = data.draw(st.integers(1, keys))
    near, initial = data.draw(st.integers(1, 80)), data.draw(st.integers(1, 5))
    q, k, v, tokens = drawn(2, groups * share, groups, rows, keys, vocabulary=data.draw(st.integers(4, 30)))
    recipe = Attention(separated(SEPARATORS, initial=initial, near=near))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "ROWS", data.draw(st.integers(1, 64)))
        patch.setattr(plan, "LANE", data.draw(st.sampled_from([1, 2, 16])))
        patch.setattr(plan, "BLOCKS", data.draw(st.integers(1, 5)))
        equal(q, k, v, framed(tokens, rows), recipe, data.draw(st.none() | st.floats(0.1, 2.0)))


@pytest.mark.parametrize(("rows", "keys"), [(400, 400), (384, 384), (65, 500), (1, 300), (64, 64)])
@pytest.mark.parametrize("share", [1, 4])
def test_it_equals_naive_with_blocks_as_they_are(rows, keys, share):
    q, k, v, tokens = drawn(2, 2 * share, 2, rows, keys)
    equal(q, k, v, framed(tokens, rows), Attention(separated(SEPARATORS, near=40)))


@pytest.mark.parametrize("ids", [(99,), tuple(range(16))], ids=["no separators", "all are separators"])
def test_texts_of_one_kind_of_token(ids):
    q, k, v, tokens = drawn(1, 2, 2, 150, 150)
    equal(q, k, v, framed(tokens, 150), Attention(causal & (separators(ids) | window(20))))


@pytest.mark.parametrize("rule", [
    causal & (sinks(4) | window(20)),
    causal & (sinks(4) | every_kth(9) | window(20)),
    causal & window(20),
    (window(20) | separators(SEPARATORS)) & causal,
    causal & sinks(2) | causal & window(5) | causal & separators(SEPARATORS),
    causal & everything & (separators(SEPARATORS) & every_kth(2) | window(20) & window(30)),
])  # fmt: skip
def test_rules_however_they_are_joined(rule):
    q, k, v, tokens = drawn(2, 2, 1, 150, 150)
    equal(q, k, v, framed(tokens, 150), Attention(rule))


@pytest.mark.parametrize(("rule", "said"), [
    (causal, "the validity is causal, and it runs a causal window beside kept keys"),
    (sinks(4) | window(20), "the validity is sinks"),
    (causal & (sinks(4) | separators(SEPARATORS)), "the validity is causal & "),
    (causal & (sinks(4) | window(20)) & (every_kth(2) | window(8)), "the validity is (causal & "),
    (causal & window(20) | window(3), "the validity is causal & "),
])  # fmt: skip
def test_other_rules_are_refused(rule, said):
    q, k, v, tokens = drawn(1, 2, 2, 5, 5)
    assert said in compact.refusal(q, k, v, framed(tokens, 5), Attention(rule), 0.0)


def test_what_it_cannot_run_is_refused():
    q, k, v, tokens = drawn(1, 2, 2, 5, 5)
    rule, frame = separated(SEPARATORS), framed(tokens, 5)
    for recipe in (
        Attention(rule, Alibi(2)),
        Attention(rule, refine=Dape(2, biased=False)),
        Attention(rule, normalize=SelfAdjust(4)),
    ):
        assert "softmax" in compact.refusal(q, k, v, frame, recipe, 0.0)
    assert "dropout" in compact.refusal(q, k, v, frame, Attention(rule), 0.1)
    assert "fewer keys" in compact.refusal(torch.cat((q, q), 2), k, v, frame, Attention(rule), 0.0)
    assert "not the last" in compact.refusal(q[:, :, :3], k, v, frame.rows(0, 3), Attention(rule), 0.0)
    dropped = Frame(torch.tensor([[9]]), torch.tensor([[0, 7, 9]]), tokens[:, :3])
    assert "not the last" in compact.refusal(q[:, :, :1], k[:, :, :3], v[:, :, :3], dropped, Attention(rule), 0.0)
    holes = Frame.full(5, tokens=tokens, present=torch.tensor([[True, False, True, True, True]]))
    assert "not the last" in compact.refusal(q, k, v, holes, Attention(rule), 0.0)


def test_padded_rows_are_as_alone(small):
    q, k, v, tokens = drawn(4, 2, 1, 60, 60)
    present = torch.ones(4, 60, dtype=torch.bool)
    present[0, :13], present[1, 50:], present[2] = False, False, False
    recipe = Attention(separated(SEPARATORS, near=6))
    frame = Frame.full(60, tokens=tokens, present=present)
    equal(q, k, v, frame, recipe)
    out = compact.attend(q, k, v, frame, recipe)
    for row, part in ((0, slice(13, None)), (1, slice(0, 50)), (3, slice(None))):
        one = slice(row, row + 1)
        alone = compact.attend(
            q[one, :, part],
            k[one, :, part],
            v[one, :, part],
            framed(tokens[one, part], 60 - 13 * (row == 0) - 10 * (row == 1)),
            recipe,
        )
        torch.testing.assert_close(out[one, :, part], alone, rtol=1e-12, atol=1e-12)
    assert not out[2].any()


def test_it_equals_the_formula_pair_by_pair(small):
    q, k, v, tokens = drawn(2, 2, 1, 24, 24, 2)
    recipe = Attention(separated(SEPARATORS, initial=2, near=3))
    found = compact.attend(q, k, v, framed(tokens, 24), recipe)
    for row in range(2):
        one = slice(row, row + 1)

        def rule(i, j, text=tokens[row].tolist()):
            return j <= i and (j < 2 or text[j] in SEPARATORS or i - j < 3)

        truth = oracle.attend(q[one], k[one], v[one], [[True] * 24], rule)
        torch.testing.assert_close(found[one], truth, rtol=1e-10, atol=1e-10)


def test_nothing_leaks(small):
    """Other keys and values where a query may not look change no bit of it, in the future and between the windows."""
    q, k, v, tokens = (x.detach() for x in drawn(1, 2, 2, 40, 40))
    recipe, frame = Attention(separated(SEPARATORS, near=5)), framed(tokens, 40)
    truth, valid = compact.attend(q, k, v, frame, recipe), recipe.validity(frame)
    for row in range(40):
        sees = valid[:, :, row, :, None]
        found = compact.attend(q, torch.where(sees, k, 9 - k), torch.where(sees, v, -v), frame, recipe)
        assert torch.equal(found[:, :, row], truth[:, :, row])


def test_gradcheck(small):
    q, k, v, tokens = drawn(1, 2, 1, 11, 13, 2)
    recipe = Attention(separated(SEPARATORS, initial=1, near=3))
    assert torch.autograd.gradcheck(lambda q, k, v: compact.attend(q, k, v, framed(tokens, 11), recipe), (q, k, v))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_precisions(dtype):
    q, k, v, tokens = drawn(1, 4, 2, 200, 200)
    recipe, frame = Attention(separated(SEPARATORS, near=30)), framed(tokens, 200)
    low = [x.detach().to(dtype).requires_grad_() for x in (q, k, v)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours, truth = both(*low, frame, recipe)
    same = [x.detach().double().requires_grad_() for x in low]
    exact = both(*same, frame, recipe)[1]
    for one, other, best in zip(ours, truth, exact, strict=True):
        assert one.dtype is other.dtype is dtype
        # as near to the truth as naive is, but for the last rounding
        assert (one - best).abs().max() <= 1.1 * (other - best).abs().max() + torch.finfo(dtype).eps * best.abs().max()


@pytest.mark.parametrize("width", [8, 3])
def test_products_alone_give_the_same(monkeypatch, small, width):
    """Where there is no fused kernel, or values are of another width than keys."""
    q, k, v, tokens = drawn(2, 4, 2, 50, 60)
    v = torch.randn(2, 2, 60, width, dtype=torch.float64, requires_grad=True)
    if width == 8:
        monkeypatch.setattr(dense, "FUSED", None)
        monkeypatch.setattr(dense, "FUSED_BACKWARD", None)
    equal(q, k, v, framed(tokens, 50), Attention(separated(SEPARATORS, near=5)))


def test_the_fused_kernel_is_as_it_was():
    """It is no public function; if this fails, look at its order of arguments before the numbers."""
    mix, slopes = (op.default._schema for op in (dense.FUSED, dense.FUSED_BACKWARD))
    name = "aten::_scaled_dot_product_flash_attention_for_cpu"
    rest = "*, Tensor? attn_mask=None, float? scale=None"
    assert str(mix) == (
        f"{name}(Tensor query, Tensor key, Tensor value, float dropout_p=0., bool is_causal=False, {rest}) "
        "-> (Tensor output, Tensor logsumexp)"
    )
    assert str(slopes) == (
        f"{name}_backward(Tensor grad_out, Tensor query, Tensor key, Tensor value, Tensor out, Tensor logsumexp, "
        f"float dropout_p, bool is_causal, {rest}) -> (Tensor grad_query, Tensor grad_key, Tensor grad_value)"
    )


def test_gradients_of_a_sum_and_of_views(small):
    """A slope without memory of its own, and heads as a projection leaves them."""
    x = torch.randn(2, 50, 3, 2, 8, dtype=torch.float64)
    tokens = torch.randint(0, 16, (2, 50))
    recipe, found = Attention(separated(SEPARATORS, near=5)), []
    for way in (compact, naive):
        q, k, v = (x[:, :, i].transpose(1, 2).detach().requires_grad_() for i in range(3))
        found.append(torch.autograd.grad(way.attend(q, k, v, framed(tokens, 50), recipe).sum(), (q, k, v)))
    for ours, truth in zip(*found, strict=True):
        torch.testing.assert_close(ours, truth, rtol=1e-10, atol=1e-10)


def test_it_compiles_whole():
    q, k, v, tokens = drawn(1, 2, 1, 90, 90, dtype=torch.float32)
    recipe, frame = Attention(separated(SEPARATORS, near=20)), framed(tokens, 90)

    def run(q, k, v):
        return compact.attend(q, k, v, frame, recipe)

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    for ours, truth in zip(
        torch.autograd.grad(compiled(q, k, v).sum(), (q, k, v)),
        torch.autograd.grad(run(q, k, v).sum(), (q, k, v)),
        strict=True,
    ):
        torch.testing.assert_close(ours, truth)


def test_torch_func_differentiates_it(small):
    q, k, v, tokens = (x.detach() for x in drawn(1, 2, 1, 20, 20))
    recipe, frame = Attention(separated(SEPARATORS, near=4)), framed(tokens, 20)
    ours, truth = (
        torch.func.grad(lambda q, way=way: way.attend(q, k, v, frame, recipe).square().sum())(q)
        for way in (compact, naive)
    )
    torch.testing.assert_close(ours, truth, rtol=1e-10, atol=1e-10)


def test_a_second_derivative_is_refused(small):
    q, k, v, tokens = drawn(1, 2, 1, 20, 20)
    out = compact.attend(q, k, v, framed(tokens, 20), Attention(separated(SEPARATORS, near=4)))
    slope = torch.autograd.grad(out.square().sum(), q, create_graph=True)[0]
    with pytest.raises(UsageError, match="backend compact has no second derivative; backend naive has derivatives"):
        slope.sum().backward()


def test_a_rule_reads_tokens_and_says_so():
    q, k, v, _ = drawn(1, 2, 1, 20, 20)
    with pytest.raises(UsageError, match=r"the validity 'separators\(3, 5\)' cannot be asked: it reads tokens"):
        compact.attend(q, k, v, Frame.full(20), Attention(separated(SEPARATORS)))


def test_a_recipe_by_name_is_served():
    recipe = attention(2, 8, validity="causal & (sinks(4) | separators(3, 5) | window(6))")
    q, k, v, tokens = drawn(1, 2, 1, 40, 40)
    equal(q, k, v, framed(tokens, 40), recipe)
