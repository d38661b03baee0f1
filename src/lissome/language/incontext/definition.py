"""A task of learning in context: each prompt has a function of its own, and shows it by examples.

A task is data and one rule. The rule makes prompts of two forms: pairs x1 y1 .. xk yk, each y to be told from what
stands before it, or a sequence s1 .. sT of vectors, each (of those that are asked) to be told from those before it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lissome._checks import check_kind, check_number, check_whole
from lissome._errors import UsageError, unknown
from lissome._types import Batch
from lissome.language.incontext.representation import orthogonal

Rule = Callable[[torch.Generator, Tensor, float], Batch]
Oracle = Callable[[Batch, float], Tensor]
SHIFTS = {  # kind of shift -> strengths at which it is looked at; one of them changes nothing
    "scale": (0.5, 1.0, 1.5, 2.0, 3.0),
    "skew": (0.0, 0.5, 1.0, 1.5, 2.0),
    "noise": (0.0, 0.25, 0.5, 1.0, 2.0),
}


@dataclass(frozen=True)
class Shift:
    """A change of the law of prompts after training.

    Attributes:
        kind: scale, inputs are `strength` times as large; skew, their variances along random orthogonal directions
            fall like i^(-2 strength), and sum to d as before; noise, its standard deviation is `strength`.
        strength: at least 0, for scale above 0.

    Raises:
        UsageError: an unknown kind, or a strength out of its range.

    >>> Shift("scale", 2.0).inputs(torch.Generator().manual_seed(0), torch.ones(1, 1, 2))
    tensor([[[2., 2.]]])
    """

    kind: str
    strength: float

    def __post_init__(self):
        if self.kind not in tuple(SHIFTS):
            raise unknown("shift", self.kind, SHIFTS)
        least = "above 0" if self.kind == "scale" else "of at least 0"
        legal = f"are numbers {least}"
        check_number(f"strength of the shift '{self.kind}'", self.strength, legal, self._holds)

    def _holds(self, strength: float) -> bool:
        return 0 < strength < float("inf") or (strength == 0 and self.kind != "scale")

    def inputs(self, generator: torch.Generator, x: Tensor) -> Tensor:
        """Return inputs (n, k, d) of the shifted law, from some of the law N(0, I)."""
        if self.kind == "scale":
            return self.strength * x
        if self.kind == "skew":
            d = x.shape[2]
            spread = torch.arange(1, d + 1, dtype=torch.float64) ** -self.strength
            spread = spread * (d / spread.square().sum()).sqrt()
            R = orthogonal(generator, d)
            return x @ ((R * spread) @ R.T).to(x)
        return x


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """Prompts of one task, drawn on the fly.

    A batch of the form pairs has `x` (n, k, d), `y` (n, k), and `target` (n, k, 1), the y without noise. One of the
    form sequence has `s` (n, T, d) and `target` (n, P, d): what the P asked places, of those before the last, are
    followed by.

    Attributes:
        name: by which the task is known.
        what: one sentence.
        dimension: d.
        pairs: k, examples of a whole prompt.
        rule: (CPU generator, x (n, k, d), noise) -> a batch.
        oracles: name -> (batch, noise) -> predictions (n, P, m) of what statistics makes of the same examples.
        slow: those that take seconds for a hundred prompts.
        power: the mean of |target|^2, by which errors are divided.
        noise: standard deviation.
        sequence: whether prompts are of that form.
        asked: T -> which of the places before the last are asked, (T - 1,) bool; of sequences alone.
        steps: asked places of one example; above 1 where an example is a chain.
        shifts: kinds of shift that the task has.
        shrinks: whether inputs can be kept to the first few dimensions.

    Raises:
        UsageError: sizes below 1, or negative noise.

    Example:
        >>> from lissome.language.incontext import prompts
        >>> linear = prompts("linear", dimension=3, pairs=5)
        >>> batch = linear.draw(torch.Generator().manual_seed(0), 2)
        >>> {name: tuple(tensor.shape) for name, tensor in batch.items()}
        {'x': (2, 5, 3), 'y': (2, 5), 'target': (2, 5, 1)}
        >>> linear.errors(linear.oracles["least squares"](batch, 0.0), batch)[3:].round(decimals=6)
        tensor([0., 0.], dtype=torch.float64)
    """

    name: str
    what: str
    dimension: int
    pairs: int
    rule: Rule
    oracles: Mapping[str, Oracle]
    power: float
    slow: tuple[str, ...] = ()
    noise: float = 0.0
    sequence: bool = False
    asked: Callable[[int], Tensor] | None = None
    steps: int = 1
    shifts: tuple[str, ...] = tuple(SHIFTS)
    shrinks: bool = True

    def __post_init__(self):
        check_whole(f"dimension of the task '{self.name}'", self.dimension)
        check_whole(f"pairs of the task '{self.name}'", self.pairs)
        check_number(f"noise of the task '{self.name}'", self.noise, "are numbers of at least 0", self._noisy)

    @staticmethod
    def _noisy(noise: float) -> bool:
        return 0 <= noise < float("inf")

    def draw(
        self,
        generator: torch.Generator,
        n: int,
        *,
        pairs: int | None = None,
        dimension: int | None = None,
        shift: Shift | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Batch:
        """Draw n prompts.

        Whatever `pairs` and `dimension` are, the inputs are drawn whole before they are cut.

        Args:
            generator: of the CPU; the only source of chance.
            n: rows.
            pairs: examples of each; None is `pairs` of the task, and more are legal.
            dimension: inputs are 0 beyond it.
            shift: of the law.
            dtype: of the batch, float32 or float64.

        Raises:
            UsageError: no generator, another dtype, no rows, no pairs, more dimensions than the task has, or a shift
                that it does not have.
        """
        k, d = self.pairs if pairs is None else pairs, self.dimension if dimension is None else dimension
        check_kind("generator", generator, torch.Generator, "is a torch.Generator of the CPU")
        if dtype not in (torch.float32, torch.float64):
            raise UsageError(f"dtype of prompts is {dtype}; legal are torch.float32 and torch.float64")
        check_whole("rows", n)
        check_whole("pairs", k)
        check_whole("dimension", d, 1, self.dimension)
        if d < self.dimension and not self.shrinks:
            raise UsageError(f"the task '{self.name}' fills all {self.dimension} dimensions; legal is no other number")
        check_kind("shift", shift, (Shift, type(None)), "is a Shift, or None")
        if shift is not None and shift.kind not in self.shifts:
            raise unknown(f"shift of the task '{self.name}':", shift.kind, self.shifts)
        x = torch.randn(n, max(k, self.pairs), self.dimension, generator=generator, dtype=dtype)[:, :k]
        x = x if shift is None else shift.inputs(generator, x)
        if d < self.dimension:
            x = torch.cat([x[..., :d], torch.zeros_like(x[..., d:])], -1)
        return self.rule(generator, x, self.level(shift))

    def level(self, shift: Shift | None) -> float:
        """Return the standard deviation of the noise under a shift."""
        return shift.strength if shift is not None and shift.kind == "noise" else self.noise

    def inputs(self, batch: Batch) -> tuple[Tensor, ...]:
        """Return what a model reads: x and y of pairs, or a sequence without its last place."""
        return (batch["s"][:, :-1],) if self.sequence else (batch["x"], batch["y"])

    def seen(self, batch: Batch) -> Tensor:
        """Return what a model is trained to say, (n, P, m): the targets with their noise."""
        return self.places(batch["s"][:, 1:]) if self.sequence else batch["y"][..., None]

    def places(self, values: Tensor) -> Tensor:
        """Return the asked places of values at all places, (..., T - 1, d) -> (..., P, d)."""
        if self.asked is None:
            return values
        return values[..., self.asked(values.shape[-2] + 1).to(values.device), :]

    def errors(self, predictions: Tensor, batch: Batch, power: float | None = None) -> Tensor:
        """Return the mean squared error by number of examples in context, (p,), in float64.

        Args:
            predictions: (n, P, m), or of the last P' places alone.
            batch: of n prompts.
            power: by which it is divided; None is the task's.

        Raises:
            UsageError: predictions of another shape.
        """
        check_kind("predictions", predictions, Tensor, "is a tensor (n, P, m)")
        whole = batch["target"]
        n, P, m = whole.shape
        if predictions.ndim != 3 or (len(predictions), predictions.shape[2]) != (n, m) or predictions.shape[1] > P:
            raise UsageError(f"predictions have the shape {tuple(predictions.shape)}; legal is ({n}, up to {P}, {m})")
        target = whole.double()[:, -predictions.shape[1] :]
        found = (predictions.double() - target).square().sum(2).mean(0) / (self.power if power is None else power)
        return found.unflatten(0, (-1, self.steps)).mean(1)

    def quieter(self, noise: float) -> Prompts:
        """Return the same task with other noise."""
        return dataclasses.replace(self, noise=noise)
