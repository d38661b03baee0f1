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
class Validity:
    """A rule that says of each pair whether the query may see the key.

    Attributes:
        see: frame -> (1 or B, Tq, Tk) bool.
        name: what `explain` says of it.
        causal: whether it is certain that no query sees a later key; fast paths then skip the future.

    Raises:
        UsageError: `see` is no function, or it is joined to what is no rule.

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

    def __post_init__(self):
        if not callable(self.see):
            raise refuse("see of a validity", self.see, "is a function frame -> (1 or B, Tq, Tk) bool")
        check_kind("name of a validity", self.name, str, "is a text")
        check_flag("causal of a validity", self.causal)

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
        return Validity(partial(_both, self.see, other.see), f"{left} & {right}", self.causal or other.causal)

    def __or__(self, other: Validity) -> Validity:
        """Return the rule that allows what either allows."""
        check_kind("the other side of |", other, Validity, RULE)
        name = f"{self.name} | {other.name}"
        return Validity(partial(_either, self.see, other.see), name, self.causal and other.causal)


# named functions and not lambdas: a recipe has to survive pickling
def _both(one: See, other: See, frame: Frame) -> Tensor:
    return one(frame) & other(frame)


def _either(one: See, other: See, frame: Frame) -> Tensor:
    return one(frame) | other(frame)


def _behind(frame: Frame) -> Tensor:
    return frame.distance >= 0


def _all(frame: Frame) -> Tensor:
    return frame.distance.abs() >= 0


def _near(size: int, frame: Frame) -> Tensor:
    return frame.distance.abs() < size


def _multiple(k: int, frame: Frame) -> Tensor:
    return (frame.keys % k == 0)[:, None, :].expand(frame.distance.shape)


causal = Validity(_behind, "causal", causal=True)
everything = Validity(_all, "everything")


def window(size: int) -> Validity:
    """Return the rule that a query sees the keys less than `size` positions away, before it, itself and after it.

    `causal & window(size)` leaves those before it and itself.

    Raises:
        UsageError: a size below 1.
    """
    check_whole("the window", size)
    return Validity(partial(_near, size), f"window({size})")


def every_kth(k: int) -> Validity:
    """Return the rule that a query sees the keys whose position is a multiple of k (FixLLM of arXiv 2412.12094).

    Raises:
        UsageError: k below 1.
    """
    check_whole("k of every_kth", k)
    return Validity(partial(_multiple, k), f"every_kth({k})")
