"""What every operator promises, on every function, in every mode."""

import functools
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from lissome._vector import flatten, functional, unflatten
from lissome.adapt import Adapted, lora, svd
from lissome.calculus import expand, gauss_newton, gradient, gram, hessian, hvp, jacobian, jvp, linearize, vjp
from lissome.models import MLP
from lissome.pde import Problem, load_family
from tests.oracles import curvature as oracle


@dataclass(frozen=True)
class Case:
    """A vector function r of a dict of tensors, the point, and how exact it is."""

    r: Any
    x: dict[str, torch.Tensor]
    tolerance: float = 1e-10

    def f(self, x):
        return self.r(x).square().mean()


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def shaken(model, seed=0):
    """Return the model in float64 with other numbers, so that no derivative is 0 by its start."""
    model = model.double()
    with torch.no_grad():
        for number, p in enumerate(model.parameters()):
            p += 0.2 * drawn(*p.shape, seed=seed + number)
    return model


def quadratic():
    A = drawn(6, 5)
    return Case(lambda x: A @ torch.cat([x["a"], x["b"].reshape(-1)]) - 1, {"a": drawn(3, seed=1), "b": drawn(1, 2)})


def rosenbrock():
    return Case(lambda x: torch.cat([10 * (x["x"][1:] - x["x"][:-1] ** 2), 1 - x["x"][:-1]]), {"x": drawn(4)})


def logistic():
    A = drawn(9, 5)
    return Case(lambda x: torch.sigmoid(A @ x["w"]) - 0.3, {"w": drawn(5, seed=1)})


def mlp():
    points = drawn(7, 2)
    return Case(*functional(lambda net: net(points)[:, 0], shaken(MLP(2, width=3, depth=2))))


def adapted():
    points, net = drawn(7, 2), shaken(MLP(2, width=4, depth=3))
    middle, other = "layers.2.weight", "layers.4.weight"
    forms = {middle: svd(net.get_parameter(middle)), other: lora(net.get_parameter(other), 1, generator=seeded())}
    return Case(*functional(lambda net: net(points)[:, 0], shaken(Adapted(net, forms, train=["*.bias"]))))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def equation(family, constraint="soft", mode="auto", **settings):
    few = {"interior": 5, "boundary": 3, "initial": 4}
    problem = Problem(load_family(family)(**settings), constraint=constraint, mode=mode, points=few, test_points=5)
    net = MLP(problem.inputs, width=3, depth=2, offset=problem.offset, generator=seeded()).to(problem.dtype)
    batch = problem.sample(seeded(1))
    return Case(*functional(lambda model: problem.residual(model, batch), shaken(problem.wrap(net))), 1e-8)


def attention():
    net = nn.MultiheadAttention(4, 2, batch_first=True).double()
    tokens = drawn(1, 3, 4)

    def scores(net):
        q, k, v = nn.functional.linear(tokens, net.in_proj_weight, net.in_proj_bias).chunk(3, -1)
        return net.out_proj(torch.softmax(q @ k.mT, -1) @ v).reshape(-1)

    return Case(*functional(scores, shaken(net), ["in_proj_weight", "out_proj.bias"]))


def llama():
    sizes = {"vocab_size": 5, "hidden_size": 4, "intermediate_size": 6, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
    config = LlamaConfig(**sizes, **heads, attn_implementation="eager")  # type: ignore[call-arg]
    model, tokens = shaken(LlamaForCausalLM(config)).eval(), torch.tensor([[0, 3, 1, 4], [2, 2, 0, 1]])
    names = ["model.layers.0.self_attn.q_proj.weight", "model.layers.0.self_attn.v_proj.weight", "model.norm.weight"]
    # its norms and angles are in float32 whatever the weights are
    return Case(*functional(lambda net: net(input_ids=tokens).logits[..., :2].reshape(-1), model, names), 1e-4)


CASES = {
    "quadratic": quadratic,
    "rosenbrock": rosenbrock,
    "logistic": logistic,
    "mlp": mlp,
    "adapted": adapted,
    "heat": lambda: equation("heat"),
    "heat, exact": lambda: equation("heat", "exact"),
    "heat, one-pass": lambda: equation("heat", mode="one-pass"),
    "heat, nested": lambda: equation("heat", mode="nested"),
    "poisson, compressed": lambda: equation("poisson", mode="compressed", dimension=5),
    "poisson, stochastic": lambda: equation("poisson", mode="stochastic", dimension=3),
    "burgers, boundary": lambda: equation("burgers", "boundary"),
    "attention": attention,
    "llama": llama,
}
every_case = pytest.mark.parametrize("label", CASES)
every_mode = pytest.mark.parametrize("mode", ["auto", "double-backward", "forward-over-reverse"])


@functools.cache
def case(label):
    return CASES[label]()


@functools.cache
def truth(label):
    """Return gradient (p,), Hessian (p, p), value (M,) and Jacobian (M, p) of a case."""
    here = case(label)
    f, x = oracle.flat(here.f, here.x)
    r, _ = oracle.flat(here.r, here.x)
    return oracle.jacobian(f, x)[0], oracle.hessian(f, x), r(x).detach(), oracle.jacobian(r, x)


def matrix(kind, label):
    """Return the dense matrix that an operator is held to."""
    _, H, r, J = truth(label)
    weight = weights(len(r))
    return {"hessian": H, "jacobian": J, "gauss_newton": 2 / len(r) * J.T @ (weight[:, None] * J), "gram": J @ J.T}[
        kind
    ]


def weights(M):
    return torch.linspace(0.5, 2, M, dtype=torch.float64)


OPERATORS = {
    "hessian": lambda here, x, mode, f, r: hessian(f, x, mode=mode),
    "jacobian": lambda here, x, mode, f, r: jacobian(r, x, mode=mode),
    "gauss_newton": lambda here, x, mode, f, r: gauss_newton(
        r, x, weight=weights(len(here.r(here.x))), scale=2 / len(here.r(here.x)), mode=mode
    ),
    "gram": lambda here, x, mode, f, r: gram(r, x, mode=mode),
}
every_operator = pytest.mark.parametrize("kind", OPERATORS)


def operator(kind, label, mode="auto"):
    here = case(label)
    return OPERATORS[kind](here, here.x, mode, here.f, here.r)


def close(one, other, label):
    scale = 1 + float(other.abs().max())
    assert one.shape == other.shape
    assert float((one - other).abs().max()) <= case(label).tolerance * scale


@every_case
def test_the_oracle_agrees_with_the_library_of_torch(label):
    here = case(label)
    f, x = oracle.flat(here.f, here.x)
    r, _ = oracle.flat(here.r, here.x)
    close(torch.autograd.functional.hessian(f, x), matrix("hessian", label), label)
    close(torch.autograd.functional.jacobian(r, x), matrix("jacobian", label), label)
    assert float(matrix("hessian", label).abs().max()) > 1e-3


@every_mode
@every_case
@every_operator
def test_products_are_those_of_the_dense_matrix(kind, label, mode):
    A, dense = operator(kind, label, mode), matrix(kind, label)
    V = drawn(dense.shape[1], 3, seed=5)
    assert A.shape == tuple(dense.shape)
    close(A @ V[:, 0], dense @ V[:, 0], label)
    close(A @ V, dense @ V, label)
    U = drawn(dense.shape[0], 2, seed=6)
    close(A.T @ U, dense.T @ U, label)
    assert not (A @ V).requires_grad


@every_mode
@every_case
@every_operator
def test_dense_is_the_matrix(kind, label, mode):
    A, dense = operator(kind, label, mode), matrix(kind, label)
    close(A.dense(), dense, label)
    close(A.T.dense(), dense.T, label)


@every_case
@every_operator
def test_columns_are_the_products_one_by_one(kind, label):
    A = operator(kind, label)
    V = drawn(A.shape[1], 21, seed=7)
    close(A @ V, torch.stack([A @ v for v in V.mT], 1), label)
    assert A.products == 42


@every_mode
@every_case
@every_operator
def test_transpose_is_the_adjoint(kind, label, mode):
    A = operator(kind, label, mode)
    u, v = drawn(A.shape[0], seed=8), drawn(A.shape[1], seed=9)
    close(u @ (A @ v), (A.T @ u) @ v, label)
    if kind != "jacobian":
        assert A.T is A


@every_mode
@every_case
@every_operator
def test_products_are_linear(kind, label, mode):
    A = operator(kind, label, mode)
    v, w = drawn(A.shape[1], seed=10), drawn(A.shape[1], seed=11)
    close(A @ (2.5 * v - w), 2.5 * (A @ v) - A @ w, label)


@every_case
def test_gradient_of_half_the_square_is_the_pulled_residual(label):
    here = case(label)
    value, J = linearize(here.r, here.x)
    half, slope = gradient(lambda x: 0.5 * here.r(x).square().sum(), here.x)
    close(J.T @ value, slope, label)
    close(0.5 * value @ value, half, label)
    close(value, truth(label)[2], label)


@every_mode
@every_case
def test_one_evaluation_gives_all_of_an_expansion(label, mode):
    here = case(label)
    calls = []
    found = expand(lambda x: calls.append(0) or here.f(x), here.x, mode=mode)
    close(found.gradient, truth(label)[0], label)
    close(found.value, truth(label)[2].square().mean(), label)
    assert len(calls) == 1
    assert not found.value.requires_grad
    assert not found.gradient.requires_grad


@every_case
def test_single_products_are_the_operators(label):
    here = case(label)
    _, H, r, J = truth(label)
    v, u = drawn(len(H), seed=12), drawn(len(r), seed=13)
    for (value, product), expected in (
        (hvp(here.f, here.x, v), (r.square().mean(), H @ v)),
        (jvp(here.r, here.x, v), (r, J @ v)),
        (vjp(here.r, here.x, u), (r, J.T @ u)),
    ):
        close(value, expected[0], label)
        close(product, expected[1], label)


@every_mode
@every_case
@every_operator
def test_dict_and_flat_point_agree(kind, label, mode):
    here = case(label)
    f, r = (lambda x, g=g: g(unflatten(x, here.x)) for g in (here.f, here.r))
    A, B = operator(kind, label, mode), OPERATORS[kind](here, flatten(here.x), mode, f, r)
    v = drawn(A.shape[1], seed=14)
    close(B @ v, A @ v, label)


@every_mode
@every_operator
@pytest.mark.parametrize("label", ["mlp", "adapted", "heat, exact"])
def test_parameters_and_their_gradients_are_left_alone(kind, label, mode):
    """Also where the point is the parameters themselves, and where the function sees others that want gradients."""
    here = case(label)
    x = {name: nn.Parameter(tensor.clone()) for name, tensor in here.x.items()}
    factor = nn.Parameter(torch.ones((), dtype=torch.float64))
    for p in x.values():
        p.grad = torch.full_like(p, 7.0)
    A = OPERATORS[kind](here, x, mode, lambda x: factor * here.f(x), lambda x: factor * here.r(x))
    _ = A @ drawn(A.shape[1], 2)
    A.dense()
    assert factor.grad is None
    assert all(torch.equal(p, here.x[name]) and bool((p.grad == 7).all()) for name, p in x.items())


@every_mode
@every_operator
def test_an_operator_belongs_to_the_point_where_it_was_made(kind, mode):
    here = case("mlp")
    x = {name: tensor.clone() for name, tensor in here.x.items()}
    A = OPERATORS[kind](here, x, mode, here.f, here.r)
    for tensor in x.values():
        tensor.add_(1.0)
    close(A.dense(), matrix(kind, "mlp"), "mlp")


@every_mode
@every_operator
def test_operators_work_where_gradients_are_off(kind, mode):
    with torch.no_grad():
        close(operator(kind, "mlp", mode).dense(), matrix(kind, "mlp"), "mlp")
