"""Members of a family that are trained at once end where each would have ended alone."""

import math
import re

import pytest
import torch

from lissome._errors import UsageError
from lissome._types import Objective
from lissome.adapt import Stack, adapt
from lissome.models import MLP
from lissome.optim import Budget, Group, Method, fit
from lissome.pde import Box, Family, Parameter, Problem, Together, can_stack, load_family
from tests.pde.members import FEW, cache, seeded

pytestmark = pytest.mark.usefixtures(cache.__name__)

CASES = {
    "allen-cahn": (10, "boundary", [{"c": 0.5}, {"c": 2.0}, {"c": 50.0}]),
    "heat": (2, "boundary", [{"kappa": 0.05}, {"kappa": 0.3}]),
    "heat, exact": (1, "exact", [{"kappa": 0.05}, {"kappa": 0.3}]),
    "convection": (1, "exact", [{"beta": 1.0}, {"beta": 3.0}, {"beta": 30.0}]),
    "poisson": (2, "soft", [{"c": 0.5}, {"c": 2.0, "k": 2.0}]),
    "parabolic": (3, "exact", [{"c": 0.5}, {"c": 1.0}]),
    "klein-gordon": (1, "boundary", [{"omega": 2.0}, {"gamma": 5.0}]),
    "burgers": (1, "boundary", [{"nu": 0.01}, {"nu": 0.1}]),
}
every_case = pytest.mark.parametrize("label", CASES)


def problems_of(label, **settings):
    dimension, constraint, targets = CASES[label]
    base = load_family(label.partition(",")[0])(dimension)
    settings = {"points": FEW, "test_points": 50, "pool": 3} | settings
    return [Problem(base.at(**target), constraint=constraint, **settings) for target in targets]


def networks(problems, method="svd"):
    """Return adapters of one network, each under its problem's constraint."""
    first = problems[0]
    net = MLP(first.inputs, width=6, depth=2, activation="gelu", offset=first.offset, generator=seeded())
    adapters = [adapt(net.to(first.dtype), method, generator=seeded()) for _ in problems]
    return [problem.wrap(each) for problem, each in zip(problems, adapters, strict=True)]


def trained(model):
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def train(model, objective, parameters, steps=6, **group):
    problem = objective.problems[0] if isinstance(objective, Together) else objective
    method = Method((Group(**group),), "cosine", resample_every=2, points=sum(problem.counts.values()))
    return fit(model, objective, method, Budget(steps=steps), parameters=parameters, seed=7, progress=False)


@pytest.mark.parametrize(
    ("label", "method"),
    [(label, "svd") for label in CASES]
    + [(label, "lora") for label in ("allen-cahn", "heat", "convection", "poisson")],
)
def test_each_member_ends_where_it_would_have_ended_alone(label, method):
    problems = problems_of(label)
    assert can_stack(problems) == ""
    stack = Stack(networks(problems, method))
    result = train(stack, Together(problems), stack.trainable(), lr=5e-3)
    alone = problems_of(label)
    for k, (problem, model) in enumerate(zip(alone, networks(alone, method), strict=True)):
        own = train(model, problem, trained(model), lr=5e-3)
        for name, parameter in trained(model).items():
            torch.testing.assert_close(stack.trainable()[name][k], parameter, rtol=1e-9, atol=1e-11)
        for row, each in zip(result.history, own.history, strict=True):
            for name, value in each.items():
                if name not in ("step", "seconds", "lr"):
                    assert row[f"{name}/{k}"] == pytest.approx(value, rel=1e-8), name


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "nadam", "radam", "rmsprop", "adagrad", "sgd"])
def test_every_optimizer_that_works_entry_by_entry(optimizer):
    problems = problems_of("heat")
    stack = Stack(networks(problems))
    train(stack, Together(problems), stack.trainable(), optimizer=optimizer, lr=1e-3)
    for k, (problem, model) in enumerate(zip(problems, networks(problems), strict=True)):
        train(model, problem, trained(model), optimizer=optimizer, lr=1e-3)
        for name, parameter in trained(model).items():
            torch.testing.assert_close(stack.trainable()[name][k], parameter, rtol=1e-9, atol=1e-11)


@every_case
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_loss_is_the_sum_of_the_members_and_its_gradient_each_ones_own(label, dtype):
    problems = problems_of(label, dtype=dtype)
    models = networks(problems)
    stack, together = Stack(models), Together(problems)
    batch = together.sample(seeded(1))
    losses = together.losses(stack, batch)
    assert losses.dtype == dtype
    slopes = torch.autograd.grad(together.loss(stack, batch), list(stack.trainable().values()))
    tolerance = 1e-9 if dtype == torch.float64 else 2e-3
    for k, (problem, model) in enumerate(zip(problems, models, strict=True)):
        loss = problem.loss(model, problem.sample(seeded(1)))
        torch.testing.assert_close(losses[k], loss, rtol=tolerance, atol=tolerance)
        own = torch.autograd.grad(loss, list(trained(model).values()))
        scale = max(float(each.abs().max()) for each in own)
        for slope, each in zip(slopes, own, strict=True):
            torch.testing.assert_close(slope[k] / scale, each / scale, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("sampling", ["published", "mixed", "sobol", "latin"])
@pytest.mark.parametrize("pool", [0, 3])
def test_members_see_the_points_that_they_see_alone(sampling, pool):
    problems = problems_of("allen-cahn", sampling=sampling, pool=pool)
    together, ours, alone = Together(problems), seeded(4), [seeded(4) for _ in problems]
    assert isinstance(together, Objective)
    for n in (None, 20, None):
        batch = together.sample(ours, n)
        for k, (problem, generator) in enumerate(zip(problems, alone, strict=True)):
            for name, value in problem.sample(generator, n).items():
                assert torch.equal(batch[name] if name in batch else batch[f"own {name}"][k], value)
            assert torch.equal(ours.get_state(), generator.get_state())
        assert "interior" in batch  # the same for all: computed with once
        assert "own source" in batch


def test_figures_are_those_of_each_member_and_their_means():
    problems = problems_of("poisson")
    models, together = networks(problems), Together(problems)
    found = together.evaluate(Stack(models))
    rows = [problem.evaluate(model) for problem, model in zip(problems, models, strict=True)]
    assert found == pytest.approx(
        {name: (rows[0][name] + rows[1][name]) / 2 for name in rows[0]}
        | {f"{name}/{k}": value for k, row in enumerate(rows) for name, value in row.items()}
    )
    losses = together.losses(Stack(models), together.sample(seeded()))
    told = together.evaluate(Stack(models))
    assert [told["loss/0"], told["loss/1"]] == losses.tolist()


@pytest.mark.parametrize("label", ["parabolic", "heat, exact"])
def test_a_family_is_its_own_member_again_and_a_kept_lift_is_its_own(label):
    problems = problems_of(label)
    models, together, batch = networks(problems), Together(problems), problems[0].sample(seeded())
    values, before = dict(problems[0].family.values), problems[0].loss(models[0], batch)
    joint = together.sample(seeded())
    joint |= {name: value for name, value in batch.items() if name in joint}  # the very tensors that lifts are kept for
    first = together.losses(Stack(models), joint)
    torch.testing.assert_close(first[1], problems[1].loss(models[1], problems[1].sample(seeded())))
    assert {name: getattr(problems[0].family, name) for name in values} == values
    assert problems[0].loss(models[0], batch) == before


class Plain(Family):
    name = "plain"
    parameters = (Parameter("k", 1.0, low=0.0),)
    dimensions = 1
    k: float

    def domain(self):
        return Box((0.0,), (1.0,))

    def operator(self, u, p):
        return -self.stiffness() * u.laplacian

    def exact(self, p):
        return torch.sin(math.pi * p.x[:, 0])

    def stiffness(self):
        return self.k


class Sine(Plain):
    def stiffness(self):
        return math.sin(self.k)


class Branch(Plain):
    def stiffness(self):
        return 2 * self.k if self.k > 1.5 else self.k


class Early(Plain):
    def __init__(self, dimension=None, **parameters):
        super().__init__(dimension, **parameters)
        self.square = self.k**2

    def stiffness(self):
        return self.square


class Wide(Plain):
    def domain(self):
        return Box((0.0,), (self.k,))


@pytest.mark.parametrize(
    ("family", "words"),
    [
        (Sine, "^its code does not take tensors for parameters: "),
        (Branch, "^its code does not take tensors for parameters: "),
        (
            Early,
            r"^plain\(dimension=1, k=2\) gives other numbers stacked than alone: its parameters are read",
        ),
        (Wide, "^domain is Box.* in one and Box.* in another"),
    ],
)
def test_a_family_that_cannot_be_stacked_says_why(family, words):
    problems = [Problem(family(k=k), constraint="boundary", points=FEW) for k in (1.0, 2.0)]
    values = [dict(problem.family.values) for problem in problems]
    assert re.search(words, can_stack(problems))
    assert [{"k": vars(problem.family)["k"]} for problem in problems] == values
    assert can_stack([Problem(Plain(k=k), constraint="boundary", points=FEW) for k in (1.0, 2.0)]) == ""


def test_a_chart_of_points_that_holds_a_parameter_is_found_out():
    members = [load_family("allen-cahn-1d")(diffusion=diffusion) for diffusion in (1e-4, 2e-4)]
    few = {"interior": 2, "boundary": 2, "initial": 2}
    soft, exact = ([Problem(m, constraint=how, points=few) for m in members] for how in ("boundary", "exact"))
    assert can_stack(soft) == ""
    assert "gives other numbers stacked than alone" in can_stack(exact)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"constraint": "boundary"}, "constraint is soft in one and boundary in another"),
        ({"points": {"interior": 6}}, "points is .* in another"),
        ({"sampling": "sobol"}, "sampling is uniform in one and sobol in another"),
        ({"weight_boundary": 2.0}, "weight_boundary is 100.0 in one and 2.0 in another"),
        ({"dtype": torch.float32}, "dtype is torch.float64 in one and torch.float32 in another"),
        ({"mode": "nested"}, "mode is auto in one and nested in another"),
        ({"family": load_family("heat")()}, "family is .*Poisson.* in one and .*Heat.* in another"),
        ({"family": load_family("poisson")(3)}, "dimension is 2 in one and 3 in another"),
    ],
)
def test_problems_that_differ_in_more_than_parameters_are_refused(change, words):
    given = {"family": load_family("poisson")(c=1), "points": FEW}
    two = [Problem(**given), Problem(**(given | change))]
    with pytest.raises(UsageError, match=f"^problems cannot be put together: {words}"):
        Together(two)
    assert can_stack(two)


def test_other_wrong_arguments_are_sentences():
    with pytest.raises(UsageError, match="no problems are given; legal is one or more members of a family"):
        Together([])
    problems = problems_of("heat")
    with pytest.raises(UsageError, match="the model is a Constrained; legal is a stack of networks"):
        Together(problems).loss(networks(problems)[0], Together(problems).sample(seeded()))
    coins = [Problem(problem.family, mode="stochastic") for problem in problems]
    assert can_stack(coins) == "directions of mode 'stochastic' are drawn inside the loss"
