"""Points together with what belongs to them: right-hand side, directions, weights, boundary and initial values."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from lissome._types import Batch
from lissome.pde.domain import Domain, points
from lissome.pde.family import Family
from lissome.pde.field import Needs, Points, apply, closed_form, record

MOST_NUMBERS = 20_000_000  # coordinates in a pool


@dataclass
class Supply:
    """Draws points of each kind in float64, completes them, and casts; keeps a pool of them where that is dear.

    Args:
        family: the member.
        domain: its domain.
        needs: what its operator reads.
        counts: points of each kind in a usual batch.
        sampling: the draw.
        seed: of the pool.
        batches: size of the pool in usual batches; 0 for none.
        dtype: of what is handed out.
        device: of what is handed out.
    """

    family: Family
    domain: Domain
    needs: Needs
    counts: Mapping[str, int]
    sampling: str
    seed: int
    batches: int
    dtype: torch.dtype
    device: torch.device
    pool: dict[str, Batch] = field(default_factory=dict)

    def part(self, kind: str, count: int, generator: torch.Generator) -> Batch:
        """Return `count` points of a kind, from the pool if there is one that is large enough."""
        usual = self.counts[kind]
        size = min(self.batches, MOST_NUMBERS // (max(usual, 1) * self.domain.coordinates)) * usual
        if count > size:
            return self.make(kind, count, generator)
        if kind not in self.pool:
            self.pool[kind] = self.make(kind, size, torch.Generator().manual_seed(seed_of(self.seed, "pool", kind)))
        chosen = torch.randperm(size, generator=generator, device=generator.device)[:count].to(self.device)
        return {key: value[chosen] for key, value in self.pool[kind].items()}

    def make(self, kind: str, count: int, generator: torch.Generator) -> Batch:
        """Draw new points of a kind and complete them."""
        z = getattr(self.domain, kind)(count, generator, self.sampling)
        complete = {"interior": self.interior, "boundary": self._boundary, "initial": self._initial}[kind]
        return {
            key: value.detach().to(self.device, self.dtype) for key, value in complete(points(self.domain, z)).items()
        }

    def make_all(self, generator: torch.Generator) -> Batch:
        """Draw a usual batch anew, past the pool."""
        return {k: v for kind, n in self.counts.items() if n for k, v in self.make(kind, n, generator).items()}

    def to(self, device: torch.device, dtype: torch.dtype) -> None:
        """Hand out on another device or in another dtype; the pool is drawn again in the latter case."""
        self.pool = {kind: {k: v.to(device) for k, v in part.items()} for kind, part in self.pool.items()}
        if dtype != self.dtype:
            self.pool = {}
        self.device, self.dtype = device, dtype

    def interior(self, p: Points) -> Batch:
        """Return the points with weight, directions (N, a, D) and right-hand side, as far as the family has them."""
        family, part = self.family, {"interior": p.z}
        with torch.no_grad():
            weight = family.weight(p)
            if weight is not None:
                part["weight"] = weight
            if self.needs.along:
                directions = record(family.operator, p, family.dimension)[1]
                assert directions is not None
                part["along"] = directions
            if not family.homogeneous:
                along = part["along"].transpose(0, 1) if "along" in part else None
                found = closed_form(family.exact, p, self.needs.first, self.needs.second, along, radial=family.radial)
                part["source"] = apply(family.operator, p, family.dimension, self.needs, found)
        return part

    def _boundary(self, p: Points) -> Batch:
        if self.domain.periodic:
            return {"boundary": p.z, "opposite": self.domain.opposite(p.z)}  # type: ignore[union-attr]
        with torch.no_grad():
            return {"boundary": p.z, "boundary_value": self.family.data(p)}

    def _initial(self, p: Points) -> Batch:
        with torch.no_grad():
            part = {"initial": p.z, "initial_value": self.family.data(p)}
            if self.family.order_in_time == 2:
                part["initial_velocity"] = self.family.velocity(p)
        return part


def seed_of(seed: int, *purpose: str) -> int:
    """Return a seed of its own for each purpose, the same on every machine."""
    return zlib.crc32(" ".join([str(seed), *purpose]).encode())  # torch's generator on the CPU reads 32 bits only
