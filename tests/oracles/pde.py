"""Every equation once more, by hand and one point at a time: operator, solution, right-hand side, weight.

A point is z (D,), with t first where there is time; g is the gradient (D,) and H the Hessian (D, D) of u.
"""

import math

import torch


class AllenCahn:
    timed = True

    def operator(self, v, z, u, g, H):
        return g[0] - H.diagonal()[1:].sum() - u + u**3

    def exact(self, v, z):
        s = max(1 - float(z[1:].norm()), 0.0)
        wave = math.sin(math.pi / 2 * s**2.5) + v["c"] * math.sin(math.pi / 2 * s)
        return math.exp(-float(z[0])) * wave

    def source(self, v, z):
        r, c, decay = float(z[1:].norm()), v["c"], math.exp(-float(z[0]))
        s, half = 1 - r, math.pi / 2
        a, b = half * s**2.5, half * s
        da, dda = half * 2.5 * s**1.5, half * 3.75 * s**0.5  # in s
        slope = -(math.cos(a) * da + c * math.cos(b) * half)  # d/dr = -d/ds
        bend = -math.sin(a) * da**2 + math.cos(a) * dda - c * math.sin(b) * half**2
        laplacian = bend + (len(z) - 2) / r * slope
        u = self.exact(v, z)
        return -u - decay * laplacian - u + u**3


class Parabolic:
    timed = True

    def operator(self, v, z, u, g, H):
        r = z[1:].norm()
        return g[0] - (1 + r / 2) * H.diagonal()[1:].sum() - (z[1:] @ g[1:]) / (2 * r)

    def exact(self, v, z):
        rest = 1 - float(z[0])
        return math.exp(float(z[1:].norm()) * (math.sqrt(rest) + v["c"] * rest))

    def source(self, v, z):
        r, rest = float(z[1:].norm()), 1 - float(z[0])
        q, u = math.sqrt(rest) + v["c"] * rest, self.exact(v, z)
        rate = -1 / (2 * math.sqrt(rest)) - v["c"]
        # div(a grad u) = a (u'' + (d - 1) u' / r) + a' u' with a = 1 + r / 2
        diffusion = (1 + r / 2) * (q * q + (len(z) - 2) * q / r) * u + q * u / 2
        return r * rate * u - diffusion


class Poisson:
    timed = False

    def operator(self, v, z, u, g, H):
        return -H.trace()

    def _waves(self, v, z):
        slow = math.prod(math.sin(v["k"] * math.pi * x) for x in z.tolist())
        return slow, v["c"] * math.prod(math.sin(2 * v["k"] * math.pi * x) for x in z.tolist())

    def exact(self, v, z):
        return sum(self._waves(v, z))

    def source(self, v, z):
        slow, fast = self._waves(v, z)
        return len(z) * (v["k"] * math.pi) ** 2 * (slow + 4 * fast)


class Helmholtz:
    timed = False

    def operator(self, v, z, u, g, H):
        return H[0, 0] + H[1, 1] + v["kappa"] ** 2 * u

    def exact(self, v, z):
        return math.sin(math.pi * float(z[0])) * math.sin(v["a"] * math.pi * float(z[1]))

    def source(self, v, z):
        return (v["kappa"] ** 2 - math.pi**2 * (1 + v["a"] ** 2)) * self.exact(v, z)


class Heat:
    timed = True

    def operator(self, v, z, u, g, H):
        return g[0] - v["kappa"] * H.diagonal()[1:].sum()

    def exact(self, v, z):
        t, x = float(z[0]), z[1:].tolist()
        rate = v["kappa"] * len(x) * math.pi**2 * t
        slow = math.exp(-rate) * math.prod(math.sin(math.pi * s) for s in x)
        return slow + math.exp(-4 * rate) * math.prod(math.sin(2 * math.pi * s) for s in x) / 2

    def source(self, v, z):
        return 0.0


class Convection:
    timed = True

    def operator(self, v, z, u, g, H):
        return g[0] + v["beta"] * g[1]

    def exact(self, v, z):
        return math.sin(float(z[1]) - v["beta"] * float(z[0]))

    def source(self, v, z):
        return 0.0


class KleinGordon:
    timed = True

    def operator(self, v, z, u, g, H):
        return H[0, 0] - H[1, 1] + v["gamma"] * u**3

    def exact(self, v, z):
        t, x = z.tolist()
        return x * math.cos(v["omega"] * math.pi * t) + (x * t) ** 3

    def velocity(self, v, z):
        t, x = z.tolist()
        return -x * v["omega"] * math.pi * math.sin(v["omega"] * math.pi * t) + 3 * x**3 * t**2

    def source(self, v, z):
        t, x = z.tolist()
        acceleration = -x * (v["omega"] * math.pi) ** 2 * math.cos(v["omega"] * math.pi * t) + 6 * x**3 * t
        return acceleration - 6 * x * t**3 + v["gamma"] * self.exact(v, z) ** 3


class Burgers:
    timed = True

    def operator(self, v, z, u, g, H):
        return g[0] + u * g[1] - v["nu"] * H[1, 1]

    def exact(self, v, z):
        """Only at the boundary and at the start; inside see `pde_reference`."""
        return -math.sin(math.pi * float(z[1]))

    def source(self, v, z):
        return 0.0


class AllenCahn1d:
    timed = True

    def operator(self, v, z, u, g, H):
        return g[0] - v["diffusion"] * H[1, 1] - v["rate"] * (u - u**3)

    def exact(self, v, z):
        """Only at the start; inside see `pde_reference`."""
        return float(z[1]) ** 2 * math.cos(math.pi * float(z[1]))

    def source(self, v, z):
        return 0.0

    def weight(self, z):
        return math.exp(2 - 4 * float(z[0]))


class Decay:
    timed = True

    def operator(self, v, z, u, g, H):
        return g[0] - v["k"] * H[1, 1] + u

    def exact(self, v, z):
        return math.exp(-float(z[0])) * math.sin(v["k"] * float(z[1]))

    def source(self, v, z):
        return v["k"] ** 3 * self.exact(v, z)


BY_NAME = {
    "allen-cahn": AllenCahn(),
    "parabolic": Parabolic(),
    "poisson": Poisson(),
    "helmholtz": Helmholtz(),
    "heat": Heat(),
    "convection": Convection(),
    "klein-gordon": KleinGordon(),
    "burgers": Burgers(),
    "allen-cahn-1d": AllenCahn1d(),
    "decay": Decay(),
}
PERIODIC = {"convection", "allen-cahn-1d"}


def at_point(model, z):
    """Return u, gradient (D,) and Hessian (D, D) at one point, with the graph to the model's parameters."""
    z = z.detach().clone().requires_grad_()
    u = model(z[None]).reshape(())
    (g,) = torch.autograd.grad(u, z, create_graph=True)
    rows = [
        torch.autograd.grad(entry, z, create_graph=True, allow_unused=True, materialize_grads=True)[0]
        for entry in g
        if entry.requires_grad
    ]
    return u, g, torch.stack(rows) if len(rows) == len(z) else torch.zeros(len(z), len(z), dtype=z.dtype)


def residual(name, v, model, z):
    """Return the weighted residual at one point."""
    truth = BY_NAME[name]
    out = truth.operator(v, z, *at_point(model, z)) - truth.source(v, z)
    return out * truth.weight(z) if name == "allen-cahn-1d" else out


def loss(name, v, model, batch, balance):
    """Return the loss as its definition says, point by point."""
    truth = BY_NAME[name]
    inside = [residual(name, v, model, z) ** 2 for z in batch["interior"]]
    outside = []
    for number, z in enumerate(batch.get("boundary", [])):
        if name in PERIODIC:
            u, g, _ = at_point(model, z)
            other, slope, _ = at_point(model, batch["opposite"][number])
            outside += [(u - other) ** 2, (g[1] - slope[1]) ** 2]
        else:
            outside.append((model(z[None]).reshape(()) - truth.exact(v, z)) ** 2)
    for z in batch.get("initial", []):
        u, g, _ = at_point(model, z)
        outside.append((u - truth.exact(v, z)) ** 2)
        if name == "klein-gordon":
            outside.append((g[0] - truth.velocity(v, z)) ** 2)
    total = torch.stack(inside).mean()
    return total + balance * torch.stack(outside).mean() if outside else total
