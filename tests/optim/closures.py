"""Losses as closures that count their calls, their gradients, and the valley of Rosenbrock."""

import math

import pytest
import torch
from torch import nn

from lissome.optim.quasi_newton import RULES
from tests.oracles import quasi_newton as oracle

every_rule = pytest.mark.parametrize("rule", sorted(RULES))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def closure_of(optimizer, loss):
    def closure():
        optimizer.zero_grad()
        value = loss()
        value.backward()
        closure.calls += 1
        return value

    closure.calls = 0
    return closure


def gradient_norm(parameters, loss):
    gradients = torch.autograd.grad(loss(), list(parameters))
    return math.sqrt(sum(float(g.square().sum()) for g in gradients))


def rosenbrock(p, dtype=torch.float64):
    x = nn.Parameter(torch.linspace(-1.2, 0.8, p, dtype=dtype))
    return x, lambda: oracle.rosenbrock(x)
