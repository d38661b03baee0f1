"""Derivatives by the whole Hessian, one point at a time."""

import torch


def by_hessian(u, z, first, second, along):
    """Return value, first, second and along of `calculus.derivatives`, from torch.func on each point."""
    values, firsts, seconds, alongs = [], [], [], []
    for n, point in enumerate(z):

        def scalar(x):
            return u(x[None]).reshape(())

        gradient, hessian = torch.func.grad(scalar)(point), torch.func.hessian(scalar)(point)
        values.append(scalar(point))
        firsts.append(torch.stack([gradient[i] for i in first]))
        seconds.append(torch.stack([(torch.tensor(row, dtype=z.dtype) * hessian.diag()).sum() for row in second]))
        alongs.append(along[:, n] @ gradient)
    return torch.stack(values), torch.stack(firsts, 1), torch.stack(seconds, 1), torch.stack(alongs, 1)
