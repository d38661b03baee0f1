"""Ranks chosen in training: who is at work, what the others keep, and runs that go on."""

import copy

import pytest
import torch
from torch import nn

from lissome._errors import UsageError
from lissome.adapt import RULES, adapt
from lissome.allocation import GatedForms, JointRanks, Schedule, rotations
from lissome.allocation.gated import opened
from lissome.calculus import quadratic
from lissome.optim import Budget, Group, Method, fit


class Toy:
    """A regression from four numbers to one."""

    def sample(self, generator, n):
        return {"x": torch.randn(n, 4, generator=generator, dtype=torch.float64)}

    def residual(self, model, batch):
        x = batch["x"]
        return (model(x) - (x[:, :1] * x[:, 1:2]).sin() - x[:, 2:3]).flatten()

    def loss(self, model, batch):
        return self.residual(model, batch).square().mean()

    def evaluate(self, model):
        with torch.no_grad():
            return {"fresh": self.loss(model, self.sample(seeded(9), 500)).item()}


class Bare:
    """The same without a residual."""

    def __init__(self):
        toy = Toy()
        self.sample, self.loss, self.evaluate = toy.sample, toy.loss, toy.evaluate


STEPS, BUDGET, N = 60, 3, 8
ADAM = Method((Group(lr=1e-2),), resample_every=1, points=32)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def network(method="lora", rank=4):
    torch.manual_seed(0)
    layers = [nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1)]
    rules = {"[24].weight": "adalora"} if method == "adalora" else None  # a form that no method names
    method = "lora" if rules else method
    return adapt(nn.Sequential(*layers).double(), method, rank=rank, rules=rules, generator=seeded(1))


def joint(model, **options):
    options = {"rule": "reverse", "regrow": True, "basis": "trained"} | options
    schedule = Schedule(BUDGET, steps=STEPS, warmup=10, last=15, every=7)
    return JointRanks(model, Toy(), schedule, points=64, **options)


def train(model, callback, steps=STEPS, **more):
    return fit(model, Toy(), ADAM, Budget(steps=steps), on_step=callback, progress=False, **more)


def gates(model):
    return torch.cat([form.gates for form in model.forms().values()])


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule != "exhaustive"])
@pytest.mark.parametrize("regrow", [True, False])
def test_the_budget_is_kept_along_the_schedule(rule, regrow):
    model = network()
    ranks = joint(model, rule=rule, regrow=regrow)
    train(model, ranks)
    assert [(row["step"], row["budget"]) for row in ranks.history] == [
        (step, ranks.schedule.at(step, N))
        for step in range(1, STEPS + 1)
        if ranks.schedule.due(step) and ranks.schedule.at(step, N) < N
    ]
    assert all(sum(row["ranks"].values()) == row["budget"] for row in ranks.history)
    assert gates(model).sum() == BUDGET
    assert set(gates(model).tolist()) <= {0.0, 1.0}
    if not regrow:
        assert all(row["came"] == 0 for row in ranks.history)


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_a_term_out_of_work_keeps_its_weights_and_the_optimizers_state(decay):
    model = network()
    ranks, seen = joint(model, regrow=False), []

    def watch(step, net):
        ranks(step, net)
        if step > STEPS - 15:
            seen.append([value.clone() for value in held(net, ranks)])

    watcher = type(
        "Watch", (), {"begin": lambda self, *given: ranks.begin(*given), "__call__": lambda self, *a: watch(*a)}
    )()
    method = Method((Group(optimizer="adamw", lr=1e-2, options={"weight_decay": decay}),), resample_every=1, points=32)
    fit(model, Toy(), method, Budget(steps=STEPS), on_step=watcher, progress=False)
    assert len(seen) == 15
    assert any(len(value) for value in seen[0])
    for later in seen[1:]:
        for before, now in zip(seen[0], later, strict=True):
            assert torch.equal(before, now)


def held(model, ranks):
    """Return the columns of terms out of work, and of the moments of Adam."""
    (optimizer,) = ranks.optimizers
    for form in model.forms().values():
        gone = form.gates == 0
        for factor in form.factors:
            state = optimizer.state[factor]
            assert {"exp_avg", "exp_avg_sq"} <= set(state)
            yield factor.detach()[:, gone]
            yield state["exp_avg"][:, gone]
            yield state["exp_avg_sq"][:, gone]


@pytest.mark.parametrize("basis", ["trained", "svd", "kronecker"])
def test_a_resumed_run_is_bit_equal(tmp_path, basis):
    whole = network()
    train(whole, joint(whole, basis=basis), directory=tmp_path / "whole")
    cut = network()
    train(cut, joint(cut, basis=basis), steps=32, directory=tmp_path / "cut", checkpoint_every=8)
    again = network()
    train(again, joint(again, basis=basis), directory=tmp_path / "cut", resume=True)
    for one, other in zip(whole.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(one, other)


def test_the_finished_model_computes_the_same_with_the_terms_at_work_alone():
    model = network()
    ranks = joint(model)
    train(model, ranks)
    small = ranks.gated.finished()
    assert sum(min(form.ranks) for form in small.forms().values()) == BUDGET
    x = Toy().sample(seeded(3), 20)["x"]
    torch.testing.assert_close(small(x), model(x), rtol=0, atol=1e-12)


def test_terms_come_back_when_they_are_worth_it():
    """A term put out of work by hand, of a layer that needs it, is at work again after the next choice."""
    model = network()
    train(model, None)
    ranks = joint(model)
    strongest = max(
        ((path, i) for path, form in model.forms().items() for i in range(4)),
        key=lambda at: (
            model.forms()[at[0]].factors[0][:, at[1]].norm() * model.forms()[at[0]].factors[1][:, at[1]].norm()
        ),
    )
    work = {path: torch.ones(4, dtype=torch.bool) for path in model.forms()}
    work[strongest[0]][strongest[1]] = False
    ranks.gated.put(work)
    ranks.choose(45)
    assert ranks.history[-1]["came"] >= 1
    assert model.forms()[strongest[0]].gates[strongest[1]] == 1


def test_the_gradient_where_all_are_at_work_is_exact_for_a_quadratic_loss():
    """b at 1 = b at g0 + A (1 - g0), against the gradient taken there, on a linear model."""
    torch.manual_seed(0)
    model = adapt(
        nn.Sequential(nn.Linear(4, 4)).double(),
        "lora",
        rank=3,
        rules={"0.weight": "lora"},
        small=False,
        generator=seeded(),
    )
    with torch.no_grad():
        for form in model.forms().values():
            form.factor0.normal_(generator=seeded(2))

    class Linear(Toy):
        def residual(self, model, batch):
            return (model(batch["x"]) - 1.0).flatten()

    ranks = JointRanks(model, Linear(), Schedule(1, steps=10), rule="reverse", basis="trained", points=64, batches=1)
    work = torch.tensor([True, False, True])
    ranks.gated.put({"0.weight": work})
    moved, *_ = ranks._weigh(ranks._fresh(5), work)
    ranks.gated.put({"0.weight": torch.ones(3, dtype=torch.bool)})
    there, *_ = ranks._weigh(ranks._fresh(5), torch.ones(3, dtype=torch.bool))
    torch.testing.assert_close(moved, there, rtol=0, atol=1e-12)


def test_forms_without_a_gate_for_each_term_are_refused():
    with pytest.raises(UsageError, match="lora-xs"):
        GatedForms(network("lora-xs"))
    with pytest.raises(UsageError, match="pissa"):
        GatedForms(network("pissa"))


@pytest.mark.parametrize(
    ("options", "says"),
    [(dict(rule="sublra"), "sublora"), (dict(batches=0), "batches is 0")],
)
def test_what_cannot_be_asked_is_told(options, says):
    with pytest.raises(UsageError, match=says):
        joint(network(), **options)


def test_a_budget_above_all_terms_is_told():
    with pytest.raises(UsageError, match="budget is 9; legal is a whole number from 0 to 8"):
        JointRanks(network(), Toy(), Schedule(9, steps=50))


def test_what_is_usual_depends_on_the_objective():
    bare, full = (JointRanks(network(), each(), Schedule(BUDGET, steps=STEPS)) for each in (Bare, Toy))
    assert (bare.basis, full.basis) == ("trained", "kronecker")
    assert (full.rule, full.regrow) == ("adalora", False)
    train(full.gated.terms.adapted, full)
    assert gates(full.gated.terms.adapted).sum() == BUDGET


def test_an_svd_form_with_a_core_is_gated_too():
    model = network("svd", rank=None)
    before = copy.deepcopy(model)
    ranks = JointRanks(model, Toy(), Schedule(6, steps=STEPS), points=64)
    train(model, ranks)
    assert gates(model).sum() == 6
    assert len(gates(before)) == 16


@pytest.mark.parametrize("method", ["lora", "adalora"])
def test_turning_leaves_the_function_and_the_terms_out_of_work(method):
    model = network(method)
    train(model, None, steps=20)
    gated, work = GatedForms(model), {path: torch.tensor([True, False, True, True]) for path in model.forms()}
    x = Toy().sample(seeded(3), 20)["x"]
    gated.put(work)
    before, old = model(x), terms_of(gated)
    gated.turn(rotations(gated.terms, "svd", [], turned=work))
    torch.testing.assert_close(model(x), before, rtol=0, atol=1e-12)
    assert all(torch.equal(gated.at_work()[path], mask) for path, mask in work.items())
    for path, (B, A) in terms_of(gated).items():
        torch.testing.assert_close(B[:, [1]] @ A[[1]], old[path][0][:, [1]] @ old[path][1][[1]], rtol=0, atol=1e-12)
        at = work[path].nonzero().flatten()
        for within in (B[:, at].mT @ B[:, at], A[at] @ A[at].mT):  # those of a singular value decomposition
            torch.testing.assert_close(within, torch.diag(within.diagonal()), rtol=0, atol=1e-12)


def terms_of(gated):
    """Return B and A of all terms, as if they were at work."""
    with opened(gated):
        return copy.deepcopy(gated.terms.halves())


def test_turning_leaves_vectors_that_a_method_holds_fast():
    model = network("svd", rank=None)
    before = copy.deepcopy(model.state_dict())
    gated = GatedForms(model)
    gated.turn(rotations(gated.terms, "svd", []))
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])


@pytest.mark.parametrize("regrow", [True, False])
def test_optimizers_begin_anew_where_terms_are_turned(regrow):
    model = network("adalora")
    ranks, steps = joint(model, basis="kronecker", regrow=regrow), []

    def watch(step, net):
        ranks(step, net)
        (optimizer,) = ranks.optimizers
        steps.append(min((int(state["step"]) for state in optimizer.state.values()), default=0))

    watcher = type(
        "Watch", (), {"begin": lambda self, *given: ranks.begin(*given), "__call__": lambda self, *a: watch(*a)}
    )()
    train(model, watcher)
    assert [step for step, held in enumerate(steps, 1) if not held] == [row["step"] for row in ranks.history]
    assert gates(model).sum() == BUDGET


@pytest.mark.parametrize("rule", ["adalora", "magnitude", "first_order"])
def test_rules_without_curvature_choose_the_same_without_it(rule, monkeypatch):
    model, other = network(), network()
    ranks, kinds = joint(model, rule=rule, regrow=False), []
    train(model, ranks)

    def bent(*given, kind, **options):
        kinds.append(kind)
        return quadratic(*given, kind="hessian", **options)

    monkeypatch.setattr("lissome.allocation.joint.quadratic", bent)
    same = joint(other, rule=rule, regrow=False)
    train(other, same)
    assert set(kinds) == {"linear"}
    assert same.history == ranks.history


def test_a_basis_that_cannot_be_measured_is_told():
    with pytest.raises(UsageError, match="the basis 'whitened' needs an objective with a residual, or a probe"):
        JointRanks(network(), Bare(), Schedule(BUDGET, steps=STEPS), basis="whitened")
    with pytest.raises(UsageError, match="kronecker"):
        joint(network(), basis="kroneker")
