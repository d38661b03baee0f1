r"""Gradient b and Hessian A of a loss in 256 gates on the terms of its low-rank updates, float32, one thread.

The floor. A column of A is a product of the Hessian with a unit vector: two passes back through the recorded graph, and
there are 256 of them. Nothing is shared but the graph and the gradient, which are made once.

The expectation. `one by one` is what a person writes: gates by hooks on A x, the gradient with its graph, and one
`torch.autograd.grad` for each gate. Ours goes through the weight A in place of its output, scaling r x in numbers and
not rows x r, and does columns together where that is faster: on a network whose calls are small much faster, and on a
model that is bound by its products about the same; 1.5 is the most that is allowed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.race import Contestant
from benchmarks.registry import Benchmark, Cell, Target, agree
from lissome.adapt import adapt
from lissome.adapt.basis import unturned
from lissome.allocation import AdaptedTerms, Gates, Terms, measuring
from lissome.bridges.peft import PeftTerms
from lissome.calculus import quadratic
from lissome.models import MLP
from lissome.pde import Problem, load_family

COUNT = 256
ALONE, OURS = "one by one", "quadratic"


def llama(width: int, rows: int) -> dict[str, Contestant]:
    """Return the contestants on a Llama of 4 layers, rows of 64 tokens."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=256,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
    )
    lora = LoraConfig(r=16, target_modules=["q_proj", "v_proj", "up_proj", "down_proj"], task_type="CAUSAL_LM")
    model = get_peft_model(LlamaForCausalLM(config), lora).eval()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.05)
    tokens = torch.randint(256, (rows, 64))
    batch = {"input_ids": tokens, "labels": tokens}
    modules = [module for name, module in model.named_modules() if name.endswith("lora_A.default")]

    def loss(gates: Tensor) -> Tensor:
        handles = [
            module.register_forward_hook(lambda module, inputs, out, g=g: out * g)
            for module, g in zip(modules, gates.split(16), strict=True)
        ]
        try:
            return model(**batch).loss
        finally:
            for handle in handles:
                handle.remove()

    return _contestants(PeftTerms(model), lambda net, batch: net(**batch).loss, batch, loss)


def equation(width: int, points: int) -> dict[str, Contestant]:
    """Return the contestants on the residual of the heat equation; gates are those of the forms themselves."""
    torch.set_num_threads(1)
    problem = Problem(load_family("heat")(), constraint="boundary", points={"interior": points}, dtype=torch.float32)
    generator = torch.Generator().manual_seed(0)
    network = MLP(problem.inputs, width=width, depth=5, activation="tanh", offset=problem.offset)
    network.reset(generator)
    model = adapt(network, "lora", rank=64, generator=generator)
    for form in model.forms().values():
        nn.init.normal_(form.factor0, std=0.02, generator=generator)
    wrapped, batch = problem.wrap(model), problem.sample(generator)
    forms = list(model.forms().values())

    def loss(gates: Tensor) -> Tensor:
        for form, g in zip(forms, gates.split(64), strict=True):
            form._buffers["gates"] = g
        return problem.loss(wrapped, batch)

    return _contestants(AdaptedTerms(model), lambda _, batch: problem.loss(wrapped, batch), batch, loss)


def _contestants(
    terms: Terms, loss: Callable[..., Tensor], batch: object, by_hand: Callable[[Tensor], Tensor]
) -> dict[str, Contestant]:
    stay = {layer: unturned(len(A)) for layer, (_, A) in terms.halves().items()}
    gates = Gates(terms, loss, [batch], stay)
    assert sum(gates.layers.values()) == COUNT

    def ours() -> tuple[Tensor, Tensor]:
        with measuring(terms.model):
            found = quadratic([lambda g: gates.at(g, batch)], gates.ones())
        return found.gradient, found.blocks[0]

    def alone() -> tuple[Tensor, Tensor]:
        ones = torch.ones(COUNT, requires_grad=True)
        with sdpa_kernel([SDPBackend.MATH]):
            (gradient,) = torch.autograd.grad(by_hand(ones), ones, create_graph=True)
            rows = [torch.autograd.grad(gradient[i], ones, retain_graph=True)[0] for i in range(COUNT)]
        return gradient.detach(), torch.stack(rows)

    agree(OURS, list(ours()), list(alone()), 1e-3)
    return {ALONE: alone, OURS: ours}


WITHIN = (Target(OURS, ALONE, most=1.5),)
BENCHMARK = Benchmark(
    "gates",
    "Gradient and Hessian in 256 gates, float32, 1 thread",
    (
        Cell("Llama, width 64, 2 rows", functools.partial(llama, 64, 2), ALONE, rounds=5, targets=WITHIN),
        Cell("Llama, width 128, 4 rows", functools.partial(llama, 128, 4), ALONE, rounds=3, targets=WITHIN),
        Cell("heat, width 64, 100 points", functools.partial(equation, 64, 100), ALONE, rounds=5, targets=WITHIN),
        Cell("heat, width 64, 1,000 points", functools.partial(equation, 64, 1000), ALONE, rounds=3, targets=WITHIN),
    ),
    ("wanted: at most 1.5 times the 256 products one by one", "`one by one`: gates by hooks, autograd.grad for each"),
    rooms=("adapt", "allocation", "bridges", "calculus"),
)
