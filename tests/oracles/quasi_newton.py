"""Updates of the inverse Hessian by dense matrices, as they are written down."""

import math

import torch

RULES = ("bfgs", "ssbfgs", "ssbroyden")


def parameters(rule, B, H, s, y):
    """Return theta and tau of a rule, from the Hessian B and its inverse H."""
    p, ys = len(s), y @ s
    b, h = s @ B @ s / ys, y @ H @ y / ys
    if rule == "bfgs":
        return 0.0, 1.0
    if rule == "ssbfgs":
        return 0.0, min(1.0, 1 / b)
    a = b * h - 1
    c = math.sqrt(a / (1 + a))
    rho_minus = min(1.0, h * (1 - c))
    theta = max((rho_minus - 1) / a, min(1 / rho_minus, (1 - b) / b))
    sigma = 1 + theta * a
    tau = min(1.0, 1 / b)
    if theta <= 0:
        return theta, min(tau * sigma ** (-1 / (p - 1)), sigma)
    return theta, tau * min(sigma ** (-1 / (p - 1)), 1 / theta)


def hessian(B, s, y, theta, tau):
    """Return the Hessian's update, a member of Broyden's family scaled by tau; H+ is its inverse."""
    w = torch.outer(y, y) / (y @ s)
    Bs, sBs = B @ s, s @ B @ s
    v = y / (y @ s) - Bs / sBs
    return tau * (B - torch.outer(Bs, Bs) / sBs + theta * sBs * torch.outer(v, v)) + w


def bfgs(H, s, y):
    """Return H+ of BFGS by the product form, Nocedal and Wright 2006, equation (6.17)."""
    rho, eye = 1 / (y @ s), torch.eye(len(s), dtype=s.dtype)
    left = eye - rho * torch.outer(s, y)
    return left @ H @ left.T + rho * torch.outer(s, s)


def rosenbrock(x):
    """Return the function of n dimensions whose minimum 0 lies at (1, ..., 1)."""
    return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()
