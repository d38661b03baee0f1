"""What is asked of a function: counted, never twice, and equal to an entry-at-a-time Hessian."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lissome._errors import UsageError
from lissome.optim import curvature as module
from lissome.optim.curvature import Curvature
from lissome.optim.flat import Flat
from lissome.optim.oracle import Counted, Counts, Oracle, Recorded, differentiable
from tests.optim.functions import FUNCTIONS
from tests.oracles import cubic as truth


def wave(x):
    return (x[:-1] * x[1:]).sin().sum() + (x**4).sum() / 10


def curvature_of(f, parts):
    gradients = torch.autograd.grad(f(torch.cat([p.reshape(-1) for p in parts])), parts, create_graph=True)
    return Curvature(Flat(parts), gradients)


@settings(max_examples=10, deadline=None)
@given(p=st.integers(2, 70), seed=st.integers(0, 1000))
def test_hessian_is_that_by_entries(p, seed):
    x = torch.randn(p, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    parts = [part.clone().requires_grad_() for part in x.split([1, p - 1])]
    B, curvature = truth.hessian(wave, x), curvature_of(wave, parts)
    V = torch.randn(p, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    assert curvature.shape == B.shape
    torch.testing.assert_close(curvature.dense(), B)
    torch.testing.assert_close(curvature @ V, B @ V)
    torch.testing.assert_close(curvature @ V[:, 0], B @ V[:, 0])


@pytest.mark.parametrize("name", FUNCTIONS)
def test_oracle_of_a_function_is_the_function(name):
    function = FUNCTIONS[name]
    x = function.x() + 0.1
    oracle = differentiable(function.f, x, dense=True)
    f, g = oracle.gradient(x)
    assert f == oracle.value(x) == float(function.f(x))
    torch.testing.assert_close(g, torch.func.grad(function.f)(x))
    torch.testing.assert_close(oracle.hessian(x), truth.hessian(function.f, x))


class Stubborn(torch.autograd.Function):
    """A square without a rule for vmap."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return Halfway.apply(2 * x, grad)


class Halfway(torch.autograd.Function):
    """A product whose derivative looks at numbers, which vmap cannot."""

    @staticmethod
    def forward(ctx, a, b):
        ctx.save_for_backward(a, b)
        return a * b

    @staticmethod
    def backward(ctx, grad):
        a, b = ctx.saved_tensors
        assert grad.sum().item() == grad.sum().item()
        return grad * b, grad * a


def test_an_operation_without_a_rule_for_vmap_goes_by_a_loop():
    x = torch.arange(1.0, 41.0, dtype=torch.float64).requires_grad_()
    curvature = curvature_of(lambda x: (Stubborn.apply(x) * x).sum(), [x])
    torch.testing.assert_close(curvature.dense(), torch.diag(6 * x.detach()))


def test_a_linear_loss_has_no_curvature():
    x = torch.ones(3, requires_grad=True)
    curvature = curvature_of(lambda x: 2 * x.sum(), [x])
    assert curvature.dense().abs().max() == 0
    assert (curvature @ torch.ones(3)).abs().max() == 0


def test_the_cheaper_form_is_chosen_by_the_clock(monkeypatch):
    x = torch.ones(640, requires_grad=True)  # 20 chunks
    times = iter([1.0, 0.9, 1.0, 1.1])
    monkeypatch.setattr(module, "_seconds", lambda call: next(times))
    assert curvature_of(wave, [x]).is_cheap()
    assert not curvature_of(wave, [x]).is_cheap()


def test_few_numbers_and_too_many_are_not_measured(monkeypatch):
    monkeypatch.setattr(module, "_seconds", lambda call: pytest.fail("measured"))
    assert curvature_of(wave, [torch.ones(module.SMALL, requires_grad=True)]).is_cheap()
    large = curvature_of(wave, [torch.ones(module.LARGEST + 1, requires_grad=True)])
    assert not large.is_cheap()
    with pytest.raises(UsageError, match="^a Hessian of 5001 numbers is too large .* take subproblem='krylov'$"):
        large.dense()


def test_a_point_asked_for_last_is_not_computed_again():
    calls, p = [], torch.ones(2, dtype=torch.float64, requires_grad=True)

    def closure():
        calls.append(0)
        return wave(p)

    oracle = Recorded(closure, Flat([p]), dense=True).oracle()
    x = torch.tensor([1.0, 2.0]).double()
    oracle.value(x)
    oracle.gradient(x)
    oracle.hessian(x)
    assert len(calls) == 1
    oracle.value(x + 1)
    oracle.gradient(x)
    assert len(calls) == 3


def test_every_question_is_counted():
    oracle = Oracle(lambda x: x @ x, lambda x: (x @ x, 2 * x), lambda x: Product())
    x = torch.ones(3)
    oracle.value(x)
    oracle.gradient(x)
    before = oracle.counts
    operator = oracle.hessian(x)
    assert isinstance(operator, Counted)
    assert operator.shape == (3, 3)
    assert (operator @ x).shape == (3,)
    assert (operator @ torch.ones(3, 4)).shape == (3, 4)
    assert oracle.counts - before == Counts(products=5)
    operator.dense()
    assert oracle.counts == Counts(1, 1, 1, 5)


class Product:
    """Twice the identity."""

    shape = (3, 3)

    def __matmul__(self, other):
        return 2 * other

    def dense(self):
        return 2 * torch.eye(3)
