"""Gradients and Hessians of gates, drawn, and what is chosen from them."""

import numpy as np
import torch
from hypothesis import settings
from hypothesis import strategies as st

from lissome.adapt import select_ranks
from tests.oracles import ranks as oracle

few = settings(max_examples=25, deadline=None)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


class Case:
    """Whole numbers, so that sums are exact and ties are ties; layers and their bounds."""

    def __init__(self, b, A, score, sizes, least, most, budget):
        self.b, self.A, self.score = (np.asarray(x, dtype=float) for x in (b, A, score))
        self.sizes, self.least, self.most, self.budget = sizes, least, most, budget
        self.legal = oracle.finals(sizes, least, most, budget)

    def loss(self, gates):
        return oracle.model(self.b, self.A, gates)

    def choose(self, rule, hessian=None, **options):
        names = [f"layer {index}" for index in range(len(self.sizes))]
        return select_ranks(
            torch.from_numpy(self.b),
            torch.from_numpy(self.A) if hessian is None else hessian,
            self.budget,
            rule=rule,
            layers=dict(zip(names, self.sizes, strict=True)),
            least=dict(zip(names, self.least, strict=True)),
            most=dict(zip(names, self.most, strict=True)),
            magnitude=torch.from_numpy(self.score),
            sensitivity=torch.from_numpy(self.score),
            loss=self.loss,
            generator=seeded(),
            **options,
        )


@st.composite
def cases(draw, *, safe=False, bounded=True, blocks=False):
    sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=3).filter(lambda s: sum(s) <= 7))
    n = sum(sizes)
    whole = st.integers(-6, 6)
    upper = np.array(draw(st.lists(whole, min_size=n * n, max_size=n * n)), dtype=float).reshape(n, n)
    A = np.triu(upper) + np.triu(upper, 1).T
    b = np.array(draw(st.lists(whole, min_size=n, max_size=n)), dtype=float)
    if safe:
        np.fill_diagonal(A, np.abs(np.diag(A)))
        b = np.minimum(b, np.diag(A) / 2)
    if blocks:
        owner = np.repeat(np.arange(len(sizes)), sizes)
        A[owner[:, None] != owner] = 0.0
    if not b.any() and not A.any():
        A[0, 0] = 1.0
    score = draw(st.lists(whole, min_size=n, max_size=n))
    least = [draw(st.integers(0, s)) if bounded else 0 for s in sizes]
    most = [draw(st.integers(low, s + 1)) if bounded else s for low, s in zip(least, sizes, strict=True)]
    return Case(b, A, score, sizes, least, most, draw(st.integers(sum(least), n)))


def chosen(choice):
    """Return the kept terms, numbered over all layers."""
    starts = np.cumsum([0, *choice.layers.values()])
    return tuple(int(start) + i for start, kept in zip(starts, choice.kept.values(), strict=False) for i in kept)


def blocks_of(case):
    ends = np.cumsum(case.sizes)
    return [
        torch.from_numpy(case.A[stop - size : stop, stop - size : stop])
        for size, stop in zip(case.sizes, ends, strict=True)
    ]
