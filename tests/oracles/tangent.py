"""Gradient descent on a linear system, step by step, and the kernel that it is told from, row by row."""

import torch

from tests.oracles.curvature import jacobian


def kernel(r, x):
    """Return J J^T (n, n), number by number."""
    J = jacobian(r, x).double()
    n = len(J)
    K = torch.zeros(n, n, dtype=torch.float64)
    for i in range(n):
        for j in range(n):
            K[i, j] = (J[i] * J[j]).sum()
    return K


def descent(K, r, step, steps):
    """Return |r_t| (steps + 1,) of r <- r - step K r."""
    norms = [float(r.norm())]
    for _ in range(steps):
        r = r - step * (K @ r)
        norms.append(float(r.norm()))
    return torch.tensor(norms, dtype=torch.float64)


def mean_squares(K, r, step, steps, batch):
    """Return E r_t^T K^{-1} r_t (steps + 1,) of SGD, from E r r^T alone: no path is drawn.

    r <- (I - step K D) r, D = n / b times the counts of b rows drawn with replacement; for a pair of rows
    E D_ii D_jj = 1 - 1 / b, and n / b more on the diagonal.
    """
    n, M, back = len(r), torch.outer(r, r), torch.linalg.inv(K)
    values = [float((back * M).sum())]
    for _ in range(steps):
        both = torch.zeros_like(M)  # E D M D
        for i in range(n):
            for j in range(n):
                both[i, j] = (1 - 1 / batch + (n / batch if i == j else 0.0)) * M[i, j]
        M = M - step * (K @ M) - step * (M @ K) + step**2 * (K @ both @ K)
        values.append(float((back * M).sum()))
    return torch.tensor(values, dtype=torch.float64)


def brute_mean_squares(K, r, step, steps):
    """Return the same for b = 1 by going every path of one row after the other: n^steps of them."""
    n, back = len(r), torch.linalg.inv(K)
    paths = [r]
    values = [float(r @ back @ r)]
    for _ in range(steps):
        paths = [q - step * n * K[:, i] * q[i] for q in paths for i in range(n)]
        values.append(sum(float(q @ back @ q) for q in paths) / len(paths))
    return torch.tensor(values, dtype=torch.float64)
