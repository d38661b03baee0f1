"""B-splines one by one by scipy, and a KAN layer by its definition in loops."""

import numpy as np
from scipy.interpolate import BSpline


def basis(knots, order, x, derivative=0):
    """Return each spline on one input's knots at numbers x, (len(x), K), or a derivative of it; 0 off its own knots."""
    columns = []
    for k in range(len(knots) - order - 1):
        spline = BSpline.basis_element(knots[k : k + order + 2], extrapolate=False)
        if derivative > order:
            columns.append(np.zeros_like(x))
        else:
            columns.append(np.nan_to_num((spline.derivative(derivative) if derivative else spline)(x)))
    return np.stack(columns, 1)


def silu(x):
    """Return x / (1 + exp(-x))."""
    return x / (1 + np.exp(-x))


def layer(weight, knots, order, x):
    """Return y_q = sum_p (sum_k W[q, k, p] B_k(x_p) + W[q, -1, p] silu(x_p)) at points x (N, inputs)."""
    out = np.zeros((len(x), len(weight)))
    for p in range(x.shape[1]):
        columns = np.concatenate([basis(knots[p], order, x[:, p]), silu(x[:, p])[:, None]], 1)
        for q in range(len(weight)):
            for k in range(columns.shape[1]):
                out[:, q] += weight[q, k, p] * columns[:, k]
    return out
