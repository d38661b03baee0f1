"""Which keys a token sees, as a run says it, and as a rule of validity with the ids of its vocabulary.

    all                              causal
    separators(initial=4, near=64)   causal & (sinks(4) | separators(ids) | window(64))   SepLLM, arXiv 2412.12094
    sinks(initial=4, near=64)        causal & (sinks(4) | window(64))                     StreamingLLM, arXiv 2309.17453
    fixed(8, initial=4, near=64)     causal & (sinks(4) | every_kth(8) | window(64))      FixLLM, of arXiv 2412.12094

Around them h(...), ht(...) and hmt(...) let the first layer, the last one too, and the middle one too see all.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

from lissome._errors import UsageError
from lissome.attention import causal, every_kth, separated, sinks, window
from lissome.attention.notation import POLICIES, by_layer, made
from lissome.attention.validity import Validity
from lissome.bridges.separators import separator_ids
from lissome.language import Vocabulary

INITIAL, NEAR = 4, 64  # a and n of arXiv 2412.12094, of models trained from scratch
EVERY = 8  # one key in so many is about as many as separators are
AROUND = re.compile(rf"\s*({'|'.join(POLICIES)})\s*\((.*)\)\s*", re.DOTALL)


def resolved(visible: str, validity: str, *, layers: int, length: int, ids: Iterable[int]) -> str:
    """Return a validity, as `DecoderShape` takes it, that lets a token see what both ask for.

    Args:
        visible: as this module has it.
        validity: as `DecoderShape` takes it.
        layers: L.
        length: tokens that the model sees in training; a window has to be shorter.
        ids: of the separators.

    Raises:
        UsageError: an unknown name (the nearest is named), values that it does not take, or a window that hides
            nothing.

    >>> resolved("separators(near=16)", "causal", layers=2, length=128, ids=[10, 46])
    'causal & (sinks(4) | separators(10, 46) | window(16))'
    >>> resolved("h(sinks)", "causal", layers=2, length=128, ids=[])
    'causal, causal & (sinks(4) | window(64))'
    """
    around = AROUND.fullmatch(visible)
    policy, inner = around.groups() if around else ("", visible)
    rule: Validity = made(inner, "visible", _rules(visible, tuple(ids), length))
    if rule == causal:
        return validity
    limited = by_layer(f"{policy}({rule.name})", layers) if policy else [rule] * layers
    if all(one == causal for one in limited):
        raise UsageError(
            f"visible '{visible}' lets all {layers} layers see all, so that nothing would be hidden; legal are more"
        )
    names = [_both(one, other).name for one, other in zip(by_layer(validity, layers), limited, strict=True)]
    return names[0] if len(set(names)) == 1 else ", ".join(names)


def asked_ids(visible: str, vocabulary: Vocabulary) -> tuple[int, ...]:
    """Return the ids of the separators of a vocabulary if these are to be seen, and otherwise none.

    Raises:
        UsageError: they are, and there are none.

    >>> from lissome.language import Bytes
    >>> asked_ids("separators", Bytes())
    (9, 10, 33, 44, 46, 58, 59, 63)
    """
    if "separators" not in visible:
        return ()
    try:
        return separator_ids(vocabulary)
    except UsageError as error:
        raise UsageError(
            f"visible '{visible}' needs tokens that end a segment, and the vocabulary ({vocabulary.kind}) has none of "
            ". , ? ! ; : newline and tab alone; legal are another vocabulary, or all, sinks and fixed"
        ) from error


def _rules(visible: str, ids: tuple[int, ...], length: int) -> Mapping[str, Callable[..., Validity]]:
    def hiding(rule: Validity, initial: int, near: int, every: int = 0) -> Validity:
        if near >= length:
            raise UsageError(
                f"visible '{visible}' has a window of {near:,}, and the model sees {length:,} tokens in training, so "
                f"that nothing would be hidden; legal are a shorter one, such as near={max(1, length // 4)}, or a "
                "longer length"
            )
        if initial + near >= length or every == 1:
            raise UsageError(
                f"visible '{visible}' hides none of the {length:,} tokens that the model sees in training; legal are "
                f"initial and near that are together below {length:,}, and fixed(2) and more"
            )
        return rule

    def by_separators(*, initial: int = INITIAL, near: int = NEAR) -> Validity:
        return hiding(separated(ids, initial=initial, near=near), initial, near)

    def by_sinks(*, initial: int = INITIAL, near: int = NEAR) -> Validity:
        return hiding(causal & (sinks(initial) | window(near)), initial, near)

    def by_count(every: int = EVERY, *, initial: int = INITIAL, near: int = NEAR) -> Validity:
        return hiding(causal & (sinks(initial) | every_kth(every) | window(near)), initial, near, every)

    def around(*inner: object) -> Validity:
        raise UsageError("visible h, ht and hmt stand around one of all, separators, sinks and fixed: h(separators)")

    rules = {"all": lambda: causal, "separators": by_separators, "sinks": by_sinks, "fixed": by_count}
    return rules | dict.fromkeys(POLICIES, around)


def _both(one: Validity, other: Validity) -> Validity:
    if one == causal or other == causal:
        return other if one == causal else one
    return one & other
