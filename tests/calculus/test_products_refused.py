"""What products refuse: fused kernels, wrong functions, points and vectors, and what is not finite."""

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import LlamaConfig, LlamaForCausalLM

from lissome._errors import RunError, UsageError
from lissome._vector import functional
from lissome.calculus import gauss_newton, gradient, hessian, jacobian, linearize
from tests.calculus.functions import drawn, every_mode, wavy


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
