"""The norm with few passes against its formula and torch's, in every kind of derivative."""

import pytest
import torch
from torch.autograd import forward_ad
from torch.func import grad, hessian, vmap
from torch.nn import functional as F

from lissome.models.norm import Norm, _Norm

EPS = 1e-5
scripted = pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")  # of torch's forward mode


def ours(x, weight):
    return _Norm.apply(x, weight, EPS)[0]


def theirs(x, weight):
    return x / (x.square().mean(-1, keepdim=True) + EPS).sqrt() * weight


def drawn(*shape, dtype=torch.float64, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def equal(found, truth):
    torch.testing.assert_close(found, truth, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("shape", [(4,), (3, 4), (2, 3, 4), (0, 3, 4)])
def test_output_and_gradients_are_those_of_the_formula(shape):
    x, weight, out = drawn(*shape).requires_grad_(), drawn(4, seed=1).requires_grad_(), drawn(*shape, seed=2)
    norm = Norm(4, eps=EPS).double()
    with torch.no_grad():
        norm.weight.copy_(weight)
    equal(norm(x), theirs(x, weight))
    found = torch.autograd.grad(norm(x), (x, norm.weight), out)
    equal(found, torch.autograd.grad(theirs(x, weight), (x, weight), out))


def test_slices_and_rows_of_zeros():
    x, weight, out = drawn(2, 5, 8), drawn(4, seed=1).requires_grad_(), drawn(2, 3, 4, seed=2)
    x[0, 3] = 0
    part = x[:, -3:, ::2].requires_grad_()
    equal(ours(part, weight), theirs(part, weight))
    truth = torch.autograd.grad(theirs(part, weight), (part, weight), out)
    equal(torch.autograd.grad(ours(part, weight), (part, weight), out), truth)


@scripted
def test_derivatives_of_the_first_and_second_order():
    given = drawn(2, 3, 4).requires_grad_(), drawn(4, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(ours, given, check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(ours, given, check_fwd_over_rev=True, check_batched_grad=True)


@scripted
def test_transforms_pass():
    x, weights = drawn(2, 4), drawn(3, 4, seed=1)
    equal(vmap(lambda weight: ours(x, weight))(weights), theirs(x, weights[:, None]))

    def slope(norm):
        return vmap(lambda weight: grad(lambda x, weight: norm(x, weight).pow(3).sum(), (0, 1))(x, weight))(weights)

    equal(slope(ours), slope(theirs))

    def curvature(norm):
        return hessian(lambda x, weight: norm(x, weight).pow(3).sum(), (0, 1))(x, weights[0])

    equal(curvature(ours), curvature(theirs))


@scripted
def test_forward_mode_passes_through_a_backward_pass_that_is_not_differentiated_again():
    x, weight = drawn(2, 4), drawn(4, seed=1)

    def tangents(norm):
        with forward_ad.dual_level():
            given = forward_ad.make_dual(x.requires_grad_(), drawn(2, 4, seed=2)), weight.requires_grad_()
            slopes = torch.autograd.grad(norm(*given).pow(3).sum(), given)
            return [forward_ad.unpack_dual(slope).tangent for slope in slopes]

    equal(tangents(ours), tangents(theirs))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_dtype_is_as_torch_has_it(dtype):
    x, norm = drawn(5, 16, dtype=torch.float32).to(dtype), Norm(16, eps=EPS).to(dtype)
    found = norm(x)
    assert found.dtype == dtype
    torch.testing.assert_close(found, F.rms_norm(x, (16,), norm.weight, EPS))


def test_weights_of_torch_load():
    other = torch.nn.RMSNorm(4, eps=EPS).double()
    with torch.no_grad():
        other.weight.copy_(drawn(4, seed=1))
    norm = Norm(4, eps=EPS).double()
    norm.load_state_dict(other.state_dict())
    equal(norm(drawn(3, 4)), other(drawn(3, 4)))
