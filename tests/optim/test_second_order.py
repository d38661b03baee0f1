"""What the faces of second order have in common: bad input is told in a sentence, and real problems go through."""

from itertools import pairwise

import pytest
import torch
from accelerate import Accelerator
from torch.nn.functional import cross_entropy

from lissome._errors import RunError, UsageError
from lissome.adapt import adapt
from lissome.models import MLP
from lissome.optim import ARC, GaussNewton, Group, Method, QuasiNewton
from lissome.optim.step import Stepper
from lissome.pde import Problem, load_family


def start(dtype=torch.float64):
    return torch.nn.Parameter(torch.tensor([2.0, -1.0, 0.5], dtype=dtype))


def residual(x):
    return torch.cat([x - 1, torch.sin(x) * x, x.prod()[None]])


def loss(x):
    return residual(x).square().mean()


def differentiated(x, f=loss):
    """Return the loss, its gradient left in x."""
    x.grad = None
    value = f(x)
    value.backward()
    return value


# name -> an optimizer of some parameters, and what its closure returns at x
FACES = {
    "arc, exact": (lambda params: ARC(params, subproblem="exact"), loss),
    "arc, krylov": (lambda params: ARC(params, subproblem="krylov"), loss),
    "arc, published": (lambda params: ARC(params, "published"), loss),
    "gauss-newton, marquardt": (GaussNewton, residual),
    "gauss-newton, cubic": (lambda params: GaussNewton(params, "cubic"), residual),
    "bfgs": (lambda params: QuasiNewton(params, rule="bfgs"), differentiated),
    "ssbfgs": (lambda params: QuasiNewton(params, rule="ssbfgs"), differentiated),
    "ssbroyden": (lambda params: QuasiNewton(params, rule="ssbroyden"), differentiated),
}
every_face = pytest.mark.parametrize("face", FACES)

ARCS, SQUARES = ("arc, exact", "arc, krylov", "arc, published"), ("gauss-newton, marquardt", "gauss-newton, cubic")
# what a closure does wrong -> the faces that it can be done to, what it returns at x, and the sentence
WRONG = {
    "a loss without graph": (ARCS, lambda x: loss(x).detach(), "loss without a graph; compute it from the parameters"),
    "a loss made under no_grad": (ARCS, torch.no_grad()(loss), "loss without a graph; compute it from the parameters"),
    "a loss that was differentiated": (ARCS, differentiated, "has freed its graph; return the loss without calling"),
    "a vector for a loss": (ARCS, residual, r"returns a tensor of shape \(7,\); legal is a scalar: take a mean"),
    "a number for a loss": (ARCS, lambda x: 3.0, "returns a float; legal is the loss, a scalar tensor with graph"),
    "nothing for a loss": (ARCS, lambda x: None, "returns a NoneType; legal is the loss, a scalar tensor"),
    "a residual without graph": (SQUARES, lambda x: residual(x).detach(), "has no graph: compute it from the param"),
    "a residual made under no_grad": (SQUARES, torch.no_grad()(residual), "has no graph: compute it from the param"),
    "a loss for a residual": (SQUARES, loss, r"the closure returned \(\); legal is a residual vector"),
    "a matrix for a residual": (
        SQUARES,
        lambda x: residual(x)[None],
        r"the closure returned \(1, 7\); legal is a resid",
    ),
    "a number for a residual": (SQUARES, lambda x: 3.0, "the closure returned float; legal is a residual vector"),
    "nothing for a residual": (SQUARES, lambda x: None, "the closure returned NoneType; legal is a residual vector"),
    "an empty residual": (SQUARES, lambda x: residual(x)[:0], r"the closure returned \(0,\); legal is a residual"),
    "a complex residual": (
        SQUARES,
        lambda x: residual(x) + 1j,
        "a residual of torch.complex128; legal is torch.float64",
    ),
    "a residual of less": (
        SQUARES,
        lambda x: residual(x).float(),
        "a residual of torch.float32; legal is torch.float64",
    ),
}


@pytest.mark.parametrize(("face", "wrong"), [(face, wrong) for wrong, (faces, _, _) in WRONG.items() for face in faces])
def test_a_wrong_closure_is_told_and_nothing_moves(face, wrong):
    _, returns, sentence = WRONG[wrong]
    x = start()
    before = x.detach().clone()
    optimizer = FACES[face][0]([x])
    with pytest.raises(UsageError, match=sentence):
        optimizer.step(lambda: returns(x))
    assert torch.equal(x, before)
    assert optimizer.report is None


@every_face
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("steps", [0, 2])
def test_a_start_that_is_not_finite_is_told_and_nothing_moves(face, bad, steps):
    make, returns = FACES[face]
    x, factor = start(), 1.0
    optimizer = make([x])

    def closure():
        return returns(x, lambda z: factor * loss(z)) if returns is differentiated else factor * returns(x)

    for _ in range(steps):
        optimizer.step(closure)
    before, factor = x.detach().clone(), bad
    with pytest.raises(RunError, match="finite"):
        optimizer.step(closure)
    assert torch.equal(x, before)
    factor = 1.0
    optimizer.step(closure)
    assert float(loss(x).detach()) < float(loss(before))


@every_face
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_places_that_are_not_finite_are_not_gone_to(face, bad):
    make, returns = FACES[face]
    x = start()
    optimizer = make([x])

    def wall(z):
        return 1.0 if float((z.detach() - start().detach()).norm()) < 0.4 else bad

    def closure():
        f = (lambda z: wall(z) * loss(z)) if returns is differentiated else None
        return returns(x, f) if f else wall(x) * returns(x)

    before = float(loss(x).detach())
    for _ in range(3):
        optimizer.step(closure)
    assert wall(x) == 1.0
    assert float(loss(x).detach()) < before


@every_face
@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        (lambda: [torch.eye(2).to_sparse().requires_grad_()], "parameter 0 is sparse .*: call to_dense"),
        (lambda: [start(), start(torch.complex128)], "parameter 1 has dtype torch.complex128; legal are float32"),
        (lambda: [start(), start(torch.float32)], "parameter 1 is torch.float32 .*; legal is one dtype"),
    ],
)
@pytest.mark.filterwarnings("ignore:Casting complex values to real:UserWarning")
def test_parameters_that_are_no_real_vector_are_told(face, parameters, sentence):
    with pytest.raises(UsageError, match=sentence):
        FACES[face][0](parameters())


@pytest.mark.parametrize("face", [*ARCS, *SQUARES])
def test_parameters_without_gradients_are_told(face):
    with pytest.raises(UsageError, match="parameter 1 does not require gradients; call requires_grad_"):
        FACES[face][0]([start(), torch.zeros(2).double()])


def test_a_hessian_that_cannot_be_held_names_krylov():
    with pytest.raises(UsageError, match="there are 5001; take 'krylov'$"):
        ARC([torch.nn.Parameter(torch.ones(5001))], subproblem="exact")


def test_an_inverse_hessian_that_cannot_be_held_names_lbfgs():
    with pytest.raises(UsageError, match="legal are at most 20,000: take lbfgs$"):
        QuasiNewton([torch.nn.Parameter(torch.ones(20_001))])


@pytest.mark.parametrize("rule", ["marquardt", "cubic"])
def test_a_jacobian_that_cannot_be_held_names_lbfgs_and_krylov(rule):
    x = torch.nn.Parameter(torch.ones(40_000))
    with pytest.raises(
        UsageError, match=r"would hold 1,600,000,000 numbers, .*: take fewer points, or lbfgs, .*'krylov'"
    ):
        GaussNewton([x], rule).step(lambda: x - 2)
    assert torch.equal(x, torch.ones(40_000))


def problem(family, constraint, method=None):
    """Return a small problem, a model of it, and a batch."""
    points = {"interior": 30, "boundary": 6, "initial": 6}
    objective = Problem(load_family(family)(), points=points, constraint=constraint, test_points=10, pool=0)
    generator = torch.Generator().manual_seed(0)
    network = MLP(objective.inputs, width=6, depth=2, offset=objective.offset, generator=generator).double()
    model = adapt(network, method, generator=generator) if method else network
    return objective, objective.wrap(model), objective.sample(generator)


def trained(model):
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


CASES = [
    ("burgers", "exact", None),
    ("allen-cahn-1d", "soft", None),
    ("poisson", "boundary", "svd"),
    ("allen-cahn", "soft", "lora"),
]


@pytest.mark.parametrize(("family", "constraint", "method"), CASES)
@pytest.mark.parametrize("rule", ["marquardt", "cubic"])
def test_gauss_newton_by_its_graph_is_that_by_rows(family, constraint, method, rule):
    objective, model, _ = problem(family, constraint, method)
    stepper = Stepper(model, objective, trained(model), Accelerator(cpu=True), seed=0)
    stepper.enter(Method((Group(optimizer="gauss-newton", options={"rule": rule}),), points=40))
    stepper.draw()
    _, twin, _ = problem(family, constraint, method)
    optimizer = GaussNewton(trained(twin).values(), rule)
    first = stepper.current()
    for since in range(3):
        stepper.advance(since, 1.0)
        optimizer.step(lambda: objective.residual(twin, stepper.batch))
    assert stepper.current() < first
    for name, p in trained(model).items():
        torch.testing.assert_close(trained(twin)[name], p, rtol=1e-6, atol=1e-8)


def arcs(model, closure, count):
    """Return the losses of a model under exact and under Krylov steps, from the same start."""
    begin, losses = {name: p.detach().clone() for name, p in trained(model).items()}, {}
    for subproblem in ("exact", "krylov"):
        with torch.no_grad():
            for name, p in trained(model).items():
                p.copy_(begin[name])
        optimizer = ARC(trained(model).values(), subproblem=subproblem)
        losses[subproblem] = [float(optimizer.step(closure)) for _ in range(count)] + [float(closure().detach())]
    return losses["exact"], losses["krylov"]


def agree(exact, krylov):
    """Say that both fall, never rise, and begin alike: later, steps that are good enough are not the same."""
    for losses in (exact, krylov):
        assert all(after <= before for before, after in pairwise(losses))
        assert losses[-1] < 0.5 * losses[0]
    assert exact[1] == pytest.approx(krylov[1], rel=0.05)
    assert krylov[-1] < 3 * exact[-1]


@pytest.mark.parametrize(("family", "constraint", "method"), CASES)
def test_arc_goes_down_an_equation_by_third_derivatives(family, constraint, method):
    objective, model, batch = problem(family, constraint, method)
    agree(*arcs(model, lambda: objective.loss(model, batch), 8))


def test_arc_goes_down_a_classification():
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(60, 2, generator=generator, dtype=torch.float64)
    classes = (points.prod(1) > 0).long() + (points[:, 0] > 1).long()
    model = MLP(2, outputs=3, width=6, depth=1, generator=generator).double()
    agree(*arcs(model, lambda: cross_entropy(model(points), classes), 8))
