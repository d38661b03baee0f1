"""A family's member as an objective: what `optim.fit` minimises."""

from __future__ import annotations

import math
import weakref
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Self

import torch
from torch import Tensor, nn

from lissome._errors import UsageError, unknown
from lissome._types import Batch
from lissome.calculus import derivatives, explain
from lissome.calculus.jets import MODES
from lissome.pde.balance import balanced_weight
from lissome.pde.constraint import Constrained, Periodic
from lissome.pde.domain import Ball, Box, points
from lissome.pde.family import Family
from lissome.pde.field import apply, check_values
from lissome.pde.kinds import PLACES, interior, outside
from lissome.pde.lift import boundary_lift, whole_lift
from lissome.pde.registry import guard
from lissome.pde.sampling import check_draw
from lissome.pde.supply import Supply, seed_of
from lissome.pde.trial import domain_of, few, learn, try_formula

POINTS = {"interior": 1000, "boundary": 500, "initial": 500}  # as published with SVD-PINNs, arXiv 2211.08760
CONSTRAINTS = ("soft", "boundary", "exact")
BALANCED = "balanced"
POOL = 32  # batches drawn at once where the right-hand side is derived
BALANCE = "balance"  # the weight of what is outside, where it follows the model
CREASED = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.Hardtanh, nn.Hardsigmoid)


class Problem:
    """Residual, boundary and initial mismatch of one equation, at points that come with their right-hand side.

    loss = mean((w (operator(u) - f))^2 over interior points) + weight_boundary * mean(mismatch^2 over boundary and
    initial points); the mismatch of a periodic box is that of u and u_x at its two ends.

    A batch holds the points and f, computed in float64 and then cast. Where f is derived by differentiation, 32
    batches' worth is drawn once, from `seed`, and a batch is a random part of it.

    Args:
        family: the member.
        points: how many of each kind: interior, boundary, initial.
        sampling: published, uniform, mixed, sobol, latin; the family's own if None.
        constraint: soft; boundary (values on the boundary hold exactly); exact (initial values too).
        weight_boundary: weight of the mismatch, 100 as published; or `balanced`: as `weigh` finds it for the model at
            hand, and 1 in batches that it has not seen, such as those of `fresh`.
        seed: of the test points, the points of `fresh`, and the pool.
        dtype: of batches and evaluation.
        device: of batches.
        pool: how many batches are drawn at once; 0 draws every batch anew; None decides.
        test_points: how many.
        mode: how derivatives are computed, see `calculus.derivatives`; under `stochastic` each batch brings the seed of
            its directions, and `evaluate` is exact.

    Raises:
        UsageError: an unknown or unfit argument; an error in the family's own code, with file and line.
    """

    def __init__(
        self,
        family: Family,
        *,
        points: Mapping[str, int] | None = None,
        sampling: str | None = None,
        constraint: str = "soft",
        weight_boundary: float | str = 100.0,
        seed: int = 0,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str = "cpu",
        pool: int | None = None,
        test_points: int = 10_000,
        mode: str = "auto",
    ):
        if constraint not in CONSTRAINTS:
            raise unknown("constraint", constraint, CONSTRAINTS)
        self.balanced = weight_boundary == BALANCED
        number = isinstance(weight_boundary, int | float) and not isinstance(weight_boundary, bool)
        if not (self.balanced or (number and 0 < weight_boundary <= 1e300)):  # type: ignore[operator]
            raise UsageError(f"weight_boundary is {weight_boundary!r}; legal is a number above 0, or '{BALANCED}'")
        for what, number, least in (("test_points", test_points, 1), ("pool", 0 if pool is None else pool, 0)):
            _check_count(what, number, least)
        if mode not in MODES:
            raise unknown("mode", mode, MODES)
        if not isinstance(family, Family):
            raise UsageError(f"a problem was made of {family!r}; legal is a member, such as load_family('heat')()")
        self.family = family
        self.sampling = check_draw(family.sampling if sampling is None else sampling)
        self.constraint = constraint
        self.weight_boundary = 1.0 if self.balanced else float(weight_boundary)
        self.seed = seed
        self.dtype = dtype
        self.device = torch.device(device)
        self.test_points = test_points
        self.mode = mode
        self.domain = domain_of(family)
        self.timed = self.domain.time is not None
        self.counts = self._counts(points or {})
        self.needs = learn(family, self.domain, dtype)
        derived = not family.homogeneous and self.sampling not in ("sobol", "latin")
        batches = (POOL if derived else 0) if pool is None else pool
        self.supply = Supply(
            family, self.domain, self.needs, self.counts, self.sampling, seed, batches, dtype, self.device
        )
        self._kept: dict[str, Any] = {}
        self._smooth: weakref.WeakSet[nn.Module] = weakref.WeakSet()

    # what a network has to be

    @property
    def coordinates(self) -> int:
        """D, the number of coordinates of a point."""
        return self.domain.coordinates

    @property
    def inputs(self) -> int:
        """How many numbers the network reads; not D where a hard constraint feeds it periodic inputs."""
        features = self._features()
        return self.coordinates if features is None else features.outputs  # type: ignore[return-value]

    @property
    def offset(self) -> tuple[float, ...]:
        """What the network should subtract from its inputs."""
        features = self._features()
        if features is None:
            return self.family.offset()
        shift = self.family.offset()[:1] if self.timed and isinstance(features, Periodic) else (0.0,)
        return (*shift, *([0.0] * (self.inputs - 1)))

    @property
    def extent(self) -> tuple[float, ...]:
        """How far the network's inputs less the offset reach on either side of 0; 1 for what features make."""
        features, (low, high) = self._features(), self.domain.bounds()
        known = self.inputs if features is None else int(self.timed and isinstance(features, Periodic))
        reach = [max(abs(a - by), abs(b - by)) for a, b, by in zip(low, high, self.offset, strict=False)]
        return (*reach[:known], *([1.0] * (self.inputs - known)))

    @property
    def weighing(self) -> float | str:
        """The weight of what is outside, a number or `balanced`."""
        return BALANCED if self.balanced else self.weight_boundary

    def wrap(self, network: nn.Module) -> nn.Module:
        """Return the network under the problem's constraint; under `soft`, the network itself.

        Raises:
            UsageError: a plain ReLU under a second-order operator, or values that have no lift.
        """
        self._check_smooth(network)
        if self.constraint == "soft":
            return network
        exact = self.constraint == "exact" and self.timed
        lift = whole_lift(self.family) if exact else boundary_lift(self.family)
        radial = self.family.radial and isinstance(self.domain, Ball)  # a box blends the values of its faces
        if lift is not None:
            with guard(self.family, "lift"):
                try_formula(lift, few(self.domain), replace(self.needs, along=0), radial=radial)
        return Constrained(
            network,
            domain=self.domain,
            lift=lift,
            initial=self.family.order_in_time if exact else 0,
            features=self._features(),
            radial=radial,
        ).to(next(network.parameters(), torch.zeros((), dtype=self.dtype)))

    def explain(self, model: nn.Module) -> str:
        """Say in one sentence how this problem's derivatives of a model are computed."""
        inner = model.inner if isinstance(model, Constrained) else model
        said = explain(inner, self.coordinates, self.needs.first, self.needs.second)
        return said if inner is model else f"{said}; lift and factor by the product rule"

    # the objective

    def sample(self, generator: torch.Generator, n: int | None = None) -> Batch:
        """Return a batch: points, right-hand side, boundary and initial values; row-first, in `dtype`.

        Args:
            generator: the only source of randomness, beside `seed` for the pool.
            n: about how many points in all, shared out as in `points`; None for `points` itself.
        """
        counts = self.counts
        if n is not None:
            total = sum(counts.values())
            counts = {kind: max(round(n * count / total), 1) if count else 0 for kind, count in counts.items()}
        batch: Batch = {}
        for kind, count in counts.items():
            if count:
                batch |= self.supply.part(kind, count, generator)
        if self.mode == "stochastic":
            batch["coins"] = torch.randint(2**62, (1,), generator=generator, device=generator.device)
        return batch

    def sample_by_residual(
        self, model: nn.Module, generator: torch.Generator, n: int | None = None, candidates: int = 5
    ) -> Batch:
        """Return a batch whose interior points are drawn by p ~ |residual| / mean + 1 (RAD; arXiv 2207.10289).

        Args:
            model: whose residual it is.
            generator: the source of randomness.
            n: as in `sample`.
            candidates: how many are looked at for each that is kept.
        """
        batch = self.sample(generator, n)
        count = len(batch["interior"])
        many = self.supply.part("interior", candidates * count, generator)
        with torch.no_grad():
            size = self._interior(model, batch | many).abs().double().to(generator.device)
        chosen = torch.multinomial(size / size.mean().clamp_min(1e-300) + 1, count, generator=generator)
        return batch | {key: value[chosen.to(value.device)] for key, value in many.items()}

    def residual(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return all mismatches as one vector (M,), weighted so that its mean square is the loss."""
        return torch.cat([factor * self.rows(model, part).reshape(-1) for part, factor in self.parts(batch)])

    def weigh(self, model: nn.Module, batch: Batch) -> Batch:
        """Return what a batch says of weights: under `balanced` that of what is outside, for the model as it is."""
        parts = [part for part, _ in self.parts(batch)]
        if not self.balanced or len(parts) < 2:
            return {}
        return {BALANCE: batch["interior"].new_tensor(balanced_weight(self.rows, model, parts))}

    def parts(self, batch: Batch) -> list[tuple[Batch, float | Tensor]]:
        """Cut a batch into parts of one kind of points each, with the factor that their mismatches have in `residual`.

        The rows of a part stand alone: those of `rows` depend on the same rows of the part.
        """
        inside, others = interior(batch), outside(batch)
        first = len(batch["interior"])
        rest = sum(len(part[PLACES]) * (2 if "opposite" in part or "velocity" in part else 1) for part in others)
        if not rest:
            return [(inside, 1.0)]
        scale: float | Tensor = math.sqrt(self.weight_boundary * (first + rest) / rest)
        if BALANCE in batch:
            scale = scale * batch[BALANCE].sqrt()
        return [(inside, math.sqrt((first + rest) / first)), *((part, scale) for part in others)]

    def rows(self, model: nn.Module, part: Batch) -> Tensor:
        """Return the mismatches of a part of a batch, (N, 1), or (N, 2) where a point has two."""
        self._check_smooth(model)
        if "interior" in part:
            return self._interior(model, part)[:, None]
        z = part[PLACES]
        if "opposite" in part:
            found = derivatives(model, torch.cat([z, part["opposite"]]), (self.coordinates - 1,), mode="auto")
            return torch.stack([a - b for a, b in (q.chunk(2) for q in (found.value, found.first[0]))], 1)
        if "velocity" in part:
            found = derivatives(model, z, (0,), mode="auto")
            return torch.stack([found.value - part["value"], found.first[0] - part["velocity"]], 1)
        return model(z) - part["value"][:, None]

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the loss, a scalar with its graph."""
        return self.residual(model, batch).square().mean()

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Return figures of quality, the same numbers each time for the same model.

        error: relative L2 error on `test_points` points of the problem's own draw; squared_error: its square;
        error_uniform: the same on points uniform in the ball, where that is another draw; fresh: the loss on points
        that no training saw. The errors are left out where no solution is known.
        """
        parameter = next(model.parameters(), None)
        device = self.device if parameter is None else parameter.device
        out: dict[str, float] = {}
        with torch.no_grad():
            if self.family.known:
                out["error"] = self._error(model, self.sampling, device)
                out["squared_error"] = out["error"] ** 2
                if isinstance(self.domain, Ball) and self.sampling in ("published", "mixed"):
                    out["error_uniform"] = self._error(model, "uniform", device)
            if "fresh" not in self._kept:
                generator = torch.Generator().manual_seed(seed_of(self.seed, "fresh"))
                self._kept["fresh"] = self.supply.make_all(generator)
            batch = {key: value.to(device) for key, value in self._kept["fresh"].items()}
            out["fresh"] = float(self.loss(model, batch))
        return out

    def slice(self, model: nn.Module | None = None, n: int = 401) -> dict[str, Tensor]:
        """Return a line through the domain at the last time, for a figure: slice_x, and u there, (n,) in float64.

        slice_exact where a solution is known; slice_network if a model is given.
        """
        s, z = self.domain.slice(n)
        out = {"slice_x": s}
        with torch.no_grad():
            if self.family.known:
                with guard(self.family, "exact"):
                    out["slice_exact"] = self.family.exact(points(self.domain, z)).double()
            if model is not None:
                out["slice_network"] = self._predict(model, z).double().cpu()
        return out

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        """Move batches to a device or dtype; the problem itself is changed and returned."""
        if device is not None:
            self.device = torch.device(device)
        if dtype is not None and dtype != self.dtype:
            self.dtype, self._kept = dtype, {}
        self.supply.to(self.device, self.dtype)
        return self

    # what a model leaves over

    def _interior(self, model: nn.Module, batch: Batch) -> Tensor:
        z = batch["interior"]
        along = batch["along"].transpose(0, 1) if "along" in batch else None
        mode, generator = self.mode, None
        if "coins" in batch:
            generator = torch.Generator(z.device).manual_seed(int(batch["coins"]))
        elif mode == "stochastic":
            mode = "auto"
        found = derivatives(model, z, self.needs.first, self.needs.second, along, mode=mode, generator=generator)
        out = apply(self.family.operator, points(self.domain, z), self.family.dimension, self.needs, found)
        if "source" in batch:
            out = out - batch["source"]
        return out * batch["weight"] if "weight" in batch else out

    def _predict(self, model: nn.Module, z: Tensor) -> Tensor:
        like = next(model.parameters(), z.new_zeros((), dtype=self.dtype))
        return torch.cat([model(part.to(like.device, self.dtype)).squeeze(1) for part in z.split(16384)])

    def _error(self, model: nn.Module, draw: str, device: torch.device) -> float:
        z, exact = self._test(draw)
        difference = self._predict(model, z).double() - exact.to(device)
        return float(difference.norm() / exact.norm())

    def _test(self, draw: str) -> tuple[Tensor, Tensor]:
        key = f"test {draw}"
        if key not in self._kept:
            z = self.domain.interior(
                self.test_points, torch.Generator().manual_seed(seed_of(self.seed, "test", draw)), draw
            )
            with guard(self.family, "exact"), torch.no_grad():
                self._kept[key] = z, check_values(self.family.exact(points(self.domain, z)), z)
        return self._kept[key]

    # checks

    def _counts(self, given: Mapping[str, int]) -> dict[str, int]:
        for kind, count in given.items():
            if kind not in POINTS:
                raise unknown("kind of points", kind, POINTS)
            _check_count(f"number of {kind} points", count, int(kind == "interior"))
        counts = {**POINTS, **given}
        if not self.timed or self.constraint == "exact":
            counts["initial"] = 0
        if self.constraint != "soft":
            counts["boundary"] = 0
        return counts

    def _features(self) -> nn.Module | None:
        if self.constraint == "soft":
            return None
        with guard(self.family, "features"):
            own = self.family.features(self.constraint)
            if own is not None and not isinstance(getattr(own, "outputs", None), int):
                raise UsageError(f"{type(own).__name__} does not say the number of its outputs; legal is self.outputs")
        if own is None and isinstance(self.domain, Box) and self.domain.periodic:
            return Periodic(self.domain.low[0], self.domain.high[0], self.timed)
        return own

    def _check_smooth(self, model: nn.Module) -> None:
        if torch.compiler.is_compiling() or model in self._smooth:
            return
        if self.needs.second:
            for name, module in model.named_modules():
                if isinstance(module, CREASED):
                    raise UsageError(
                        f"the network's '{name}' is {type(module).__name__}, whose second derivative is 0, and family"
                        f" '{self.family.name}' needs it: take relu3, tanh, sin or gelu"
                    )
                smooth = getattr(module, "smooth", None)  # continuous derivatives of a basis
                if isinstance(smooth, int) and smooth < 2:
                    raise UsageError(
                        f"the network's '{name}' is a {type(module).__name__} with {smooth} continuous derivatives, and"
                        f" family '{self.family.name}' needs 2: take order 3 or more"
                    )
        self._smooth.add(model)


def _check_count(what: str, number: int, least: int) -> None:
    if isinstance(number, bool) or not isinstance(number, int) or number < least:
        raise UsageError(f"{what} is {number!r}; legal is a whole number of at least {least}")
