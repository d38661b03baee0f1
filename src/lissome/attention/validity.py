"""Which keys a query may see: rules on a frame, combined by & and |."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from lissome._checks import check_flag, check_kind, check_whole, refuse
from lissome.attention.frame import Frame

See = Callable[[Frame], Tensor]
RULE = "is a rule such as causal, window(256) or Validity(yours)"


@dataclass(frozen=True)
class Split:
    """What a rule allows apart from the direction: keys that are near, and keys that are kept for all queries.

    Attributes:
        near: how near, as `window` counts; 0: none is; None: all are.
        kept: frame -> (1 or B, Tk) bool, a property of the key alone; None: none is.
    """

    near: int | None = None
    kept: See | None = None

    def __and__(self, other: Split) -> Split | None:
        """Return the split of both rules, or None where there is none: near keys, of which some are kept."""
        if self.near is None or other.near is None:
            return other if self.near is None else self
        if self.kept is None and other.kept is None:
            return Split(min(self.near, other.near))
        if self.near == other.near == 0:
            return Split(0, _joined(_both, self.kept, other.kept))
        return None

    def __or__(self, other: Split) -> Split:
        """Return the split of either rule."""
        if self.near is None or other.near is None:
            return Split()
        return Split(max(self.near, other.near), _joined(_either, self.kept, other.kept))


@dataclass(frozen=True)
class Validity:
    """A rule that says of each pair whether the query may see the key.

    Attributes:
        see: frame -> (1 or B, Tq, Tk) bool.
        name: what `explain` says of it.
        causal: whether it is certain that no query sees a later key; fast paths then skip the future.
        reach: how far behind a query the farthest key that it may see stands, at most; None: anywhere. Fast paths skip
            what lies farther.
        split: the rule as near keys and kept keys, for fast paths that gather what is kept; None: it is no such rule,
            or that is not known.

    Raises:
        UsageError: `see` is no function, a reach below 0, or it is joined to what is no rule.

    >>> rule = causal & (window(2) | every_kth(3))
    >>> rule(Frame.full(5))[0, 0].int()
    tensor([[1, 0, 0, 0, 0],
            [1, 1, 0, 0, 0],
            [1, 1, 1, 0, 0],
            [1, 0, 1, 1, 0],
            [1, 0, 0, 1, 1]], dtype=torch.int32)
    """

    see: See
    name: str = "own rule"
    causal: bool = False
    reach: int | None = None
    split: Split | None = None

    def __post_init__(self):
        if not callable(self.see):
            raise refuse("see of a validity", self.see, "is a function frame -> (1 or B, Tq, Tk) bool")
        check_kind("name of a validity", self.name, str, "is a text")
        check_flag("causal of a validity", self.causal)
        if self.reach is not None:
            check_whole("reach of a validity", self.reach, 0)

    def __call__(self, frame: Frame) -> Tensor:
        """Return (1 or B, 1, Tq, Tk) bool: the rule, and that there is a key at all."""
        seen = self.see(frame)[:, None]
        if frame.present is None:
            return seen
        return seen & frame.present[:, None, None, :] & (frame.queries >= 0)[:, None, :, None]

    def __and__(self, other: Validity) -> Validity:
        """Return the rule that allows what both allow."""
        check_kind("the other side of &", other, Validity, RULE)
        left, right = (f"({rule.name})" if " | " in rule.name else rule.name for rule in (self, other))
        reach = min((rule.reach for rule in (self, other) if rule.reach is not None), default=None)
        split = self.split & other.split if self.split and other.split else None
        see = partial(_both, self.see, other.see)
        return Validity(see, f"{left} & {right}", self.causal or other.causal, reach, split)

    def __or__(self, other: Validity) -> Validity:
        """Return the rule that allows what either allows."""
        check_kind("the other side of |", other, Validity, RULE)
        name = f"{self.name} | {other.name}"
        reach = None if self.reach is None or other.reach is None else max(self.reach, other.reach)
        split = self.split | other.split if self.split and other.split and self.causal == other.causal else None
        return Validity(partial(_either, self.see, other.see), name, self.causal and other.causal, reach, split)


# named functions and not lambdas: a recipe has to survive pickling
def _both(one: See, other: See, frame: Frame) -> Tensor:
    return one(frame) & other(frame)


def _either(one: See, other: See, frame: Frame) -> Tensor:
    return one(frame) | other(frame)


def _joined(how: Callable[[See, See, Frame], Tensor], one: See | None, other: See | None) -> See | None:
    """Join two properties of keys; of what is None no key has it."""
    if one is None or other is None:
        return (one or other) if how is _either else None
    return partial(how, one, other)


def _behind(frame: Frame) -> Tensor:
    return frame.distance >= 0


def _all(frame: Frame) -> Tensor:
    return frame.distance.abs() >= 0


def _near(size: int, frame: Frame) -> Tensor:
    return frame.distance.abs() < size


def _multiple(k: int, frame: Frame) -> Tensor:
    return frame.keys % k == 0


def _kept(kept: See, frame: Frame) -> Tensor:
    return kept(frame)[:, None, :].expand(-1, frame.queries.shape[1], -1)


causal = Validity(_behind, "causal", causal=True, split=Split())
everything = Validity(_all, "everything", split=Split())


def window(size: int) -> Validity:
    """Return the rule that a query sees the keys less than `size` positions away, before it, itself and after it.

    `causal & window(size)` leaves those before it and itself, `size` keys.

    Raises:
        UsageError: a size below 1.
    """
    check_whole("the window", size)
    return Validity(partial(_near, size), f"window({size})", reach=size - 1, split=Split(size))


def every_kth(k: int) -> Validity:
    """Return the rule that a query sees the keys whose position is a multiple of k (FixLLM of arXiv 2412.12094).

    Raises:
        UsageError: k below 1.
    """
    check_whole("k of every_kth", k)
    return of_keys(partial(_multiple, k), f"every_kth({k})")


def of_keys(kept: See, name: str) -> Validity:
    """Return the rule that all queries see the same keys.

    Args:
        kept: frame -> (1 or B, Tk) bool.
        name: what `explain` says of it.
    """
    return Validity(partial(_kept, kept), name, split=Split(0, kept))
