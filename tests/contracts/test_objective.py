"""What a problem promises to the loop that minimises it."""

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.func import functional_call

from lissome._errors import UsageError
from lissome._types import Objective
from lissome.adapt import Adapted, svd
from lissome.models import MLP
from lissome.optim import Budget, Group, Method, fit
from lissome.pde import Problem, load_family
from tests.oracles import pde as oracle
from tests.pde.members import (
    FEW,
    Formula,
    cache,
    every_constraint,
    every_member,
    network_for,
    problem_of,
    seeded,
)

pytestmark = pytest.mark.usefixtures(cache.__name__)


def gradients(loss, model):
    trained = [p for p in model.parameters() if p.requires_grad]
    return torch.autograd.grad(loss, trained, allow_unused=True, materialize_grads=True)


@every_member
def test_a_problem_is_an_objective(label):
    assert isinstance(problem_of(label), Objective)


@every_constraint
@every_member
def test_loss_is_its_definition_point_by_point(label, constraint):
    problem = problem_of(label, constraint, weight_boundary=7.0)
    model, batch = network_for(problem), problem.sample(seeded(1))
    assert ("boundary" in batch) == (constraint == "soft")
    assert ("initial" in batch) == (problem.timed and constraint != "exact")
    ours = problem.loss(model, batch)
    family = problem.family
    truth = oracle.loss(family.name, family.values, model, batch, 7.0)
    torch.testing.assert_close(ours, truth, rtol=1e-9, atol=1e-9)
    expected = gradients(truth, model)
    scale = 1 + max(float(g.abs().max()) for g in expected)
    for one, other in zip(gradients(ours, model), expected, strict=True):
        assert (one - other).abs().max() < 1e-9 * scale


@every_constraint
@every_member
def test_mean_square_of_the_residual_is_the_loss(label, constraint):
    problem = problem_of(label, constraint)
    model, batch = network_for(problem), problem.sample(seeded(1))
    residual = problem.residual(model, batch)
    assert residual.ndim == 1
    torch.testing.assert_close(residual.square().mean(), problem.loss(model, batch), rtol=1e-14, atol=0)


@every_constraint
@every_member
def test_evaluation_repeats_itself_and_trains_nothing(label, constraint):
    problem = problem_of(label, constraint)
    model = network_for(problem)
    before = copy.deepcopy(model.state_dict())
    first, second = problem.evaluate(model), problem.evaluate(model)
    assert first == second == problem_of(label, constraint).evaluate(model)
    assert {"error", "squared_error", "fresh"} <= first.keys()
    assert ("error_uniform" in first) == (problem.family.sampling == "published")
    assert all(type(value) is float and math.isfinite(value) for value in first.values())
    assert first["squared_error"] == pytest.approx(first["error"] ** 2)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


@every_member
def test_error_is_relative_to_the_exact_solution(label):
    problem = problem_of(label)
    from_zero = problem.evaluate(Formula(lambda z: torch.zeros_like(z[:, 0])))
    assert from_zero["error"] == pytest.approx(1.0)
    other = problem_of(label, seed=1)
    model = network_for(problem)
    assert problem.evaluate(model)["error"] != other.evaluate(model)["error"]


@every_member
def test_fresh_points_are_not_those_of_training(label):
    problem = problem_of(label, pool=2, sampling="uniform")
    problem.evaluate(network_for(problem))
    drawn = torch.cat([problem.sample(seeded(seed))["interior"] for seed in range(20)])  # all of the pool
    fresh = problem._kept["fresh"]["interior"]
    assert not bool((fresh[:, None] == drawn[None]).all(2).any())


@every_constraint
@every_member
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_both_precisions(label, constraint, dtype):
    problem = problem_of(label, constraint, dtype=dtype)
    model, batch = network_for(problem), problem.sample(seeded(1))
    assert all(value.dtype == dtype for value in batch.values())
    loss = problem.loss(model, batch)
    assert loss.dtype == dtype
    loss.backward()
    assert all(
        p.grad.dtype == dtype and bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None
    )
    if dtype == torch.float32:
        wide = {key: value.double() for key, value in batch.items()}
        truth = problem.to(dtype=torch.float64).loss(copy.deepcopy(model).double(), wide)
        torch.testing.assert_close(loss.double(), truth, rtol=1e-3, atol=1e-4)


@every_member
def test_changing_the_precision_draws_the_same_points(label):
    problem = problem_of(label)
    before = problem.sample(seeded(1))
    after = problem.to(dtype=torch.float32).sample(seeded(1))
    assert before.keys() == after.keys()
    for key, value in before.items():
        assert after[key].dtype == torch.float32
        torch.testing.assert_close(after[key], value.float())


@settings(max_examples=25, deadline=None)
@given(n=st.integers(1, 200), interior=st.integers(1, 40), edge=st.integers(0, 20), initial=st.integers(0, 20))
def test_points_are_shared_out_as_asked(n, interior, edge, initial):
    counts = {"interior": interior, "boundary": edge, "initial": initial}
    problem = Problem(load_family("convection")(), points=counts, test_points=5)
    usual = problem.sample(seeded())
    assert {kind: len(usual[kind]) if kind in usual else 0 for kind in counts} == counts
    total = sum(counts.values())
    batch = problem.sample(seeded(), n)
    for kind, count in counts.items():
        got = len(batch[kind]) if kind in batch else 0
        assert got == (max(round(n * count / total), 1) if count else 0)
    again = problem.sample(seeded(), total)
    assert all(torch.equal(again[key], usual[key]) for key in usual)


@every_constraint
@every_member
def test_wrapping_keeps_names_usable(label, constraint):
    problem = problem_of(label, constraint)
    net = MLP(problem.inputs, width=6, depth=2, offset=problem.offset).to(problem.dtype)
    model = problem.wrap(net)
    names = [name for name, _ in net.named_parameters()]
    prefix = "" if constraint == "soft" else "network."
    assert [name for name, _ in model.named_parameters()] == [prefix + name for name in names]
    batch = problem.sample(seeded(1))
    before = problem.loss(model, batch)
    twin = problem.wrap(MLP(problem.inputs, width=6, depth=2, offset=problem.offset).to(problem.dtype))
    twin.load_state_dict(model.state_dict())
    assert torch.equal(problem.loss(twin, batch), before)
    copied = copy.deepcopy(model)
    with torch.no_grad():
        net.layers[0].weight.add_(1.0)
    assert torch.equal(problem.loss(copied, batch), before)
    assert not torch.equal(problem.loss(model, batch), before)


@every_constraint
@pytest.mark.parametrize("label", ["allen-cahn", "poisson, faces not 0", "convection", "a file"])
def test_adapted_networks_go_under_a_constraint(label, constraint):
    problem = problem_of(label, constraint)
    net = MLP(problem.inputs, width=6, depth=2, offset=problem.offset, generator=seeded()).to(problem.dtype)
    path = "layers.2.weight"
    adapted = Adapted(net, {path: svd(net.get_parameter(path))}, train=["*.bias"])
    batch = problem.sample(seeded(1))
    loss = problem.loss(problem.wrap(adapted), batch)
    torch.testing.assert_close(loss, problem.loss(problem.wrap(net), batch))
    trained = [p for p in adapted.parameters() if p.requires_grad]
    # u + const solves what u solves where only derivatives and differences are read
    moved = [float(g.abs().max()) > 0 for g in torch.autograd.grad(loss, trained, allow_unused=True) if g is not None]
    assert sum(moved) >= 3


@every_constraint
@pytest.mark.parametrize("label", ["parabolic", "helmholtz, faces not 0", "klein-gordon", "heat"])
def test_the_loss_goes_through_transforms_of_torch_func(label, constraint):
    """Second-order methods differentiate it as a function of the parameters; the lift has to let them."""
    problem = problem_of(label, constraint)
    model = network_for(problem)
    batch = problem.sample(seeded(1))

    class Loss(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, batch):
            return problem.loss(self.model, batch)

    numbers = {f"model.{name}": p.detach() for name, p in model.named_parameters()}
    got = torch.func.grad(lambda q: functional_call(Loss(), q, (batch,)))(numbers)
    truth = gradients(problem.loss(model, batch), model)
    for one, other in zip(got.values(), truth, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_the_lift_is_differentiated_once_for_each_batch():
    problem = problem_of("parabolic", "exact")
    model = network_for(problem)
    calls = []
    lift = model.lift
    model.lift = lambda p: calls.append(0) or lift(p)
    batch, other = problem.sample(seeded(1)), problem.sample(seeded(2))
    first = problem.loss(model, batch)
    once = len(calls)
    assert once > 0
    assert torch.equal(problem.loss(model, batch), first)
    assert len(calls) == once
    second = problem.loss(model, other)
    assert len(calls) == 2 * once
    assert not torch.equal(first, second)
    assert torch.equal(problem.loss(model, batch), first)
    batch["interior"][0, 0] += 0.01  # moved in place
    torch.testing.assert_close(problem.loss(model, batch), problem.loss(network_for(problem), batch))


@pytest.mark.parametrize("label", ["allen-cahn in 10", "poisson", "burgers"])
def test_stochastic_directions_come_with_the_batch(label):
    problem = problem_of(label, mode="stochastic")
    model, batch = network_for(problem), problem.sample(seeded(1))
    same = problem.sample(seeded(1))
    loss = problem.loss(model, batch)
    torch.manual_seed(5)
    assert torch.equal(problem.loss(model, same), loss)
    assert problem.evaluate(model) == problem_of(label).evaluate(model)
    if label != "burgers":  # one second derivative is estimated without error
        same["coins"] += 1
        assert not torch.equal(problem.loss(model, same), loss)
        assert not torch.equal(problem.sample(seeded(2))["coins"], batch["coins"])


def test_points_follow_the_residual_when_asked():
    problem = problem_of("heat", points={"interior": 40, "boundary": 3, "initial": 3})
    spike = Formula(lambda z: torch.exp(-((z[:, 1] - 0.5) ** 2) * 400))
    usual, chosen = problem.sample(seeded(1)), problem.sample_by_residual(spike, seeded(1))
    assert {key: value.shape for key, value in usual.items()} == {key: value.shape for key, value in chosen.items()}
    assert torch.equal(problem.sample_by_residual(spike, seeded(1))["interior"], chosen["interior"])

    def near(draw):
        many = torch.cat([draw(seed)["interior"][:, 1] for seed in range(20)])
        return float(((many - 0.5).abs() < 0.1).double().mean())

    assert near(lambda seed: problem.sample(seeded(seed))) < 0.3
    assert near(lambda seed: problem.sample_by_residual(spike, seeded(seed))) > 0.4


@every_constraint
@every_member
def test_a_slice_for_figures(label, constraint):
    problem = problem_of(label, constraint)
    out = problem.slice(network_for(problem), 31)
    assert out.keys() == {"slice_x", "slice_exact", "slice_network"}
    assert all(value.shape == (31,) and value.dtype == torch.float64 for value in out.values())
    assert all(bool(value.isfinite().all()) for value in out.values())
    assert problem.slice().keys() == {"slice_x", "slice_exact"}


@every_constraint
@pytest.mark.parametrize("label", ["heat", "convection", "allen-cahn", "a file"])
def test_the_loop_lowers_training_and_fresh_residual(label, constraint, tmp_path):
    problem = problem_of(label, constraint, points={"interior": 30, "boundary": 10, "initial": 10})
    model = network_for(problem)
    method = Method(groups=(Group(pattern="*", optimizer="adam", lr=1e-2),), resample_every=5, points=50)
    start = problem.evaluate(model)
    result = fit(model, problem, method, Budget(steps=60), seed=0, progress=False, compile=False)
    assert {"loss", "fresh", "error"} <= result.metrics.keys()
    assert result.metrics["fresh"] < start["fresh"]


@every_member
def test_explain_is_a_sentence(label):
    for constraint in ("soft", "exact"):
        problem = problem_of(label, constraint)
        said = problem.explain(network_for(problem))
        assert said.startswith(("one pass", "nested reverse mode"))
        assert said.endswith("lift and factor by the product rule") == (constraint == "exact")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"constraint": "hard"}, "unknown constraint 'hard'; legal are: soft, boundary, exact"),
        ({"sampling": "sobel"}, "unknown sampling 'sobel'; .*did you mean 'sobol'"),
        ({"mode": "nestd"}, "unknown mode 'nestd'; .*did you mean 'nested'"),
        ({"weight_boundary": 0.0}, "weight_boundary is 0.0; legal is a number above 0"),
        ({"weight_boundary": math.nan}, "weight_boundary is nan"),
        ({"points": {"interior": 0}}, "number of interior points is 0; legal is a whole number of at least 1"),
        ({"points": {"boundary": -1}}, "number of boundary points is -1; legal is a whole number of at least 0"),
        ({"points": {"interior": 3.5}}, "number of interior points is 3.5"),
        ({"points": {"inside": 3}}, "unknown kind of points 'inside'; legal are: interior, boundary, initial"),
        ({"test_points": 0}, "test_points is 0; legal is a whole number of at least 1"),
        ({"pool": -1}, "pool is -1; legal is a whole number of at least 0"),
    ],
)
def test_bad_settings_are_sentences(settings, words):
    with pytest.raises(UsageError, match=words):
        Problem(load_family("heat")(), **settings)


@pytest.mark.parametrize("relu", [torch.nn.ReLU(), torch.nn.LeakyReLU()])
def test_plain_relu_is_refused_for_second_order(relu):
    net = torch.nn.Sequential(torch.nn.Linear(2, 4), relu, torch.nn.Linear(4, 1)).double()
    problem = problem_of("heat")
    for ask in (problem.wrap, lambda net: problem.loss(net, problem.sample(seeded()))):
        with pytest.raises(UsageError, match="second derivative is 0, and family 'heat' needs it: take relu3"):
            ask(net)
    first_order = problem_of("convection")
    assert first_order.loss(first_order.wrap(net), first_order.sample(seeded())).isfinite()


def test_values_without_a_lift_are_refused_under_a_hard_constraint():
    problem = Problem(load_family("poisson")(4, k=1.3), constraint="boundary", points=FEW)
    with pytest.raises(UsageError, match="^family 'poisson' has boundary values up to .* take constraint 'soft'$"):
        problem.wrap(MLP(problem.inputs).double())
