import torch

from lissome.pde import Box, Family, Parameter


class Decay(Family):
    name = "decay"
    parameters = (Parameter("k", 1.0, low=0.0),)
    dimensions = 1

    def domain(self):
        return Box((0.0,), (2.0,), time=(0.0, 1.0))

    def operator(self, u, p):
        return u.dt - self.k * u.laplacian + u.value

    def exact(self, p):
        return torch.exp(-p.t) * torch.sin(self.k * p.x[:, 0])
