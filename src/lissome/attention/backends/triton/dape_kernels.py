# pyright: reportArgumentType=false, reportGeneralTypeIssues=false
"""Kernels of DAPE and DAPE V2: all heads of a tile at once, a small network over them, and softmax in one pass.

With S the scores of a row, 0 where a pair is not valid, its bias and what the bias adds to the map tables of distances,
and R = K // 2:

    A[j] = hidden[i - j] + sum_t inner[t] S[j + t - R],    G = leaky(A), 0 where a pair is not valid,
    Z[j] = S[j] + table[i - j] + sum_t outer[t] G[j + t - R],    o = softmax(Z) v;

columns below R get `edge` besides, for what of the kernel lies before the first key.

A program holds BM queries of every head and steps through keys. The network is a product of its weights with a matrix
of heads by pairs. Of BN columns of a tile a margin on either side is there for its neighbours alone: Z is right 2 R
columns from the edge and the gradient of S 4 R columns, since every convolution needs R more. Columns are moved along
a tile by a gather, so that scores are computed once.

Gradients of queries, keys, values and parameters are a kernel each, with one sum in registers, and recompute the tile.
Parameters: a program takes all tiles of one text that lie equally far from the diagonal. They hold the same distances,
so that one sum of slopes is all that the table needs; its share of the weights' gradients is its own, no atomics.

Shapes: HP heads and WP neurons up to the next power of two, BD and BV likewise; tiles (HP, BM, BN).
"""

from __future__ import annotations

import triton
import triton.language as tl

from lissome.attention.refine import SLOPE

LOG2E = tl.constexpr(1.4426950408889634)
LEAST = tl.constexpr(-1e30)  # below any score, and finite
LEAK = tl.constexpr(SLOPE)


@triton.jit
def load_heads(x, batch, at, heads, share, count, width, HP: tl.constexpr, SIZE: tl.constexpr):
    """Return rows `at` of x (batch, heads / share, count, width) for every head, (HP, rows, SIZE), 0 outside."""
    head, columns = tl.arange(0, HP), tl.arange(0, SIZE)
    inside = (
        ((at >= 0) & (at < count))[None, :, None] & (columns < width)[None, None, :] & (head < heads)[:, None, None]
    )
    which = batch * (heads // share) + head // share
    place = (which.to(tl.int64) * count)[:, None] + at[None, :]
    return tl.load(x + place[:, :, None] * width + columns[None, None, :], mask=inside, other=0.0)


@triton.jit
def store_heads(x, batch, at, keep, heads, count, width, values, HP: tl.constexpr, SIZE: tl.constexpr):
    """Write those rows `at` of x (batch, heads, count, width) that are kept."""
    head, columns = tl.arange(0, HP), tl.arange(0, SIZE)
    inside = keep[None, :, None] & (columns < width)[None, None, :] & (head < heads)[:, None, None]
    place = ((batch * heads + head).to(tl.int64) * count)[:, None] + at[None, :]
    tl.store(x + place[:, :, None] * width + columns[None, None, :], values.to(x.dtype.element_ty), mask=inside)


@triton.jit
def row_places(batch, row, heads, rows, HP: tl.constexpr):
    """Return where numbers of rows stand in (batch, heads, rows), and which do: (HP, BM)."""
    head = tl.arange(0, HP)
    return (
        ((batch * heads + head).to(tl.int64) * rows)[:, None] + row[None, :],
        (head < heads)[:, None] & (row < rows)[None, :],
    )


@triton.jit
def moved(x, BY: tl.constexpr, A: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr):
    """Return x[..., n + BY] of x (A, BM, BN), 0 from outside."""
    if BY == 0:
        return x
    else:
        at = tl.arange(0, BN) + BY
        inside = (at >= 0) & (at < BN)
        index = tl.broadcast_to(tl.where(inside, at, 0)[None, None, :], (A, BM, BN))
        return tl.where(inside[None, None, :], tl.gather(x, index, 2), 0.0)


@triton.jit
def matrix(w, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Return the weights (ROWS, COLUMNS) at w."""
    return tl.load(w + tl.arange(0, ROWS)[:, None] * COLUMNS + tl.arange(0, COLUMNS)[None, :])


@triton.jit
def convolved(
    w, x, found, K: tl.constexpr, OUT: tl.constexpr, IN: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
    PREC: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Return found + sum_t w[t] x[. + t - R], (OUT, BM BN), of x (IN, BM, BN) and w (K, OUT, IN)."""
    for t in tl.static_range(K):
        here = tl.reshape(moved(x, t - K // 2, IN, BM, BN), (IN, BM * BN))
        weights = matrix(w + t * OUT * IN, OUT, IN)
        found += tl.dot(weights, here, input_precision=PREC, out_dtype=ACC)
    return found


@triton.jit
def transposed(
    w, x, K: tl.constexpr, OUT: tl.constexpr, IN: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
    PREC: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Return sum_t w[t]^T x[. - t + R], (IN, BM, BN), of x (OUT, BM, BN): the slope of what was convolved."""
    found = tl.zeros([IN, BM * BN], ACC)
    for t in tl.static_range(K):
        here = tl.reshape(moved(x, K // 2 - t, OUT, BM, BN), (OUT, BM * BN))
        weights = matrix(w + t * OUT * IN, OUT, IN)
        found += tl.dot(tl.trans(weights), here, input_precision=PREC, out_dtype=ACC)
    return tl.reshape(found, (IN, BM, BN))


@triton.jit
def refined(
    asked, known, table, hidden, edge, inner, outer, i, j, heads, width, keys, scale,
    RESIDUAL: tl.constexpr, BIASED: tl.constexpr, EDGES: tl.constexpr, K: tl.constexpr, HP: tl.constexpr,
    WP: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, PREC: tl.constexpr, NET: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Return what the network reads, its map before the nonlinearity and after, Z, and which pairs are valid."""
    distance = (i[:, None] - j[None, :])[None, :, :]
    valid = (distance >= 0) & (j >= 0)[None, None, :]  # (1, BM, BN)
    there = valid & (distance < keys)  # rows beyond the last are in no table
    place = keys - 1 - distance  # tables are in the order of keys, as the last query sees them
    s = tl.dot(asked, tl.permute(known, (0, 2, 1)), input_precision=PREC, out_dtype=ACC) * scale
    s = tl.where(valid, s, 0.0)  # (HP, BM, BN)
    neuron, head = tl.arange(0, WP)[:, None, None], tl.arange(0, HP)[:, None, None]
    before = tl.load(hidden + neuron * keys + place, mask=there & (neuron < width), other=0.0)
    for column in tl.static_range(EDGES):
        row = (keys - 1 - i)[None, :]
        at = edge + (column * width + tl.arange(0, WP)[:, None]) * keys + row
        more = tl.load(at, mask=(row >= 0) & (tl.arange(0, WP)[:, None] < width), other=0.0)  # (WP, BM)
        before += tl.where((j == column)[None, None, :], more[:, :, None], 0.0)
    before = tl.reshape(
        convolved(inner, s, tl.reshape(before, (WP, BM * BN)), K, WP, HP, BM, BN, NET, ACC), (WP, BM, BN)
    )
    after = tl.where(before > 0, before, before * LEAK)
    if K > 1:
        after = tl.where(valid, after, 0.0)
    z = convolved(outer, after, tl.zeros([HP, BM * BN], ACC), K, HP, WP, BM, BN, NET, ACC)
    z = tl.reshape(z, (HP, BM, BN))
    if RESIDUAL:
        z += s
    if BIASED:
        z += tl.load(table + head * keys + place, mask=there & (head < heads), other=0.0)
    return s, before, after, z, valid


@triton.jit
def slopes_of(
    before, z, valid, dw, log, dl, inner, outer,
    RESIDUAL: tl.constexpr, K: tl.constexpr, HP: tl.constexpr, WP: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
    NET: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Return the slopes of Z, of the map before its nonlinearity, and of scores."""
    column, edge = tl.arange(0, BN), 2 * (K // 2)
    right = valid & ((column >= edge) & (column < BN - edge))[None, None, :]  # beyond it Z lacks neighbours
    dz = tl.where(right, tl.exp2((z - log[:, :, None]) * LOG2E) * (dw - dl[:, :, None]), 0.0)
    dmap = transposed(outer, dz, K, HP, WP, BM, BN, NET, ACC)
    dmap = tl.where(valid, tl.where(before > 0, dmap, dmap * LEAK), 0.0)
    ds = transposed(inner, dmap, K, WP, HP, BM, BN, NET, ACC)
    if RESIDUAL:
        ds += dz
    return dz, dmap, ds


@triton.jit
def forward_kernel(
    q, k, v, table, hidden, edge, inner, outer, out, logs,
    heads, share, width, rows, keys, width_k, width_v, scale,
    RESIDUAL: tl.constexpr, BIASED: tl.constexpr, EDGES: tl.constexpr, K: tl.constexpr, HP: tl.constexpr,
    WP: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr, BV: tl.constexpr, PREC: tl.constexpr,
    NET: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Run BM queries of one text, longest rows first."""
    tile, batch = tl.num_programs(0) - 1 - tl.program_id(0), tl.program_id(1)
    MARGIN: tl.constexpr = 2 * (K // 2)
    row, column = tile * BM + tl.arange(0, BM), tl.arange(0, BN)
    i, own = keys - rows + row, ((column >= MARGIN) & (column < BN - MARGIN))[None, None, :]
    asked = load_heads(q, batch, row, heads, 1, rows, width_k, HP, BD)
    most, total = tl.full([HP, BM], LEAST, ACC), tl.zeros([HP, BM], ACC)
    found = tl.zeros([HP, BM, BV], ACC)
    for start in range(0, tl.minimum(keys - rows + tile * BM + BM, keys), BN - 2 * MARGIN):
        j = start - MARGIN + column
        known = load_heads(k, batch, j, heads, share, keys, width_k, HP, BD)
        _, _, _, z, valid = refined(
            asked, known, table, hidden, edge, inner, outer, i, j, heads, width, keys, scale,
            RESIDUAL, BIASED, EDGES, K, HP, WP, BM, BN, PREC, NET, ACC,
        )  # fmt: skip
        z = tl.where(valid & own, z, LEAST)
        higher = tl.maximum(most, tl.max(z, 2))
        p = tl.where(valid & own, tl.exp2((z - higher[:, :, None]) * LOG2E), 0.0)
        shrink = tl.exp2((most - higher) * LOG2E)
        values = load_heads(v, batch, j, heads, share, keys, width_v, HP, BV)
        mixed = tl.dot(p.to(values.dtype), values, input_precision=PREC, out_dtype=ACC)
        found = found * shrink[:, :, None] + mixed
        total, most = total * shrink + tl.sum(p, 2), higher
    store_heads(out, batch, row, row < rows, heads, rows, width_v, found / total[:, :, None], HP, BV)
    at, there = row_places(batch, row, heads, rows, HP)
    tl.store(logs + at, most + tl.log(total), mask=there)


@triton.jit
def queries_kernel(
    q, k, v, table, hidden, edge, inner, outer, out, dout, logs, dls, dq, dedge,
    heads, share, width, rows, keys, width_k, width_v, scale,
    RESIDUAL: tl.constexpr, BIASED: tl.constexpr, EDGES: tl.constexpr, K: tl.constexpr, HP: tl.constexpr,
    WP: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr, BV: tl.constexpr, PREC: tl.constexpr,
    NET: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Find the gradient of BM queries of one text, and `dls`, the slope times the output, for the other kernels."""
    tile, batch = tl.num_programs(0) - 1 - tl.program_id(0), tl.program_id(1)
    MARGIN: tl.constexpr = 4 * (K // 2)
    row, column = tile * BM + tl.arange(0, BM), tl.arange(0, BN)
    i, own = keys - rows + row, ((column >= MARGIN) & (column < BN - MARGIN))[None, None, :]
    asked = load_heads(q, batch, row, heads, 1, rows, width_k, HP, BD)
    slope = load_heads(dout, batch, row, heads, 1, rows, width_v, HP, BV)
    dl = tl.sum(load_heads(out, batch, row, heads, 1, rows, width_v, HP, BV).to(ACC) * slope.to(ACC), 2)
    at, there = row_places(batch, row, heads, rows, HP)
    log = tl.load(logs + at, mask=there, other=0.0)
    found = tl.zeros([HP, BM, BD], ACC)
    for start in range(0, tl.minimum(keys - rows + tile * BM + BM, keys), BN - 2 * MARGIN):
        j = start - MARGIN + column
        known = load_heads(k, batch, j, heads, share, keys, width_k, HP, BD)
        _, before, _, z, valid = refined(
            asked, known, table, hidden, edge, inner, outer, i, j, heads, width, keys, scale,
            RESIDUAL, BIASED, EDGES, K, HP, WP, BM, BN, PREC, NET, ACC,
        )  # fmt: skip
        values = load_heads(v, batch, j, heads, share, keys, width_v, HP, BV)
        dw = tl.dot(slope, tl.permute(values, (0, 2, 1)), input_precision=PREC, out_dtype=ACC)
        _, dmap, ds = slopes_of(before, z, valid, dw, log, dl, inner, outer, RESIDUAL, K, HP, WP, BM, BN, NET, ACC)
        if start == 0:
            neuron = tl.arange(0, WP)
            for edged in tl.static_range(EDGES):
                part = tl.sum(tl.where((j == edged)[None, None, :], dmap, 0.0), 2)  # (WP, BM)
                spot = ((batch * EDGES + edged) * width + neuron).to(tl.int64)[:, None] * rows + row[None, :]
                tl.store(dedge + spot, part, mask=(neuron < width)[:, None] & (row < rows)[None, :])
        ds = tl.where(valid & own, ds, 0.0).to(known.dtype)
        found += tl.dot(ds, known, input_precision=PREC, out_dtype=ACC)
    tl.store(dls + at, dl, mask=there)
    store_heads(dq, batch, row, row < rows, heads, rows, width_k, found * scale, HP, BD)


@triton.jit
def values_kernel(
    q, k, v, table, hidden, edge, inner, outer, dout, logs, dv,
    heads, share, width, rows, keys, width_k, width_v, scale,
    RESIDUAL: tl.constexpr, BIASED: tl.constexpr, EDGES: tl.constexpr, K: tl.constexpr, HP: tl.constexpr,
    WP: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr, BV: tl.constexpr, PREC: tl.constexpr,
    NET: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Find the gradient of a tile of values of one text, for each head of the queries."""
    MARGIN: tl.constexpr = 2 * (K // 2)
    start, batch = tl.program_id(0) * (BN - 2 * MARGIN), tl.program_id(1)
    column = tl.arange(0, BN)
    j, own = start - MARGIN + column, (column >= MARGIN) & (column < BN - MARGIN)
    known = load_heads(k, batch, j, heads, share, keys, width_k, HP, BD)
    found = tl.zeros([HP, BN, BV], ACC)
    for begin in range(tl.maximum(start - (keys - rows), 0) // BM * BM, rows, BM):
        row = begin + tl.arange(0, BM)
        asked = load_heads(q, batch, row, heads, 1, rows, width_k, HP, BD)
        _, _, _, z, valid = refined(
            asked, known, table, hidden, edge, inner, outer, keys - rows + row, j, heads, width, keys, scale,
            RESIDUAL, BIASED, EDGES, K, HP, WP, BM, BN, PREC, NET, ACC,
        )  # fmt: skip
        at, there = row_places(batch, row, heads, rows, HP)
        log = tl.load(logs + at, mask=there, other=0.0)
        kept = valid & own[None, None, :] & there[:, :, None]
        p = tl.where(kept, tl.exp2((z - log[:, :, None]) * LOG2E), 0.0)
        slope = load_heads(dout, batch, row, heads, 1, rows, width_v, HP, BV)
        p = tl.permute(p, (0, 2, 1)).to(slope.dtype)
        found += tl.dot(p, slope, input_precision=PREC, out_dtype=ACC)
    store_heads(dv, batch, j, own & (j < keys), heads, keys, width_v, found, HP, BV)


@triton.jit
def keys_kernel(
    q, k, v, table, hidden, edge, inner, outer, dout, logs, dls, dk,
    heads, share, width, rows, keys, width_k, width_v, scale,
    RESIDUAL: tl.constexpr, BIASED: tl.constexpr, EDGES: tl.constexpr, K: tl.constexpr, HP: tl.constexpr,
    WP: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr, BV: tl.constexpr, PREC: tl.constexpr,
    NET: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Find the gradient of a tile of keys of one text, for each head of the queries."""
    MARGIN: tl.constexpr = 4 * (K // 2)
    start, batch = tl.program_id(0) * (BN - 2 * MARGIN), tl.program_id(1)
    column = tl.arange(0, BN)
    j, own = start - MARGIN + column, (column >= MARGIN) & (column < BN - MARGIN)
    known = load_heads(k, batch, j, heads, share, keys, width_k, HP, BD)
    values = load_heads(v, batch, j, heads, share, keys, width_v, HP, BV)
    found = tl.zeros([HP, BN, BD], ACC)
    for begin in range(tl.maximum(start - (keys - rows), 0) // BM * BM, rows, BM):
        row = begin + tl.arange(0, BM)
        asked = load_heads(q, batch, row, heads, 1, rows, width_k, HP, BD)
        slope = load_heads(dout, batch, row, heads, 1, rows, width_v, HP, BV)
        _, before, _, z, valid = refined(
            asked, known, table, hidden, edge, inner, outer, keys - rows + row, j, heads, width, keys, scale,
            RESIDUAL, BIASED, EDGES, K, HP, WP, BM, BN, PREC, NET, ACC,
        )  # fmt: skip
        at, there = row_places(batch, row, heads, rows, HP)
        log = tl.load(logs + at, mask=there, other=0.0)
        dl = tl.load(dls + at, mask=there, other=0.0)
        dw = tl.dot(slope, tl.permute(values, (0, 2, 1)), input_precision=PREC, out_dtype=ACC)
        _, _, ds = slopes_of(
            before, z, valid & (row < rows)[None, :, None], dw, log, dl, inner, outer,
            RESIDUAL, K, HP, WP, BM, BN, NET, ACC,
        )  # fmt: skip
        ds = tl.permute(tl.where(valid & own[None, None, :], ds, 0.0), (0, 2, 1)).to(asked.dtype)
        found += tl.dot(ds, asked, input_precision=PREC, out_dtype=ACC)
    store_heads(dk, batch, j, own & (j < keys), heads, keys, width_k, found * scale, HP, BD)


@triton.jit
def add_products(at, x, y, ROWS: tl.constexpr, COLUMNS: tl.constexpr, NET: tl.constexpr, ACC: tl.constexpr):
    """Add sum_ij x[., i, j] y[., i, j] to the matrix at `at`, which is this program's alone.

    A product per query, summed afterwards: one over all pairs would have every warp hold all of both.
    """
    each = tl.dot(tl.permute(x, (1, 0, 2)), tl.permute(y, (1, 2, 0)), input_precision=NET, out_dtype=ACC)
    place = at + tl.arange(0, ROWS)[:, None] * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    tl.store(place, tl.load(place) + tl.sum(each, 0))


@triton.jit
def parameters_kernel(
    q, k, v, table, hidden, edge, inner, outer, dout, logs, dls,
    dinner, douter, dtable, dhidden,
    heads, share, width, rows, keys, width_k, width_v, scale,
    RESIDUAL: tl.constexpr, BIASED: tl.constexpr, EDGES: tl.constexpr, K: tl.constexpr, HP: tl.constexpr,
    WP: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr, BV: tl.constexpr, PREC: tl.constexpr,
    NET: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Find what tiles that end `apart` steps before their last query add to the gradients of all parameters."""
    MARGIN: tl.constexpr = 4 * (K // 2)
    apart, batch = tl.program_id(0), tl.program_id(1)
    own = batch * tl.num_programs(0) + apart
    column = tl.arange(0, BN)
    inside = ((column >= MARGIN) & (column < BN - MARGIN))[None, None, :]
    dinner, douter = dinner + own * K * WP * HP, douter + own * K * HP * WP
    sum_z, sum_map = tl.zeros([HP, BM, BN], ACC), tl.zeros([WP, BM, BN], ACC)
    for begin in range(0, rows, BM):
        end = keys - rows + begin + BM - apart * (BN - 2 * MARGIN)
        if end > 0:
            row, j = begin + tl.arange(0, BM), end - BN + MARGIN + column
            asked = load_heads(q, batch, row, heads, 1, rows, width_k, HP, BD)
            slope = load_heads(dout, batch, row, heads, 1, rows, width_v, HP, BV)
            known = load_heads(k, batch, j, heads, share, keys, width_k, HP, BD)
            values = load_heads(v, batch, j, heads, share, keys, width_v, HP, BV)
            s, before, after, z, valid = refined(
                asked, known, table, hidden, edge, inner, outer, keys - rows + row, j, heads, width,
                keys, scale, RESIDUAL, BIASED, EDGES, K, HP, WP, BM, BN, PREC, NET, ACC,
            )  # fmt: skip
            at, there = row_places(batch, row, heads, rows, HP)
            log = tl.load(logs + at, mask=there, other=0.0)
            dl = tl.load(dls + at, mask=there, other=0.0)
            dw = tl.dot(slope, tl.permute(values, (0, 2, 1)), input_precision=PREC, out_dtype=ACC)
            dz, dmap, _ = slopes_of(
                before, z, valid & (row < rows)[None, :, None], dw, log, dl, inner, outer,
                RESIDUAL, K, HP, WP, BM, BN, NET, ACC,
            )  # fmt: skip
            dz, dmap = tl.where(inside, dz, 0.0), tl.where(inside, dmap, 0.0)
            sum_z, sum_map = sum_z + dz, sum_map + dmap
            for t in tl.static_range(K):
                add_products(douter + t * HP * WP, dz, moved(after, t - K // 2, WP, BM, BN), HP, WP, NET, ACC)
                add_products(dinner + t * WP * HP, dmap, moved(s, t - K // 2, HP, BM, BN), WP, HP, NET, ACC)
            tl.debug_barrier()  # the next tile reads what this one added
    place = tl.arange(0, BM)[None, :, None] * BN + column[None, None, :]
    neuron, head = tl.arange(0, WP)[:, None, None], tl.arange(0, HP)[:, None, None]
    tl.store(dhidden + own.to(tl.int64) * WP * BM * BN + neuron * BM * BN + place, sum_map)
    if BIASED:
        tl.store(dtable + own.to(tl.int64) * HP * BM * BN + head * BM * BN + place, sum_z)
