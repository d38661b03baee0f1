"""The mean of functions to second order, held to nested reverse mode."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lissome._errors import RunError, UsageError
from lissome.calculus.quadratic import quadratic

SIZES = {"first": (2,), "second": (2, 2), "third": (1,)}  # n = 7


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def point(seed=0, dtype=torch.float64):
    generator = seeded(seed)
    return {name: torch.randn(shape, generator=generator, dtype=dtype) for name, shape in SIZES.items()}


def residual(seed):
    """Return a curved function to (5,) that couples all blocks."""
    W = torch.randn(5, 7, generator=seeded(100 + seed), dtype=torch.float64)
    return lambda x: torch.tanh(W.to(x["first"]) @ joined(x)) + joined(x)[:5] ** 2


def joined(x):
    return torch.cat([x[name].reshape(-1) for name in SIZES])


def cut(v):
    parts = v.split([math.prod(shape) for shape in SIZES.values()])
    return {name: part.reshape(shape) for (name, shape), part in zip(SIZES.items(), parts, strict=True)}


def scalar(seed):
    return lambda x: residual(seed)(x).square().mean()


def truth(f, x):
    """Return value, gradient and Hessian of f by nested reverse mode."""
    v = joined(x).requires_grad_()
    value = f(cut(v))
    (gradient,) = torch.autograd.grad(value, v, create_graph=True)
    rows = [torch.autograd.grad(each, v, retain_graph=True)[0] for each in gradient]
    return value.detach(), gradient.detach(), torch.stack(rows)


def diagonal_blocks(A):
    ends = torch.tensor([math.prod(shape) for shape in SIZES.values()]).cumsum(0).tolist()
    return [A[start:stop, start:stop] for start, stop in zip([0, *ends], ends, strict=False)]


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), m=st.integers(1, 4), chunk=st.sampled_from([None, 1, 3]))
def test_it_is_the_mean_of_the_expansions(seed, m, chunk):
    x, functions = point(seed), [scalar(seed + k) for k in range(m)]
    found = quadratic(functions, x, chunk=chunk)
    values, gradients, matrices = (torch.stack(each) for each in zip(*(truth(f, x) for f in functions), strict=True))
    torch.testing.assert_close(found.values, values, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found.gradients, gradients, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(found.gradient, gradients.mean(0), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(found.hessian, matrices.mean(0), rtol=1e-10, atol=1e-10)
    assert found.value == pytest.approx(float(values.mean()))


def test_the_expansion_has_the_remainder_of_third_order():
    x, f = point(), scalar(0)
    found = quadratic([f], x)
    step = torch.randn(7, generator=seeded(1), dtype=torch.float64)

    def remainder(t):
        d = t * step
        model = found.value + found.gradient @ d + d @ found.hessian @ d / 2
        return abs(float(f(cut(joined(x) + d)) - model))

    assert remainder(0.01) / remainder(0.005) == pytest.approx(8, rel=0.2)


def test_above_the_limit_the_blocks_are_those_of_the_diagonal():
    x, functions = point(), [scalar(0), scalar(1)]
    whole, parts = quadratic(functions, x, limit=7), quadratic(functions, x, limit=6)
    assert isinstance(parts.hessian, tuple)
    assert [tuple(block.shape) for block in parts.blocks] == [(2, 2), (4, 4), (1, 1)]
    for made, wanted in ((parts.blocks, whole.blocks[0]), (parts.deviations, whole.deviations[0])):
        for block, same in zip(made, diagonal_blocks(wanted), strict=True):
            torch.testing.assert_close(block, same, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(parts.gradients, whole.gradients, rtol=1e-12, atol=1e-12)
    assert torch.equal(parts.values, whole.values)


def test_one_block_is_whole_whatever_the_limit():
    found = quadratic([lambda x: (x["only"] ** 4).sum()], {"only": torch.ones(3, dtype=torch.float64)}, limit=0)
    assert torch.equal(found.blocks[0], 12 * torch.eye(3, dtype=torch.float64))


@pytest.mark.parametrize("limit", [0, 7])
def test_spread_is_the_standard_deviation_over_the_batches(limit):
    x, functions = point(), [scalar(seed) for seed in range(4)]
    found = quadratic(functions, x, limit=limit)
    _, gradients, matrices = (torch.stack(each) for each in zip(*(truth(f, x) for f in functions), strict=True))
    off = torch.std(matrices, 0)
    wanted = [off] if limit else diagonal_blocks(off)
    for deviation, same in zip(found.deviations, wanted, strict=True):
        torch.testing.assert_close(deviation, same, rtol=1e-8, atol=1e-10)
    mean = [matrices.mean(0)] if limit else diagonal_blocks(matrices.mean(0))
    size = [torch.cat([block.reshape(-1) for block in blocks]).norm() for blocks in (wanted, mean)]
    assert found.hessian_spread == pytest.approx(float(size[0] / size[1]))
    spread = torch.std(gradients, 0).norm() / gradients.mean(0).norm()
    assert found.gradient_spread == pytest.approx(float(spread))


def test_one_batch_has_no_spread():
    found = quadratic([scalar(0)], point())
    assert found.gradient_spread == found.hessian_spread == 0.0
    assert not found.deviations[0].any()


def test_equal_batches_have_no_spread_and_a_flat_function_none_either():
    found = quadratic([scalar(0)] * 3, point())
    assert found.gradient_spread < 1e-12
    assert found.hessian_spread < 1e-12
    flat = quadratic([lambda x: 0 * joined(x).sum()] * 2, point())
    assert (flat.gradient_spread, flat.hessian_spread) == (0.0, 0.0)


@pytest.mark.parametrize("limit", [0, 7])
def test_linear_is_the_gradient_alone(limit):
    x, found = point(), quadratic([scalar(0), scalar(1)], point(), kind="linear", limit=limit)
    slopes = torch.stack([truth(scalar(seed), x)[1] for seed in range(2)])
    torch.testing.assert_close(found.gradients, slopes, rtol=1e-10, atol=1e-10)
    assert not any(block.any() for block in found.blocks)
    assert [len(block) for block in found.blocks] == [
        len(block) for block in quadratic([scalar(0)], x, limit=limit).blocks
    ]


@pytest.mark.parametrize("limit", [0, 7])
def test_gauss_newton_is_two_over_rows_of_the_jacobian_with_itself(limit):
    x, found = point(), quadratic([residual(0), residual(1)], point(), kind="gauss-newton", limit=limit)
    jacobians = [
        torch.autograd.functional.jacobian(lambda v, seed=seed: residual(seed)(cut(v)), joined(x)) for seed in range(2)
    ]
    G = sum(2 / 5 * J.mT @ J for J in jacobians) / 2
    wanted = [G] if limit else diagonal_blocks(G)
    for block, same in zip(found.blocks, wanted, strict=True):
        torch.testing.assert_close(block, same, rtol=1e-10, atol=1e-10)
    slopes = torch.stack([truth(scalar(seed), x)[1] for seed in range(2)])
    torch.testing.assert_close(found.gradients, slopes, rtol=1e-10, atol=1e-10)
    assert found.value == pytest.approx(float((scalar(0)(x) + scalar(1)(x)) / 2))


def test_functions_may_be_given_one_after_another():
    found = quadratic((scalar(seed) for seed in range(2)), point())
    assert torch.equal(found.blocks[0], quadratic([scalar(0), scalar(1)], point()).blocks[0])


def test_single_precision_stays_single_precision():
    found, wanted = quadratic([scalar(0)], point(dtype=torch.float32)), quadratic([scalar(0)], point())
    assert found.blocks[0].dtype == found.gradient.dtype == torch.float32
    torch.testing.assert_close(found.blocks[0].double(), wanted.hessian, rtol=1e-4, atol=1e-4)


def test_the_point_is_left_alone():
    x = point()
    before = {name: tensor.clone() for name, tensor in x.items()}
    quadratic([scalar(0), scalar(1)], x, limit=0)
    assert all(torch.equal(x[name], tensor) and not x[name].requires_grad for name, tensor in before.items())


@pytest.mark.parametrize(
    ("functions", "options", "words"),
    [
        ([], {}, "no function is given to expand"),
        ([scalar(0)], {"kind": "newton"}, "unknown kind of second derivative 'newton'; legal are: hessian, gauss-new"),
        ([scalar(0), lambda x: torch.tensor(1.0)], {}, "does not depend on x by any graph"),
        ([lambda x: scalar(0)(x).detach()], {}, "does not depend on x by any graph"),
        ([lambda x: scalar(0)(x).item()], {}, "returned a float; legal is a tensor"),
        ([residual(0)], {}, r"returned shape \(5,\); legal is a scalar"),
        ([scalar(0)], {"kind": "gauss-newton"}, r"legal is a vector \(M,\)"),
    ],
)
def test_what_is_asked_wrongly_is_a_sentence(functions, options, words):
    with pytest.raises(UsageError, match=words):
        quadratic(functions, point(), **options)


@pytest.mark.parametrize("limit", [0, 7])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_function_that_is_not_finite_is_refused(value, limit):
    with pytest.raises(RunError, match="not finite at x"):
        quadratic([scalar(0), lambda x: scalar(0)(x) * value], point(), limit=limit)


def test_a_gradient_that_is_not_finite_is_refused():
    with pytest.raises(RunError, match="gradient of the function is not finite"):
        quadratic([lambda x: x["a"].abs().sqrt().sum()], {"a": torch.zeros(2, dtype=torch.float64)})
