"""Moments of what passes between the factors, held to rows taken one at a time."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lissome._errors import UsageError
from lissome.adapt import Adapted, lora, svd
from lissome.adapt.basis import nearest_kronecker
from lissome.allocation import AdaptedTerms, by_listening, by_residual, rotations
from tests.allocation.trained import (
    batches,
    equation_batches,
    equation_residual,
    regression,
    residual,
    seeded,
    snapshot,
    solver,
)


def plain(seed=0):
    """Return a network of linear layers, each used once, with trained terms on two of them."""
    base = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    generator = seeded(seed)
    with torch.no_grad():
        for parameter in base.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    forms = {
        path: lora(base.get_parameter(path), 3, generator=generator, scale=2.0) for path in ("0.weight", "2.weight")
    }
    with torch.no_grad():
        for form in forms.values():
            B = form.factors[0]
            B.copy_(torch.randn(B.shape, generator=generator, dtype=torch.float64))
    return Adapted(base, forms)


def rows(model, batch):
    """Return layer -> [(y, h), ...] of each row's residual, by autograd through the dense weights."""
    terms, found = AdaptedTerms(model), {}
    dense = {path: weight.detach() for path, weight in model.weights().items()}
    for x in batch["x"]:
        entering = {"0.weight": x, "2.weight": torch.tanh(dense["0.weight"] @ x + model.base[0].bias)}
        for path, z in entering.items():
            out = (dense[path] @ z).requires_grad_()
            hidden = torch.tanh(out + model.base.get_parameter(path.replace("weight", "bias")))
            if path == "0.weight":
                hidden = torch.tanh(dense["2.weight"] @ hidden + model.base[2].bias)
            (gradient,) = torch.autograd.grad(model.base[4](hidden).sum(), out)
            B, A = terms.halves()[path]
            found.setdefault(path, []).append((A @ z, B.mT @ gradient))
    return found


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_listening_adds_up_the_rows(seed):
    model, data = plain(seed), batches()
    found = by_listening(AdaptedTerms(model), lambda m, b: m(b["x"]).sum(), data)
    for path, (M, K) in found.items():
        pairs = [pair for batch in data for pair in rows(model, batch)[path]]
        torch.testing.assert_close(M, sum(torch.outer(y, y) for y, _ in pairs), rtol=1e-9, atol=1e-10)
        torch.testing.assert_close(K, sum(torch.outer(h, h) for _, h in pairs), rtol=1e-9, atol=1e-10)


def test_rows_that_the_probe_does_not_look_at_count_for_nothing():
    model, (batch, _) = plain(), batches()
    few = {key: value[:4] for key, value in batch.items()}
    some = by_listening(AdaptedTerms(model), lambda m, b: m(b["x"])[:4].sum(), [batch])
    for path, (M, K) in by_listening(AdaptedTerms(model), lambda m, b: m(b["x"]).sum(), [few]).items():
        torch.testing.assert_close(some[path][0], M, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(some[path][1], K, rtol=1e-10, atol=1e-12)


def test_a_layer_that_is_used_twice_is_heard_twice():
    model, heard = regression(), []
    handle = model.base.get_submodule("hidden").register_forward_hook(
        lambda module, inputs, out: heard.append(inputs[0].detach())
    )
    model(batches()[0]["x"])
    handle.remove()
    A = AdaptedTerms(model).halves()["hidden.weight"][1]
    M, _ = by_listening(AdaptedTerms(model), lambda m, b: m(b["x"]).sum(), batches()[:1])["hidden.weight"]
    y = torch.cat(heard) @ A.mT
    assert len(heard) == 2
    torch.testing.assert_close(M, y.mT @ y, rtol=1e-10, atol=1e-12)


def test_listening_needs_no_gradient_anywhere_and_leaves_no_hook():
    model = plain().requires_grad_(False)
    before = snapshot(model)
    with torch.no_grad():
        found = by_listening(AdaptedTerms(model), lambda m, b: m(b["x"]).sum(), batches())
    assert all(bool(K.any()) for _, K in found.values())
    after = snapshot(model)
    assert after.pop("state").keys() == before.pop("state").keys()
    assert after == before


def test_one_row_that_never_passes_the_layers_is_told():
    """A single row goes through the factors of a stack, not through its linear layers."""
    base = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 1)).double()
    terms = AdaptedTerms(Adapted(base, {"0.weight": svd(base.get_parameter("0.weight"))}))
    one = [{key: value[:1] for key, value in batches()[0].items()}]
    with pytest.raises(UsageError, match="the probe never reached the layer '0.weight'"):
        by_listening(terms, lambda m, b: m(b["x"]).sum(), one)
    assert by_residual(terms, residual, one).keys() == {"0.weight"}


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_of_one_row_the_residual_gives_the_definition(seed):
    model, batch = plain(seed), batches()[0]
    one = {key: value[:1] for key, value in batch.items()}
    for path, (M, K) in by_residual(AdaptedTerms(model), residual, [one]).items():
        ((y, h),) = rows(model, one)[path]
        G, wanted = torch.kron(K, M), torch.kron(torch.outer(h, h), torch.outer(y, y))
        torch.testing.assert_close(G, wanted, rtol=1e-8, atol=1e-9 * float(wanted.abs().max()))
        assert K.trace() >= 0
        assert M.trace() >= 0


def test_of_many_rows_it_gives_the_nearest_product_to_their_sum():
    model, data = plain(), batches()
    for path, (M, K) in by_residual(AdaptedTerms(model), residual, data).items():
        pairs = [pair for batch in data for pair in rows(model, batch)[path]]
        G = torch.stack([torch.einsum("a,b,c,d->abcd", h, y, h, y) for y, h in pairs]).sum(0)
        best = nearest_kronecker(G)
        torch.testing.assert_close(torch.kron(K, M), torch.kron(*best), rtol=1e-8, atol=1e-9 * float(G.abs().max()))


def test_rows_of_one_gradient_give_the_moments_themselves():
    """In the last layer h is the same for all rows: then the matrix is a product, and nothing is lost."""
    base = nn.Linear(4, 1).double()
    model = Adapted(base, {"weight": lora(base.weight, 1, generator=seeded())})
    with torch.no_grad():
        model.forms()["weight"].factors[0].fill_(0.7)
    x = torch.randn(9, 4, generator=seeded(1), dtype=torch.float64)
    batch = {"x": x, "y": torch.zeros(9, dtype=torch.float64)}
    terms = AdaptedTerms(model)
    (M, K), (M2, K2) = (
        by_residual(terms, residual, [batch])["weight"],
        by_listening(terms, lambda m, b: m(b["x"]).sum(), [batch])["weight"],
    )
    torch.testing.assert_close(M * K, M2 * K2 / 9)


@pytest.mark.parametrize("basis", ["whitened", "kronecker"])
def test_through_derivatives_the_rotation_balances_the_gauss_newton_matrix(basis):
    terms, data = AdaptedTerms(solver()), equation_batches()
    for path, X in rotations(terms, basis, data, residual=equation_residual).items():
        B, A = terms.halves()[path]
        torch.testing.assert_close(B @ X.forth @ X.back @ A, B @ A, rtol=1e-8, atol=1e-9)
        M, K = by_residual(terms, equation_residual, data)[path]
        white = X.back @ M @ X.back.mT
        scale = white.diagonal().sqrt()
        torch.testing.assert_close(white / scale / scale[:, None], torch.eye(3).double(), rtol=0, atol=1e-6)
        right = K if basis == "kronecker" else B.mT @ B
        bent = X.forth.mT @ right @ X.forth
        off = bent - torch.diag(bent.diagonal())
        assert float(off.abs().max()) < 1e-6 * float(bent.abs().max())


def test_the_bases_of_the_factors_alone_need_no_batch():
    terms = AdaptedTerms(regression())
    for basis in ("trained", "svd"):
        found = rotations(terms, basis, [])
        assert found.keys() == terms.halves().keys()
    assert all(torch.equal(X.forth, torch.eye(3).double()) for X in rotations(terms, "trained", []).values())
