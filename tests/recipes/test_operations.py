"""Counted operations are those that an optimizer has asked for, and the same in every run."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from lissome._errors import UsageError
from lissome.adapt import adapt
from lissome.models import MLP
from lissome.optim import Budget, Group, Method, fit
from lissome.optim.machine import accelerator
from lissome.optim.step import Stepper
from lissome.pde import Problem, load_family
from lissome.recipes.operations import SPENDS, Counted

POINTS = {"interior": 20, "boundary": 6}
POINTS_IN_ALL = 26


def problem_and_model(width=6, method="full"):
    problem = Problem(load_family("poisson")(), points=POINTS, test_points=50)
    network = MLP(2, width=width, depth=2, generator=torch.Generator().manual_seed(0)).double()
    return problem, problem.wrap(adapt(network, method, generator=torch.Generator().manual_seed(0)))


def spent(optimizer, steps, **how):
    problem, model = problem_and_model(**how)
    counted = Counted(problem, model, optimizer)
    method = Method((Group(optimizer=optimizer),), resample_every=1, points=POINTS_IN_ALL)
    result = fit(model, counted, method, Budget(steps=steps), evaluate_every=1, progress=False)
    return counted, [row["operations"] for row in result.history]


@pytest.mark.parametrize("optimizer", ["adam", "lbfgs", "ssbroyden", "gauss-newton"])
@pytest.mark.parametrize("method", ["full", "svd", "last"])
def test_passes_cost_what_torch_counts_while_a_step_is_done(optimizer, method):
    problem, model = problem_and_model(method=method)
    counted, plain = (
        Counted(problem, model, optimizer),
        Counted(problem, model, "adam"),
    )  # whose gradient is a pass alone
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    stepper = Stepper(model, counted, trained, accelerator(torch.device("cpu")), 0)
    stepper.enter(Method((Group(optimizer=optimizer),), points=POINTS_IN_ALL))
    stepper.draw()
    with FlopCounterMode(display=False) as counter:
        stepper.advance(0, 1.0)
    if (
        optimizer == "gauss-newton"
    ):  # one Jacobian and some values; torch does not see what the optimizer does with them
        algebra = SPENDS[optimizer].per_jacobian(sum(p.numel() for p in trained.values()), POINTS_IN_ALL)
        expected = counted.spent - algebra
    else:
        expected = counted.spent / counted.gradient * plain.gradient
    assert counter.get_total_flops() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_a_first_order_step_is_one_gradient(optimizer):
    counted, curve = spent(optimizer, 3)
    assert curve == [counted.gradient * n for n in range(4)]
    assert counted.per_step() == counted.gradient


@pytest.mark.parametrize("optimizer", ["lbfgs", "ssbroyden"])
def test_a_line_search_pays_for_each_of_its_gradients(optimizer):
    counted, curve = spent(optimizer, 2)
    assert curve[-1] / counted.gradient == pytest.approx(round(curve[-1] / counted.gradient))
    assert curve[-1] >= 2 * counted.per_step() > 0


def test_gauss_newton_pays_for_jacobian_trials_and_its_linear_algebra():
    counted, curve = spent("gauss-newton", 1)
    p, rows = 61, 26
    trials = (curve[-1] - counted.jacobian) / counted.value
    assert trials == pytest.approx(round(trials))
    assert trials >= 1
    assert counted.jacobian > rows**2 * p


def test_a_smaller_space_costs_less_linear_algebra_and_no_fewer_passes():
    whole, few = (Counted(*problem_and_model(12, method), "gauss-newton") for method in ("full", "last"))
    assert few.jacobian < whole.jacobian
    assert few.value <= whole.value


@pytest.mark.parametrize("optimizer", sorted(SPENDS))
def test_every_optimizer_that_is_counted_is_one_of_the_loop(optimizer):
    counted, curve = spent(optimizer, 1)
    assert curve[0] == 0 < counted.per_step() <= curve[-1]


def test_counts_are_the_same_in_every_run():
    assert spent("gauss-newton", 3)[1] == spent("gauss-newton", 3)[1]


def test_what_is_not_counted_is_refused():
    with pytest.raises(UsageError, match="arcm"):
        Counted(*problem_and_model(), "arcm")


def test_operations_are_counted_where_derivatives_are_nested():
    problem = Problem(load_family("convection")(), points={"interior": 20, "initial": 6}, constraint="boundary")
    network = MLP(problem.inputs, width=4, depth=2, offset=problem.offset).double()
    model = problem.wrap(adapt(network, "svd"))
    assert "nested" in problem.explain(model)
    assert Counted(problem, model, "adam").gradient > 0


def test_weighing_is_charged():
    problem = Problem(load_family("heat")(), points={"interior": 200, "initial": 60}, weight_boundary="balanced")
    model = problem.wrap(MLP(problem.inputs, width=4, depth=1, offset=problem.offset).double())
    counted = Counted(problem, model, "adam")
    counted.weigh(model, problem.sample(torch.Generator().manual_seed(0)))
    assert 0 < counted.spent <= counted.gradient
