"""Scores become weights in four stages: validity, bias, refine, normalize."""

from lissome.attention.attend import attend, explain, stages
from lissome.attention.backends.naive import Stages
from lissome.attention.bias import Alibi, Fire, Kerple
from lissome.attention.build import attention
from lissome.attention.cache import GrowingCache
from lissome.attention.frame import Frame
from lissome.attention.normalize import Linear, SelfAdjust, softmax
from lissome.attention.recipe import Attention
from lissome.attention.refine import Dape
from lissome.attention.rotary import Rotary
from lissome.attention.segments import separated, separators, sinks
from lissome.attention.separator_cache import Cache, SeparatorCache
from lissome.attention.validity import Validity, causal, every_kth, everything, window

__all__ = [
    "Alibi",
    "Attention",
    "Cache",
    "Dape",
    "Fire",
    "Frame",
    "GrowingCache",
    "Kerple",
    "Linear",
    "Rotary",
    "SelfAdjust",
    "SeparatorCache",
    "Stages",
    "Validity",
    "attend",
    "attention",
    "causal",
    "every_kth",
    "everything",
    "explain",
    "separated",
    "separators",
    "sinks",
    "softmax",
    "stages",
    "window",
]
