import contextlib

import pytest
import torch

from lissome._errors import UsageError
from lissome.adapt import Stack, adapt
from lissome.models import KAN, MLP
from lissome.optim import Budget, Group, Method, fit
from lissome.pde import Problem, Together, can_stack, load_family
from lissome.pde.balance import SEEN
from lissome.recipes.bench_settings import BenchSettings
from lissome.recipes.settings import SolveSettings, load

FEW = {"interior": 24, "boundary": 10, "initial": 7}


def problem(family="heat", constraint="soft", **changes):
    given = {"points": FEW, "constraint": constraint, "weight_boundary": "balanced", "test_points": 50} | changes
    return Problem(load_family(family)(), **given)


def network(at, kind=MLP):
    sized = {"width": 5, "depth": 1, "offset": at.offset, "generator": torch.Generator().manual_seed(0)}
    return at.wrap(kind(at.inputs, **sized).double())


def squares(at, model, part):
    """The diagonal of J J^T, one row after another."""
    found = []
    for r in at.rows(model, part).reshape(-1):
        gradients = torch.autograd.grad(r, list(model.parameters()), retain_graph=True, materialize_grads=True)
        found.append(sum(float(g.square().sum()) for g in gradients))
    return found


@pytest.mark.parametrize("kind", [MLP, KAN])
@pytest.mark.parametrize(("family", "constraint"), [("heat", "soft"), ("heat", "boundary"), ("klein-gordon", "soft")])
def test_the_balanced_weight_is_the_ratio_of_mean_diagonals(family, constraint, kind):
    at = problem(family, constraint)
    model, batch = network(at, kind), at.sample(torch.Generator().manual_seed(1))
    (inside, _), *outside = at.parts(batch)
    first = squares(at, model, inside)
    rest = [each for part, _ in outside for each in squares(at, model, part)]
    wanted = (sum(first) / len(first)) / (sum(rest) / len(rest)) * len(rest) / len(first)
    found = float(at.weigh(model, batch)["balance"])
    assert found == pytest.approx(wanted, rel=1e-9)


def test_of_many_points_at_most_64_are_looked_at_evenly(monkeypatch):
    at = problem(points={"interior": 100, "boundary": 130, "initial": 7})
    model, batch = network(at), at.sample(torch.Generator().manual_seed(1))
    (inside, _), *outside = at.parts(batch)
    first = squares(at, model, inside)[::2]
    assert len(first) <= SEEN < 100
    rest = [(squares(at, model, part), len(part["places"])) for part, _ in outside]
    ((both, many),) = rest  # boundary and initial values are one part: 137 rows, every third of them
    wanted = (sum(first) / len(first)) / (sum(both[::3]) / len(both[::3])) * many / 100
    assert float(at.weigh(model, batch)["balance"]) == pytest.approx(wanted, rel=1e-9)


def test_directions_by_chance_are_no_part_of_the_balance():
    plain, drawn = problem("poisson"), problem("poisson", mode="stochastic")
    model = network(plain)
    batch = drawn.sample(torch.Generator().manual_seed(1))
    rest = {name: value for name, value in batch.items() if name != "coins"}
    assert float(drawn.weigh(model, batch)["balance"]) == pytest.approx(float(plain.weigh(model, rest)["balance"]))


def test_the_loss_weighs_by_it_and_its_residual_has_the_same_mean_square():
    at = problem()
    model, batch = network(at), at.sample(torch.Generator().manual_seed(1))
    by_hand = Problem(at.family, points=FEW, weight_boundary=float(at.weigh(model, batch)["balance"]))
    balanced = batch | at.weigh(model, batch)
    assert float(at.loss(model, balanced).detach()) == pytest.approx(
        float(by_hand.loss(model, batch).detach()), rel=1e-12
    )
    assert float(at.loss(model, batch).detach()) != pytest.approx(float(by_hand.loss(model, batch).detach()), rel=1e-3)


def test_boundary_and_interior_then_move_at_one_pace():
    at = problem()
    model, batch = network(at), at.sample(torch.Generator().manual_seed(1))
    (inside, here), *outside = at.parts(batch | at.weigh(model, batch))
    first = float(here) ** 2 * sum(squares(at, model, inside)) / FEW["interior"]
    rest = [float(there) ** 2 * each for part, there in outside for each in squares(at, model, part)]
    assert sum(rest) / len(rest) == pytest.approx(first, rel=1e-9)


@pytest.mark.parametrize("family", ["poisson", "heat"])
def test_where_all_holds_exactly_there_is_nothing_to_weigh(family):
    at = problem(family, "exact")
    assert at.weigh(network(at), at.sample(torch.Generator().manual_seed(1))) == {}


def test_a_number_is_left_alone():
    at = problem(weight_boundary=3.0)
    assert at.weigh(network(at), at.sample(torch.Generator().manual_seed(1))) == {}


class Stopped(Exception):
    pass


@pytest.mark.parametrize("optimizer", ["adam", "gauss-newton", "lbfgs"])
def test_training_follows_the_weight_and_resumes_to_the_same_bits(optimizer, tmp_path):
    def stop(step, model):
        if step == 70:
            raise Stopped

    def train(place, **options):
        at = problem(seed=2)
        model, every = network(at), None if optimizer == "lbfgs" else 1
        method = Method((Group(optimizer=optimizer, options={"max_iter": 2} if optimizer == "lbfgs" else {}),))
        method = Method(method.groups, resample_every=every, points=41)
        budget = Budget(steps=110)
        how = {"directory": place, "evaluate_every": 55, "checkpoint_every": 60, "progress": False, "seed": 1}
        return model, fit(model, at, method, budget, **how, **options)

    whole, result = train(tmp_path / "whole")
    with contextlib.suppress(Stopped):
        train(tmp_path / "broken", on_step=stop)
    again, _ = train(tmp_path / "broken", resume=True)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(), strict=True))
    weights = [row["balance"] for row in result.history]
    assert len(set(weights)) == len(weights) == 3


@pytest.mark.parametrize("constraint", ["soft", "boundary"])
def test_members_that_are_trained_at_once_have_each_its_own_weight(constraint):
    family, several = load_family("heat")(), {"points": FEW, "constraint": constraint, "weight_boundary": "balanced"}
    problems = [Problem(family.at(kappa=kappa), **several) for kappa in (0.05, 0.3)]
    net = network(problems[0])
    inner = net.network if constraint == "boundary" else net
    models = [each.wrap(adapt(inner, "full")) for each in problems]
    assert not can_stack(problems)
    method = Method((Group(),), resample_every=3, points=41)
    how = {"budget": Budget(steps=60), "seed": 1, "progress": False}
    stack = Stack(models)
    fit(stack, Together(problems), method, parameters=stack.trainable(), **how)
    for each, model, together in zip(problems, models, stack.split(), strict=True):
        fit(model, each, method, parameters={n: p for n, p in model.named_parameters() if p.requires_grad}, **how)
        for a, b in zip(model.parameters(), together.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("weight", [0.0, -1.0, float("inf"), float("nan"), "balance", None, True, 10**400])
def test_another_weight_is_refused(weight):
    with pytest.raises(UsageError, match="legal is a number above 0, or 'balanced'"):
        problem(weight_boundary=weight)


@pytest.mark.parametrize("weight", ["foo", "0", "-2", "[1]"])
def test_settings_refuse_another_weight(weight):
    with pytest.raises(UsageError, match="legal are a number above 0, balanced, and null"):
        load(SolveSettings, given={"family": "heat"}, changes=[f"weights={weight}"])


@pytest.mark.parametrize("weight", [-5, 0])
def test_a_benchmark_refuses_another_weight(weight):
    with pytest.raises(UsageError, match="legal are a number above 0, balanced, and null"):
        load(BenchSettings, given={"weights": weight})


@pytest.mark.parametrize(("settings", "more"), [(SolveSettings, {"family": "heat"}), (BenchSettings, {})])
def test_a_flag_is_no_weight(settings, more):
    with pytest.raises(UsageError, match="'weights': True holds true or false, and legal is a number or 'balanced'"):
        load(settings, given={**more, "weights": True})


def test_settings_of_earlier_runs_have_the_weight_by_its_earlier_name():
    assert load(SolveSettings, given={"family": "heat", "weight": 7.0}).weights == 7.0
