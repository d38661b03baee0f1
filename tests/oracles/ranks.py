"""Cutting terms by the definition: every change of the loss summed anew, every legal set written out."""

import itertools

import numpy as np


def change(b, A, cut):
    """Return q(C) = -sum b_i + 1/2 sum A_ij, by a double loop."""
    return -sum(float(b[i]) for i in cut) + sum(float(A[i, j]) for i in cut for j in cut) / 2


def model(b, A, gates):
    """Return the quadratic model at some gates, by a double loop."""
    d = [float(g) - 1 for g in gates]
    n = range(len(d))
    return sum(float(b[i]) * d[i] for i in n) + sum(d[i] * float(A[i, j]) * d[j] for i in n for j in n) / 2


def without(n, chosen):
    """Return the other terms."""
    return tuple(i for i in range(n) if i not in chosen)


def finals(sizes, least, most, budget):
    """Return all sets of kept terms that meet the budget and the layers' bounds, in the order of combinations."""
    n = sum(sizes)
    owner = [layer for layer, size in enumerate(sizes) for _ in range(size)]
    bounds = list(zip(least, most, strict=True))
    total = min(budget, sum(min(m, s) for m, s in zip(most, sizes, strict=True)))
    return [
        kept
        for kept in itertools.combinations(range(n), total)
        if all(low <= sum(owner[i] == layer for i in kept) <= high for layer, (low, high) in enumerate(bounds))
    ]


def forward(gain, n, legal):
    """Grow a set by the term of largest gain(set, term), among those with which it can still become a legal one."""
    kept = ()
    while len(kept) < len(legal[0]):
        grows = [j for j in range(n) if j not in kept and any({*kept, j} <= set(final) for final in legal)]
        kept = (*kept, max(grows, key=lambda j, kept=kept: gain(kept, j)))  # of equals, the first
    return tuple(sorted(kept))


def backward(cost, n, legal):
    """Shrink the set of all by the term of least cost(cut, term), while a legal set is left within."""
    cut = ()
    while n - len(cut) > len(legal[0]):
        goes = [
            j for j in range(n) if j not in cut and any(set(final) <= set(without(n, (*cut, j))) for final in legal)
        ]
        cut = (*cut, min(goes, key=lambda j, cut=cut: cost(cut, j)))
    return without(n, cut)


def greedy(b, A, legal):
    """Forward, each gain as a difference of two values of q."""
    n = len(b)
    return forward(lambda S, j: change(b, A, without(n, S)) - change(b, A, without(n, (*S, j))), n, legal)


def reverse(b, A, legal):
    """Backward, each cost a value of q."""
    return backward(lambda C, j: change(b, A, (*C, j)), len(b), legal)


def swap(b, A, legal, start=reverse):
    """Go from `reverse` to the best legal set that differs in one exchange, while q falls."""
    n, kept = len(b), start(b, A, legal)
    while True:
        near = [(i, j) for i in kept for j in without(n, kept)]
        sets = [tuple(sorted({*kept, j} - {i})) for i, j in near]
        sets = [each for each in sets if each in legal]
        best = min(sets, key=lambda each: change(b, A, without(n, each)), default=kept)
        if change(b, A, without(n, best)) >= change(b, A, without(n, kept)):
            return kept
        kept = best


def measured(b, A, legal):
    """Do so from `reverse` and from `greedy`, and take the better end; of equals the first."""
    ends = [swap(b, A, legal, start) for start in (reverse, greedy)]
    return min(ends, key=lambda kept: change(b, A, without(len(b), kept)))


def exhaustive(b, A, legal):
    """Return the first of the best sets."""
    return min(legal, key=lambda kept: change(b, A, without(len(b), kept)))


def largest(score, legal):
    """Forward by a score that never changes."""
    return forward(lambda S, j: float(score[j]), len(score), legal)


def projected(A):
    """Replace each negative entry off the diagonal by 0."""
    out = A.copy()
    for i, j in itertools.permutations(range(len(A)), 2):
        out[i, j] = max(A[i, j], 0.0)
    return out


def submodular(b, A):
    """Say whether F(S) = -q(complement) has F(S + i) + F(S + j) >= F(S + i + j) + F(S) for all S, i, j."""
    n = len(b)

    def value(S):
        return -change(b, A, without(n, S))

    return all(
        value((*S, i)) + value((*S, j)) >= value((*S, i, j)) + value(S) - 1e-9
        for size in range(n - 1)
        for S in itertools.combinations(range(n), size)
        for i, j in itertools.combinations(without(n, S), 2)
    )


def compensated(b, A, kept, damping):
    """Return gates by solving with A_SS + damping."""
    n = len(b)
    S, C = list(kept), list(without(n, kept))
    gates = np.zeros(n)
    slope = b[S] - A[np.ix_(S, C)].sum(1)
    gates[S] = 1 - np.linalg.inv(A[np.ix_(S, S)] + damping * np.eye(len(S))) @ slope
    return gates


def smoothed(gradients, beta1, beta2):
    """Return AdaLoRA's score, with its two averages written out as sums over the batches."""
    size = np.abs(gradients)
    means = [sum((1 - beta1) * beta1 ** (t - s) * size[s] for s in range(t + 1)) for t in range(len(size))]
    last = len(size) - 1
    return means[-1] * sum((1 - beta2) * beta2 ** (last - t) * np.abs(size[t] - means[t]) for t in range(len(size)))
