"""Small objectives with a known minimum."""

import torch
from torch import nn


class Quadratic(nn.Module):
    """Two vectors; the loss below is least at a = (1, 2, 3), b = -1 with value 0.5."""

    def __init__(self):
        super().__init__()
        self.a = nn.Parameter(torch.zeros(3, dtype=torch.float64))
        self.b = nn.Parameter(torch.zeros(2, dtype=torch.float64))


class Bowl:
    """Minimum 0.5, at one point; the batch is not used."""

    target = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    curvature = torch.tensor([1.0, 3.0, 9.0], dtype=torch.float64)

    def sample(self, generator, n):
        return {"z": torch.rand(n, 1, generator=generator, dtype=torch.float64)}

    def loss(self, model, batch):
        return 0.5 + (self.curvature * (model.a - self.target).square()).sum() + (model.b + 1).square().sum()

    def residual(self, model, batch):
        parts = [model.a.new_tensor([0.5**0.5]), self.curvature.sqrt() * (model.a - self.target), model.b + 1]
        return 6**0.5 * torch.cat(parts)

    def evaluate(self, model):
        error = (model.a - self.target).norm() + (model.b + 1).norm()
        return {"error": error.item()}


def network(width=8, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Linear(1, width), nn.Tanh(), nn.Linear(width, 1)).to(dtype)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=dtype))
    return model


class Sine:
    """Least squares of a network against sin(3 x) on random points."""

    dtype = torch.float64

    def sample(self, generator, n):
        return {"x": 2 * torch.rand(n, 1, generator=generator, dtype=self.dtype) - 1}

    def residual(self, model, batch):
        return (model(batch["x"]) - torch.sin(3 * batch["x"])).flatten()

    def loss(self, model, batch):
        return (model(batch["x"]) - torch.sin(3 * batch["x"])).square().mean()

    def sample_by_residual(self, model, generator, n):
        many = self.sample(generator, 4 * n)["x"]
        with torch.no_grad():
            worst = self.residual(model, {"x": many}).abs().argsort(descending=True)[:n]
        return {"x": many[worst]}

    @torch.no_grad()
    def evaluate(self, model):
        x = torch.linspace(-1, 1, 50, dtype=self.dtype)[:, None]
        return {"error": (model(x) - torch.sin(3 * x)).norm().item() / torch.sin(3 * x).norm().item()}


class Spoilt(Sine):
    """Becomes NaN at the given call of the loss that needs a gradient."""

    def __init__(self, call):
        self.call = call
        self.calls = 0

    def loss(self, model, batch):
        value = super().loss(model, batch)
        self.calls += 1
        return value * float("nan") if self.calls == self.call else value
