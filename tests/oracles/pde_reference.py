"""Two equations without a formula for their solution, solved once more by plain means."""

import itertools
import math

import numpy as np
from scipy.integrate import quad, solve_ivp


def burgers(t, x, nu):
    """Return u(t, x) by adaptive quadrature of the Cole-Hopf integrals."""
    reach = math.sqrt(4 * nu * t * (1 / (math.pi * nu) + 60))

    def exponent(y):
        return -math.cos(math.pi * y) / (2 * math.pi * nu) - (x - y) ** 2 / (4 * nu * t)

    top = max(exponent(y) for y in np.linspace(x - reach, x + reach, 4001))
    ends = np.linspace(x - reach, x + reach, 41)

    def integral(function):
        return sum(
            quad(function, a, b, epsabs=0, epsrel=1e-11, limit=200)[0] if function((a + b) / 2) else 0.0
            for a, b in itertools.pairwise(ends)
        )

    above = integral(lambda y: math.sin(math.pi * y) * math.exp(max(exponent(y) - top, -600)))
    below = integral(lambda y: math.exp(max(exponent(y) - top, -600)))
    return -above / below


def burgers_by_lines(nu, times, places=801):
    """Return u on a grid, (len(times), places), by second-order differences in x and an implicit solver in t."""
    x = np.linspace(-1, 1, places)
    h = x[1] - x[0]

    def rate(_, u):
        out = np.zeros_like(u)
        out[1:-1] = nu * (u[2:] - 2 * u[1:-1] + u[:-2]) / h**2 - (u[2:] ** 2 - u[:-2] ** 2) / (4 * h)
        return out

    found = solve_ivp(
        rate, (0, times[-1]), -np.sin(np.pi * x), method="LSODA", t_eval=times, rtol=1e-7, atol=1e-9, lband=1, uband=1
    )
    return x, found.y.T


def allen_cahn_by_lines(diffusion, rate, times, places=801):
    """Return u on a grid of [0, 1], even about both ends, (len(times), places), as above."""
    x = np.linspace(0, 1, places)
    h = x[1] - x[0]

    def speed(_, u):
        wide = np.concatenate([u[1:2], u, u[-2:-1]])
        return diffusion * (wide[2:] - 2 * u + wide[:-2]) / h**2 + rate * (u - u**3)

    start = x**2 * np.cos(np.pi * x)
    found = solve_ivp(
        speed, (0, times[-1]), start, method="LSODA", t_eval=times, rtol=1e-8, atol=1e-10, lband=1, uband=1
    )
    return x, found.y.T
