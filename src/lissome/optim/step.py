"""One training step: points, gradient, and the optimizers that act on it."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from lissome._errors import UsageError
from lissome._types import Adaptive, Balanced, Batch, Divisible, Objective, Residual, Rowwise
from lissome._vector import functional
from lissome.calculus.rowwise import rowwise
from lissome.optim.capture import Capture, capture, eager, excuse
from lissome.optim.conditions import check
from lissome.optim.least_squares import LARGEST
from lissome.optim.machine import average_gradients, mean
from lissome.optim.method import Method
from lissome.optim.optimizers import Mover, build
from lissome.optim.sharding import explained, local, whole

SKIPPED = 100  # steps in a row that are left out before a run is given up
WEIGH = 50  # steps after which an objective is asked for its weights again


class Stepper:
    """What moves the model now: a method's optimizers, its points, and the losses nobody has read yet."""

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        trained: Mapping[str, nn.Parameter],
        machine: Accelerator,
        seed: int,
        sharded: bool = False,
    ):
        self.model, self.objective, self.trained, self.machine = model, objective, trained, machine
        self.device = next(iter(trained.values())).device
        self.several, self.sharded = machine.num_processes > 1, sharded
        self.mixed = machine.mixed_precision != "no"
        # processes draw one batch and take their rows of it, or, of an objective that cannot be cut, one each
        self.streams = 1 if isinstance(objective, Divisible) else machine.num_processes
        self.stream = machine.process_index % self.streams
        self.generator = torch.Generator().manual_seed(seed + 1_000_003 * self.stream)
        scaler = machine.scaler
        self.eager = eager(self.loss) if scaler is None else eager(self.loss, scaler.scale)
        self.capture = Capture(self.eager, False, "not asked for")
        self.trace: list[Tensor] = []
        self.weights: Batch | None = None  # what the objective has added to batches, once it was asked
        self.drawn = True  # no step was done on these points yet
        self.norm: Tensor | None = None  # of the last gradient before it was clipped
        self.skipped = self.in_a_row = 0  # steps that were left out

    def enter(self, method: Method) -> None:
        """Make the optimizers of a method; `draw` has to follow."""
        scaler = self.machine.scaler is not None
        self.method = method
        self.movers = build(method, self.trained, fused=not scaler)
        check(method, self.movers, self.objective, self.machine, sharded=self.sharded)
        self.active = [p for mover in self.movers for p in mover.parameters]
        self.plain = any(mover.kind.reads == "gradient" for mover in self.movers)
        self.norm = None
        for mover in self.movers:
            if mover.kind.reads == "residual" and isinstance(self.objective, Rowwise):
                mover.optimizer.linearize = lambda mover=mover: self.linearize(mover)  # type: ignore[attr-defined]

    def draw(self) -> None:
        """Draw points; the generator's state before the draw is kept, so that a resumed run draws them again."""
        self.drawn_from = self.generator.get_state()
        if self.method.adaptive:
            assert isinstance(self.objective, Adaptive)
            batch = self.objective.sample_by_residual(self.model, self.generator, self.method.points)
        else:
            batch = self.objective.sample(self.generator, self.method.points)
        self.use({name: value.to(self.device) for name, value in batch.items()})
        if self.weights is None:
            self.weigh()
        else:
            self.weighted()
        self.drawn = True

    def use(self, batch: Batch) -> None:
        """Cut a batch into this process's parts, each with its weight in the mean over the processes."""
        self.drawn_batch, self.parts = batch, [(batch, 1.0)]
        shares = self.machine.num_processes
        if isinstance(self.objective, Divisible) and shares * self.method.accumulate > 1:
            parts = self.objective.divide(batch, shares * self.method.accumulate)
            self.parts = [(part, weight * shares) for part, weight in parts[self.machine.process_index :: shares]]
        self.batch = self.parts[0][0]

    def weigh(self) -> None:
        """Ask the objective for weights that suit the model as it is; several processes take their mean."""
        found = self.objective.weigh(self.model, self.drawn_batch) if isinstance(self.objective, Balanced) else {}
        self.weights = {name: mean(self.machine, value) if self.several else value for name, value in found.items()}
        self.weighted()

    def weighted(self) -> None:
        """Add the weights to the parts in use."""
        for part, _ in self.parts:
            part |= self.weights or {}

    def loss(self, batch: Batch) -> Tensor:
        """Return the objective's loss, in mixed precision if asked for."""
        with (
            self.machine.autocast() if self.mixed else contextlib.nullcontext(),
            explained() if self.sharded else contextlib.nullcontext(),
        ):
            return self.objective.loss(self.model, batch)

    def choose(self, mode: str | bool, remaining: Callable[[float], float]) -> None:
        """Choose between autograd and a compiled graph; see `capture`."""
        if not any(mover.kind.reads in ("gradient", "search") for mover in self.movers):
            self.capture = Capture(self.eager, False, f"eager: {self.movers[0].name} takes no plain gradients")
        elif self.sharded:
            self.capture = Capture(self.eager, False, "eager: FSDP needs the hooks of the modules")
        elif self.machine.scaler is None:
            self.capture = capture(self.model, self.loss, self.batch, self.active, mode, remaining)
        else:
            self.capture = Capture(self.eager, False, "eager: fp16 scales its losses")

    def slope(self, batch: Batch) -> tuple[Tensor, Sequence[Tensor]]:
        """Return loss and gradient on a part."""
        try:
            return self.capture.gradient(self.active, batch)
        except Exception as error:
            if not self.capture.compiled:
                raise
            self.capture = Capture(self.eager, False, f"eager after a failure of the compiled loss, {excuse(error)}")
            return self.slope(batch)

    def gradient(self) -> Tensor:
        """Put the gradient into the active parameters and return the loss, both over all parts and processes."""
        adds = self.sharded or (len(self.parts) > 1 and not self.capture.compiled)
        for p in self.trained.values():
            p.grad = None  # the last one's memory is free for this one
        losses = []
        for index, (batch, weight) in enumerate(self.parts):
            loss = self.add(batch, weight) if adds else self.put(batch, weight, first=index == 0)
            losses.append(loss if weight == 1 else loss * weight)
        loss = losses[0] if len(losses) == 1 else torch.stack(losses).sum()
        if adds:
            self.fill()
        if self.several:
            if not self.sharded:
                average_gradients(self.machine, self.active)
            loss = mean(self.machine, loss)
        return loss

    def put(self, batch: Batch, weight: float, *, first: bool) -> Tensor:
        """Put the gradient of a part into the active parameters, or add it there, and return the loss."""
        loss, gradients = self.slope(batch)
        for p, gradient in zip(self.active, gradients, strict=True):
            if first:
                # torch's fused kernels read both in the order of memory: a gradient laid out otherwise is misread
                p.grad = gradient if gradient.stride() == p.stride() else torch.empty_like(p).copy_(gradient)
                p.grad = p.grad if weight == 1 else p.grad * weight
            else:
                assert p.grad is not None
                p.grad.add_(gradient, alpha=weight)
        return loss

    def add(self, batch: Batch, weight: float) -> Tensor:
        """Add the gradient of a part by a backward pass, in place, which is what FSDP hears of, and return the loss."""
        loss = self.loss(batch)
        scaled = loss if weight == 1 else loss * weight
        if self.machine.scaler is not None:
            scaled = self.machine.scaler.scale(scaled)
        torch.autograd.backward(scaled, inputs=None if self.sharded else self.active)
        return loss.detach()

    def fill(self) -> None:
        """Give zeros to parameters that the loss does not depend on.

        Raises:
            UsageError: there is one under FSDP, where it may be that the model passes by what is sharded.
        """
        for p in self.active:
            if p.grad is None and self.sharded:
                name = next(name for name, q in self.trained.items() if q is p)
                raise UsageError(f"under FSDP the loss does not reach the parameter '{name}': train it without FSDP")
            if p.grad is None:
                p.grad = torch.zeros_like(p)

    def shorten(self) -> None:
        """Scale a gradient down that is longer than the method lets through; its norm is kept for the journal."""
        if self.method.clip is None:
            return
        if self.machine.scaler is not None:
            for mover in self.movers:
                self.machine.scaler.unscale_(mover.optimizer)
        self.norm = torch.nn.utils.clip_grad_norm_(self.active, self.method.clip)

    def sound(self, loss: Tensor) -> bool:
        """Say whether loss and gradient are finite; a step where they are not is counted, and left out."""
        norm = (
            self.norm
            if self.norm is not None
            else torch.nn.utils.get_total_norm([p.grad for p in self.active if p.grad is not None])
        )
        if math.isfinite(float(loss)) and math.isfinite(float(whole(norm, keep=True))):
            self.in_a_row = 0
            return True
        self.skipped, self.in_a_row, self.drawn = self.skipped + 1, self.in_a_row + 1, False
        if self.in_a_row >= SKIPPED:
            self.trace.append(loss * math.nan)
        return False

    def graph(self) -> Tensor:
        """Return the loss with its graph."""
        return self.loss(self.batch)

    def residual(self) -> Tensor:
        """Return the residual (M,), with its graph."""
        assert isinstance(self.objective, Residual)
        return self.objective.residual(self.model, self.batch)

    def linearize(self, mover: Mover) -> tuple[Tensor, Tensor]:
        """Return the residual (M,) and its Jacobian (M, p) in a mover's parameters, row by row."""
        assert isinstance(self.objective, Rowwise)
        names = {id(p): name for name, p in self.model.named_parameters()}
        rows, tensors = functional(self.objective.rows, self.model, [names[id(p)] for p in mover.parameters])
        found, parts = [], self.objective.parts(self.batch)
        count = sum(len(next(iter(part.values()))) for part, _ in parts) * sum(t.numel() for t in tensors.values())
        if count > LARGEST:
            raise UsageError(
                f"{mover.name} would hold a Jacobian of {count:,} numbers, and legal are {LARGEST:,}: take fewer "
                "points, train fewer numbers, or take adam, lbfgs or arc"
            )
        for part, factor in parts:
            values, jacobian = rowwise(rows, tensors, part)
            found.append((values.reshape(-1) * factor, jacobian.mul_(factor)))
        values, jacobians = zip(*found, strict=True)
        return torch.cat(values), jacobians[0] if len(jacobians) == 1 else torch.cat(jacobians)

    def advance(self, since: int, factor: float) -> bool:
        """Do one step, `since` steps after the method began; say whether anything can still move."""
        redraw = since and self.method.resample_every is not None and since % self.method.resample_every == 0
        reweigh = since and self.weights and since % WEIGH == 0
        if redraw:
            self.draw()
        if reweigh:
            self.weigh()
            self.drawn = True
        if redraw or reweigh:
            for mover in self.movers:
                if not mover.kind.keeps:
                    mover.optimizer.state.clear()  # curvature of other points would mislead the line search
        if self.method.moves():
            for mover in self.movers:
                mover.scale(factor)
        if self.plain:
            loss = self.gradient()
            self.shorten()
            if self.method.skip and self.machine.scaler is None and not self.sound(loss):
                return True
            self.trace.append(loss)
        moved, scaler = self.plain, self.machine.scaler
        for mover in self.movers:
            if mover.kind.reads != "gradient":
                moved |= self._search(mover)
            elif scaler is None:
                mover.optimizer.step()
            else:
                scaler.step(mover.optimizer)
        if scaler is not None:
            scaler.update()  # once, after all of them: it may change the scale that their gradients have
        self.drawn = False
        return moved

    def _search(self, mover: Mover) -> bool:
        """Do a step of an optimizer that evaluates the loss itself; say whether it can still move."""
        optimizer, parameters = mover.optimizer, mover.parameters
        before = [p.detach().clone() for p in parameters]
        fresh = not optimizer.state
        for group in optimizer.param_groups:
            if "fresh" in group:  # what it evaluated last holds as long as the points do
                group["fresh"] = self.drawn or self.several
        closures = {"search": self.gradient, "graph": self.graph, "residual": self.residual}
        closure: Any = closures[mover.kind.reads]  # torch takes tensors too, though its types say float
        loss: Any = optimizer.step(closure)
        if not self.plain:
            self.trace.append(loss)
        if not all(torch.equal(p, b) for p, b in zip(parameters, before, strict=True)):
            return True
        if mover.kind.keeps:  # it has begun anew by itself
            return self.method.resample_every is not None
        # stuck: forget the curvature once and begin again with steepest descent, as a fresh state does
        optimizer.state.clear()
        return not fresh or self.method.resample_every is not None

    def current(self) -> float:
        """Return the loss on the points in use with the weights as they are."""
        with torch.no_grad() if self.sharded else contextlib.nullcontext():
            losses = [self.loss(batch).detach() * weight for batch, weight in self.parts]
        loss = losses[0] if len(losses) == 1 else torch.stack(losses).sum()
        return float(mean(self.machine, loss) if self.several else loss)

    def figures(self) -> dict[str, float]:
        """Return what a row of the journal says of the last step; all processes call it."""
        found = {} if self.norm is None else {"gradient_norm": float(whole(self.norm, keep=True))}
        found |= {"skipped": self.skipped} if self.method.skip else {}
        for index, mover in enumerate(self.movers):
            found |= {(f"{key}/{mover.pattern}" if index else key): value for key, value in mover.figures().items()}
        return found | {name: float(weight) for name, weight in (self.weights or {}).items() if weight.numel() == 1}

    def broken(self) -> tuple[str, int] | None:
        """Return what is NaN or infinite and how many steps ago it became so; None if all is well.

        The losses since the last call are read here, all at once: reading each would stop a GPU.
        """
        trace, self.trace = self.trace, []
        if trace:
            finite = torch.isfinite(torch.stack(trace))
            if not bool(finite.all()):
                return "the loss", len(trace) - int((~finite).nonzero()[0])
        flags = torch.stack([torch.isfinite(local(p.detach())).all() for p in self.trained.values()])
        if self.sharded:  # each process has seen its part
            flags = mean(self.machine, flags.float()) == 1
        if not bool(flags.all()):
            name = next(name for name, fine in zip(self.trained, flags.tolist(), strict=True) if not fine)
            return f"the parameter '{name}'", 0
        return None
