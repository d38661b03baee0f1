"""How far one step of each part moves a layer's output, by stepping: slow and obvious."""

import torch


def output(parts, probe):
    """Return the form's own output (N, out) of core, outputs, basis, inputs at probe (N, K, in)."""
    C, U1, U3, U2 = parts
    return torch.einsum("abc,qa,kb,pc,nkp->nq", C, U1, U3, U2, probe)


def moved(parts, j, gradient, probe, step=1e-6):
    """Return the root mean square of the output's change by part j, for a unit of rate, by a difference."""
    there = [part + step * gradient.sign() if i == j else part for i, part in enumerate(parts)]
    back = [part - step * gradient.sign() if i == j else part for i, part in enumerate(parts)]
    change = (output(there, probe) - output(back, probe)) / (2 * step)
    return float(change.square().mean().sqrt())


def slope(sizes, values):
    """Return the least-squares slope of log(values) over log(sizes)."""
    x, y = (torch.tensor(each, dtype=torch.float64).log() for each in (sizes, values))
    x = x - x.mean()
    return float((x * y).sum() / x.square().sum())
