"""Products with derivatives: how many they take, how they are done, and what is left out."""

import gc
import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lissome._errors import UsageError
from lissome.calculus import expand, gram, hessian, jacobian
from lissome.calculus.operators import SIZES, Columns
from tests.calculus.functions import MODES, drawn, every_mode, wavy
from tests.oracles import curvature as oracle


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
