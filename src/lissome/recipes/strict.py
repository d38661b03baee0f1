"""The class of all settings: it refuses what it does not know, and true and false where a number belongs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator


class Strict(BaseModel):
    """Settings that refuse what they do not know.

    >>> class Few(Strict):
    ...     steps: int = 1
    >>> Few(steps=True)  # doctest: +IGNORE_EXCEPTION_DETAIL
    Traceback (most recent call last):
    pydantic_core.ValidationError: 1 validation error for Few
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_flag(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse true and false in the place of a number: they would count as 1 and 0."""
        if any(type(each) is bool for each in _single(value)):
            kinds = set(_kinds(cls.model_fields[str(info.field_name)].annotation))
            if kinds & {int, float} and bool not in kinds:
                names = ["a name"] * (str in kinds) + [repr(kind) for kind in kinds if isinstance(kind, str)]
                legal = " or ".join(["a whole number" if int in kinds else "a number", *names])
                raise ValueError(f"{value!r} holds true or false, and legal is {legal}")
        return value


def _single(value: Any) -> Iterator[Any]:
    """Go through the single values of a setting."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else None
    if inner is None:
        yield value
    else:
        for each in inner:
            yield from _single(each)


def _kinds(annotation: Any) -> Iterator[Any]:
    """Go through the classes and literals of which an annotation is made."""
    inner = get_args(annotation)
    if not inner:
        yield annotation
    for each in inner:
        yield from _kinds(each)
