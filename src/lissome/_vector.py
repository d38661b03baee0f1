"""A dict of tensors as one flat vector, and back."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from lissome._errors import UsageError


def flatten(tensors: Mapping[str, Tensor]) -> Tensor:
    """Join the tensors, in their order, into one vector of shape (p,)."""
    return torch.cat([tensor.reshape(-1) for tensor in tensors.values()])


def unflatten(vector: Tensor, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Cut a vector (p,) into tensors of the names and shapes of `like`.

    Raises:
        UsageError: the vector has another number of entries than `like`.
    """
    total = sum(tensor.numel() for tensor in like.values())
    if vector.shape != (total,):
        raise UsageError(f"a vector of shape {tuple(vector.shape)} does not fit {total} numbers in {len(like)} tensors")
    out, start = {}, 0
    for name, tensor in like.items():
        out[name] = vector[start : start + tensor.numel()].reshape(tensor.shape)
        start += tensor.numel()
    return out
