"""What loops with weights set by hand compute, written as the algorithms themselves, in float64."""

import torch


def descent(x, y, rate, steps):
    """Return w (d,) after steps of gradient descent from 0 on sum_i (<w, x_i> - y_i)^2 / 2."""
    w = [0.0] * x.shape[1]
    for _ in range(steps):
        slope = [0.0] * len(w)
        for point, value in zip(x.double().tolist(), y.double().tolist(), strict=True):
            miss = sum(a * b for a, b in zip(w, point, strict=True)) - value
            slope = [s + miss * a for s, a in zip(slope, point, strict=True)]
        w = [a - rate * s for a, s in zip(w, slope, strict=True)]
    return torch.tensor(w, dtype=torch.float64)


def predictions(x, y, rate, steps):
    """Return what descent on the pairs strictly before each query predicts there, (k,)."""
    return torch.stack([descent(x[:j], y[:j], rate, steps) @ x[j].double() for j in range(len(x))])


def inverse(A, M, steps):
    """Return M (n, n) after steps of Newton and Schulz."""
    A, M = A.double(), M.double()
    for _ in range(steps):
        M = 2 * M - M @ A @ M
    return M
