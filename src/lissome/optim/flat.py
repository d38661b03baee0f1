"""The parameters of an optimizer as one vector."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from lissome._errors import UsageError


class Flat:
    """Several parameters seen as one vector (p,): what methods of second order work on.

    Args:
        parameters: dense and real, of one dtype and device.

    Raises:
        UsageError: there are none, or one of them is sparse, complex, no floating-point tensor, or unlike the others.
    """

    def __init__(self, parameters: Iterable[Tensor]):
        self.parameters = list(parameters)
        if not sum(p.numel() for p in self.parameters):
            raise UsageError("there are no parameters to move")
        first = self.parameters[0]
        for index, p in enumerate(self.parameters):
            if p.layout != torch.strided:
                raise UsageError(f"parameter {index} is sparse ({p.layout}); legal are dense ones: call to_dense()")
            if p.dtype not in (torch.float32, torch.float64):
                raise UsageError(f"parameter {index} has dtype {p.dtype}; legal are float32 and float64")
            if p.dtype != first.dtype or p.device != first.device:
                raise UsageError(
                    f"parameter {index} is {p.dtype} on {p.device} and parameter 0 {first.dtype} on {first.device}; "
                    "legal is one dtype and one device for all"
                )

    def __len__(self) -> int:
        return sum(p.numel() for p in self.parameters)

    def get(self) -> Tensor:
        """Return a copy of all numbers, (p,)."""
        return torch.cat([p.detach().reshape(-1) for p in self.parameters])

    @torch.no_grad()
    def put(self, vector: Tensor) -> None:
        """Write all numbers back from (p,)."""
        for p, part in zip(self.parameters, self.split(vector), strict=True):
            p.copy_(part)

    def split(self, vector: Tensor) -> list[Tensor]:
        """Cut (p,) into views of the parameters' shapes."""
        sizes = [p.numel() for p in self.parameters]
        return [part.view_as(p) for part, p in zip(vector.split(sizes), self.parameters, strict=True)]

    def join(self, tensors: Iterable[Tensor | None]) -> Tensor:
        """Join tensors of the parameters' shapes into (p,); None counts as zeros."""
        pairs = zip(tensors, self.parameters, strict=True)
        return torch.cat([(torch.zeros_like(p) if t is None else t).reshape(-1) for t, p in pairs])

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """Put the numbers back as they were if what is inside raises."""
        before = self.get()
        try:
            yield
        except BaseException:
            self.put(before)
            raise
