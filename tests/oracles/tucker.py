"""The Tucker form by its definition, entry by entry: slow and obvious."""

import itertools

import torch


def dense(form, base=None, start=None):
    """`base + scale * (gates * core) x1 U1 x2 U2 ...`; `start` is a copy of a residual form as it began."""
    entries = _entries(form)
    if form.base == "residual":
        entries = {i: value - was for (i, value), was in zip(entries.items(), _entries(start).values(), strict=True)}
    rows = [form.scale * value for value in entries.values()]
    out = torch.stack(rows).reshape(form.shape)
    return out if form.base == "replace" else base + out


def _entries(form):
    factors, out = form.factors, {}
    zero = form.gates.new_zeros(())
    for place in itertools.product(*(range(d) for d in form.shape)):
        total = zero
        for k in itertools.product(*(range(r) for r in form.ranks)):
            if form.core_kind == "full":
                entry = form.gates[k] * form.core[k]
            elif len(set(k)) == 1:
                entry = form.gates[k[0]] * (1 if form.core is None else form.core[k[0]])
            else:
                continue
            for U, i, j in zip(factors, place, k, strict=True):
                entry = entry * U[i, j]
            total = total + entry
        out[place] = total
    return out
