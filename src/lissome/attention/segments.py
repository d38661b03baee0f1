"""Which keys stay visible from afar: the first tokens, and those that end a segment.

    causal & (sinks(4) | separators(ids) | window(256))     SepLLM, arXiv 2412.12094, section 3.1: `separated`
    causal & (sinks(4) | window(256))                       StreamingLLM, arXiv 2309.17453
    causal & (sinks(4) | every_kth(8) | window(256))        FixLLM, the baseline of arXiv 2412.12094

A trained transformer gives a token that ends a segment far more attention than its meaning explains; so a query needs
the first tokens, the separators and its neighbours. Positions count real tokens, so padding on the left moves none.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import torch
from torch import Tensor

from lissome._checks import check_whole, is_whole, refuse
from lissome._errors import UsageError
from lissome.attention.frame import Frame
from lissome.attention.validity import Validity, causal, of_keys, window

SEVERAL = "are several whole numbers, 0 and more, such as (13, 198)"


def _first(count: int, frame: Frame) -> Tensor:
    return frame.keys < count


def _among(ids: tuple[int, ...], frame: Frame) -> Tensor:
    if frame.tokens is None:
        said = "it reads tokens, and the frame has none; say Frame.full(T, tokens=tokens)"
        raise UsageError(f"the validity '{_listed(ids)}' cannot be asked: {said}")
    return torch.isin(frame.tokens, torch.tensor(ids, device=frame.tokens.device))


def sinks(count: int) -> Validity:
    """Return the rule that a query sees the first `count` tokens of its row, whatever padding stands before them.

    Raises:
        UsageError: a count below 1.
    """
    check_whole("the number of sinks", count)
    return of_keys(partial(_first, count), f"sinks({count})")


def separators(ids: Iterable[int]) -> Validity:
    """Return the rule that a query sees the keys whose token is one of `ids`, those that end a segment.

    Raises:
        UsageError: no ids, or what is no whole number; a frame without tokens, when the rule is asked.

    >>> frame = Frame.full(4, tokens=torch.tensor([[7, 13, 8, 9]]))
    >>> (causal & (separators([13]) | window(1)))(frame)[0, 0].int()
    tensor([[1, 0, 0, 0],
            [0, 1, 0, 0],
            [0, 1, 1, 0],
            [0, 1, 0, 1]], dtype=torch.int32)
    """
    if isinstance(ids, str) or not isinstance(ids, Iterable):
        raise refuse("ids of separators", ids, SEVERAL)
    asked = tuple(ids)
    if not asked or not all(is_whole(one) and one >= 0 for one in asked):
        raise refuse("ids of separators", asked, SEVERAL)
    known = tuple(sorted({int(one) for one in asked}))
    return of_keys(partial(_among, known), _listed(known))


def separated(ids: Iterable[int], *, initial: int = 4, near: int = 256) -> Validity:
    """Return the mask of SepLLM: the first tokens, the separators, and so many neighbours, the token itself among them.

    Token j is visible to query i >= j if j < initial, or j is a separator, or i - j < near (arXiv 2412.12094,
    section 3.1); `near` is the paper's n, `initial` its a.

    Raises:
        UsageError: as `sinks`, `separators` and `window` do.

    >>> separated([198, 13]).name
    'causal & (sinks(4) | separators(13, 198) | window(256))'
    """
    return causal & (sinks(initial) | separators(ids) | window(near))


def _listed(ids: tuple[int, ...]) -> str:
    return f"separators({', '.join(map(str, ids))})"
