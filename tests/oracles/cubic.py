"""What a step must satisfy, by its definition: no eigenvectors, no basis, no secular equation."""

import torch


def cubic(B, g, sigma, s):
    """Return the decrease of g^T s + s^T B s / 2 + (sigma / 3) |s|^3 from s = 0."""
    return -float(g @ s + s @ B @ s / 2 + sigma / 3 * s.norm() ** 3)


def residual(B, g, s, multiplier):
    """Return |g + B s + lambda s|, relative to the sizes of its terms."""
    scale = g.norm() + (B @ s).norm() + multiplier * s.norm()
    return float((g + B @ s + multiplier * s).norm() / scale) if scale > 0 else 0.0


def lowest(B, multiplier):
    """Return the least eigenvalue of B + lambda, relative to |B|."""
    values = torch.linalg.eigvalsh(B)
    return float((values.min() + multiplier) / values.abs().max().clamp_min(1e-300))


def cauchy(B, g, sigma):
    """Return the greatest decrease of the cubic model along -g, where it rises once and then falls, by ternary cuts."""
    size = float(g.norm())
    low, high = 0.0, float((B.norm() + (sigma * size) ** 0.5 + 1) / (sigma * size))  # the model rises beyond
    for _ in range(200):
        a, b = low + (high - low) / 3, high - (high - low) / 3
        low, high = (a, high) if cubic(B, g, sigma, -a * g) < cubic(B, g, sigma, -b * g) else (low, b)
    return cubic(B, g, sigma, -low * g)


def hessian(f, x):
    """Return the Hessian of f at x, an entry at a time."""
    x = x.detach().clone().requires_grad_()
    (g,) = torch.autograd.grad(f(x), [x], create_graph=True)
    return torch.stack([torch.autograd.grad(entry, [x], retain_graph=True)[0] for entry in g])
