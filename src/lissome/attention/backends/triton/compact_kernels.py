# pyright: reportArgumentType=false, reportGeneralTypeIssues=false
"""Kernels of softmax over near keys and kept ones: one pass over both forward, and the gradients of queries and keys.

A program holds BM queries of one head. It steps through the kept keys that are older than a window of its queries, row
by row from where they lie, and then through the keys of those windows. In exponents of 2 all scores come with log2 e.

The gradient of a kept key is whole in one program (`kept_kernel`): every later query sees it, near or not, so that the
window does not matter to it. That of another key is whole in `near_kernel`, which looks at its window alone. Each key
is written once and nothing is added twice: the last bits are the same in every run.

Which keys are kept, of each text:

    counts[n]    kept keys among the first n, n = 0 .. Tk; so key j is kept where counts[j + 1] > counts[j]
    places[c]    where kept key c stands; anything from the last one on

Shapes: BM queries and BN keys of a tile, BD and BV the dimensions of keys and values up to the next power of two.
"""

from __future__ import annotations

import triton
import triton.language as tl

from lissome.attention.backends.triton.self_adjust_kernels import LEAST, LOG2E, load_rows, store_rows


@triton.jit
def span_of(spans, batch, keys, PADDED: tl.constexpr):
    """Return the first column of a text and the one after its last."""
    if PADDED:
        return tl.load(spans + 2 * batch), tl.load(spans + 2 * batch + 1)
    else:
        return batch * 0, batch * 0 + keys


@triton.jit
def older_of(counts, position, near):
    """Return how many kept keys are older than the window of a query."""
    return tl.load(counts + tl.maximum(position - near + 1, 0))


@triton.jit
def forward_step(
    q, k, v, j, seen, keys, width_k, width_v, scale, most, total, mixed,
    MASKED: tl.constexpr, BD: tl.constexpr, BV: tl.constexpr, PREC: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Take in one tile of keys."""
    z = tl.dot(q, tl.trans(load_rows(k, j, keys, width_k, BD)), input_precision=PREC, out_dtype=ACC) * scale
    if MASKED:
        z = tl.where(seen, z, LEAST)
    higher = tl.maximum(most, tl.max(z, 1))
    p = tl.exp2(z - higher[:, None])
    shrink = tl.exp2(most - higher)
    values = load_rows(v, j, keys, width_v, BV)
    mixed = mixed * shrink[:, None] + tl.dot(p.to(values.dtype), values, input_precision=PREC, out_dtype=ACC)
    return higher, total * shrink + tl.sum(p, 1), mixed


@triton.jit
def forward_kernel(
    q, k, v, counts, places, spans, out, logs, heads, groups, rows, keys, width_k, width_v, apart, near, scale,
    PADDED: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr, BV: tl.constexpr,
    PREC: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Run BM queries of one head; those that see most come first. A row of padding gets 0, and its logarithm too."""
    tile, which = tl.num_programs(0) - 1 - tl.program_id(0), tl.program_id(1).to(tl.int64)
    batch = which // heads
    group = batch * groups + which % heads // (heads // groups)
    q, out = q + which * rows * width_k, out + which * rows * width_v
    k, v = k + group * keys * width_k, v + group * keys * width_v
    counts, places = counts + batch * apart, places + batch * apart
    first, last = span_of(spans, batch, keys, PADDED)
    row = tile * BM + tl.arange(0, BM)
    i = keys - rows + row
    start = keys - rows + tile * BM
    end = tl.minimum(start + BM, keys)
    asked = load_rows(q, row, rows, width_k, BD)
    scale *= LOG2E
    most, total = tl.full([BM], LEAST, ACC), tl.zeros([BM], ACC)
    mixed = tl.zeros([BM, BV], ACC)
    some = older_of(counts, end - 1, near)
    free = older_of(counts, start, near) // BN * BN  # kept keys that need no mask, in whole tiles
    for c in range(0, free, BN):
        j = tl.load(places + c + tl.arange(0, BN))
        most, total, mixed = forward_step(
            asked, k, v, j, True, keys, width_k, width_v, scale, most, total, mixed, False, BD, BV, PREC, ACC
        )
    for c in range(free, some, BN):
        at = c + tl.arange(0, BN)
        j = tl.load(places + at, mask=at < some, other=keys)
        seen = j[None, :] <= i[:, None] - near
        most, total, mixed = forward_step(
            asked, k, v, j, seen, keys, width_k, width_v, scale, most, total, mixed, True, BD, BV, PREC, ACC
        )
    for low in range(tl.maximum(start - near + 1, 0) // BN * BN, end, BN):
        j = low + tl.arange(0, BN)
        behind = i[:, None] - j[None, :]
        seen = (behind >= 0) & (behind < near) & (j >= first)[None, :]
        most, total, mixed = forward_step(
            asked, k, v, j, seen, keys, width_k, width_v, scale, most, total, mixed, True, BD, BV, PREC, ACC
        )
    there = (i >= first) & (i < last)
    store_rows(out, row, rows, width_v, tl.where(there[:, None], mixed / total[:, None], 0.0), BV)
    log = tl.where(there, (most + tl.log2(total)) / LOG2E, 0.0)
    tl.store(logs + which * rows + row, log, mask=row < rows)


@triton.jit
def queries_step(
    q, slope, k, v, j, seen, keys, width_k, width_v, scale, log, own, found,
    MASKED: tl.constexpr, BD: tl.constexpr, BV: tl.constexpr, PREC: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Add to the gradient of queries what passes through one tile of keys."""
    known = load_rows(k, j, keys, width_k, BD)
    z = tl.dot(q, tl.trans(known), input_precision=PREC, out_dtype=ACC) * scale
    if MASKED:
        z = tl.where(seen, z, LEAST)
    p = tl.exp2(z - log[:, None])
    values = load_rows(v, j, keys, width_v, BV)
    dw = tl.dot(slope, tl.trans(values), input_precision=PREC, out_dtype=ACC)
    dz = p * (dw - own[:, None])
    return found + tl.dot(dz.to(known.dtype), known, input_precision=PREC, out_dtype=ACC)


@triton.jit
def queries_kernel(
    q, k, v, counts, places, spans, out, slope, logs, dq, owns,
    heads, groups, rows, keys, width_k, width_v, apart, near, scale,
    PADDED: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr, BV: tl.constexpr,
    PREC: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Find the gradient of BM queries of one head, and of each row the product of output and slope."""
    tile, which = tl.num_programs(0) - 1 - tl.program_id(0), tl.program_id(1).to(tl.int64)
    batch = which // heads
    group = batch * groups + which % heads // (heads // groups)
    k, v = k + group * keys * width_k, v + group * keys * width_v
    counts, places = counts + batch * apart, places + batch * apart
    first, last = span_of(spans, batch, keys, PADDED)
    row = tile * BM + tl.arange(0, BM)
    i = keys - rows + row
    start = keys - rows + tile * BM
    end = tl.minimum(start + BM, keys)
    asked = load_rows(q + which * rows * width_k, row, rows, width_k, BD)
    push = load_rows(slope + which * rows * width_v, row, rows, width_v, BV)
    mix = load_rows(out + which * rows * width_v, row, rows, width_v, BV)
    own = tl.sum(mix.to(ACC) * push.to(ACC), 1)
    tl.store(owns + which * rows + row, own, mask=row < rows)
    log = tl.load(logs + which * rows + row, mask=row < rows, other=0.0) * LOG2E
    found, turned = tl.zeros([BM, BD], ACC), scale * LOG2E
    some = older_of(counts, end - 1, near)
    free = older_of(counts, start, near) // BN * BN
    for c in range(0, free, BN):
        j = tl.load(places + c + tl.arange(0, BN))
        found = queries_step(
            asked, push, k, v, j, True, keys, width_k, width_v, turned, log, own, found, False, BD, BV, PREC, ACC
        )
    for c in range(free, some, BN):
        at = c + tl.arange(0, BN)
        j = tl.load(places + at, mask=at < some, other=keys)
        seen = j[None, :] <= i[:, None] - near
        found = queries_step(
            asked, push, k, v, j, seen, keys, width_k, width_v, turned, log, own, found, True, BD, BV, PREC, ACC
        )
    for low in range(tl.maximum(start - near + 1, 0) // BN * BN, end, BN):
        j = low + tl.arange(0, BN)
        behind = i[:, None] - j[None, :]
        seen = (behind >= 0) & (behind < near) & (j >= first)[None, :]
        found = queries_step(
            asked, push, k, v, j, seen, keys, width_k, width_v, turned, log, own, found, True, BD, BV, PREC, ACC
        )
    there = (i >= first) & (i < last)
    store_rows(dq + which * rows * width_k, row, rows, width_k, tl.where(there[:, None], found * scale, 0.0), BD)


@triton.jit
def keys_step(
    q, slope, logs, owns, known, values, j, head, begin, first, last, rows, keys, width_k, width_v, reach, scale,
    found_k, found_v, BM: tl.constexpr, BD: tl.constexpr, BV: tl.constexpr, PREC: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Add to the gradients of keys and values what passes through BM queries of a head; keys stand in rows of a tile.

    Queries see keys that are less than `reach` behind them.
    """
    row = begin + tl.arange(0, BM)
    i, there = keys - rows + row, row < rows
    asked = load_rows(q + head * rows * width_k, row, rows, width_k, BD)
    push = load_rows(slope + head * rows * width_v, row, rows, width_v, BV)
    log = tl.load(logs + head * rows + row, mask=there, other=0.0) * LOG2E
    own = tl.load(owns + head * rows + row, mask=there, other=0.0)
    behind = i[None, :] - j[:, None]
    seen = (behind >= 0) & (behind < reach) & (j >= first)[:, None] & (there & (i < last))[None, :]
    z = tl.dot(known, tl.trans(asked), input_precision=PREC, out_dtype=ACC) * scale
    p = tl.exp2(tl.where(seen, z, LEAST) - log[None, :])
    found_v += tl.dot(p.to(push.dtype), push, input_precision=PREC, out_dtype=ACC)
    dw = tl.dot(values, tl.trans(push), input_precision=PREC, out_dtype=ACC)
    dz = p * (dw - own[None, :])
    found_k += tl.dot(dz.to(asked.dtype), asked, input_precision=PREC, out_dtype=ACC)
    return found_k, found_v


@triton.jit
def near_kernel(
    q, k, v, counts, places, spans, slope, logs, owns, dk, dv,
    heads, groups, rows, keys, width_k, width_v, apart, near, scale,
    PADDED: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr, BV: tl.constexpr,
    PREC: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Find the gradients of those of BN keys and values that are not kept, summed over the heads that share them."""
    start, which = tl.program_id(0) * BN, tl.program_id(1).to(tl.int64)
    batch, share = which // groups, heads // groups
    counts += batch * apart
    first, last = span_of(spans, batch, keys, PADDED)
    j = start + tl.arange(0, BN)
    known = load_rows(k + which * keys * width_k, j, keys, width_k, BD)
    values = load_rows(v + which * keys * width_v, j, keys, width_v, BV)
    found_k, found_v = tl.zeros([BN, BD], ACC), tl.zeros([BN, BV], ACC)
    past = keys - rows
    stop = tl.minimum(start + BN - 1 + near - past, rows)
    for member in range(0, share):
        head = batch * heads + which % groups * share + member
        for begin in range(tl.maximum(start - past, 0) // BM * BM, stop, BM):
            found_k, found_v = keys_step(
                q, slope, logs, owns, known, values, j, head, begin, first, last, rows, keys, width_k, width_v, near,
                scale * LOG2E, found_k, found_v, BM, BD, BV, PREC, ACC,
            )  # fmt: skip
    inside = j < keys
    before, after = tl.load(counts + j, mask=inside, other=0), tl.load(counts + j + 1, mask=inside, other=1)
    j = tl.where(before == after, j, keys)  # what is kept is left to the other kernel
    store_rows(dk + which * keys * width_k, j, keys, width_k, found_k * scale, BD)
    store_rows(dv + which * keys * width_v, j, keys, width_v, found_v, BV)


@triton.jit
def kept_kernel(
    q, k, v, counts, places, spans, slope, logs, owns, dk, dv,
    heads, groups, rows, keys, width_k, width_v, apart, near, scale,
    PADDED: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr, BV: tl.constexpr,
    PREC: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """Find the gradients of BN kept keys and values, from all queries that come later; most see the first ones."""
    start, which = tl.program_id(0) * BN, tl.program_id(1).to(tl.int64)
    batch, share = which // groups, heads // groups
    counts, places = counts + batch * apart, places + batch * apart
    first, last = span_of(spans, batch, keys, PADDED)
    count = tl.load(counts + keys)
    at = start + tl.arange(0, BN)
    j = tl.load(places + at, mask=at < count, other=keys)
    known = load_rows(k + which * keys * width_k, j, keys, width_k, BD)
    values = load_rows(v + which * keys * width_v, j, keys, width_v, BV)
    found_k, found_v = tl.zeros([BN, BD], ACC), tl.zeros([BN, BV], ACC)
    past = keys - rows
    oldest = tl.load(places + start, mask=start < count, other=keys)  # no number of queries for a tile without keys
    for member in range(0, share):
        head = batch * heads + which % groups * share + member
        for begin in range(tl.where(start < count, tl.maximum(oldest - past, 0) // BM * BM, rows), rows, BM):
            found_k, found_v = keys_step(
                q, slope, logs, owns, known, values, j, head, begin, first, last, rows, keys, width_k, width_v, keys,
                scale * LOG2E, found_k, found_v, BM, BD, BV, PREC, ACC,
            )  # fmt: skip
    store_rows(dk + which * keys * width_k, j, keys, width_k, found_k * scale, BD)
    store_rows(dv + which * keys * width_v, j, keys, width_v, found_v, BV)
