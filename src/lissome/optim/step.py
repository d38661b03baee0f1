"""One training step: points, gradient, and the optimizers that act on it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from lissome._errors import UsageError
from lissome._types import Batch, Objective
from lissome.optim.capture import Capture, capture, eager, excuse
from lissome.optim.machine import average_gradients, mean
from lissome.optim.method import Method
from lissome.optim.optimizers import build


class Stepper:
    """What moves the model now: a method's optimizers, its points, and the losses nobody has read yet."""

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        trained: Mapping[str, nn.Parameter],
        machine: Accelerator,
        seed: int,
    ):
        self.model, self.objective, self.trained, self.machine = model, objective, trained, machine
        self.device = next(iter(trained.values())).device
        self.several = machine.num_processes > 1
        self.mixed = machine.mixed_precision != "no"
        self.generator = torch.Generator().manual_seed(seed + 1_000_003 * machine.process_index)
        scaler = machine.scaler
        self.eager = eager(self.loss) if scaler is None else eager(self.loss, scaler.scale)
        self.capture = Capture(self.eager, False, "not asked for")
        self.trace: list[Tensor] = []

    def enter(self, method: Method) -> None:
        """Make the optimizers of a method; `draw` has to follow."""
        scaler = self.machine.scaler is not None
        self.method = method
        self.movers = build(method, self.trained, fused=not scaler)
        if scaler and any(mover.closure for mover in self.movers):
            raise UsageError("precision fp16 does not go with lbfgs: a line search needs true losses; use bf16 or no")
        # a prepared optimizer costs 0.1 ms per step, so only those that need the loss scale are prepared
        self.steps = [
            self.machine.prepare_optimizer(mover.optimizer, device_placement=False).step
            if scaler
            else mover.optimizer.step
            for mover in self.movers
        ]
        self.active = [p for mover in self.movers for p in mover.parameters]
        self.plain = any(not mover.closure for mover in self.movers)

    def draw(self) -> None:
        """Draw points; the generator's state before the draw is kept, so that a resumed run draws them again."""
        self.drawn_from = self.generator.get_state()
        batch = self.objective.sample(self.generator, self.method.points)
        self.batch: Batch = {name: value.to(self.device) for name, value in batch.items()}

    def loss(self, batch: Batch) -> Tensor:
        """Return the objective's loss, in mixed precision if asked for."""
        with self.machine.autocast() if self.mixed else contextlib.nullcontext():
            return self.objective.loss(self.model, batch)

    def choose(self, mode: str | bool, remaining: Callable[[float], float]) -> None:
        """Choose between autograd and a compiled graph; see `capture`."""
        if self.machine.scaler is None:
            self.capture = capture(self.model, self.loss, self.batch, self.active, mode, remaining)
        else:
            self.capture = Capture(self.eager, False, "eager: fp16 scales its losses")

    def gradient(self) -> Tensor:
        """Put the gradient into the active parameters and return the loss."""
        try:
            loss, gradients = self.capture.gradient(self.active, self.batch)
        except Exception as error:
            if not self.capture.compiled:
                raise
            self.capture = Capture(self.eager, False, f"eager after a failure of the compiled loss, {excuse(error)}")
            return self.gradient()
        for p, gradient in zip(self.active, gradients, strict=True):
            p.grad = gradient
        if self.several:
            average_gradients(self.machine, self.active)
            loss = mean(self.machine, loss)
        return loss

    def advance(self, since: int, factor: float) -> bool:
        """Do one step, `since` steps after the method began; say whether anything can still move."""
        if since and self.method.resample_every is not None and since % self.method.resample_every == 0:
            self.draw()
            for mover in self.movers:
                if mover.closure:
                    mover.optimizer.state.clear()  # curvature of other points would mislead the line search
        if self.method.schedule != "constant":
            for mover in self.movers:
                mover.scale(factor)
        if self.plain:
            self.trace.append(self.gradient())
        moved = self.plain
        for mover, step in zip(self.movers, self.steps, strict=True):
            if mover.closure:
                moved |= self._search(mover.optimizer, mover.parameters)
            else:
                step()
        return moved

    def _search(self, optimizer: torch.optim.Optimizer, parameters: tuple[nn.Parameter, ...]) -> bool:
        """Do a step of an optimizer with a line search; say whether it can still move."""
        before = [p.detach().clone() for p in parameters]
        fresh = not optimizer.state
        closure: Any = self.gradient  # torch takes tensors too, though its types say float
        loss: Any = optimizer.step(closure)
        if not self.plain:
            self.trace.append(loss)
        if not all(torch.equal(p, b) for p, b in zip(parameters, before, strict=True)):
            return True
        # stuck: forget the curvature once and begin again with steepest descent, as a fresh state does
        optimizer.state.clear()
        return not fresh or self.method.resample_every is not None

    def current(self) -> float:
        """Return the loss on the points in use with the weights as they are."""
        loss = self.loss(self.batch).detach()
        return float(mean(self.machine, loss) if self.several else loss)

    def broken(self) -> tuple[str, int] | None:
        """Return what is NaN or infinite and how many steps ago it became so; None if all is well.

        The losses since the last call are read here, all at once: reading each would stop a GPU.
        """
        trace, self.trace = self.trace, []
        if trace:
            finite = torch.isfinite(torch.stack(trace))
            if not bool(finite.all()):
                return "the loss", len(trace) - int((~finite).nonzero()[0])
        flags = torch.stack([torch.isfinite(p.detach()).all() for p in self.trained.values()])
        if not bool(flags.all()):
            name = next(name for name, fine in zip(self.trained, flags.tolist(), strict=True) if not fine)
            return f"the parameter '{name}'", 0
        return None

    def state(self) -> dict[str, Any]:
        """Return all that the next steps depend on, besides the weights."""
        generators = self.drawn_from[None].to(self.device)  # (processes, bytes)
        on_gpu = self.device.type == "cuda"
        return {
            "capture": {"compiled": self.capture.compiled, "reason": self.capture.reason},
            "generator": self.machine.gather(generators) if self.several else generators,
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state(self.device) if on_gpu else None,
            "scaler": None if self.machine.scaler is None else self.machine.scaler.state_dict(),
            "optimizers": [mover.optimizer.state_dict() for mover in self.movers],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Undo `state`, after `enter`; the points are drawn again."""
        self.generator.set_state(state["generator"][self.machine.process_index])
        self.draw()
        for mover, saved in zip(self.movers, state["optimizers"], strict=True):
            mover.optimizer.load_state_dict(saved)
        if self.machine.scaler is not None:
            self.machine.scaler.load_state_dict(state["scaler"])
        torch.set_rng_state(state["random"])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(state["random_cuda"], self.device)
