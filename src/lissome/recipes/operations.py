r"""What an optimizer spends on a problem, in operations: a budget that no machine changes.

    gradient   a pass forward and backward               G, as torch counts the products of matrices in one
    value      a pass forward alone                      V
    jacobian   all rows of the residual's Jacobian       J

and what the optimizer does with them, p trained numbers and M rows: Gauss-Newton min(p, M)^2 max(p, M) +
min(p, M)^3 / 3 for each Jacobian, a dense quasi-Newton update 6 p^2 and L-BFGS 200 p (two loops over 50 pairs) for each
gradient. Work on single entries is not counted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from lissome._errors import unknown
from lissome._types import Batch
from lissome._vector import functional
from lissome.calculus.rowwise import rowwise
from lissome.pde import Problem
from lissome.pde.balance import SEEN
from lissome.recipes.training import trained_of

ITERATIONS = 20  # of a step of L-BFGS, each with a gradient at least
PAIRS = 50  # that it keeps
CANDIDATES = 5  # points looked at for one that is drawn by the residual


@dataclass(frozen=True)
class Spends:
    """An optimizer's own operations, from (p, M), and what the cheapest of its steps asks for."""

    per_gradient: Callable[[int, int], float] = lambda p, rows: 0.0
    per_jacobian: Callable[[int, int], float] = lambda p, rows: 0.0
    gradients: int = 1
    jacobians: int = 0


def _solved(p: int, rows: int) -> float:
    few, many = sorted((p, rows))
    return few**2 * many + few**3 / 3


FIRST, DENSE = Spends(), Spends(per_gradient=lambda p, rows: 6.0 * p * p)
SPENDS: Mapping[str, Spends] = {
    **dict.fromkeys(("adam", "adamw", "nadam", "radam", "rmsprop", "adagrad", "sgd"), FIRST),
    **dict.fromkeys(("bfgs", "ssbfgs", "ssbroyden"), DENSE),
    "lbfgs": Spends(per_gradient=lambda p, rows: 4.0 * PAIRS * p, gradients=ITERATIONS),
    "gauss-newton": Spends(per_jacobian=_solved, gradients=0, jacobians=1),
}


class Counted:
    """A problem that counts what is asked of it; an objective as the problem itself is one.

    Args:
        problem: what is solved.
        model: with it, as it will be trained.
        optimizer: a name in `SPENDS`.

    Attributes:
        spent: operations so far, of batches with as many points as the problem says.

    Raises:
        UsageError: an optimizer whose operations are not counted.
    """

    def __init__(self, problem: Problem, model: nn.Module, optimizer: str):
        if optimizer not in SPENDS:
            raise unknown("optimizer whose operations are counted", optimizer, SPENDS)
        self.problem, self.spends, self.spent = problem, SPENDS[optimizer], 0.0
        batch = problem.sample(torch.Generator().manual_seed(0))
        trained = trained_of(model)
        p = sum(each.numel() for each in trained.values())
        with _counting() as counter:
            self.count = rows = len(problem.residual(model, batch))
        self.value = float(counter.get_total_flops())
        with _counting() as counter, torch.enable_grad():
            torch.autograd.grad(problem.loss(model, batch), list(trained.values()))
        self.gradient = counter.get_total_flops() + self.spends.per_gradient(p, rows)
        self.jacobian = self._jacobian(model, batch, trained) + self.spends.per_jacobian(p, rows)

    def per_step(self) -> float:
        """Return what the cheapest step spends."""
        return self.spends.gradients * self.gradient + self.spends.jacobians * (self.jacobian + self.value)

    def sample(self, generator: torch.Generator, n: int) -> Batch:
        """Draw a batch as the problem does."""
        return self.problem.sample(generator, n)

    def sample_by_residual(self, model: nn.Module, generator: torch.Generator, n: int) -> Batch:
        """Draw a batch as the problem does, which looks at five points for each."""
        self.spent += CANDIDATES * self.value
        return self.problem.sample_by_residual(model, generator, n, CANDIDATES)

    def weigh(self, model: nn.Module, batch: Batch) -> Batch:
        """Weigh as the problem does, which takes the gradients of few points now and then."""
        found = self.problem.weigh(model, batch)
        if found:
            self.spent += self.gradient * min(1.0, SEEN * len(self.problem.parts(batch)) / self.count)
        return found

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the problem's loss; it counts as a gradient when one is taken."""
        loss = self.problem.loss(model, batch)
        if loss.requires_grad:
            loss.register_hook(self._walked)
        return loss

    def residual(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the problem's residual."""
        self.spent += self.value
        return self.problem.residual(model, batch)

    def parts(self, batch: Batch) -> list[tuple[Batch, float | Tensor]]:
        """Cut a batch as the problem does, which is what a Jacobian begins with."""
        self.spent += self.jacobian
        return self.problem.parts(batch)

    def rows(self, model: nn.Module, part: Batch) -> Tensor:
        """Return the mismatches of a part."""
        return self.problem.rows(model, part)

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Return the problem's figures, and the operations so far."""
        return self.problem.evaluate(model) | {"operations": self.spent}

    def _walked(self, gradient: Tensor) -> None:
        self.spent += self.gradient

    def _jacobian(self, model: nn.Module, batch: Batch, trained: Mapping[str, nn.Parameter]) -> float:
        if not self.spends.jacobians:
            return 0.0
        rows, tensors = functional(self.problem.rows, model, trained)
        with _counting() as counter:
            for part, _ in self.problem.parts(batch):
                rowwise(rows, tensors, part)
        return float(counter.get_total_flops())


class _Everywhere:
    """In the place of torch's tracker of modules, whose hooks do not bear derivatives by `torch.func`."""

    parents = frozenset({"Global"})

    def __enter__(self) -> None:
        """Track nothing."""

    def __exit__(self, *exception: object) -> None:
        """Track nothing."""


def _counting() -> FlopCounterMode:
    counter = FlopCounterMode(display=False)
    counter.mod_tracker = _Everywhere()  # type: ignore[assignment]
    return counter
