r"""Where to go on from an accepted point y: v = y + beta (y - y_prev), or y itself, whichever has the smaller f.

    none        y
    fixed       beta = 0.9
    published   beta = min(0.9, |s|)
    wang        beta = min(0.9, |grad f(y)|, |s|): one gradient more
    search      beta = 1/2, doubled as long as f falls; after a Newton step (tau <= 0.01) y
    plane       three Newton steps on f over y + span{s, d}, for dear Hessians: nine gradients more; likewise

y_prev is the accepted point before, not x, so that the differences add up. No rule lets f rise: the global convergence
of the steps without momentum carries over.

References: arXiv 2210.05987 (published); Z. Wang, Y. Zhou, Y. Liang, G. Lan, arXiv 1810.03763, algorithm 1 (wang).
`search` and `plane` are of this library.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from lissome.optim.control import ACTS
from lissome.optim.oracle import Oracle

MOST = 0.9  # beta of the rules without a search
DOUBLINGS = 40  # where f falls for ever
NEWTON = 3  # steps in the plane
HALVINGS = 4  # of one of them
PROBE = 1e-4  # of the plane's differences, in parts of |s| + |d|


class Place(NamedTuple):
    """An accepted point y (p,) with f there, the step s that led to it, its tau, and y_prev."""

    y: Tensor
    f: float
    s: Tensor
    tau: float
    previous: Tensor


class Moved(NamedTuple):
    """Where to go on, f there, and the beta that led there (|v - y| / |d| in the plane)."""

    x: Tensor
    f: float
    beta: float


Rule = Callable[[Oracle, Place], Moved]


def _stay(oracle: Oracle, place: Place) -> Moved:
    return Moved(place.y, place.f, 0.0)


def _along(oracle: Oracle, place: Place, beta: float) -> Moved:
    v, f = oracle.line(place.previous, place.y)(beta)
    return Moved(v, f, beta) if f < place.f else _stay(oracle, place)


def _fixed(oracle: Oracle, place: Place) -> Moved:
    return _along(oracle, place, MOST)


def _published(oracle: Oracle, place: Place) -> Moved:
    return _along(oracle, place, min(MOST, float(place.s.norm())))


def _wang(oracle: Oracle, place: Place) -> Moved:
    slope = float(oracle.gradient(place.y)[1].norm())
    return _along(oracle, place, min(MOST, slope, float(place.s.norm())))


def _search(oracle: Oracle, place: Place) -> Moved:
    best, beta = _stay(oracle, place), 0.5
    if not place.tau > ACTS:
        return best
    line = oracle.line(place.previous, place.y)
    for _ in range(DOUBLINGS):
        v, f = line(beta)
        if not f < best.f:
            break
        best, beta = Moved(v, f, beta), 2 * beta
    return best


def _plane(oracle: Oracle, place: Place) -> Moved:
    d = place.y - place.previous
    size = float(place.s.norm() + d.norm())
    axes, _ = torch.linalg.qr(torch.stack([place.s, d], 1))  # (p, 2); parallel ones give a harmless second
    h = PROBE * size
    best = _stay(oracle, place)
    for _ in range(NEWTON if place.tau > ACTS else 0):
        slopes = [axes.mT @ oracle.gradient(best.x + shift)[1] for shift in (0.0, h * axes[:, 0], h * axes[:, 1])]
        bend = torch.stack([(slope - slopes[0]) / h for slope in slopes[1:]], 1)  # (2, 2)
        if not bool(torch.isfinite(bend).all()):
            break
        values, vectors = torch.linalg.eigh((bend + bend.mT) / 2)
        least = torch.finfo(values.dtype).eps ** 0.5 * values.abs().max()
        step = -axes @ (vectors @ ((vectors.mT @ slopes[0]) / values.abs().clamp_min(least)))  # (p,)
        for halving in range(HALVINGS):
            v = best.x + step / 2**halving
            f = oracle.value(v)
            if f < best.f:
                best = Moved(v, f, float((v - place.y).norm() / d.norm()))
                break
        else:
            break
    return best


MOMENTA: dict[str, Rule] = {
    "none": _stay,
    "fixed": _fixed,
    "published": _published,
    "wang": _wang,
    "search": _search,
    "plane": _plane,
}
