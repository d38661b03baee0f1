"""Modules of one's own with a LoRA of drawn numbers, and what is asked of them."""

from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from tests.bridges.small import seeded


class Paths(nn.Module):
    """Layers of which one's path ends another's."""

    def __init__(self):
        super().__init__()
        self.q, self.a, self.aq = nn.Linear(5, 4), nn.Module(), nn.Linear(4, 4)
        self.a.add_module("q", nn.Linear(4, 4))
        self.a.add_module("b", nn.Module())
        self.a.get_submodule("b").add_module("q", nn.Linear(4, 2))

    def forward(self, x):
        x = torch.tanh(self.a.get_submodule("q")(torch.tanh(self.q(x))))
        return self.a.get_submodule("b.q")(torch.tanh(self.aq(x)))


class Image(nn.Module):
    """Convolutions, with a stride and with a kernel of 1."""

    def __init__(self):
        super().__init__()
        self.wide = nn.Conv2d(2, 5, 3, padding=1, stride=2)
        self.point = nn.Conv2d(5, 3, 1)

    def forward(self, x):
        return self.point(torch.tanh(self.wide(x)))


def drawn(make, seed=0):
    torch.manual_seed(seed)
    return make()


def by_hand(make, targets, **settings) -> Any:
    """Return an adapted module of one's own whose LoRA holds drawn numbers, in float64."""
    model = get_peft_model(drawn(make), LoraConfig(r=3, lora_alpha=5, target_modules=targets, **settings))
    generator = seeded(4)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name and "magnitude" not in name:
                parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator))
    return model.double().eval()


def squares(model, x):
    return (model(x) - 1).square().mean()


def noise(model, x):
    out = model(x)
    return (out * torch.randn(out.shape, generator=seeded(8), dtype=out.dtype)).sum()


def inputs(*shape):
    return [torch.randn(*shape, generator=seeded(seed), dtype=torch.float64) for seed in (5, 6)]


HANDS = {
    "paths": (Paths, ["q", "a.q", "a.b.q", "aq"], (7, 5)),
    "image": (Image, ["wide", "point"], (3, 2, 6, 6)),
}


class Matrix(nn.Module):
    """A parameter that belongs to no layer that peft knows."""

    def __init__(self):
        super().__init__()
        self.matrix = nn.Parameter(torch.zeros(4, 4))
