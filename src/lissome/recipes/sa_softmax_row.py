"""One row of scores, trained directly: a wrong key leads by far, and the right one is to lead.

The values are so many times the columns of the identity: the mix of them, `GAIN` times the weights, is what the
cross-entropy reads as logits. All is in float64, and rows that are done are no longer trained.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from lissome.attention import attention
from lissome.recipes.paper import Row, Tick
from lissome.recipes.sa_softmax_names import ADAM, CAP, SGD, VARIANTS, WRONG

KEYS, NOISE, GAIN = 8, 0.5, 5.0
STARTS = 8  # of each score of the wrong key
RATES = {SGD: 1.0, ADAM: 0.1}
CLASSES = {SGD: torch.optim.SGD, ADAM: torch.optim.Adam}


def begun(wrong: Sequence[float], starts: int, generator: torch.Generator) -> Tensor:
    """Return rows (wrong * starts, KEYS) in float64: key 0 is right, key 1 leads; the rest is drawn once."""
    rest = NOISE * torch.randn(starts, KEYS, generator=generator, dtype=torch.float64)
    rows = rest.repeat(len(wrong), 1)
    rows[:, 1] = torch.tensor(wrong, dtype=torch.float64).repeat_interleave(starts)
    return rows


def mixed(rows: Tensor, label: str) -> Tensor:
    """Return the mix of values (N, KEYS) that a variant makes of rows (N, KEYS), all keys visible."""
    normalize = attention(1, 2, normalize=VARIANTS[label]).normalize
    valid = torch.ones(1, 1, 1, rows.shape[1], dtype=torch.bool)
    return GAIN * normalize(rows[:, None, None], valid)[:, 0, 0]


def until_right(rows: Tensor, label: str, optimizer: str, cap: int, tick: Tick) -> tuple[list[int | None], list[float]]:
    """Train each row until key 0 leads; return the steps of each, None above the cap, and first gradients' norms."""
    rows = rows.clone().requires_grad_()
    mover = CLASSES[optimizer]([rows], lr=RATES[optimizer])
    steps, first = torch.full((len(rows),), -1), list[float]()
    for step in range(cap + 1):
        tick()
        steps[(rows.argmax(1) == 0) & (steps < 0)] = step
        if bool((steps >= 0).all()):
            break
        lost = F.cross_entropy(mixed(rows, label), torch.zeros(len(rows), dtype=torch.long), reduction="none")
        mover.zero_grad()
        lost[steps < 0].sum().backward()
        assert rows.grad is not None
        first = first or rows.grad.norm(dim=1).tolist()
        mover.step()
    return [int(step) if step >= 0 else None for step in steps], first


def run(tick: Tick, *, label: str, seed: int, quick: bool) -> Row:
    """Return steps by optimizer and gradients' norms, a list over starts for each score of the wrong key.

    `least` says of each start whether the right key has the least score of all.
    """
    starts = 2 if quick else STARTS
    rows = begun(WRONG, starts, torch.Generator().manual_seed(seed))
    told, first = dict[str, dict[str, list[int | None]]](), list[float]()
    for optimizer in CLASSES:
        found, first = until_right(rows, label, optimizer, CAP, tick)
        told[optimizer] = {str(c): found[k * starts : (k + 1) * starts] for k, c in enumerate(WRONG)}
    return {
        "reached": told,
        "gradient": {str(c): first[k * starts : (k + 1) * starts] for k, c in enumerate(WRONG)},
        "least": (rows[-starts:].argmin(1) == 0).tolist(),
    }
