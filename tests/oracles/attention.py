"""Attention by its formulas, pair by pair in Python loops: slow and obvious.

Scores and biases are S[h, i, j] and P[h, i, j]; `seen[i][j]` says whether query i may see key j.
"""

import math

import torch

EPS_OF_FIRE = 1e-6
EPS_OF_ADJUSTMENT = 1e-6


def alibi_slopes(heads):
    """arXiv 2108.12409 and its code: a geometric row, and every other one of the next power of two's."""
    if math.log2(heads).is_integer():
        first = 2 ** (-8 / heads)
        return [first**h for h in range(1, heads + 1)]
    below = 2 ** int(math.log2(heads))
    return alibi_slopes(below) + alibi_slopes(2 * below)[0::2][: heads - below]


def alibi(heads):
    slopes = alibi_slopes(heads)
    return lambda h, i, j: torch.tensor(-slopes[h] * max(i - j, 0), dtype=torch.float64)


def kerple_log(p, a, least=1e-2):
    return lambda h, i, j: -p[h].clamp(min=least) * torch.log(1 + a[h].clamp(min=least) * max(i - j, 0))


def kerple_power(p, a, least=1e-2):
    def bias(h, i, j):
        d = torch.tensor(max(i - j, 0), dtype=torch.float64)
        return -a[h].clamp(min=least) * d ** p[h].clamp(min=least, max=2)

    return bias


def fire(c, multiplier, threshold, W1, b1, W2, b2):
    def bias(h, i, j):
        start = (multiplier * threshold).abs()
        far = start if start > i else torch.tensor(float(i), dtype=torch.float64)
        share = torch.log(1 + (c * max(i - j, 0)).abs()) / (torch.log(1 + (c * far).abs()) + EPS_OF_FIRE)
        return b2[h] + W2[h] @ torch.relu(W1[:, 0] * share + b1)

    return bias


def rotary(x, position, base=10_000.0):
    """Turn one vector (D,): the m-th complex number x_m + i x_{m + D/2} by position * base^(-2m/D)."""
    half = len(x) // 2
    out = [None] * len(x)
    for m in range(half):
        angle = position * base ** (-2 * m / len(x))
        out[m] = x[m] * math.cos(angle) - x[m + half] * math.sin(angle)
        out[m + half] = x[m + half] * math.cos(angle) + x[m] * math.sin(angle)
    return torch.stack(out)


def dape(W1, b1, W2, b2, *, form="residual", hidden="masked", slope=0.01):
    """W1 (width, channels, kernel), W2 (H, width, kernel); returns (S, P or None, seen) -> Z."""
    kernel = W1.shape[2]

    def refine(S, P, seen):
        heads, rows, columns = S.shape

        def channels(i, j):
            if form == "sum":
                return S[:, i, j] if P is None else S[:, i, j] + P[:, i, j]
            return S[:, i, j] if P is None else torch.cat([S[:, i, j], P[:, i, j]])

        def first(i, j):
            """The hidden map at (i, j); outside the matrix both convolutions read 0."""
            if not 0 <= j < columns:
                return None
            if hidden == "masked" and kernel > 1 and not seen[i][j]:
                return None
            total = b1
            for offset in range(kernel):
                at = j + offset - kernel // 2
                if 0 <= at < columns and (seen[i][at] or kernel == 1):
                    total = total + W1[:, :, offset] @ channels(i, at)
            return torch.where(total > 0, total, slope * total)

        Z = []
        for i in range(rows):
            maps = [first(i, j) for j in range(-kernel, columns + kernel)]
            for j in range(columns):
                total = b2
                for offset in range(kernel):
                    map = maps[j + offset - kernel // 2 + kernel]
                    if map is not None:
                        total = total + W2[:, :, offset] @ map
                if form == "residual":
                    total = total + S[:, i, j] + (0 if P is None else P[:, i, j])
                Z.append(total)
        return torch.stack(Z, -1).reshape(heads, rows, columns)

    return refine


LINEAR = {"linear": False, "linear(mean=True)": True}  # whether it is over the number of keys


def weights(z, variant=0, detach_extrema=False):
    """The weights of one row over its visible keys, a list of scalars; variant 0 is the softmax, "linear" none."""
    if not z:
        return []
    if variant in LINEAR:
        return [value / (len(z) if LINEAR[variant] else 1) for value in z]
    top = max(float(value.detach()) for value in z)
    parts = [torch.exp(value - top) for value in z]
    p = [part / sum(parts) for part in parts]
    if variant == 0:
        return p
    if variant == 1:
        return [value * share for value, share in zip(z, p, strict=True)]
    if variant == 3 and len(z) == 1:
        return [0 * p[0]]  # 0 / eps
    row = torch.stack(z)
    low, high = row.amin(), row.amax()
    if detach_extrema:
        low, high = low.detach(), high.detach()
        if variant == 4 and len(z) == 1:  # 1 or 0, whatever the score: a constant
            z = [z[0].detach()]
    if variant == 2:
        return [(value - low) * share for value, share in zip(z, p, strict=True)]
    if variant == 4:
        low, high = low.clamp(max=0), high.clamp(min=0)
    return [(value - low) / (high - low + EPS_OF_ADJUSTMENT) * share for value, share in zip(z, p, strict=True)]


def slopes_of_first(z):
    """Analytic dy_i/dz_j of variant 1: p_i [d_ij (1 + z_i) - z_i p_j]."""
    p, n = torch.softmax(z, 0), len(z)
    return torch.stack(
        [torch.stack([p[i] * ((i == j) * (1 + z[i]) - z[i] * p[j]) for j in range(n)]) for i in range(n)]
    )


def slopes_of_fourth(z):
    """Analytic dy_i/dz_j of variant 4, without ties."""
    p, n = torch.softmax(z, 0), len(z)
    low, high = z.min().clamp(max=0), z.max().clamp(min=0)
    D = high - low + EPS_OF_ADJUSTMENT
    rows = []
    for i in range(n):
        r = (z[i] - low) / D
        row = []
        for j in range(n):
            value = p[i] * (r * (int(i == j) - p[j]) + int(i == j) / D)
            if z[j] == z.min() and z[j] < 0:
                value = value - p[i] * (1 - r) / D
            if z[j] == z.max() and z[j] > 0:
                value = value - p[i] * r / D
            row.append(value)
        rows.append(torch.stack(row))
    return torch.stack(rows)


def attend(q, k, v, present, rule, *, base=None, bias=None, refine=None, variant=0, detach_extrema=False, scale=None):
    """Mix values (B, G, T, Dv) for queries (B, H, T, D) of whole texts, padding where `present` (B, T) is False.

    rule(i, j) -> bool by positions; base of the rotary stage, or None; bias(h, i, j) -> scalar; refine as of `dape`.
    """
    batch, heads, length, dimension = q.shape
    share = heads // k.shape[1]
    scale = 1 / math.sqrt(dimension) if scale is None else scale
    out = []
    for b in range(batch):
        place, count = [], 0
        for t in range(length):
            place.append(count if present[b][t] else -1)
            count += bool(present[b][t])
        seen = [
            [bool(present[b][i]) and bool(present[b][j]) and rule(place[i], place[j]) for j in range(length)]
            for i in range(length)
        ]

        def turned(x, place=place):
            return x if base is None else [rotary(row, at, base) for row, at in zip(x, place, strict=True)]

        queries = [turned(q[b, h]) for h in range(heads)]
        keys = [turned(k[b, h // share]) for h in range(heads)]
        scores, biases = [], []
        for h in range(heads):
            for i in range(length):
                for j in range(length):
                    scores.append(scale * (queries[h][i] @ keys[h][j]))
                    if bias is not None:
                        biases.append(bias(h, place[i], place[j]))
        S = torch.stack(scores).reshape(heads, length, length)
        P = torch.stack(biases).reshape(heads, length, length) if bias is not None else None
        Z = refine(S, P, seen) if refine is not None else S if P is None else S + P
        for h in range(heads):
            for i in range(length):
                visible = [j for j in range(length) if seen[i][j]]
                y = weights([Z[h, i, j] for j in visible], variant, detach_extrema)
                mixed = torch.zeros(v.shape[-1], dtype=v.dtype)
                for weight, j in zip(y, visible, strict=True):
                    mixed = mixed + weight * v[b, h // share, j]
                out.append(mixed)
    return torch.stack(out).reshape(batch, heads, length, -1)
