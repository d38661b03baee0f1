"""Constructors of small forms: each takes a weight and returns a `Tucker` that equals it at the start.

| form | core | trained | base | reference |
|---|---|---|---|---|
| `svd` | diagonal | the singular values | replaced (residual below full rank) | SVD-PINNs, arXiv 2211.08760 |
| `lora` | none | both factors | kept | LoRA, arXiv 2106.09685 |
| `adalora` | diagonal | the core and both factors | kept | AdaLoRA, arXiv 2303.10512 |
| `lora_xs` | full | the core | kept | LoRA-XS, arXiv 2405.17604 |
| `pissa` | none | both factors | residual | PiSSA, arXiv 2404.02948 |
| `lotra` | full | the core and all factors | kept | LoTRA, arXiv 2502.06153 |
| `slim` | full | the core and all factors | none | Slim KAN, arXiv 2502.06153 |
| `tucker` | full | the core | replaced (residual below full rank) | HOSVD and HOOI, De Lathauwer et al., 2000 |

A new low-rank method is a new function here, of the same few lines.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from lissome._errors import UsageError, unknown
from lissome.adapt.tucker import Tucker, contract


def svd(weight: Tensor, rank: int | None = None) -> Tucker:
    """W = U diag(s) V^T with s trained and U, V frozen: equation (6) of SVD-PINNs.

    With a rank below min(out, in) only the largest `rank` singular values are trained; the rest of W stays.
    Singular values are not kept from becoming negative: a negative one is the positive one with its vector turned.

    Args:
        weight: (out, in).
        rank: from 0 to min(out, in); None is the full rank.
    """
    rank = _check_rank(weight, rank)
    U, s, V = _svd(weight, rank)
    base = "replace" if rank == min(weight.shape) else "residual"
    return Tucker([U, V], s, base=base, train=["core"], kind="svd")


def lora(weight: Tensor, rank: int, *, generator: torch.Generator, scale: float = 1.0) -> Tucker:
    """W + scale * B A with B = 0 and A uniform in +-1/sqrt(in) at the start; both are trained.

    `scale` is alpha / r of the paper. The r gates sit on the terms b_k a_k^T.

    Args:
        weight: (out, in).
        rank: from 0 to min(out, in).
        generator: draws A.
        scale: multiplies B A.
    """
    rank = _check_rank(weight, rank)
    rows, columns = weight.shape
    A = torch.rand(columns, rank, generator=generator, device=generator.device, dtype=torch.float64)
    A = ((2 * A - 1) * columns**-0.5).to(weight)
    return Tucker([weight.new_zeros(rows, rank), A], scale=scale, train=["factor0", "factor1"], kind="lora")


def adalora(weight: Tensor, rank: int, *, generator: torch.Generator, scale: float = 1.0) -> Tucker:
    """W + scale * P diag(s) Q with s = 0 at the start, and orthonormal columns of P and rows of Q; all are trained.

    Equation (3) of AdaLoRA, and the form of SubLoRA (arXiv 2507.01841): the size of each term is a number of its own.
    Differs from the paper: P and Q start orthonormal, not at normal numbers of size 0.02, and nothing in the loss keeps
    them so; `basis.rotated` makes terms orthogonal when they are to be cut.

    Args:
        weight: (out, in).
        rank: from 0 to min(out, in).
        generator: draws P and Q.
        scale: multiplies P diag(s) Q.
    """
    rank = _check_rank(weight, rank)
    P, Q = (U.to(weight) for U in _orthonormal(weight.shape, (rank, rank), generator))
    train = ["core", "factor0", "factor1"]
    return Tucker([P, Q], weight.new_zeros(rank), scale=scale, train=train, kind="adalora")


def lora_xs(weight: Tensor, rank: int, *, scale: float = 1.0) -> Tucker:
    """W + scale * (U_r diag(s_r)) R V_r^T with the r x r core R trained and the singular vectors frozen.

    Differs from the paper: R starts at 0, not at normal numbers of size 1e-5, so that the start is W exactly.

    Args:
        weight: (out, in).
        rank: from 0 to min(out, in).
        scale: multiplies the form.
    """
    U, s, V = _svd(weight, _check_rank(weight, rank))
    return Tucker([U * s, V], weight.new_zeros(len(s), len(s)), scale=scale, train=["core"], kind="lora-xs")


def pissa(weight: Tensor, rank: int) -> Tucker:
    """(W - W_r) + B A with B = U_r sqrt(s_r), A = sqrt(s_r) V_r^T at the start; B and A are trained.

    W_r = B A at the start is kept as its two factors, so the form stays small.

    Args:
        weight: (out, in).
        rank: from 0 to min(out, in).
    """
    U, s, V = _svd(weight, _check_rank(weight, rank))
    return Tucker([U * s.sqrt(), V * s.sqrt()], base="residual", train=["factor0", "factor1"], kind="pissa")


def tucker(weight: Tensor, ranks: Sequence[int] | None = None, *, sweeps: int = 2) -> Tucker:
    """Truncate a weight of any number of modes to a full core, which is trained; the factors are frozen.

    The factors are the leading singular vectors of each unfolding (HOSVD), bettered by `sweeps` rounds in
    which each is computed again with the others projected out (HOOI). What the truncation leaves stays in the base.
    Ten lines of torch, and not tensorly: they keep device and dtype, and no further package is asked for.

    Args:
        weight: (d1, ..., dn), n at least 2.
        ranks: (r1, ..., rn), each from 0 to dj; None is (d1, ..., dn).
        sweeps: rounds of HOOI, 0 for HOSVD.
    """
    ranks = _ranks(weight.shape, tuple(weight.shape) if ranks is None else ranks)
    full = weight.detach().double()
    factors = [_leading(full, mode, rank) for mode, rank in enumerate(ranks)]
    for _ in range(sweeps):
        for mode, rank in enumerate(ranks):
            others = [torch.eye(len(U)).to(U) if j == mode else U.mT for j, U in enumerate(factors)]
            factors[mode] = _leading(contract(full, others), mode, rank)
    core = contract(full, [U.mT for U in factors])  # (r1, ..., rn)
    base = "replace" if ranks == tuple(weight.shape) else "residual"
    return Tucker([U.to(weight) for U in factors], core.to(weight), base=base, train=["core"])


def lotra(weight: Tensor, ranks: int | Sequence[int], *, generator: torch.Generator, start: str = "outputs") -> Tucker:
    """W + C x1 U1 ... xn Un with all parts trained: U1 = 0 at the start, a random core, orthonormal other factors.

    LoTRA for the tensor (out, K, in) of a KAN layer; for a matrix it is B C A. The core's numbers have variance
    1 / (r2 ... rn), so that a step of U1 moves the weight as far whatever the ranks.
    Differs from the paper: it starts from C = 0, which was seen as good or a little worse; ask for start="core".

    Args:
        weight: (d1, ..., dn), n at least 2.
        ranks: (r1, ..., rn), each from 0 to dj; one number is that, or dj where it is more, for every mode.
        generator: draws the core and the factors.
        start: which part is 0 at first: `outputs`, U1, or `core`, with orthonormal factors.
    """
    if start not in ("outputs", "core"):
        raise unknown("start", start, ("outputs", "core"))
    ranks = _ranks(weight.shape, ranks)
    if start == "core":
        factors = [U.to(weight) for U in _orthonormal(weight.shape, ranks, generator)]
        return Tucker(factors, weight.new_zeros(ranks), train=_all(factors), kind="lotra")
    inner = math.prod(ranks[1:])
    core = _normal(ranks, generator) * max(inner, 1) ** -0.5
    factors = [torch.zeros(weight.shape[0], ranks[0]), *_orthonormal(weight.shape[1:], ranks[1:], generator)]
    return Tucker([U.to(weight) for U in factors], core.to(weight), train=_all(factors), kind="lotra")


def slim(
    shape: Sequence[int], ranks: int | Sequence[int], *, power: float, size: float = 0.25, generator: torch.Generator
) -> Tucker:
    """Return C x1 U1 ... xn Un alone, trained from the start: the tensor (out, K, in) of a Slim KAN layer.

    Orthonormal factors, the first times sqrt(out / r1), and a core of variance size^2 K / (power r2 r3): what comes out
    has the variance size^2, whatever the ranks, where the functions of the basis have equal mean squares.

    Args:
        shape: (out, K, in).
        ranks: as in `lotra`.
        power: S, the sum over the basis of E phi_k^2.
        size: s, standard deviation of an output at the start; 1 was seen 1.5 to 4 times worse, 0.01 to fail.
        generator: draws all parts.
    """
    ranks = _ranks(shape, ranks)
    first, *rest = _orthonormal(shape, ranks, generator)
    first = first * (shape[0] / max(ranks[0], 1)) ** 0.5
    core = _normal(ranks, generator) * size * (shape[1] / (power * max(math.prod(ranks[1:]), 1))) ** 0.5
    factors = [first, *rest]
    dtype = torch.get_default_dtype()
    parts = [factor.to(dtype) for factor in factors]
    return Tucker(parts, core.to(dtype), base="replace", train=_all(factors), kind="slim")


# the forms whose frozen parts the weight and the rank give again: what a lean file leaves out
RESTORED: dict[str, Callable[[Tensor, int], Tucker]] = {"svd": svd, "lora-xs": lora_xs, "pissa": pissa}


def singular_values(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the singular values, largest first, of each matrix (both sides 2 or more) among the weights.

    Args:
        weights: path -> tensor, such as `Adapted.weights()` or `dict(module.named_parameters())`.

    Returns:
        path -> (min(out, in),); other tensors are left out.
    """
    matrices = {path: weight for path, weight in weights.items() if weight.dim() == 2 and min(weight.shape) >= 2}
    return {path: torch.linalg.svdvals(weight.detach().double()).to(weight.dtype) for path, weight in matrices.items()}


def _ranks(shape: Sequence[int], ranks: int | Sequence[int]) -> tuple[int, ...]:
    """Return one rank for each mode."""
    asked = [min(ranks, d) for d in shape] if isinstance(ranks, int) else list(ranks)
    legal = len(asked) == len(shape) >= 2 and all(0 <= r <= d for r, d in zip(asked, shape, strict=True))
    if not legal:
        raise UsageError(f"ranks are {ranks}; legal are one per mode of the weight, 0 to {tuple(shape)}")
    return tuple(asked)


def _normal(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    return torch.randn(tuple(shape), generator=generator, device=generator.device, dtype=torch.float64)


def _orthonormal(shape: Sequence[int], ranks: Sequence[int], generator: torch.Generator) -> list[Tensor]:
    """Return random matrices (dj, rj) with orthonormal columns, float64."""
    return [torch.linalg.qr(_normal((d, r), generator)).Q for d, r in zip(shape, ranks, strict=True)]


def _all(factors: Sequence[Tensor]) -> list[str]:
    return ["core", *(f"factor{j}" for j in range(len(factors)))]


def _svd(weight: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return U (out, r), s (r,), V (in, r), computed in float64 so that the start is right to rounding."""
    U, s, Vh = torch.linalg.svd(weight.detach().double(), full_matrices=False)
    return U[:, :rank].to(weight), s[:rank].to(weight), Vh[:rank].mT.to(weight)


def _leading(tensor: Tensor, mode: int, rank: int) -> Tensor:
    """Return the leading left singular vectors (d, r) of the unfolding of `tensor` along `mode`."""
    unfolded = tensor.movedim(mode, 0).reshape(tensor.shape[mode], -1)  # (d, product of the others)
    # the full basis where an unfolding has fewer columns than the rank that may be asked
    return torch.linalg.svd(unfolded, full_matrices=unfolded.shape[1] < unfolded.shape[0]).U[:, :rank]


def _check_rank(weight: Tensor, rank: int | None) -> int:
    if weight.dim() != 2:
        raise UsageError(f"the weight has shape {tuple(weight.shape)}; this form takes matrices: take lotra")
    most = min(weight.shape)
    rank = most if rank is None else rank
    if not 0 <= rank <= most:
        raise UsageError(f"rank is {rank}; legal are 0 to {most} for a weight of shape {tuple(weight.shape)}")
    return rank
