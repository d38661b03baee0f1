"""Operators beyond their contract: what they count, what they refuse, and in which words."""

import gc
import sys
import warnings
import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import LlamaConfig, LlamaForCausalLM

from lissome._errors import RunError, UsageError
from lissome._vector import functional
from lissome.calculus import expand, gauss_newton, gradient, gram, hessian, jacobian, linearize
from lissome.calculus.operators import SIZES, Columns
from tests.oracles import curvature as oracle

MODES = ["auto", "double-backward", "forward-over-reverse"]
every_mode = pytest.mark.parametrize("mode", MODES)


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def wavy(x):
    """A function whose Hessian is full and indefinite."""
    return (x.sin().sum() * x).cos().sum()


def counted(function):
    calls = []

    def f(x):
        calls.append(0)
        return function(x)

    return f, calls


class Once(torch.autograd.Function):
    """A sine whose backward pass cannot be differentiated by another one."""

    @staticmethod
    def forward(x):
        return x.sin()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        return grad * ctx.saved_tensors[0].cos()

    @staticmethod
    def jvp(ctx, tangent):
        return tangent * ctx.saved_tensors[0].cos()


def llama(**settings):
    config = LlamaConfig(
        vocab_size=5,
        hidden_size=4,
        intermediate_size=6,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        **settings,
    )
    model, tokens = LlamaForCausalLM(config).double().eval(), torch.tensor([[0, 3, 1, 4]])
    names = ["model.layers.0.self_attn.q_proj.weight", "lm_head.weight"]
    return functional(lambda net: net(input_ids=tokens).logits.square().mean(), model, names)


# how many, and how they are done


@settings(max_examples=20, deadline=None)
@given(
    p=st.integers(1, 7), k=st.integers(0, 40), chunk=st.sampled_from([None, 1, 3, 64]), mode=st.sampled_from(MODES[1:])
)
def test_any_number_of_columns_gives_their_products(p, k, chunk, mode):
    x, V = drawn(p), drawn(p, k, seed=1)
    H = hessian(wavy, x, chunk=chunk, mode=mode)
    torch.testing.assert_close(H @ V, oracle.hessian(wavy, x) @ V, rtol=1e-9, atol=1e-9)
    assert H.products == k


def test_kept_graphs_evaluate_the_function_once():
    f, calls = counted(wavy)
    H = hessian(f, drawn(4))
    H.dense()
    _ = H @ drawn(4)
    assert len(calls) == 1
    assert H.products == 5


def test_a_chunk_of_columns_is_one_call_of_the_function():
    f, calls = counted(wavy)
    H = hessian(f, drawn(4), mode="forward-over-reverse", chunk=6)
    before = len(calls)
    _ = H @ drawn(4, 12)
    assert len(calls) == before + 2


def test_products_of_both_sides_are_counted_apart():
    J = jacobian(lambda x: torch.outer(x, x).reshape(-1), drawn(3))
    _ = J @ drawn(3, 2)
    _ = J.T @ drawn(9, 5)
    _ = J.T @ drawn(9)
    assert (J.products, J.T.products, J.T.T.products) == (2, 6, 2)


def test_dense_takes_as_many_products_as_the_smaller_side():
    wide, tall = jacobian(lambda x: x[:2] ** 2, drawn(50)), jacobian(lambda x: x.repeat(30).sin(), drawn(2))
    wide.dense()
    tall.dense()
    assert (wide.products, wide.T.products) == (0, 2)
    assert (tall.products, tall.T.products) == (2, 0)


def test_the_trial_judges_sizes_by_the_clock_and_settles(monkeypatch):
    """With a clock that charges by the size: the trial goes on while a column gets cheaper, and back to 1."""

    def settled(seconds):
        now = [0.0]
        columns = Columns(lambda v: 2 * v, (3, 3))
        block = columns._block
        monkeypatch.setattr("lissome.calculus.operators.time.perf_counter", lambda: now[0])

        def charged(rows):
            now[0] += seconds(len(rows)) * len(rows)
            return block(rows)

        monkeypatch.setattr(columns, "_block", charged)
        V = drawn(3, 400)
        assert torch.equal(columns(V), 2 * V)
        return columns.chunk

    assert settled(lambda size: 1 / size) == SIZES[-1]
    assert settled(lambda size: 1.0) == SIZES[0]
    assert settled(lambda size: 1.0 if size <= 32 else 3.0) == SIZES[0]
    assert settled(lambda size: abs(size - 32) + 1.0) == 32
    assert settled(lambda size: float(size)) == 1
    slow = iter([1.0, 50.0])  # one slow chunk of the second size is forgiven
    assert settled(lambda size: next(slow, 1.0) / size) == SIZES[-1]


def test_without_memory_for_a_chunk_a_smaller_one_is_taken():
    columns = Columns(lambda v: 2 * v, (3, 3), chunk=8)
    block = columns._block

    def scarce(rows):
        if len(rows) > 2:
            raise torch.OutOfMemoryError("out of memory")
        return block(rows)

    columns._block = scarce
    V = drawn(3, 20)
    assert torch.equal(columns(V), 2 * V)
    assert columns.chunk == 2


def test_what_vmap_cannot_do_is_done_one_by_one():
    def f(x):  # a number is read, which vmap refuses where the function is called again
        return wavy(x) * (1.0 if float(x.detach().sum()) < 100 else 2.0)

    class Loops(torch.autograd.Function):
        generate_vmap_rule = False

        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x**2

        @staticmethod
        def backward(ctx, grad):
            (x,) = ctx.saved_tensors
            assert len(grad.tolist()) == len(x)  # reads numbers too
            return 2 * x * grad

    x, V = drawn(4), drawn(4, 9, seed=1)
    torch.testing.assert_close(hessian(f, x) @ V, oracle.hessian(wavy, x) @ V)
    J = jacobian(Loops.apply, x)
    torch.testing.assert_close(J.T @ V, 2 * x[:, None] * V)
    assert J.T.products == 9


def test_a_fixed_chunk_repeats_bit_by_bit():
    x, V = drawn(20), drawn(20, 70, seed=1)
    first, second = (hessian(wavy, x, chunk=16) for _ in range(2))
    assert torch.equal(first @ V, second @ V)
    assert torch.equal(first @ V, second @ V)
    assert first.chunk == 16


@every_mode
def test_a_graph_goes_with_its_operator(mode):
    """By counting references alone: what waits for the collector of cycles waits with gigabytes."""
    gc.collect()
    gc.disable()
    try:
        H, J, K = (
            hessian(wavy, drawn(3), mode=mode),
            jacobian(torch.sin, drawn(3), mode=mode),
            gram(torch.sin, drawn(3)),
        )
        for A in (H, J, K):
            assert A.T.dense().shape == (A.T @ (A @ drawn(3, 9)))[:, :3].shape
        ways = [weakref.ref(A._forth) for A in (H, J, K)]
        ways += [weakref.ref(A._forth.one.__self__) for A in (H, J)]  # type: ignore[attr-defined]
        del A, H, J, K
        assert [way() for way in ways] == [None] * 5
    finally:
        gc.enable()


def test_a_function_that_holds_much_is_given_few_columns_at_once(monkeypatch):
    """Memory bounds the trial, whatever the clock says: 3,000 results of 30 numbers each stand on the way."""

    def long(x):
        for _ in range(3000):
            x = x + 1
        return (x**2).sum()

    monkeypatch.setattr("lissome.calculus.operators.CHUNK_NUMBERS", 9 * 3000 * 30)
    H = hessian(long, drawn(30))
    _ = H @ drawn(30, 100)
    assert H.chunk is not None
    assert H.chunk <= 8
    monkeypatch.setattr("lissome.calculus.operators.CHUNK_NUMBERS", 3000 * 30)
    H = hessian(long, drawn(30))
    _ = H @ drawn(30, 100)
    assert H.chunk == 1


# what is left out


@every_mode
def test_a_linear_function_has_no_curvature(mode):
    a = drawn(3)
    found = expand(lambda x: a @ x, drawn(3, seed=1), mode=mode)
    assert torch.equal(found.gradient, a)
    assert torch.equal(found.hessian.dense(), torch.zeros(3, 3, dtype=torch.float64))


@every_mode
def test_the_identity_is_its_own_jacobian(mode):
    assert torch.equal(jacobian(lambda x: x, drawn(3), mode=mode).dense(), torch.eye(3, dtype=torch.float64))


@every_mode
def test_names_that_do_not_matter_have_zero_rows(mode):
    x = {"used": drawn(2), "unused": drawn(3)}
    H = hessian(lambda x: wavy(x["used"]), x, mode=mode).dense()
    torch.testing.assert_close(H[:2, :2], oracle.hessian(wavy, x["used"]))
    assert not H[2:].any()
    assert not H[:, 2:].any()


def test_auto_takes_the_other_mode_where_a_graph_is_differentiable_once():
    def f(x):
        return Once.apply(x).sum() + x[0] ** 2

    x, V = drawn(3), drawn(3, 9, seed=1)
    truth = torch.diag(-x.sin() + torch.tensor([2.0, 0.0, 0.0], dtype=torch.float64))
    H = hessian(f, x)
    torch.testing.assert_close(H @ V, truth @ V)
    torch.testing.assert_close(H @ V[:, 0], truth @ V[:, 0])
    with pytest.raises(UsageError, match="marked once_differentiable, which has no second derivative: write"):
        _ = hessian(f, x, mode="double-backward") @ V
    with pytest.raises(UsageError, match="marked once_differentiable"):
        _ = jacobian(lambda x: Once.apply(x) + x, x, mode="double-backward") @ V


def test_functions_that_differentiate_inside_are_for_the_kept_graph():
    z = drawn(5, 1).requires_grad_()

    def loss(w):
        (slope,) = torch.autograd.grad((torch.tanh(z * w[0]) * w[1]).sum(), z, create_graph=True)
        return slope.square().mean()

    x = drawn(2)
    torch.testing.assert_close(hessian(loss, x).dense(), oracle.hessian(loss, x))
    with pytest.raises(UsageError, match="calls torch.autograd.grad itself, .* take mode='double-backward'"):
        _ = hessian(loss, x, mode="forward-over-reverse") @ x


# kernels


@every_mode
@pytest.mark.parametrize("columns", [(), (9,)], ids=["vector", "columns"])
def test_a_fused_kernel_is_refused_by_name_with_the_cure(mode, columns):
    f, x = llama(attn_implementation="sdpa")
    H = hessian(f, x, mode=mode)
    words = "the kernel '_scaled_dot_product_flash_attention.*' in the function has no .* derivative: .*"
    with pytest.raises(UsageError, match=words + 'attn_implementation="eager".*sdpa_kernel'):
        _ = H @ drawn(H.shape[0], *columns)


@every_mode
def test_both_cures_give_one_hessian(mode):
    f, x = llama(attn_implementation="sdpa")
    with sdpa_kernel(SDPBackend.MATH):
        cured = hessian(f, x, mode=mode).dense()
    torch.manual_seed(0)
    eager, _ = llama(attn_implementation="eager")
    torch.testing.assert_close(cured, hessian(eager, x, mode=mode).dense(), rtol=1e-4, atol=1e-6)


def test_what_needs_one_derivative_works_on_a_fused_kernel():
    q = drawn(1, 2, 3, 4)

    def attend(q):
        return nn.functional.scaled_dot_product_attention(q, q, q).reshape(-1)

    def plain(q):
        return (torch.softmax(q @ q.mT / 2, -1) @ q).reshape(-1)

    J = torch.autograd.functional.jacobian(plain, q).reshape(24, 24)
    x = {"q": q}
    u = drawn(24, 9, seed=1)
    torch.testing.assert_close(jacobian(lambda x: attend(x["q"]), x).T @ u, J.mT @ u)
    torch.testing.assert_close(gradient(lambda x: attend(x["q"]).square().sum() / 2, x)[1], J.mT @ plain(q))


# what is refused


@pytest.mark.parametrize(
    ("f", "x", "words"),
    [
        (lambda x: x.detach().sum(), torch.ones(2), "does not depend on x by any graph: look for detach"),
        (lambda x: torch.ones(2, requires_grad=True).sum(), torch.ones(2), "does not depend on x by any graph"),
        (lambda x: x, torch.ones(2), r"the function returned shape \(2,\); legal is a scalar \(\): call sum\(\)"),
        (lambda x: 1.0, torch.ones(2), "the function returned a float; legal is a tensor"),
        (lambda x: (x + 1j).sum(), torch.ones(2), "the function returned torch.complex64; legal is a scalar"),
        (lambda x: x.sum(), torch.ones(2) + 1j, "'x' of the point has dtype torch.complex64; legal are real"),
        (lambda x: x.sum(), torch.ones(2).long(), "'x' of the point has dtype torch.int64"),
        (lambda x: x.sum(), torch.ones(2, 2), r"the point has shape \(2, 2\); legal is \(p,\), or a dict"),
        (lambda x: x.sum(), torch.ones(0), "the point holds no numbers"),
        (lambda x: 0.0, {}, "the point holds no numbers"),
        (lambda x: 0.0, [1.0], "'x' of the point is a list; legal is a tensor"),
        (
            lambda x: x["a"].sum(),
            {"a": torch.ones(2), "b": torch.ones(2).double()},
            "'b' of the point is torch.float64 on cpu and the first tensor torch.float32 on cpu; legal is one",
        ),
    ],
)
@every_mode
def test_functions_and_points_that_are_none_are_sentences(f, x, words, mode):
    with pytest.raises(UsageError, match=words):
        hessian(f, x, mode=mode)


def test_vector_functions_have_their_own_sentences():
    with pytest.raises(UsageError, match=r"returned shape \(\); legal is a vector \(M,\): call reshape\(-1\)"):
        jacobian(lambda x: x.sum(), torch.ones(2))
    with pytest.raises(UsageError, match="returned torch.float32 for a point in torch.float64; legal is the same"):
        linearize(lambda x: x.float(), drawn(2))
    for weight, words in (
        (torch.ones(3).double(), r"weight has shape \(3,\); legal is \(2,\), or \(2, 2\)"),
        (torch.ones(2), "weight is torch.float32 on cpu and the function torch.float64"),
    ):
        with pytest.raises(UsageError, match=words):
            gauss_newton(lambda x: x, drawn(2), weight=weight)


@pytest.mark.parametrize(
    ("v", "words"),
    [
        (torch.ones(3), r"the operator 2 x 2 is applied to a tensor of shape \(3,\); legal is a vector \(2,\) or "),
        (torch.ones(2, 1, 1), r"shape \(2, 1, 1\)"),
        (torch.ones(()), r"shape \(\)"),
        (torch.ones(2).double(), "the operator is torch.float32 on cpu and is applied to torch.float64 on cpu"),
        (torch.ones(2) + 1j, "applied to torch.complex64"),
        ([1.0, 2.0], r"applied to a list; legal is a tensor \(2,\) or \(2, k\)"),
    ],
)
def test_vectors_that_do_not_fit_are_sentences(v, words):
    H = hessian(wavy, torch.ones(2))
    with pytest.raises(UsageError, match=words):
        _ = H @ v
    assert H.products == 0


def test_unknown_modes_and_chunks_below_one_are_sentences():
    with pytest.raises(UsageError, match="unknown mode 'forward'; legal are: auto, double-backward, forward-over"):
        hessian(wavy, torch.ones(2), mode="forward")
    with pytest.raises(UsageError, match="chunk is 0; legal is None, or a whole number of at least 1"):
        hessian(wavy, torch.ones(2), chunk=0)


@every_mode
def test_what_is_not_finite_is_said_where_it_arises(mode):
    with pytest.raises(RunError, match="the function is not finite at x; start from another point"):
        hessian(lambda x: x.log().sum(), -torch.ones(2), mode=mode)
    with pytest.raises(RunError, match="the gradient of the function is not finite at x, though its value is"):
        hessian(lambda x: x.sqrt().sum(), torch.zeros(2), mode=mode)
    H = hessian(lambda x: (x**1.5).sum(), torch.zeros(2), mode=mode)
    with pytest.raises(RunError, match="a product with the operator is not finite: look for a root"):
        _ = H @ torch.ones(2)


def test_a_large_matrix_is_refused_with_the_cure():
    H = hessian(lambda x: (x**2).sum(), torch.ones(6000))
    with pytest.raises(UsageError, match="dense matrix has 6000 x 6000 numbers, more than limit=25000000: use prod"):
        H.dense()
    assert H.products == 0
    small = hessian(wavy, drawn(3))
    with pytest.raises(UsageError, match="3 x 3 numbers, more than limit=8: .* Krylov .* or raise limit"):
        small.dense(limit=8)
    assert small.dense(limit=9).shape == (3, 3)


# the two Gram matrices


@settings(max_examples=15, deadline=None)
@given(M=st.integers(1, 6), p=st.integers(1, 6), kind=st.sampled_from(["none", "diagonal", "full"]))
def test_gauss_newton_weighs_the_residual(M, p, kind):
    A, x = drawn(M, p), drawn(p, seed=1)

    def r(x):
        return (A @ x).sin()

    J = oracle.jacobian(r, x)
    full = drawn(M, M, seed=2)
    W = {"none": torch.eye(M, dtype=torch.float64), "diagonal": torch.diag(drawn(M)), "full": full + full.mT}[kind]
    weight = {"none": None, "diagonal": W.diagonal(), "full": W}[kind]
    G = gauss_newton(r, x, weight=weight, scale=0.5)
    V = drawn(p, 9, seed=3)
    torch.testing.assert_close(G @ V, 0.5 * J.mT @ W @ J @ V)
    torch.testing.assert_close(G.dense(), 0.5 * J.mT @ W @ J)


def test_gauss_newton_of_a_linear_residual_is_the_hessian_of_its_mean_square():
    A, x = drawn(7, 4), drawn(4, seed=1)
    H = hessian(lambda x: (A @ x - 1).square().mean(), x)
    torch.testing.assert_close(gauss_newton(lambda x: A @ x - 1, x, scale=2 / 7).dense(), H.dense())


def test_the_tangent_kernel_shares_its_spectrum_with_gauss_newton():
    A, x = drawn(3, 5), drawn(5, seed=1)
    kernel, matrix = gram(lambda x: (A @ x).tanh(), x).dense(), gauss_newton(lambda x: (A @ x).tanh(), x).dense()
    torch.testing.assert_close(torch.linalg.eigvalsh(matrix)[-3:], torch.linalg.eigvalsh(kernel))


def test_gram_matrices_whose_jacobian_is_too_large_are_made_by_columns(monkeypatch):
    A, x = drawn(3, 5), drawn(5, seed=1)
    J = oracle.jacobian(lambda x: (A @ x).tanh(), x)
    monkeypatch.setattr(sys.modules[gram.__module__], "DENSE_NUMBERS", 14)
    for make, matrix in ((gram, J @ J.mT), (gauss_newton, J.mT @ J)):
        operator = make(lambda x: (A @ x).tanh(), x)
        torch.testing.assert_close(operator.dense(), matrix)
        assert operator.products == len(matrix)


def test_single_precision_stays_single():
    x = drawn(4).float()
    H = hessian(wavy, x)
    assert (H @ x).dtype == H.dense().dtype == H.dtype == torch.float32
    torch.testing.assert_close(H.dense().double(), oracle.hessian(wavy, x.double()), rtol=1e-4, atol=1e-4)


def test_one_operation_without_a_rule_for_columns_is_looped_over_in_silence():
    """torch warns where it loops over one operation inside vmap; that is no news to the user."""
    q = {"q": drawn(1, 1, 3, 4)}
    J = jacobian(lambda x: nn.functional.scaled_dot_product_attention(x["q"], x["q"], x["q"]).reshape(-1), q)
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        _ = J.T @ drawn(12, 9)
    assert not heard
