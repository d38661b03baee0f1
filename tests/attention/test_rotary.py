"""Rotary against complex numbers, in every kind of derivative, with angles of its own and shared ones."""

import pytest
import torch
from torch.func import hessian, vmap

from lissome.attention import Attention, Rotary

scripted = pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")  # of torch's forward mode
rotary = Rotary(4)
PLACES = torch.tensor([[0, 1, 5], [2, -1, 7]])


def drawn(*shape, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=dtype)


def truth(x, positions):
    """x_m + i x_{m + D/2} times exp(i position base^(-2m/D))."""
    angle = positions[:, None, :, None] * 10_000.0 ** (-torch.arange(0, 4, 2, dtype=torch.float64) / 4)
    found = torch.complex(x[..., :2], x[..., 2:]) * torch.polar(torch.ones_like(angle), angle)
    return torch.cat((found.real, found.imag), -1)


@pytest.mark.parametrize("positions", [PLACES, PLACES[:1]])
@pytest.mark.parametrize("heads", [None, 1, 2, 3])
def test_it_is_a_product_of_complex_numbers(positions, heads):
    x = drawn(2, 3, 5, 4).transpose(1, 2)[:, :2].requires_grad_()  # (B, H, T, D) as a projection gives it
    angles = None if heads is None else rotary.angles(positions, x.dtype, heads)
    found = Attention(rotary=rotary).rotate(x, positions, angles)
    torch.testing.assert_close(found, truth(x, positions))
    out = drawn(*found.shape)
    torch.testing.assert_close(*(torch.autograd.grad(y, x, out) for y in (found, truth(x, positions))))


@scripted
def test_derivatives_of_the_first_and_second_order():
    x = drawn(2, 1, 3, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: rotary(x, PLACES), (x,), check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(
        lambda x: rotary(x, PLACES), (x,), check_fwd_over_rev=True, check_batched_grad=True
    )


@scripted
def test_transforms_pass():
    x = drawn(2, 1, 3, 4)
    torch.testing.assert_close(vmap(lambda places: rotary(x, places[None]))(PLACES)[1], truth(x, PLACES[1:]))
    torch.testing.assert_close(vmap(lambda x: rotary(x[None], PLACES))(x)[1], truth(x[1:].expand(2, 1, 3, 4), PLACES))
    both = vmap(lambda x, places: rotary(x[None], places[None])[0])(x, PLACES)
    torch.testing.assert_close(both, truth(x, PLACES))
    curves = [hessian(lambda x, turn=turn: turn(x, PLACES).pow(3).sum())(x) for turn in (rotary, truth)]
    torch.testing.assert_close(*curves)


def test_half_precision_is_rounded_once():
    x = drawn(2, 1, 3, 4).bfloat16()
    found = rotary(x, PLACES)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, truth(x.double(), PLACES).bfloat16())
