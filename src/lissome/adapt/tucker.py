"""A weight tensor as a small form: `base + scale * (gates * core) x1 U1 x2 U2 ...`.

The Tucker product of a core C of shape (r1, ..., rn) with factors Uj of shape (dj, rj) is

    W[i1, ..., in] = sum over k1 ... kn of C[k1, ..., kn] U1[i1, k1] ... Un[in, kn]

A *diagonal* core keeps the entries with k1 = ... = kn only, and *none* is a diagonal core of
ones. A linear layer's weight of shape (out, in) has n = 2: then the diagonal form is U diag(s) V^T.

Reference: L. R. Tucker, Some mathematical notes on three-mode factor analysis, 1966; notation of
T. G. Kolda and B. W. Bader, Tensor decompositions and applications, 2009.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lissome._errors import UsageError, unknown

BASES = ("add", "replace", "residual")


def contract(core: Tensor, factors: Sequence[Tensor]) -> Tensor:
    """Form the Tucker product, of shape (d1, ..., dn), from a core (r1, ..., rn) or a diagonal one (r,)."""
    if core.dim() == 1:
        return _spread(core, factors)
    for factor in factors:
        core = _tensordot(core, factor, [0], [1])  # mode j leaves the front, comes back last
    return core


def contract_apply(x: Tensor, core: Tensor, factors: Sequence[Tensor], modes: int = 1) -> Tensor:
    """Contract the last `modes` modes of the Tucker product with those of x, without forming it."""
    left, right = factors[:-modes], factors[-modes:]
    if core.dim() == 1:
        x = x @ right[-1]  # (..., d, r)
        for factor in reversed(right[:-1]):
            x = (x * factor).sum(-2)
        return _spread(x * core, left)
    # the last mode first: it lies together in memory, so nothing is copied. For (1024, 9, 512) and ranks 4 the other
    # order took 3 times as long, and by counted operations it would be no cheaper where gradients are asked for
    for mode, factor in reversed(list(enumerate(right))):
        x = _along(x, factor, mode - modes)  # (..., r of the right modes)
    x = _tensordot(x, core, _last(modes), _last(modes))  # (..., r of the left modes)
    for factor in left:
        x = _tensordot(x, factor, [-len(left)], [1])
    return x


def _along(x: Tensor, factor: Tensor, dim: int) -> Tensor:
    """Contract one mode of x, counted from the end, with the rows of a factor, in its place."""
    if dim == -1:
        return x @ factor
    return factor.mT @ x if dim == -2 else _tensordot(x, factor, [dim], [0]).movedim(-1, dim)


def _spread(terms: Tensor, factors: Sequence[Tensor]) -> Tensor:
    """Sum over k of terms[..., k] U1[:, k] o U2[:, k] o ...; (..., r) becomes (..., d1, d2, ...)."""
    for factor in factors[:-1]:
        terms = terms.unsqueeze(-2) * factor  # (..., d, r)
    return terms @ factors[-1].mT


def _tensordot(a: Tensor, b: Tensor, modes_a: list[int], modes_b: list[int]) -> Tensor:
    """Sum over modes of a and of b, in pairs; the modes of a that are left come first."""
    return torch.tensordot(a, b, dims=(modes_a, modes_b))  # pyright: ignore[reportArgumentType]: torch types it as int


def _last(modes: int) -> list[int]:
    return list(range(-modes, 0))


class Tucker(nn.Module):
    """`base + scale * (gates * core) x1 U1 x2 U2 ...`, with a gate on each entry of the core.

    It holds no base: `dense(base)` gets it, and so does `form(x, base)`, which applies the weight to x
    (not named `apply`, which every torch module has for another purpose). Its parts are called `core`,
    `factor0`, `factor1`, ...; those named in `train` are parameters, the others are buffers, and so are the
    gates, ones at first, of the shape of the core ((r,) for a diagonal core or none).

    `base` says what becomes of the base: `add` adds the form to it; `replace` leaves the form alone;
    `residual` adds the form less the form as it was at the start, so that dense(base) is the base then.

    Args:
        factors: Uj of shape (dj, rj), two or more.
        core: (r1, ..., rn), or (r,) for a diagonal core, or None.
        base: "add", "replace" or "residual".
        scale: multiplies the form.
        train: the names of the trained parts.
        kind: the name of the constructor, kept for people and files.

    Example:
        >>> form = Tucker([torch.eye(3)[:, :2], torch.eye(4)[:, :2]], torch.tensor([5.0, 7.0]), train=["core"])
        >>> form.dense(torch.zeros(3, 4))[1, 1].item(), [name for name, _ in form.named_parameters()]
        (7.0, ['core'])
    """

    gates: Tensor
    core: Tensor | None

    def __init__(
        self,
        factors: Sequence[Tensor],
        core: Tensor | None = None,
        *,
        base: Literal["add", "replace", "residual"] = "add",
        scale: float = 1.0,
        train: Iterable[str] = (),
        kind: str = "tucker",
    ) -> None:
        super().__init__()
        if base not in BASES:
            raise unknown("use of the base", base, BASES)
        _check_parts(factors, core)
        self.base: Literal["add", "replace", "residual"] = base
        self.scale, self.kind = float(scale), kind
        self.ways = len(factors)
        parts = {"core": core, **{f"factor{j}": factor for j, factor in enumerate(factors)}}
        legal = [name for name, part in parts.items() if part is not None]
        self.trained = tuple(name for name in legal if name in set(train))
        for name in train:
            if name not in legal:
                raise unknown("part", name, legal)
        for name, part in parts.items():
            if part is None:
                self.register_buffer(name, None)
            elif name in self.trained:
                self.register_parameter(name, nn.Parameter(_own(part)))
                if base == "residual":
                    self.register_buffer(f"start_{name}", _own(part))
            else:
                self.register_buffer(name, _own(part))
        self.register_buffer("gates", torch.ones_like(_own(core if core is not None else factors[0][0])))

    @property
    def factors(self) -> list[Tensor]:
        """U1, ..., Un of shapes (dj, rj)."""
        return [getattr(self, f"factor{j}") for j in range(self.ways)]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape (d1, ..., dn) of the dense weight."""
        return tuple(factor.shape[0] for factor in self.factors)

    @property
    def ranks(self) -> tuple[int, ...]:
        """The ranks (r1, ..., rn); all equal without a full core."""
        return tuple(factor.shape[1] for factor in self.factors)

    @property
    def core_kind(self) -> str:
        """`full`, `diagonal` or `none`."""
        return "none" if self.core is None else "diagonal" if self.core.dim() == 1 else "full"

    def delta(self) -> Tensor:
        """Return the dense form without the base, of shape (d1, ..., dn)."""
        first, *rest = (contract(core, factors) for core, factors in self.terms())
        return self.scale * sum(rest, first)

    def dense(self, base: Tensor | None = None) -> Tensor:
        """Return the dense weight (d1, ..., dn): the truth that `form(x, base)` is held to.

        Raises:
            UsageError: the form needs a base and got none, or one of another shape.
        """
        self._check_base(base)
        return self.delta() if base is None or self.base == "replace" else base + self.delta()

    def forward(self, x: Tensor, base: Tensor | None = None, *, modes: int = 1) -> Tensor:
        """Apply the weight: contract its last `modes` modes with the last of x, without forming it.

        For a weight (out, in): x of shape (..., in) gives (..., out), x @ dense(base).T. Cheaper than
        `dense` when the ranks are well below the width, or when x has few rows.

        Args:
            x: (..., d of the last modes).
            base: as in `dense`.
            modes: how many modes are contracted, from 1 to n - 1.

        Returns:
            (..., d of the first modes).
        """
        self._check_base(base)
        if not 1 <= modes < self.ways:
            raise UsageError(f"modes is {modes}; legal are 1 to {self.ways - 1} for a weight of shape {self.shape}")
        if x.shape[-modes:] != self.shape[-modes:]:
            raise UsageError(
                f"x of shape {tuple(x.shape)} does not end in {self.shape[-modes:]}, the weight's last modes"
            )
        first, *rest = (contract_apply(x, core, factors, modes) for core, factors in self.terms())
        out = self.scale * sum(rest, first)
        if base is None or self.base == "replace":
            return out
        return _tensordot(x, base, _last(modes), _last(modes)) + out

    def settings(self) -> dict[str, Any]:
        """Return what is needed, beside the tensors, to build the form again: JSON types only."""
        return {
            "kind": self.kind,
            "core": self.core_kind,
            "base": self.base,
            "scale": self.scale,
            "train": list(self.trained),
            "shape": list(self.shape),
            "ranks": list(self.ranks),
        }

    def extra_repr(self) -> str:
        """Tell shape, ranks, core and what is trained."""
        trained = ", ".join(self.trained) or "nothing"
        return (
            f"{self.kind}: {self.shape}, ranks {self.ranks}, core {self.core_kind}, base {self.base}, trained {trained}"
        )

    def terms(self) -> list[tuple[Tensor, list[Tensor]]]:
        """Return (core, factors) of the products whose sum is the form."""
        core = self.gates if self.core is None else self.gates * self.core
        if self.base != "residual" or not self.trained:
            # with nothing trained the residual form is the base, but for its gates
            start = core if self.base != "residual" else core - self._start("core")
            return [(start, self.factors)]
        if self.trained == ("core",):
            return [(core - self._start("core"), self.factors)]
        return [(core, self.factors), (-self._start("core"), [self._start(f"factor{j}") for j in range(self.ways)])]

    def _start(self, name: str) -> Tensor:
        """Return a part as it was at the start; a frozen part still is."""
        if name in self.trained:
            return getattr(self, f"start_{name}")
        part = getattr(self, name)
        return torch.ones_like(self.gates) if part is None else part

    def _check_base(self, base: Tensor | None) -> None:
        if base is None and self.base != "replace":
            raise UsageError(f"a form of kind '{self.kind}' adds to a base weight of shape {self.shape}: give it")
        if base is not None and base.shape != self.shape:
            raise UsageError(f"the base has shape {tuple(base.shape)}, the form {self.shape}")


def _own(part: Tensor) -> Tensor:
    return part.detach().clone(memory_format=torch.contiguous_format)


def _check_parts(factors: Sequence[Tensor], core: Tensor | None) -> None:
    shapes = [tuple(factor.shape) for factor in factors]
    if len(shapes) < 2 or any(len(shape) != 2 for shape in shapes):
        raise UsageError(f"factors have shapes {shapes}; legal are two or more matrices (dj, rj)")
    ranks = tuple(shape[1] for shape in shapes)
    if core is None or core.dim() == 1:
        if len({*ranks, *(core.shape if core is not None else ())}) != 1:
            entries = "no core" if core is None else f"a diagonal core of {core.numel()} entries"
            raise UsageError(f"factors have ranks {ranks} with {entries}; without a full core all must be equal")
    elif tuple(core.shape) != ranks:
        raise UsageError(f"a core of shape {tuple(core.shape)} does not fit factors of ranks {ranks}")
