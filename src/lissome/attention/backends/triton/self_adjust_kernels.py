# pyright: reportArgumentType=false, reportGeneralTypeIssues=false
"""Kernels of SA-Softmax: one pass over keys forward, and the gradients of queries, keys, values and a table of biases.

With z the scores of a row, m and M their extrema, p the softmax, a, low and the weights w as in `..self_adjust`:

    w = a (z - low) p,    o = a (S1 + (M - low) S0),    S0 = sum_j p_j v_j,    S1 = sum_j (z_j - M) p_j v_j

Both sums are carried along beside M, m and the total. (z - M) e^(z - M) is never below -0.37, so half precision rounds
S1 as it rounds S0, however large the scores are; when M grows by h, S1 becomes e^-h (S1 - h S0).

In the last terms of the gradient a row's extrema are found again by their column; rows with ties, which are few, are
found by their value, and their terms are parted evenly as torch.amin does.

Shapes: BM queries and BN keys of a tile, BD and BV the dimensions of keys and values up to the next power of two.
"""

from __future__ import annotations

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
LEAST = tl.constexpr(-1e30)  # below any score, and finite: an infinity times a sum of nothing is NaN
NEAR = tl.constexpr(4e-6)  # of a row's span and size: some thirty times what its scores are rounded by
TIED = tl.constexpr(-1)  # in place of the column of an extremum that several keys share


@triton.jit
def load_rows(x, at, count, width, SIZE: tl.constexpr):
    """Return rows `at` of x (count, width), 0 outside."""
    columns = tl.arange(0, SIZE)
    inside = ((at >= 0) & (at < count))[:, None] & (columns < width)[None, :]
    return tl.load(x + at.to(tl.int64)[:, None] * width + columns[None, :], mask=inside, other=0.0)


@triton.jit
def store_rows(x, at, count, width, values, SIZE: tl.constexpr):
    """Write rows `at` of x (count, width)."""
    columns = tl.arange(0, SIZE)
    inside = (at < count)[:, None] & (columns < width)[None, :]
    tl.store(x + at.to(tl.int64)[:, None] * width + columns[None, :], values.to(x.dtype.element_ty), mask=inside)


@triton.jit
def scores_of(left, right, table, distance, scale, keys, BIASED: tl.constexpr, PREC: tl.constexpr, ACC: tl.constexpr):
    """Return the biased scores of a tile; queries and keys may stand in either order."""
    z = tl.dot(left, tl.trans(right), input_precision=PREC, out_dtype=ACC) * scale
    if BIASED:
        z += tl.load(table + distance, mask=(distance >= 0) & (distance < keys), other=0.0)
    return z


@triton.jit
def bounds_of(least, most, eps, VARIANT: tl.constexpr):
    """Return low and a of rows with these extrema."""
    if VARIANT == 1:
        return least * 0, least * 0 + 1
    elif VARIANT == 2:
        return least, least * 0 + 1
    elif VARIANT == 3:
        return least, 1 / (most - least + eps)
    else:
        low = tl.minimum(least, 0)
        return low, 1 / (tl.maximum(most, 0) - low + eps)


@triton.jit
def forward_step(
    q, k, v, table, i, start, keys, width_k, width_v, scale, most, least, total, s0, s1,
    BN: tl.constexpr, BD: tl.constexpr, BV: tl.constexpr, BIASED: tl.constexpr, MASKED: tl.constexpr,
    PREC: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Take in one tile of keys."""
    j = start + tl.arange(0, BN)
    z = scores_of(q, load_rows(k, j, keys, width_k, BD), table, i[:, None] - j[None, :], scale, keys, BIASED, PREC, ACC)
    if MASKED:
        seen = i[:, None] >= j[None, :]
        least = tl.minimum(least, tl.min(tl.where(seen, z, -LEAST), 1))
        z = tl.where(seen, z, LEAST)
    else:
        least = tl.minimum(least, tl.min(z, 1))
    higher = tl.maximum(most, tl.max(z, 1))
    x = z - higher[:, None]
    p = tl.exp2(x * LOG2E)
    step = most - higher
    shrink = tl.exp2(step * LOG2E)
    values = load_rows(v, j, keys, width_v, BV)
    s1 = (s1 + step[:, None] * s0) * shrink[:, None]
    s1 += tl.dot((x * p).to(values.dtype), values, input_precision=PREC, out_dtype=ACC)
    s0 = s0 * shrink[:, None] + tl.dot(p.to(values.dtype), values, input_precision=PREC, out_dtype=ACC)
    return higher, least, total * shrink + tl.sum(p, 1), s0, s1


@triton.jit
def forward_kernel(
    q, k, v, table, out, mosts, leasts, totals, heads, groups, rows, keys, width_k, width_v, scale, eps,
    VARIANT: tl.constexpr, BIASED: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr,
    BV: tl.constexpr, PREC: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Run BM queries of one head; the longest rows come first, so that none is left for the end."""
    tile, which = tl.num_programs(0) - 1 - tl.program_id(0), tl.program_id(1).to(tl.int64)
    group = which // heads * groups + which % heads // (heads // groups)
    q, out = q + which * rows * width_k, out + which * rows * width_v
    k, v = k + group * keys * width_k, v + group * keys * width_v
    table += which % heads * keys
    row = tile * BM + tl.arange(0, BM)
    i = keys - rows + row
    asked = load_rows(q, row, rows, width_k, BD)
    most, least = tl.full([BM], LEAST, ACC), tl.full([BM], -LEAST, ACC)
    total = tl.zeros([BM], ACC)
    s0, s1 = tl.zeros([BM, BV], ACC), tl.zeros([BM, BV], ACC)
    first = keys - rows + tile * BM
    free = (first + 1) // BN * BN  # keys that every query of the tile sees, in whole tiles
    for start in range(0, free, BN):
        most, least, total, s0, s1 = forward_step(
            asked, k, v, table, i, start, keys, width_k, width_v, scale, most, least, total, s0, s1,
            BN, BD, BV, BIASED, False, PREC, ACC,
        )  # fmt: skip
    for start in range(free, tl.minimum(first + BM, keys), BN):
        most, least, total, s0, s1 = forward_step(
            asked, k, v, table, i, start, keys, width_k, width_v, scale, most, least, total, s0, s1,
            BN, BD, BV, BIASED, True, PREC, ACC,
        )  # fmt: skip
    low, a = bounds_of(least, most, eps, VARIANT)
    found = (s1 + (most - low)[:, None] * s0) * (a / total)[:, None]
    store_rows(out, row, rows, width_v, found, BV)
    at = which * rows + row
    tl.store(mosts + at, most, mask=row < rows)
    tl.store(leasts + at, least, mask=row < rows)
    tl.store(totals + at, total, mask=row < rows)


@triton.jit
def fitted(x, like):
    """Return x in the dtype of `like`; a is 1e6 where the scores of a row are equal, and float16 ends at 65,504."""
    if like.dtype == tl.float16:
        x = tl.minimum(tl.maximum(x, -65504.0), 65504.0)
    return x.to(like.dtype)


@triton.jit
def slope_of(z, seen, dw, most, total, low, a, own, dl):
    """Return p, and the slope of a tile's scores over a, but for what passes through the extrema."""
    p = tl.where(seen, tl.exp2((z - most) * LOG2E) / total, 0.0)
    return p, p * ((z - low + own) * dw - dl / a)


@triton.jit
def slope_of_extrema(z, seen, j, lowest, highest, least, most, down, up):
    """Return what a tile's scores get as extrema, over a; columns `lowest` and `highest` are TIED where several are.

    Products of another order differ in the last bits, so that in a row with ties the others are looked for nearby.
    """
    near = NEAR * (most - least + tl.maximum(tl.abs(least), tl.abs(most)))
    at_least = tl.where(lowest == TIED, z <= least + near, j == lowest)
    at_most = tl.where(highest == TIED, z >= most - near, j == highest)
    return tl.where(seen & at_least, down, 0.0) + tl.where(seen & at_most, up, 0.0)


@triton.jit
def own_of(a, i, VARIANT: tl.constexpr, DETACH: tl.constexpr):
    """Return the slope of w / (a p) in its own score: 1, or 0 for the one key of a row whose extrema are constants."""
    if DETACH and VARIANT >= 3:
        return tl.where(i == 0, 0.0, a * 0 + 1)
    else:
        return a * 0 + 1


@triton.jit
def queries_kernel(
    q, k, v, table, out, dout, mosts, leasts, totals, dq, dls, lowests, highests, downs, ups,
    heads, groups, rows, keys, width_k, width_v, scale, eps,
    VARIANT: tl.constexpr, DETACH: tl.constexpr, BIASED: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
    BD: tl.constexpr, BV: tl.constexpr, PREC: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Find the gradient of BM queries of one head, and what the other kernels need of each row.

    Scores are products of the order of `forward_kernel`, the same to the last bit, so that extrema are found by value.
    """
    tile, which = tl.num_programs(0) - 1 - tl.program_id(0), tl.program_id(1).to(tl.int64)
    group = which // heads * groups + which % heads // (heads // groups)
    q, dq = q + which * rows * width_k, dq + which * rows * width_k
    out, dout = out + which * rows * width_v, dout + which * rows * width_v
    k, v = k + group * keys * width_k, v + group * keys * width_v
    table += which % heads * keys
    row = tile * BM + tl.arange(0, BM)
    i, at, there = keys - rows + row, which * rows + row, row < rows
    asked, slope = load_rows(q, row, rows, width_k, BD), load_rows(dout, row, rows, width_v, BV)
    most = tl.load(mosts + at, mask=there, other=0.0)
    least = tl.load(leasts + at, mask=there, other=0.0)
    total = tl.load(totals + at, mask=there, other=1.0)
    low, a = bounds_of(least, most, eps, VARIANT)
    own = own_of(a, i, VARIANT, DETACH)
    dl = tl.sum(load_rows(out, row, rows, width_v, BV).to(ACC) * slope.to(ACC), 1)
    found, mixed = tl.zeros([BM, BD], ACC), tl.zeros([BM], ACC)
    few, many = tl.zeros([BM], tl.int32), tl.zeros([BM], tl.int32)  # keys that are the least, and the most
    lowest, highest = tl.zeros([BM], tl.int32), tl.zeros([BM], tl.int32)  # sums of their columns
    end = tl.minimum(keys - rows + tile * BM + BM, keys)
    for start in range(0, end, BN):
        j = start + tl.arange(0, BN)
        seen = i[:, None] >= j[None, :]
        known = load_rows(k, j, keys, width_k, BD)
        z = scores_of(asked, known, table, i[:, None] - j[None, :], scale, keys, BIASED, PREC, ACC)
        values = load_rows(v, j, keys, width_v, BV)
        dw = tl.dot(slope, tl.trans(values), input_precision=PREC, out_dtype=ACC)
        p, dz = slope_of(
            z, seen, dw, most[:, None], total[:, None], low[:, None], a[:, None], own[:, None], dl[:, None]
        )
        found += tl.dot(fitted(dz, known), known, input_precision=PREC, out_dtype=ACC)
        if VARIANT > 1 and not DETACH:
            mixed += tl.sum(p * dw, 1)
            at_least, at_most = seen & (z <= least[:, None]), seen & (z >= most[:, None])
            few += tl.sum(at_least.to(tl.int32), 1)
            many += tl.sum(at_most.to(tl.int32), 1)
            lowest += tl.sum(tl.where(at_least, j[None, :], 0), 1)
            highest += tl.sum(tl.where(at_most, j[None, :], 0), 1)
    if VARIANT > 1 and not DETACH:
        down, up = -mixed, mixed * 0  # over a, as all slopes are until they are summed
        if VARIANT > 2:
            down, up = dl - mixed, -dl
        if VARIANT == 4:
            down, up = tl.where(least <= 0, down, 0.0), tl.where(most >= 0, up, 0.0)
        down, up = down / tl.maximum(few, 1), up / tl.maximum(many, 1)
        lowest, highest = tl.where(few == 1, lowest, TIED), tl.where(many == 1, highest, TIED)
        found += tl.where(lowest == TIED, 0.0, down)[:, None] * load_rows(k, lowest, keys, width_k, BD).to(ACC)
        found += tl.where(highest == TIED, 0.0, up)[:, None] * load_rows(k, highest, keys, width_k, BD).to(ACC)
        down_tied = tl.where(there & (lowest == TIED), down, 0.0)
        up_tied = tl.where(there & (highest == TIED), up, 0.0)
        if tl.max((there & ((lowest == TIED) | (highest == TIED))).to(tl.int32), 0) > 0:
            for start in range(0, end, BN):
                j = start + tl.arange(0, BN)
                known = load_rows(k, j, keys, width_k, BD)
                z = scores_of(asked, known, table, i[:, None] - j[None, :], scale, keys, BIASED, PREC, ACC)
                seen = i[:, None] >= j[None, :]
                dz = tl.where(seen & (z <= least[:, None]), down_tied[:, None], 0.0)
                dz += tl.where(seen & (z >= most[:, None]), up_tied[:, None], 0.0)
                found += tl.dot(fitted(dz, known), known, input_precision=PREC, out_dtype=ACC)
        tl.store(lowests + at, lowest, mask=there)
        tl.store(highests + at, highest, mask=there)
        tl.store(downs + at, down, mask=there)
        tl.store(ups + at, up, mask=there)
    tl.store(dls + at, dl, mask=there)
    store_rows(dq, row, rows, width_k, found * (a * scale)[:, None], BD)


@triton.jit
def rows_of(mosts, leasts, totals, dls, lowests, highests, downs, ups, at, there, EXTREMA: tl.constexpr):
    """Return what is known of rows."""
    most = tl.load(mosts + at, mask=there, other=0.0)
    least = tl.load(leasts + at, mask=there, other=0.0)
    total = tl.load(totals + at, mask=there, other=1.0)
    dl = tl.load(dls + at, mask=there, other=0.0)
    if EXTREMA:
        lowest = tl.load(lowests + at, mask=there, other=0)
        highest = tl.load(highests + at, mask=there, other=0)
        down = tl.load(downs + at, mask=there, other=0.0)
        up = tl.load(ups + at, mask=there, other=0.0)
        return most, least, total, dl, lowest, highest, down, up
    else:
        return most, least, total, dl, at, at, dl, dl


@triton.jit
def keys_kernel(
    q, k, v, table, dout, mosts, leasts, totals, dls, lowests, highests, downs, ups, dk, dv,
    heads, groups, rows, keys, width_k, width_v, scale, eps,
    VARIANT: tl.constexpr, DETACH: tl.constexpr, BIASED: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
    BD: tl.constexpr, BV: tl.constexpr, PREC: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Find the gradients of BN keys and values, summed over the heads that share them; keys stand in rows of a tile."""
    start, which = tl.program_id(0) * BN, tl.program_id(1).to(tl.int64)
    share = heads // groups
    j = start + tl.arange(0, BN)
    known = load_rows(k + which * keys * width_k, j, keys, width_k, BD)
    values = load_rows(v + which * keys * width_v, j, keys, width_v, BV)
    found_k, found_v = tl.zeros([BN, BD], ACC), tl.zeros([BN, BV], ACC)
    for member in range(0, share):
        head = which // groups * heads + which % groups * share + member
        bias = table + head % heads * keys
        for begin in range(tl.maximum(start - (keys - rows), 0) // BM * BM, rows, BM):
            row = begin + tl.arange(0, BM)
            i, at, there = keys - rows + row, head * rows + row, row < rows
            most, least, total, dl, lowest, highest, down, up = rows_of(
                mosts, leasts, totals, dls, lowests, highests, downs, ups, at, there, VARIANT > 1 and not DETACH
            )
            low, a = bounds_of(least, most, eps, VARIANT)
            own = own_of(a, i, VARIANT, DETACH)
            asked = load_rows(q + head * rows * width_k, row, rows, width_k, BD)
            slope = load_rows(dout + head * rows * width_v, row, rows, width_v, BV)
            seen = (i[None, :] >= j[:, None]) & there[None, :] & (j < keys)[:, None]
            z = scores_of(known, asked, bias, i[None, :] - j[:, None], scale, keys, BIASED, PREC, ACC)
            dw = tl.dot(values, tl.trans(slope), input_precision=PREC, out_dtype=ACC)
            p, dz = slope_of(
                z, seen, dw, most[None, :], total[None, :], low[None, :], a[None, :], own[None, :], dl[None, :]
            )
            if VARIANT > 1 and not DETACH:
                dz += slope_of_extrema(
                    z, seen, j[:, None], lowest[None, :], highest[None, :], least[None, :], most[None, :],
                    down[None, :], up[None, :],
                )  # fmt: skip
            w = p * ((z - low[None, :]) * a[None, :])
            found_v += tl.dot(fitted(w, slope), slope, input_precision=PREC, out_dtype=ACC)
            found_k += tl.dot(fitted(dz * a[None, :], asked), asked, input_precision=PREC, out_dtype=ACC)
    store_rows(dk + which * keys * width_k, j, keys, width_k, found_k * scale, BD)
    store_rows(dv + which * keys * width_v, j, keys, width_v, found_v, BV)


@triton.jit
def table_kernel(
    q, k, v, table, dout, mosts, leasts, totals, dls, lowests, highests, downs, ups, tiles,
    batch, heads, groups, rows, keys, width_k, width_v, scale, eps,
    VARIANT: tl.constexpr, DETACH: tl.constexpr, BIASED: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
    BD: tl.constexpr, BV: tl.constexpr, PREC: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Sum the slopes of all tiles of one head that lie equally far from the diagonal: (BM, BN) per program, BM = BN.

    Such tiles hold the same distances, so that their sum is all that the table's gradient needs.
    """
    apart, head = tl.program_id(0), tl.program_id(1)
    table += head.to(tl.int64) * keys
    total_slope = tl.zeros([BM, BM], ACC)
    for index in range(0, batch):
        which = (index * heads + head).to(tl.int64)
        group = (index * groups + head // (heads // groups)).to(tl.int64)
        for begin in range(0, rows, BM):
            first = keys - rows + begin - apart * BM
            if first + BM > 0:
                row, j = begin + tl.arange(0, BM), first + tl.arange(0, BM)
                i, at, there = keys - rows + row, which * rows + row, row < rows
                most, least, total, dl, lowest, highest, down, up = rows_of(
                    mosts, leasts, totals, dls, lowests, highests, downs, ups, at, there, VARIANT > 1 and not DETACH
                )
                low, a = bounds_of(least, most, eps, VARIANT)
                own = own_of(a, i, VARIANT, DETACH)
                asked = load_rows(q + which * rows * width_k, row, rows, width_k, BD)
                slope = load_rows(dout + which * rows * width_v, row, rows, width_v, BV)
                known = load_rows(k + group * keys * width_k, j, keys, width_k, BD)
                values = load_rows(v + group * keys * width_v, j, keys, width_v, BV)
                seen = (i[:, None] >= j[None, :]) & there[:, None] & (j >= 0)[None, :]
                z = scores_of(asked, known, table, i[:, None] - j[None, :], scale, keys, BIASED, PREC, ACC)
                dw = tl.dot(slope, tl.trans(values), input_precision=PREC, out_dtype=ACC)
                _, dz = slope_of(
                    z, seen, dw, most[:, None], total[:, None], low[:, None], a[:, None], own[:, None], dl[:, None]
                )
                if VARIANT > 1 and not DETACH:
                    dz += slope_of_extrema(
                        z, seen, j[None, :], lowest[:, None], highest[:, None], least[:, None], most[:, None],
                        down[:, None], up[:, None],
                    )  # fmt: skip
                total_slope += dz * a[:, None]
    place = tl.arange(0, BM)
    tiles += (head.to(tl.int64) * tl.num_programs(0) + apart) * BM * BM
    tl.store(tiles + place[:, None] * BM + place[None, :], total_slope)
