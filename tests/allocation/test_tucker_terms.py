"""Ranks of the modes of a tensor's form: terms along a mode are the slices of its core."""

import copy
import functools
import itertools

import pytest
import torch
from torch import nn

from lissome._errors import UsageError
from lissome.adapt import Adapted, adapt, lora, select_ranks, slim, tucker
from lissome.adapt.basis import halves_along, rotated_along, rotation
from lissome.allocation import AdaptedTerms, GatedForms, Gates, JointRanks, Schedule, choose, rotations, weigh
from lissome.allocation.gated import opened
from lissome.models import KAN
from tests.oracles import ranks as oracle

LAYERS = ("layers.1.weight[0]", "layers.1.weight[1]", "layers.1.weight[2]")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def residual(model, batch):
    return model(batch["x"])[:, 0] - batch["y"]


def loss(model, batch):
    return residual(model, batch).square().mean()


def batches(count=2, rows=12):
    xs = [2 * torch.rand(rows, 2, generator=seeded(50 + k), dtype=torch.float64) - 1 for k in range(count)]
    return [{"x": x, "y": torch.sin(3 * x[:, 0]) + x[:, 0] * x[:, 1]} for x in xs]


class Curve:
    """A regression as an objective."""

    def sample(self, generator, n=None):
        x = 2 * torch.rand(12, 2, generator=generator, dtype=torch.float64) - 1
        return {"x": x, "y": torch.sin(3 * x[:, 0]) + x[:, 0] * x[:, 1]}

    def loss(self, model, batch):
        return loss(model, batch)


@functools.cache
def _trained():
    base = KAN(2, width=5, depth=2, intervals=3, generator=seeded()).double()
    model = adapt(base, "lotra", ranks=(3, 3, 2), generator=seeded(1))
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.03)
    data = batches(4, 32)
    for step in range(60):
        optimizer.zero_grad()
        loss(model, data[step % 4]).backward()
        optimizer.step()
    model.zero_grad()
    return model


def trained():
    return copy.deepcopy(_trained())


def dense(form, gates):
    """Return the form with a gate on each slice of its core along each mode, entry by entry of the core."""
    grid = torch.einsum("a,b,c->abc", *gates)
    return form.scale * torch.einsum("abc,qa,kb,pc->qkp", grid * form.core, *form.factors)


def oracle_loss(model, gates, batch):
    """Return the loss where the form's dense weight is put in by hand."""
    form, free = model.forms()["layers.1.weight"], model.weights()
    free["layers.1.weight"] = model.base.get_parameter("layers.1.weight") + dense(form, gates)
    out = torch.func.functional_call(model.base, free, (batch["x"],))
    return (out[:, 0] - batch["y"]).square().mean()


def draw(sizes, seed=7):
    return [torch.rand(r, generator=seeded(seed + r), dtype=torch.float64) for r in sizes]


def test_each_mode_of_a_tensor_is_a_layer_beside_matrices():
    model = trained()
    assert AdaptedTerms(model).names == list(LAYERS)
    weight = torch.randn(4, 3, generator=seeded())
    both = Adapted(nn.Linear(3, 4), {"weight": lora(weight, 2, generator=seeded())})
    assert AdaptedTerms(both).names == ["weight"]


def test_halves_along_a_mode_are_the_unfolding():
    form = trained().forms()["layers.1.weight"]
    form.gates[1] = 0.5
    for mode in range(3):
        B, A = halves_along(form, mode)
        unfolded = form.delta().movedim(mode, -1).flatten(0, -2)
        torch.testing.assert_close(B @ A, unfolded, rtol=0, atol=1e-12)


@pytest.mark.parametrize("basis", ["trained", "svd", "kronecker"])
def test_gates_of_cut_slices_leave_the_output_as_the_cut_network_gives_it(basis):
    terms, data = AdaptedTerms(trained()), batches()
    turned = rotations(terms, basis, data, residual=residual)
    gates = Gates(terms, loss, data, turned)
    kept = {layer: torch.tensor(k) for layer, k in zip(LAYERS, ([0, 2], [1], [0, 1]), strict=True)}
    values = {layer: draw([len(k)])[0] for layer, k in kept.items()}
    given = {
        layer: torch.zeros_like(one).index_copy(0, kept[layer], values[layer]) for layer, one in gates.ones().items()
    }
    cut = terms.cut(turned, kept, values)
    assert cut.forms()["layers.1.weight"].ranks == (2, 1, 2)
    assert cut.forms()["layers.1.weight"].trained == terms.adapted.forms()["layers.1.weight"].trained
    for batch in data:
        torch.testing.assert_close(loss(cut, batch), gates.at(given, batch), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(gates.at(gates.ones(), batch), loss(terms.model, batch), rtol=1e-12, atol=1e-12)


def test_turning_a_mode_leaves_the_form_and_the_terms_of_other_modes():
    form = trained().forms()["layers.1.weight"]
    for mode in range(3):
        X = rotation(*halves_along(form, mode))
        new = rotated_along(form, mode, X)
        torch.testing.assert_close(new.delta(), form.delta(), rtol=0, atol=1e-12)
        gram = halves_along(new, mode)[0]
        gram = gram.mT @ gram
        assert (gram - gram.diag().diag()).abs().max() < 1e-10 * gram.abs().max()
        for other in {0, 1, 2} - {mode}:
            assert torch.equal(new.factors[other], form.factors[other])


def test_the_gates_of_three_modes_multiply():
    terms, (batch, _) = AdaptedTerms(trained()), batches()
    gates = Gates(terms, loss, [batch], rotations(terms, "trained", [batch]))
    given = dict(zip(LAYERS, draw((3, 3, 2)), strict=True))
    truth = oracle_loss(terms.adapted, list(given.values()), batch)
    torch.testing.assert_close(gates.at(given, batch), truth, rtol=1e-12, atol=1e-12)


def test_gradient_and_hessian_in_the_gates_are_those_of_the_dense_weight():
    terms, data = AdaptedTerms(trained()), batches()
    found = weigh(terms, loss, data, basis="trained").expansion

    def value(flat):
        parts = flat.split([3, 3, 2])
        return torch.stack([oracle_loss(terms.adapted, parts, batch) for batch in data]).mean()

    ones = torch.ones(8, dtype=torch.float64)
    torch.testing.assert_close(found.gradient, torch.autograd.functional.jacobian(value, ones), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(found.hessian, torch.autograd.functional.hessian(value, ones), rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("budget", [3, 5, 6])
def test_the_choice_is_the_best_of_all_sets_under_the_quadratic_model(budget):
    terms = AdaptedTerms(trained())
    weighed = weigh(terms, loss, batches(), residual=residual)
    found = weighed.choose(budget, rule="exhaustive", compensate=False)
    b, A = (each.numpy() for each in (weighed.expansion.gradient, weighed.expansion.hessian))
    best = min(
        oracle.change(b, A, oracle.without(8, S))
        for S in itertools.combinations(range(8), budget)
        if all(set(S) & mode for mode in ({0, 1, 2}, {3, 4, 5}, {6, 7}))
    )
    assert found.choice.predicted == pytest.approx(best, abs=1e-12)
    assert sum(found.ranks.values()) == budget
    same = select_ranks(
        weighed.expansion.gradient,
        weighed.expansion.hessian,
        budget,
        rule="exhaustive",
        layers=weighed.gates.layers,
        least=1,
    )
    assert same.kept == found.choice.kept
    kept = {layer: torch.tensor(k) for layer, k in found.choice.kept.items()}
    cut = terms.cut(found.rotations, kept, found.choice.values)
    mean = sum(loss(cut, batch).item() for batch in batches()) / 2
    assert mean == pytest.approx(found.choice.before + found.choice.measured, rel=1e-12)


def test_a_mode_keeps_a_term_unless_told_otherwise():
    terms, data = AdaptedTerms(trained()), batches()
    kept = choose(terms, loss, data, 3, residual=residual).ranks
    assert kept == dict.fromkeys(LAYERS, 1)
    assert choose(terms, loss, data, 4, residual=residual, least={LAYERS[1]: 2}).ranks == dict(
        zip(LAYERS, (1, 2, 1), strict=True)
    )
    gone = choose(terms, loss, data, 0, residual=residual, least=0, compensate=False)
    assert gone.ranks == dict.fromkeys(LAYERS, 0)
    with pytest.raises(UsageError, match="budget is 2; legal is a whole number from 3 to 8"):
        choose(terms, loss, data, 2, residual=residual)


def test_a_mode_of_rank_0_is_the_base():
    terms = AdaptedTerms(trained())
    X = rotations(terms, "svd", [])
    kept = {layer: torch.arange(0 if layer == LAYERS[0] else len(X[layer].forth)) for layer in LAYERS}
    cut = terms.cut(X, kept, {layer: torch.ones(len(k)) for layer, k in kept.items()})
    assert cut.forms()["layers.1.weight"].ranks == (0, 3, 2)
    assert not cut.forms()["layers.1.weight"].delta().any()


def test_cutting_by_choice_beats_cutting_at_random():
    terms, data = AdaptedTerms(trained()), batches(2, 32)
    found = choose(terms, loss, data, 5, residual=residual, compensate=False).choice
    chance = [
        choose(terms, loss, data, 5, residual=residual, rule="random", compensate=False, generator=seeded(s)).choice
        for s in range(5)
    ]
    plain = [
        choose(terms, loss, data, 5, basis="trained", rule="random", compensate=False, generator=seeded(s)).choice
        for s in range(5)
    ]
    assert found.measured < sorted(each.measured for each in chance)[2]
    assert found.measured < min(each.measured for each in plain)


@pytest.mark.parametrize(
    "make",
    [
        lambda W: tucker(W, (3, 2, 2)),
        lambda W: tucker(W),
        lambda W: slim(W.shape, (3, 2, 2), power=0.5, generator=seeded()).double(),
    ],
    ids=["tucker cut", "tucker", "slim"],
)
def test_other_forms_with_a_full_core_are_cut_too(make):
    base = KAN(2, width=4, depth=2, intervals=1, generator=seeded()).double()
    model = Adapted(base, {"layers.1.weight": make(base.get_parameter("layers.1.weight"))})
    with torch.no_grad():
        for p in model.trainable().values():
            p.add_(0.2 * torch.randn(p.shape, generator=seeded(3), dtype=torch.float64))
    terms, data = AdaptedTerms(model), batches()
    for batch in data:
        torch.testing.assert_close(loss(terms.model, batch), loss(model, batch), rtol=1e-12, atol=1e-12)
    found = choose(terms, loss, data, 5)
    kept = {layer: torch.tensor(k) for layer, k in found.choice.kept.items()}
    cut = terms.cut(found.rotations, kept, found.choice.values)
    mean = sum(loss(cut, batch).item() for batch in data) / 2
    assert mean == pytest.approx(found.choice.before + found.choice.measured, rel=1e-10)


def test_where_inputs_cannot_be_observed_it_is_said():
    terms = AdaptedTerms(trained())
    with pytest.raises(UsageError, match="'layers.1.weight' belongs to a KANLayer, of which the inputs cannot"):
        terms.taps()


def test_a_form_that_was_never_trained_is_refused():
    base = KAN(2, width=4, depth=2, generator=seeded()).double()
    with pytest.raises(UsageError, match="all 3 low-rank updates are 0"):
        choose(AdaptedTerms(adapt(base, "lotra", rank=2, generator=seeded())), loss, batches(), 3)


def test_gates_in_training_are_slices_and_come_back():
    model = trained()
    gated, form = GatedForms(model), model.forms()["layers.1.weight"]
    work = dict(zip(LAYERS, map(torch.tensor, ([True, False, True], [True] * 3, [False, True])), strict=True))
    whole = form.delta()
    gated.put(work)
    gates = [each.double() for each in work.values()]
    torch.testing.assert_close(form.delta(), dense(form, gates), rtol=0, atol=1e-12)
    assert all(torch.equal(gated.at_work()[layer], work[layer]) for layer in LAYERS)
    assert gated.finished().forms()["layers.1.weight"].ranks == (2, 3, 1)
    torch.testing.assert_close(gated.finished().forms()["layers.1.weight"].delta(), form.delta(), rtol=0, atol=1e-12)
    with opened(gated):
        torch.testing.assert_close(form.delta(), whole, rtol=0, atol=0)
    gated.turn(rotations(gated.terms, "svd", [], turned=work))
    torch.testing.assert_close(form.delta(), dense(form, gates), rtol=0, atol=1e-12)
    assert not torch.allclose(form.delta(), whole)


@pytest.mark.parametrize("basis", ["trained", "svd"])
def test_ranks_of_modes_are_chosen_in_training(basis):
    model = trained()
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.01)
    joint = JointRanks(model, Curve(), Schedule(5, steps=12, warmup=2, every=2, last=4), basis=basis)
    joint.begin(0, model, [optimizer])
    for step in range(1, 13):
        optimizer.zero_grad()
        loss(model, batches()[0]).backward()
        optimizer.step()
        joint(step, model)
    ranks = joint.history[-1]["ranks"]
    assert sum(ranks.values()) == 5
    assert min(ranks.values()) >= 1
    cut = joint.gated.finished()
    assert cut.forms()["layers.1.weight"].ranks == tuple(ranks.values())
    for batch in batches():
        torch.testing.assert_close(loss(cut, batch), loss(model, batch), rtol=1e-10, atol=1e-12)


def test_slices_out_of_work_stay_as_they_were():
    model = trained()
    form, optimizer = model.forms()["layers.1.weight"], torch.optim.Adam(model.trainable().values(), lr=0.01)
    joint = JointRanks(model, Curve(), Schedule(5, steps=3, warmup=0, every=1, last=1), basis="trained")
    joint.gated.put(dict(zip(LAYERS, map(torch.tensor, ([True, False, True], [True] * 3, [True] * 2)), strict=True)))
    loss(model, batches()[0]).backward()
    optimizer.step()
    joint.begin(0, model, [optimizer])
    before, other = form.core[1].clone(), form.core[0].clone()
    for _ in range(2):
        loss(model, batches()[0]).backward()
        optimizer.step()
        joint.frozen.hold()
    assert torch.equal(form.core[1], before)
    assert not torch.equal(form.core[0], other)


def test_a_mode_may_not_lose_all_its_terms_in_training():
    with pytest.raises(UsageError, match=r"least is 0 for 'layers.1.weight\[0\]', a mode of a tensor"):
        JointRanks(trained(), Curve(), Schedule(5, steps=3, warmup=0, every=1, last=1), least=0)
