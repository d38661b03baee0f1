"""Points of the unit cube: pseudo-random, Sobol, Latin hypercube."""

from __future__ import annotations

import torch
from scipy.stats import qmc
from torch import Tensor

from lissome._errors import unknown

# law of the radius in a ball | how the cube is filled. In a box the first three are the same.
DRAWS = ("published", "uniform", "mixed", "sobol", "latin")


def check_draw(draw: str) -> str:
    """Return the draw's name.

    Raises:
        UsageError: it is unknown.
    """
    if draw not in DRAWS:
        raise unknown("sampling", draw, DRAWS)
    return draw


def unit(n: int, k: int, generator: torch.Generator, draw: str = "uniform") -> Tensor:
    """Return n points of the open unit cube, (n, k) in float64, on the generator's device.

    `sobol` and `latin` are scrambled anew by each call, with a seed drawn from the generator.

    >>> unit(3, 2, torch.Generator().manual_seed(0), "latin").shape
    torch.Size([3, 2])
    """
    if n == 0 or k == 0 or draw not in ("sobol", "latin"):
        points = torch.rand(n, k, generator=generator, device=generator.device, dtype=torch.float64)
    else:
        seed = int(torch.randint(2**31 - 1, (), generator=generator, device=generator.device))
        if draw == "sobol":  # balanced at powers of 2 only; the first n of them
            raw = qmc.Sobol(k, rng=seed).random_base2(max(n - 1, 1).bit_length())[:n]
        else:
            raw = qmc.LatinHypercube(k, rng=seed).random(n)
        points = torch.from_numpy(raw).to(generator.device)
    return points.clamp(1e-16, 1 - 1e-16)
