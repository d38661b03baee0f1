r"""Which share of an update of a weight a small form can follow: why an adapter fails, or does not.

    share = 1 - min |Delta - (W(theta) - W(theta_0))|^2 / |Delta|^2

over all values theta of the trained parts, in the Frobenius norm. With Delta what training all weights did, it says how
much of that lies in the kept subspace. Where the factors are frozen the reachable set is a linear space:

    core full       |Q1 Q1^T Delta Q2 Q2^T|^2,  Qj an orthonormal basis of Uj's columns
    core diagonal   g^T G^+ g,  g_k = u_k^T Delta v_k,  G = (U1^T U1) * (U2^T U2) entry by entry

Where both are trained it is the matrices of rank r, and the best one is the truncated decomposition (C. Eckart,
G. Young 1936) of Delta and of what the form was at the start together. For tensors it is that of the Tucker ranks,
found by HOOI, so what is told is a lower bound.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lissome._errors import UsageError
from lissome.adapt.forms import tucker
from lissome.adapt.tucker import Tucker, contract


def reach(form: Tucker, update: Tensor) -> float:
    """Return the share in [0, 1] of an update (d1, ..., dn) that the form, as it is at the start, can follow.

    Args:
        form: with trained parts, as a constructor of `adapt` made it; of a tensor, the core alone or all of them.
        update: what is to be followed, not zero.

    Raises:
        UsageError: another shape, no matrix, an update of zeros, or nothing trained.

    >>> form = Tucker([torch.eye(2), torch.eye(2)], torch.ones(2), train=["core"])  # the diagonal
    >>> reach(form, torch.tensor([[3.0, 0.0], [4.0, 0.0]]))
    0.36
    """
    if tuple(update.shape) != form.shape:
        raise UsageError(f"the update has shape {tuple(update.shape)}; legal is the form's, {form.shape}")
    if not form.trained:
        raise UsageError(f"the form '{form.kind}' has no trained part; legal is one that has, as train=['core']")
    delta = update.detach().double()
    whole = float(delta.square().sum())
    if not whole > 0:
        raise UsageError("the update is zero or not finite; legal is one that has a direction")
    parts = [factor.detach().double() for factor in form.factors]
    core = None if form.core is None else form.core.detach().double()
    free = [f"factor{j}" in form.trained for j in range(form.ways)]
    start = form.scale * contract(_ones(parts) if core is None else core, parts)
    if form.ways > 2 and form.core_kind == "full" and (all(free) or not any(free)):
        bases = tucker(delta + start, form.ranks).factors if all(free) else [_basis(part) for part in parts]
        wanted = delta + start if all(free) else delta
        left = float(wanted.square().sum() - contract(wanted, [U.double().mT for U in bases]).square().sum())
        return min(1.0, max(0.0, 1 - left / whole))
    if form.ways > 2:
        raise UsageError(f"the form '{form.kind}' of a tensor trains {', '.join(form.trained)}; legal is a full core")
    if all(free):
        left = torch.linalg.svdvals(delta + start)[min(form.ranks) :]
        return min(1.0, max(0.0, 1 - float(left.square().sum()) / whole))
    if any(free):  # X M^T for any X, or its mirror image
        other = parts[1] if free[0] else parts[0]
        moved = delta if free[0] else delta.mT
        spread = other if core is None else other * core if core.dim() == 1 else other @ (core.mT if free[0] else core)
        kept = moved @ _basis(spread)
    elif core is not None and core.dim() == 2:
        kept = _basis(parts[0]).mT @ delta @ _basis(parts[1])
    else:
        g = ((parts[0].mT @ delta) * parts[1].mT).sum(1)  # (r,)
        G = (parts[0].mT @ parts[0]) * (parts[1].mT @ parts[1])  # (r, r)
        return min(1.0, float(g @ torch.linalg.pinv(G, hermitian=True) @ g) / whole)
    return min(1.0, float(kept.square().sum()) / whole)


def _ones(parts: list[Tensor]) -> Tensor:
    return parts[0].new_ones(parts[0].shape[1])


def _basis(columns: Tensor) -> Tensor:
    """Return an orthonormal basis of the columns' span."""
    vectors, values, _ = torch.linalg.svd(columns, full_matrices=False)
    return vectors[:, values > 1e-12 * values.max().clamp_min(1e-300)]
