"""Sizes of tiles, and what the kernels cannot take.

Sizes are chosen by shape and not by trial: the choice is then the same in every run, so are the last bits, and the
interpreter, which cannot measure, takes the same path.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton.language as tl
from torch import Tensor

SMALLEST = 16  # the least side of a product on tensor cores
WIDEST = 128  # numbers of a head; above it two sums of a tile leave the registers


class Tile(NamedTuple):
    """Queries and keys of a tile, warps of a program, and tiles that are loaded ahead."""

    queries: int
    keys: int
    warps: int
    stages: int


def power(number: int) -> int:
    """Return the side that holds so many numbers: a power of two, at least 16."""
    return max(SMALLEST, 1 << (number - 1).bit_length())


def widest(q: Tensor, v: Tensor) -> int:
    """Return the side that holds a head of q and one of v."""
    return power(max(q.shape[3], v.shape[3]))


def parts(count: int, side: int) -> int:
    """Return how many tiles of a side hold so many numbers."""
    return -(-count // side)


def start(kernel: Any, programs: tuple[int, int], given: tuple[Any, ...], told: dict[str, Any], tile: Tile) -> None:
    """Start a kernel on the device of the first tensor that it is given."""
    sides = {"BM": tile.queries, "BN": tile.keys, "num_warps": tile.warps, "num_stages": tile.stages}
    with torch.cuda.device_of(given[0]):
        kernel[programs](*given, **told, **sides)


def sums(x: Tensor) -> Any:
    """Return the type in which products of x are summed."""
    return tl.float64 if x.dtype == torch.float64 else tl.float32


def sums_of(x: Tensor) -> torch.dtype:
    """Return the same as torch calls it."""
    return torch.promote_types(x.dtype, torch.float32)


def refusal(q: Tensor, k: Tensor, v: Tensor, shared: int = 0) -> str:
    """Return why no kernel takes such tensors, or nothing; `shared` is how much shared memory a program needs."""
    if q.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        return f"the dtype is {q.dtype}, and kernels take float32, float16 and bfloat16"
    if max(q.shape[3], v.shape[3]) > WIDEST:
        return f"heads have {max(q.shape[3], v.shape[3])} numbers, and kernels take up to {WIDEST}"
    if q.shape[2] > k.shape[2]:
        return f"there are {q.shape[2]} queries and {k.shape[2]} keys, and kernels take no more queries than keys"
    if not q.numel() or not v.numel():
        return "there is nothing to attend to"
    if q.is_cuda and (found := torch.cuda.get_device_properties(q.device).shared_memory_per_block_optin) < shared:
        return f"a program needs {shared >> 10} KB of shared memory, and the GPU has {found >> 10}"
    return ""
