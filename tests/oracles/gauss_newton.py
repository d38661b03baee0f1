"""One Gauss-Newton step, written from its formulas with dense matrices and explicit inverses."""

import torch


def jacobian(residual, x):
    """Rows one by one."""
    x = x.detach().requires_grad_()
    r = residual(x)
    return torch.stack([torch.autograd.grad(each, x, retain_graph=True)[0] for each in r])


def step(residual, x, damping, *, acceleration=True, probe=0.1, bend=0.75):
    """Return the step for a damping relative to the mean diagonal of J^T J, and whether it is bent."""
    J, r = jacobian(residual, x), residual(x).detach()
    A = J.T @ J
    inverse = torch.linalg.inv(A + damping * A.diagonal().mean() * torch.eye(len(x), dtype=x.dtype))
    v = -inverse @ J.T @ r
    if not acceleration:
        return v, False
    curved = (2 / probe) * ((residual(x + probe * v).detach() - r) / probe - J @ v)
    a = -0.5 * inverse @ J.T @ curved
    trusted = 2 * a.norm() / v.norm() < bend
    return (v + a, True) if trusted else (v, False)
