"""Ranks of adapted networks, held to gates that are written into the model."""

import math
from typing import Any

import pytest
import torch
from torch import nn

from lissome._errors import RunError, UsageError
from lissome.adapt import Adapted, lora
from lissome.adapt.basis import BASES, halves
from lissome.allocation import AdaptedTerms, Gates, choose, rotations
from tests.allocation.trained import (
    FORMS,
    batches,
    equation_batches,
    equation_loss,
    equation_residual,
    gated,
    landed,
    loss,
    regression,
    residual,
    same,
    second_order,
    seeded,
    snapshot,
    solver,
)

every_kind = pytest.mark.parametrize("kind", FORMS)
every_basis = pytest.mark.parametrize("basis", BASES)


def probe(model, batch):
    return model(batch["x"]).sum()


@every_basis
@every_kind
def test_gradient_and_curvature_are_those_in_gates_of_the_model(kind, basis):
    terms, data = AdaptedTerms(regression(kind)), batches()
    found = choose(terms, loss, data, 3, basis=basis, residual=residual)
    _, function = gated(terms, found.rotations, loss)
    b, A = second_order(function, found.choice.gates.numel(), data)
    scale = float(A.abs().max())
    torch.testing.assert_close(found.expansion.gradient, b, rtol=1e-7, atol=1e-8 * scale)
    torch.testing.assert_close(found.expansion.blocks[0], A, rtol=1e-7, atol=1e-8 * scale)
    assert found.basis == basis


@every_basis
def test_so_they_are_through_the_derivatives_of_an_equation(basis):
    terms, data = AdaptedTerms(solver()), equation_batches()
    found = choose(terms, equation_loss, data, 3, basis=basis, residual=equation_residual)
    _, function = gated(terms, found.rotations, equation_loss)
    b, A = second_order(function, 6, data)
    scale = float(A.abs().max())
    torch.testing.assert_close(found.expansion.gradient, b, rtol=1e-7, atol=1e-8 * scale)
    torch.testing.assert_close(found.expansion.blocks[0], A, rtol=1e-7, atol=1e-8 * scale)


def test_gauss_newton_is_that_of_the_residual_in_the_gates():
    terms, data = AdaptedTerms(regression()), batches()
    found = choose(terms, loss, data, 3, residual=residual, kind="gauss-newton")
    _, function = gated(terms, found.rotations, residual)
    G = 0
    for batch in data:
        ones = torch.ones(6, dtype=torch.float64)
        J = torch.autograd.functional.jacobian(lambda g, batch=batch: function(g, batch), ones)
        G = G + 2 / len(J) * J.mT @ J / len(data)
    torch.testing.assert_close(found.expansion.blocks[0], G, rtol=1e-8, atol=1e-10)


def test_above_the_limit_what_couples_layers_is_left_out_and_said():
    terms, data = AdaptedTerms(regression()), batches()
    whole, parts = choose(terms, loss, data, 3), choose(terms, loss, data, 3, limit=5)
    assert isinstance(parts.expansion.hessian, tuple)
    for j, block in enumerate(parts.expansion.hessian):
        same_block = whole.expansion.blocks[0][3 * j : 3 * j + 3, 3 * j : 3 * j + 3]
        torch.testing.assert_close(block, same_block, rtol=1e-9, atol=1e-12)
    assert not parts.choice.crossed
    assert "between layers was left out" in parts.choice.certificate


@every_kind
def test_with_all_gates_1_the_loss_is_the_model_s(kind):
    model, data = regression(kind), batches()
    terms = AdaptedTerms(model)
    for basis in BASES:
        gates = Gates(terms, loss, data, rotations(terms, basis, data, residual=residual))
        ones = torch.ones(sum(gates.layers.values()), dtype=torch.float64)
        mean = sum(float(loss(model, batch).detach()) for batch in data) / len(data)
        assert gates.mean(ones) == pytest.approx(mean, rel=1e-10)
        gates.check()


@every_kind
def test_gates_give_what_gates_in_the_model_give(kind):
    terms, data = AdaptedTerms(regression(kind)), batches()
    turned = rotations(terms, "kronecker", data, residual=residual)
    gates = Gates(terms, loss, data, turned)
    _, function = gated(terms, turned, loss)
    for seed in range(3):
        g = torch.randn(sum(gates.layers.values()), generator=seeded(seed), dtype=torch.float64)
        mean = sum(float(function(g, batch).detach()) for batch in data) / len(data)
        assert gates.mean(g) == pytest.approx(mean, rel=1e-9)


@pytest.mark.parametrize("make", [(regression, loss, batches), (solver, equation_loss, equation_batches)])
def test_the_prediction_is_off_by_the_third_order(make):
    model, loss, data = make[0](), make[1], make[2]()
    terms = AdaptedTerms(model)
    found = choose(terms, loss, data, 3)
    gates = Gates(terms, loss, data, found.rotations)
    step = torch.randn(6, generator=seeded(3), dtype=torch.float64)

    def remainder(t):
        d = t * step
        predicted = found.expansion.gradient @ d + d @ found.expansion.blocks[0] @ d / 2
        return gates.mean(1 + d) - gates.mean(torch.ones_like(d)) - float(predicted)

    assert remainder(0.02) / remainder(0.01) == pytest.approx(8, rel=0.25)


@every_kind
@pytest.mark.parametrize("compensate", [False, True])
def test_the_cut_model_has_the_loss_that_was_measured(kind, compensate):
    model, data = regression(kind), batches()
    terms = AdaptedTerms(model)
    choice = (found := choose(terms, loss, data, 3, residual=residual, compensate=compensate)).choice
    kept = {layer: torch.tensor(indices, dtype=torch.long) for layer, indices in choice.kept.items()}
    cut = terms.cut(found.rotations, kept, choice.values)
    after = sum(float(loss(cut, batch).detach()) for batch in data) / len(data)
    assert after == pytest.approx(landed(choice), rel=1e-9)
    assert {path: min(cut.forms()[path].ranks) for path in terms.names} == found.ranks
    assert sum(found.ranks.values()) == 3
    assert choice.before == pytest.approx(sum(float(loss(model, b).detach()) for b in data) / len(data), rel=1e-9)
    if not compensate:
        assert all(bool((values == 1).all()) for values in choice.values.values())


def test_the_cut_solver_has_the_loss_that_was_measured():
    terms, data = AdaptedTerms(solver()), equation_batches()
    found = choose(terms, equation_loss, data, 4, residual=equation_residual)
    kept = {layer: torch.tensor(indices, dtype=torch.long) for layer, indices in found.choice.kept.items()}
    cut = terms.cut(found.rotations, kept, found.choice.values)
    after = sum(float(equation_loss(cut, batch).detach()) for batch in data) / len(data)
    assert after == pytest.approx(landed(found.choice), rel=1e-9)


@every_kind
def test_a_cut_model_trains_what_was_trained_and_shares_nothing_with_the_one_it_is_cut_from(kind):
    model, data = regression(kind), batches()
    terms = AdaptedTerms(model)
    found = choose(terms, loss, data, 3)
    kept = {layer: torch.tensor(indices, dtype=torch.long) for layer, indices in found.choice.kept.items()}
    cut = terms.cut(found.rotations, kept, found.choice.values)
    assert cut.trainable().keys() == terms.model.trainable().keys()
    for name, parameter in model.named_parameters():
        if name.startswith("free.") or ".cube." in name:
            assert torch.equal(cut.get_parameter(name), parameter)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        for tensor in cut.state_dict().values():
            tensor += 1
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_a_form_that_subtracts_its_start_is_written_as_what_it_adds():
    model, data = regression("pissa"), batches()
    terms = AdaptedTerms(model)
    assert terms.model is not model
    assert AdaptedTerms(other := regression("lora")).model is other
    torch.testing.assert_close(terms.model(data[0]["x"]), model(data[0]["x"]), rtol=1e-11, atol=1e-11)
    for layer, (B, A) in terms.halves().items():
        added = model.weights()[layer] - model.base.get_parameter(layer)
        torch.testing.assert_close(B @ A, added.detach(), rtol=1e-9, atol=1e-11)


def test_single_precision_chooses_as_double_does():
    data = batches()
    wide = choose(AdaptedTerms(regression().double()), loss, data, 3, residual=residual)
    single = [{key: value.float() for key, value in batch.items()} for batch in data]
    found = choose(AdaptedTerms(regression().float()), loss, single, 3, residual=residual)
    assert found.expansion.blocks[0].dtype == torch.float32
    assert found.choice.kept == wide.choice.kept
    scale = float(wide.expansion.blocks[0].abs().max())
    torch.testing.assert_close(
        found.expansion.blocks[0].double(), wide.expansion.blocks[0], rtol=1e-3, atol=1e-4 * scale
    )


def test_a_pissa_in_single_precision_has_its_curvature_symmetric_to_rounding():
    single = batches(dtype=torch.float32)
    found = choose(AdaptedTerms(regression("pissa", torch.float32)), loss, single, 3, residual=residual)
    assert math.isfinite(found.choice.predicted)


def test_usually_the_basis_is_the_best_that_is_to_be_had():
    terms, data = AdaptedTerms(regression()), batches()
    assert choose(terms, loss, data, 3).basis == "svd"
    assert choose(terms, loss, data, 3, residual=residual).basis == "kronecker"
    assert choose(terms, loss, data, 3, probe=probe).basis == "kronecker"


@pytest.mark.parametrize("rule", ["reverse", "sublora", "measured", "exhaustive", "adalora", "magnitude", "random"])
def test_rules_that_need_more_than_curvature_get_it(rule):
    terms = AdaptedTerms(regression())
    found = choose(terms, loss, batches(), 2, rule=rule, least=1, most=2, generator=seeded())
    assert list(found.ranks.values()) == [1, 1]


def test_magnitudes_are_the_sizes_of_the_terms():
    terms = AdaptedTerms(regression())
    gates = Gates(terms, loss, batches(), rotations(terms, "svd", []))
    truth = [torch.linalg.svdvals(B @ A)[: len(A)] for B, A in terms.halves().values()]
    torch.testing.assert_close(gates.magnitude, torch.cat(truth), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_as_it_is(training):
    model = regression().train(training)
    model.base.get_submodule("hidden").train(not training)  # modes may differ from module to module
    before = snapshot(model)
    for basis in BASES:
        choose(AdaptedTerms(model), loss, batches(), 3, basis=basis, residual=residual, rule="measured")
    choose(AdaptedTerms(model), loss, batches(), 3, basis="kronecker", probe=probe)
    assert same(before, snapshot(model))


class Mode(nn.Module):
    """Tells in which mode it was called."""

    def __init__(self, inner, seen):
        super().__init__()
        self.inner, self.seen = inner, seen

    def forward(self, x):
        self.seen.add(self.training)
        return self.inner(x)


def test_a_model_is_measured_in_evaluation():
    seen = set()
    base = nn.Sequential(nn.Linear(3, 5), Mode(nn.Tanh(), seen), nn.Dropout(0.5), nn.Linear(5, 1)).double()
    model = Adapted(base, {"0.weight": lora(base.get_parameter("0.weight"), 2, generator=seeded())}).train()
    with torch.no_grad():
        model.forms()["0.weight"].factors[0].copy_(torch.randn(5, 2, generator=seeded(1), dtype=torch.float64))
    one = choose(terms := AdaptedTerms(model), loss, batches(), 1, residual=residual)
    two = choose(terms, loss, batches(), 1, residual=residual)
    assert torch.equal(one.expansion.blocks[0], two.expansion.blocks[0])
    assert next(m.seen for m in terms.model.modules() if isinstance(m, Mode)) == {False}
    assert model.training


def untrained():
    model = regression()
    with torch.no_grad():
        for path in AdaptedTerms(model).names:
            model.forms()[path].factors[0].zero_()
    return model


def not_finite(model, batch):
    return loss(model, batch) * math.nan


WRONG = {
    "no batch": ({"batches": []}, "batches is empty; give at least one"),
    "an unknown basis": ({"basis": "whitend"}, "unknown basis 'whitend'; .*did you mean 'whitened'"),
    "whitened by nothing": ({"basis": "whitened"}, "the basis 'whitened' needs a residual or a probe"),
    "kronecker by nothing": ({"basis": "kronecker"}, "the basis 'kronecker' needs a residual or a probe"),
    "an unknown kind": ({"kind": "newton"}, "unknown kind of second derivative 'newton'"),
    "Gauss-Newton of nothing": ({"kind": "gauss-newton"}, "kind 'gauss-newton' needs a residual"),
    "an unknown rule": ({"rule": "revers"}, "unknown rule 'revers'; .*did you mean 'reverse'"),
    "a budget above all": ({"budget": 7}, "budget is 7; legal is a whole number from 0 to 6"),
    "a budget below 0": ({"budget": -1}, "budget is -1; legal is a whole number from 0 to 6"),
    "a budget below the least": ({"least": 2}, "budget is 3; legal is a whole number from 4 to 6"),
    "the least of no layer": ({"least": {"hidden": 1}}, "unknown layer of least 'hidden'; .*hidden.weight"),
    "a least above the most": ({"least": 2, "most": 1, "budget": 4}, "least is 2 for layer 'hidden.weight'"),
    "a loss without graph": ({"loss": lambda m, b: loss(m, b).detach()}, "does not depend on x by any graph"),
    "a loss of something else": ({"loss": lambda m, b: b["x"].sum()}, "does not depend on x by any graph"),
    "a loss that is a number": ({"loss": lambda m, b: 1.0}, "returned a float; legal is a tensor, a scalar"),
    "a loss that is a vector": ({"loss": residual}, "legal is a scalar"),
    "a loss that is not finite": ({"loss": not_finite}, "the loss of batch 0 is nan; legal is a finite number"),
    "a residual that is a scalar": ({"residual": loss}, r"legal is a vector \(M,\)"),
    "a residual of something else": ({"residual": lambda m, b: b["y"]}, "does not depend on x by any graph"),
    "a probe that is a vector": ({"probe": residual}, "the probe has to return a scalar tensor with its graph"),
    "a probe that is a number": ({"probe": lambda m, b: 1.0}, "the probe has to return a scalar tensor"),
    "a probe without graph": ({"probe": lambda m, b: b["y"].sum()}, "the probe has to return a scalar tensor"),
    "a probe of a part": (
        {"probe": lambda m, b: torch.tanh(m.weights()["first.weight"]).sum()},
        "the probe never reached the layer 'hidden.weight'",
    ),
    "a probe that is not finite": ({"probe": lambda m, b: probe(m, b) * math.nan}, "not finite; measure it on other"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_asked_wrongly_is_a_sentence_and_leaves_the_model(what):
    settings, words = WRONG[what]
    given = {"loss": loss, "batches": batches(), "budget": 3} | settings
    model = regression().train()
    before = snapshot(model)
    with pytest.raises(UsageError, match=words):
        choose(AdaptedTerms(model), given.pop("loss"), given.pop("batches"), given.pop("budget"), **given)
    assert same(before, snapshot(model))


def test_a_residual_that_is_not_finite_is_told():
    with pytest.raises(RunError, match="not finite at x"):
        choose(AdaptedTerms(regression()), loss, batches(), 3, residual=lambda m, b: residual(m, b) / 0)


def test_an_error_of_the_loss_itself_comes_through_and_leaves_the_model():
    def broken(model, batch):
        loss(model, batch)
        raise KeyError("labels")

    ways: list[dict[str, Any]] = [{"loss": broken}, {"residual": broken}, {"probe": broken}]
    for wrong in ways:
        model = regression().train()
        before = snapshot(model)
        with pytest.raises(KeyError, match="labels"):
            choose(AdaptedTerms(model), wrong.pop("loss", loss), batches(), 3, **wrong)
        assert same(before, snapshot(model))


def test_terms_that_were_never_trained_are_refused():
    for basis in BASES:
        with pytest.raises(UsageError, match="all 2 low-rank updates are 0, as those of an untrained LoRA are"):
            choose(AdaptedTerms(untrained()), loss, batches(), 3, basis=basis, residual=residual)


@every_basis
def test_an_untrained_layer_beside_a_trained_one_has_neither_slope_nor_curvature(basis):
    model = regression()
    with torch.no_grad():
        model.forms()["wide.weight"].factors[0].zero_()
    found = choose(AdaptedTerms(model), loss, batches(), 3, basis=basis, residual=residual)
    assert not found.expansion.gradient[3:].any()
    assert not found.expansion.blocks[0][3:].any()
    assert found.expansion.gradient[:3].any()
    assert math.isfinite(landed(found.choice))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_is_refused(dtype):
    with pytest.raises(UsageError, match=f"the terms of 'hidden.weight' are {dtype}, in which curvature"):
        choose(AdaptedTerms(regression().to(dtype)), loss, batches(), 3)


def test_a_model_without_terms_is_refused():
    base = nn.Linear(3, 3)
    for forms in ({}, {"weight": lora(base.weight, 0, generator=seeded())}):
        with pytest.raises(UsageError, match="no small form of a matrix or of a tensor that has terms"):
            AdaptedTerms(Adapted(base, forms))


class Bare(nn.Module):
    """A matrix that belongs to no linear layer."""

    def __init__(self):
        super().__init__()
        self.matrix = nn.Parameter(torch.randn(3, 3, generator=seeded(), dtype=torch.float64))

    def forward(self, x):
        return torch.tanh(x @ self.matrix.mT).sum(1, keepdim=True)


def bare():
    base = Bare()
    model = Adapted(base, {"matrix": lora(base.matrix, 2, generator=seeded(1))})
    with torch.no_grad():
        model.forms()["matrix"].factors[0].fill_(0.3)[0, 1] = -0.7
    return model


def test_inputs_of_a_matrix_alone_cannot_be_observed_but_a_residual_sees_them():
    terms = AdaptedTerms(bare())
    with pytest.raises(UsageError, match="'matrix' belongs to a Bare, of which the inputs cannot be observed"):
        choose(terms, loss, batches(), 1, probe=probe)
    found = choose(terms, loss, batches(), 1, residual=residual)
    assert found.ranks == {"matrix": 1}
    assert torch.equal(halves(terms.model.forms()["matrix"])[1], terms.halves()["matrix"][1])
