r"""The terms of a form turned among themselves, so that few of them carry what the form does.

B A = (B X)(X^-1 A) for every invertible X (r, r): the weight stays, its terms do not, and which terms there are matters
more for a cut than how they are chosen. With y = A x what enters B, and h the gradient of a residual there,

    M = E[y y^T],  K = E[h h^T]        U S V^T = svd(K^1/2 M^1/2),  X = M^1/2 V,  X^-1 = V^T M^-1/2

so that y' = X^-1 y is white, h' = X^T h has the second moment S^2, and B X = B K^-1/2 U S where K is not singular.
Then column i of B X and row i of X^-1 A are brought to one length, which changes no term.

| basis | K | M |
|---|---|---|
| `svd` | B^T B | A A^T |
| `whitened` | B^T B | E[y y^T] |
| `kronecker` | E[h h^T] | E[y y^T] |

`svd` is the singular value decomposition of B A. SubLoRA (arXiv 2507.01841) cuts the terms as they were trained.

A tensor C x1 U1 ... xn Un of a full core is such a product along each of its modes, its unfolding B_j A_j with
A_j = Uj^T and B_j the core times the other factors. Its terms along mode j are the slices of the core, and C xj X^T,
Uj X^-T turn them: the modes are turned one by one, and no turn touches another's terms.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lissome._errors import UsageError
from lissome.adapt.tucker import Tucker, contract

BASES = ("trained", "svd", "whitened", "kronecker")


class Rotation(NamedTuple):
    """X and its inverse, (r, r) each, in float64."""

    forth: Tensor
    back: Tensor


def unturned(r: int, device: torch.device | None = None) -> Rotation:
    """Return the identity: terms as they were trained."""
    eye = torch.eye(r, dtype=torch.float64, device=device)
    return Rotation(eye, eye)


def among(X: Rotation, terms: Tensor, r: int) -> Rotation:
    """Return the change of basis of r terms that turns some of them, by indices, among themselves."""
    whole = unturned(r, X.forth.device)
    return Rotation(*(eye.index_put((terms[:, None], terms), part) for eye, part in zip(whole, X, strict=True)))


def rotation(B: Tensor, A: Tensor, *, inputs: Tensor | None = None, outputs: Tensor | None = None) -> Rotation:
    """Return the change of basis of B A.

    Args:
        B: (out, r).
        A: (r, in).
        inputs: M (r, r), symmetric and positive semidefinite; None is A A^T.
        outputs: K (r, r), the same; None is B^T B.

    Raises:
        UsageError: a moment of another shape, or one that is not finite.

    >>> B, A = torch.tensor([[1.0, 1.0], [0.0, 0.0]]), torch.eye(2)
    >>> X, back = rotation(B, A)
    >>> (B.double() @ X).norm(dim=0)  # of two terms only one is needed
    tensor([1.1892, 0.0000], dtype=torch.float64)
    """
    left, right = B.detach().double(), A.detach().double()
    r = len(right)
    M = right @ right.mT if inputs is None else _moment("inputs", inputs, r).to(right)
    K = left.mT @ left if outputs is None else _moment("outputs", outputs, r).to(right)
    # what no input reaches is neither lost nor blown up: X^-1 grows to eps^-1/3, and rounding in B X A' with it;
    # A A^T is as exact as this function, and X^-1 A is not longer than 1, whatever X^-1 is
    exact = torch.float64 if inputs is None else A.dtype
    root, inverse = _roots(M, torch.finfo(exact).eps ** (2 / 3))
    values, vectors = torch.linalg.eigh(root @ K @ root)  # V S^2 V^T, without the root of K
    V = vectors[:, values.argsort(descending=True)]
    forth, back = root @ V, V.mT @ inverse
    longer = (back @ right).norm(dim=1) / (left @ forth).norm(dim=0)
    even = torch.where((longer > 0) & longer.isfinite(), longer, torch.ones_like(longer)).sqrt()
    return Rotation(forth * even, back / even[:, None])


def nearest_kronecker(G: Tensor) -> tuple[Tensor, Tensor]:
    r"""Return K and M (r, r) with |G - K x M| least in the Frobenius norm, G[a, b, c, d] ~ K[a, c] M[b, d].

    G is the Gauss-Newton matrix in a matrix T between B and A, B T A: with one vector y and one h for each residual
    it is E[h_a y_b h_c y_d], and K and M are the moments of h and of y as far as it falls into them. Both are positive
    semidefinite where G is (C. F. Van Loan and N. Pitsianis, 1993).

    Args:
        G: (r, r, r, r), symmetric as a matrix (r^2, r^2).
    """
    r = len(G)
    U, s, Vh = torch.linalg.svd(G.double().permute(0, 2, 1, 3).reshape(r * r, r * r))
    size = -s[0].sqrt() if U[:, 0].reshape(r, r).trace() < 0 else s[0].sqrt()
    K, M = size * U[:, 0].reshape(r, r), size * Vh[0].reshape(r, r)
    return (K + K.mT) / 2, (M + M.mT) / 2


def halves(form: Tucker) -> tuple[Tensor, Tensor]:
    """Return B (out, r) and A (r, in) with B A the form of a matrix without its base; gates, core, scale are in B.

    Raises:
        UsageError: the form is no matrix, or holds its own start beside it: see `updated`.
    """
    if form.ways != 2:
        raise UsageError(f"the form has shape {form.shape}; only those of matrices have terms that can be turned")
    if form.base == "residual":
        raise UsageError(
            f"a form of kind '{form.kind}' subtracts its own start; call lissome.adapt.updated on it first"
        )
    core = form.gates if form.core is None else form.gates * form.core
    P, Q = (factor.detach() for factor in form.factors)
    return form.scale * (P @ core.detach() if core.dim() == 2 else P * core.detach()), Q.mT


def halves_along(form: Tucker, mode: int) -> tuple[Tensor, Tensor]:
    """Return B (product of the other d, r) and A (r, d) of a tensor's form with a full core, unfolded along a mode.

    Raises:
        UsageError: the core is not full, or the form holds its own start beside it: see `updated`.
    """
    core = _whole_core(form)
    others = [
        torch.eye(r).to(core) if j == mode else U.detach()
        for j, (U, r) in enumerate(zip(form.factors, form.ranks, strict=True))
    ]
    B = (form.scale * contract(core, others)).movedim(mode, -1)  # (other d, ..., r)
    return B.flatten(0, -2), form.factors[mode].detach().mT


def rotated_along(
    form: Tucker, mode: int, X: Rotation, kept: Tensor | None = None, values: Tensor | None = None
) -> Tucker:
    """Return the form with the slices of its core along a mode turned by X, or those of them that are kept.

    The factor of the mode gets unit vectors; what is trained stays trained, and gates go into the core.

    Args:
        form: with a full core, `add` or `replace`.
        mode: from 0.
        X: of `rotation`, for `halves_along`.
        kept: indices (k,) of the slices that are kept; None keeps all.
        values: (k,), of the gates; None is 1.
    """
    core, factors = _whole_core(form), [factor.detach() for factor in form.factors]
    forth, vectors = X.forth.to(core.device), factors[mode].double() @ X.back.mT.to(core.device)  # (r, r), (d, r)
    if kept is not None:
        forth, vectors = forth[:, kept], vectors[:, kept]
    if values is not None:
        forth = forth * values.to(forth)
    sizes = vectors.norm(dim=0).clamp_min(torch.finfo(vectors.dtype).tiny)
    core = torch.tensordot(core.double(), forth * sizes, dims=([mode], [0])).movedim(-1, mode)  # pyright: ignore[reportArgumentType]
    factors[mode] = (vectors / sizes).to(factors[mode])
    return Tucker(factors, core.to(form.gates), base=form.base, scale=form.scale, train=form.trained)


def updated(form: Tucker) -> Tucker:
    """Return a form that adds to the base what a `residual` one adds by now, with terms of its own for it.

    That of `pissa` has twice the rank, or that of its inputs where this is less. Other forms come back as they are.
    """
    if form.base != "residual":
        return form
    terms = form.terms()
    if len(terms) == 1:
        ((core, factors),) = terms
        return Tucker(factors, core.detach(), scale=form.scale, train=form.trained)
    (core, factors), (start, old) = terms
    if form.core is None and form.ways == 2:
        return _difference(form, [factors[0] * core, factors[1]], [old[0] * -start, old[1]])
    core = _block(core, start) if core.dim() > 1 else torch.cat([core, start])
    both = [torch.cat(pair, 1) for pair in zip(factors, old, strict=True)]
    if form.core is None:  # without a core its signs go into the first factor
        return Tucker([both[0] * core, both[1]], scale=form.scale, train=form.trained, kind="lora")
    return Tucker(both, core, scale=form.scale, train=form.trained)


def rotated(form: Tucker, X: Rotation, kept: Tensor | None = None, values: Tensor | None = None) -> Tucker:
    """Return the form with its terms turned by X, or those of them that are kept, each times a value.

    What is trained stays trained. A form without a core stays one; another gets unit vectors and its terms' sizes on
    the diagonal of its core.

    Args:
        form: of a matrix, `add` or `replace`.
        X: of `rotation`.
        kept: indices (k,) of the terms that are kept; None keeps all.
        values: (k,), of the gates; None is 1.
    """
    B, A = halves(form)
    left, right = B.double() @ X.forth, X.back @ A.double()  # (out, r), (r, in)
    if kept is not None:
        left, right = left[:, kept], right[kept]
    if values is not None:
        left = left * values.to(left)
    like, train = form.factors[0], form.trained
    scale = form.scale or 1.0  # of a form that is scaled to 0, left is 0
    if form.core is None:
        factors, core = [left / scale, right.mT], None
    else:
        sizes = [part.norm(dim=0).clamp_min(torch.finfo(left.dtype).tiny) for part in (left, right.mT)]
        core = (sizes[0] * sizes[1] / scale).to(like)
        factors = [left / sizes[0], right.mT / sizes[1]]
        core = core if form.core.dim() == 1 else torch.diag(core)
    kind = "lora" if form.core is None else "tucker"  # the weight alone no longer gives its vectors
    parts = [factor.to(like) for factor in factors]
    return Tucker(parts, core, base=form.base, scale=form.scale, train=train, kind=kind)


def _difference(form: Tucker, now: list[Tensor], start: list[Tensor]) -> Tucker:
    """Return the form P Q^T - P0 Q0^T = (P - P0) Q^T + P0 (Q - Q0)^T over orthonormal vectors of its inputs.

    Terms beside those of the start would be all but parallel to them after a little training.
    """
    (P, Q), (P0, Q0) = ([part.detach().double() for part in parts] for parts in (now, start))
    inputs, R = torch.linalg.qr(torch.cat([Q, Q - Q0], 1))  # (in, k), (k, 2r) with k = min(2r, in)
    r = Q.shape[1]
    left = (P - P0) @ R[:, :r].mT + P0 @ R[:, r:].mT  # (out, k); 0 exactly where nothing was trained
    parts = [part.to(form.factors[0]) for part in (left, inputs)]
    return Tucker(parts, scale=form.scale, train=form.trained, kind="lora")


def _whole_core(form: Tucker) -> Tensor:
    if form.core is None or form.core_kind != "full":
        raise UsageError(
            f"the form of shape {form.shape} has a core that is {form.core_kind}; only full ones have slices"
        )
    if form.base == "residual":
        raise UsageError(
            f"a form of kind '{form.kind}' subtracts its own start; call lissome.adapt.updated on it first"
        )
    return (form.gates * form.core).detach()


def _block(one: Tensor, other: Tensor) -> Tensor:
    """Return the core with two cores on its diagonal and 0 elsewhere."""
    core = one.new_zeros([a + b for a, b in zip(one.shape, other.shape, strict=True)])
    core[tuple(slice(r) for r in one.shape)] = one
    core[tuple(slice(r, None) for r in one.shape)] = other
    return core


def _moment(name: str, moment: Tensor, r: int) -> Tensor:
    if moment.shape != (r, r):
        raise UsageError(f"{name} has shape {tuple(moment.shape)}; legal is ({r}, {r}) for {r} terms")
    if not bool(moment.isfinite().all()):
        raise UsageError(f"{name} holds numbers that are not finite; measure it on other inputs")
    return (moment.detach() + moment.detach().mT) / 2


def _roots(M: Tensor, floor: float) -> tuple[Tensor, Tensor]:
    """Return M^1/2 and M^-1/2, its eigenvalues held above a part of the largest."""
    values, vectors = torch.linalg.eigh(M)
    values = values.clamp_min(floor * float(values[-1]) if values[-1] > 0 else 1.0).sqrt()
    return vectors * values @ vectors.mT, vectors / values @ vectors.mT
