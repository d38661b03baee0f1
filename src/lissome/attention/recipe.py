"""An attention put together from its stages."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from lissome._checks import check_kind, refuse
from lissome.attention.normalize import softmax
from lissome.attention.validity import RULE, Validity, causal

Normalize = Callable[[Tensor, Tensor], Tensor]


class Attention(nn.Module):
    """A recipe: how scores become weights, in four stages, and how queries and keys are turned before.

        validity(frame) -> (1 or B, 1, Tq, Tk) bool       which keys a query may see
        bias(frame) -> (1 or B, H, Tq, Tk)                what is added for the distance; None: nothing
        refine(scores, bias, valid) -> scores             None: scores + bias
        normalize(scores, valid) -> weights               an empty row gives 0, never NaN

    A refinement that reads columns beyond a row's own position says how many in `ahead`; tiles keep them for it. One
    that reads columns beside a pair says how many in `beside`; where a cache has dropped keys, they are the text's.
    Each of bias and refine is a module of its own and is trained with the network that holds the recipe. `attend` runs
    it. A stage of yours needs the signature above and nothing else; `lissome.testing` says whether it holds.

    Args:
        validity: what may be seen, `causal` unless told otherwise.
        bias: `Alibi`, `Kerple`, `Fire` or a module of yours.
        refine: `Dape` or a module of yours.
        normalize: `softmax`, `SelfAdjust(4)`, `Linear()` or a function of yours.
        rotary: turns queries and keys; `rotate` applies it, before keys go into a cache.

    Raises:
        UsageError: a stage that is none; the sentence names one.

    >>> from lissome.attention import Dape, Kerple, SelfAdjust, window
    >>> print(Attention(causal & window(256), Kerple(4), Dape(4, kernel=3), SelfAdjust(4)).explain())
    causal & window(256); kerple; dape(3); self_adjust(4)
    """

    def __init__(
        self,
        validity: Validity = causal,
        bias: nn.Module | None = None,
        refine: nn.Module | None = None,
        normalize: Normalize = softmax,
        *,
        rotary: nn.Module | None = None,
    ):
        super().__init__()
        check_kind("validity", validity, Validity, RULE)
        _check_stage("bias", bias, "Kerple(8)")
        _check_stage("refine", refine, "Dape(8)")
        _check_stage("normalize", normalize, "softmax", needed=True)
        _check_stage("rotary", rotary, "Rotary(64)")
        self.validity, self.bias, self.refine, self.normalize, self.rotary = validity, bias, refine, normalize, rotary

    def rotate(self, x: Tensor, positions: Tensor, angles: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Return queries or keys (B, H, T, D) turned to their positions (1 or B, T), where the recipe turns any.

        Angles, if a `Rotary` gave them for these positions, need not be computed again.
        """
        if self.rotary is None:
            return x
        return self.rotary(x, positions) if angles is None else self.rotary(x, positions, angles)

    def explain(self) -> str:
        """Return the stages in words, those alone that do something."""
        stages = [self.validity.name, *(_said(stage) for stage in (self.rotary, self.bias, self.refine) if stage)]
        return "; ".join([*stages, _said(self.normalize)])


def _check_stage(what: str, stage: object, such: str, *, needed: bool = False) -> None:
    # a class in place of what it makes, such as Kerple, can be called too
    if (stage is None and needed) or (stage is not None and (isinstance(stage, type) or not callable(stage))):
        raise refuse(what, stage, f"is such as {such}{'' if needed else ', or None'}")


def _said(stage: object) -> str:
    name = getattr(stage, "name", None)  # a stage of a user need not have one
    return name if isinstance(name, str) else getattr(stage, "__name__", type(stage).__name__).lower()
