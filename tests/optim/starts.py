"""A valley, starts, and functions made oracles."""

import torch

from lissome.optim.oracle import differentiable


def rosenbrock(x):
    return 100 * (x[1] - x[0] ** 2) ** 2 + (1 - x[0]) ** 2


def start(*numbers, dtype=torch.float64):
    return torch.tensor(numbers, dtype=dtype)


def oracle_of(f, p=2, dtype=torch.float64, dense=True):
    return differentiable(f, torch.zeros(p, dtype=dtype), dense=dense)
