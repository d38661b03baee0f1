"""Gauss-Newton steps, written from its formulas with dense matrices and explicit inverses."""

import torch


def jacobian(residual, x):
    """Rows one by one."""
    x = x.detach().requires_grad_()
    r = residual(x)
    return torch.stack([torch.autograd.grad(each, x, retain_graph=True)[0] for each in r])


def step(residual, x, damping, *, base=None, acceleration=True, probe=0.1, bend=0.75):
    """Return the step for a damping relative to the mean diagonal of J^T J, and whether it is bent.

    It minimises |r + J v|^2 + lam |v - base|^2.
    """
    J, r = jacobian(residual, x), residual(x).detach()
    A, base = J.T @ J, torch.zeros_like(x) if base is None else base
    lam = damping * A.diagonal().mean()
    inverse = torch.linalg.inv(A + lam * torch.eye(len(x), dtype=x.dtype))
    return bent(residual, x, inverse @ (lam * base - J.T @ r), inverse, acceleration, probe, bend)


def cubic(residual, x, sigma, *, acceleration=True, probe=0.1, bend=0.75):
    """Return the step of the cubic term, its multiplier found by bisection, and whether it is bent."""
    J, r = jacobian(residual, x), residual(x).detach()
    identity = torch.eye(len(x), dtype=x.dtype)

    def inverse(multiplier):
        return torch.linalg.inv(J.T @ J + multiplier / 2 * identity)

    low, high = 0.0, 1.0
    while sigma * (inverse(high) @ J.T @ r).norm() > high:
        high *= 2
    for _ in range(200):
        middle = (low + high) / 2
        longer = sigma * (inverse(middle) @ J.T @ r).norm() > middle
        low, high = (middle, high) if longer else (low, middle)
    return bent(residual, x, -inverse(high) @ J.T @ r, inverse(high), acceleration, probe, bend)


def bent(residual, x, v, inverse, acceleration, probe, bend):
    """Return a step v with its acceleration, where that is trusted."""
    J, r = jacobian(residual, x), residual(x).detach()
    if not acceleration:
        return v, False
    curved = (2 / probe) * ((residual(x + probe * v).detach() - r) / probe - J @ v)
    a = -0.5 * inverse @ J.T @ curved
    trusted = 2 * a.norm() / v.norm() < bend
    return (v + a, True) if trusted else (v, False)
