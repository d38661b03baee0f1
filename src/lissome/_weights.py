"""Whether weights are those of a module."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from lissome._errors import UsageError


def check_weights(own: Mapping[str, Tensor], there: Mapping[str, Tensor], source: str, *, dtypes: bool = True) -> None:
    """Compare every name and shape, and dtype unless told otherwise.

    Raises:
        UsageError: they belong to another network; the first difference is named.
    """
    for name, value in own.items():
        if name not in there:
            raise UsageError(f"{source} is of another network: it lacks '{name}' of shape {tuple(value.shape)}")
        found = there[name]
        if found.shape != value.shape or (dtypes and found.dtype != value.dtype):
            raise UsageError(
                f"{source} is of another network: '{name}' is {found.dtype} of shape {tuple(found.shape)} there "
                f"and {value.dtype} of shape {tuple(value.shape)} in the network"
            )
    for name in there:
        if name not in own:
            raise UsageError(f"{source} is of another network: it holds '{name}', which the network lacks")
