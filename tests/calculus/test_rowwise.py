import pytest
import torch

from lissome._vector import flatten, functional, unflatten
from lissome.adapt import adapt
from lissome.calculus.rowwise import rowwise
from lissome.models import MLP
from lissome.pde import Problem, load_family

FAMILIES = {
    "allen-cahn": ("soft", "boundary"),
    "parabolic": ("soft",),
    "klein-gordon": ("soft", "exact"),
    "convection": ("soft", "exact"),
    "burgers": ("exact",),
    "allen-cahn-1d": ("soft", "exact"),
}
CASES = [(name, constraint) for name, constraints in FAMILIES.items() for constraint in constraints]


def case(name, constraint, method=None):
    family = load_family(name)
    points = {"interior": 7, "boundary": 4, "initial": 3}
    problem = Problem(family(), points=points, constraint=constraint, test_points=10)
    generator = torch.Generator().manual_seed(0)
    network = MLP(problem.inputs, width=6, depth=2, offset=problem.offset, generator=generator).double()
    model = problem.wrap(adapt(network, method) if method else network)
    return problem, model, problem.sample(generator)


@pytest.mark.parametrize(("name", "constraint"), CASES)
def test_rows_at_once_are_the_rows_of_reverse_mode(name, constraint):
    problem, model, batch = case(name, constraint)
    f, tensors = functional(problem.rows, model)
    found, jacobians = [], []
    for part, factor in problem.parts(batch):
        values, jacobian = rowwise(f, tensors, part, chunk=3)
        found.append(factor * values.flatten())
        jacobians.append(factor * jacobian)
    residual = problem.residual(model, batch)
    torch.testing.assert_close(torch.cat(found), residual.detach(), rtol=1e-10, atol=1e-12)
    parameters = [p for p in model.parameters() if p.requires_grad]
    truth = [
        torch.cat([g.flatten() for g in torch.autograd.grad(r, parameters, retain_graph=True, materialize_grads=True)])
        for r in residual
    ]
    torch.testing.assert_close(torch.cat(jacobians), torch.stack(truth), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("method", ["svd", "full"])
def test_rows_go_through_an_adapter(method):
    problem, model, batch = case("allen-cahn", "boundary", method)
    f, tensors = functional(problem.rows, model)
    part, _ = problem.parts(batch)[0]
    _, jacobian = rowwise(f, tensors, part)
    x, h = flatten(tensors), 1e-6
    direction = torch.randn(len(x), generator=torch.Generator().manual_seed(1), dtype=x.dtype)
    ends = [f(unflatten(x + s * h * direction, tensors), part)[:, 0] for s in (1, -1)]
    torch.testing.assert_close(jacobian @ direction, (ends[0] - ends[1]) / (2 * h), rtol=1e-5, atol=1e-5)


def test_values_and_jacobian_leave_parameters_and_gradients_alone():
    problem, model, batch = case("burgers", "exact")
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    f, tensors = functional(problem.rows, model)
    values, jacobian = rowwise(f, tensors, problem.parts(batch)[0][0])
    assert not values.requires_grad
    assert not jacobian.requires_grad
    for name, p in model.named_parameters():
        assert torch.equal(p, before[name])
        assert p.grad is None
