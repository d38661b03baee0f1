"""One training step: points, gradient, and the optimizers that act on it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from lissome._errors import UsageError
from lissome._types import Adaptive, Balanced, Batch, Objective, Residual, Rowwise
from lissome._vector import functional
from lissome.calculus.rowwise import rowwise
from lissome.optim.capture import Capture, capture, eager, excuse
from lissome.optim.least_squares import LARGEST
from lissome.optim.machine import average_gradients, mean
from lissome.optim.method import Method
from lissome.optim.optimizers import Mover, build

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
        self.weights: Batch | None = None  # what the objective has added to batches, once it was asked
        self.drawn = True  # no step was done on these points yet

    def enter(self, method: Method) -> None:
        """Make the optimizers of a method; `draw` has to follow."""
        scaler = self.machine.scaler is not None
        self.method = method
        self.movers = build(method, self.trained, fused=not scaler)
        self.check()
        # a prepared optimizer costs 0.1 ms per step, so only those that need the loss scale are prepared
        self.steps = [
            self.machine.prepare_optimizer(mover.optimizer, device_placement=False).step
            if scaler
            else mover.optimizer.step
            for mover in self.movers
        ]
        self.active = [p for mover in self.movers for p in mover.parameters]
        self.plain = any(mover.kind.reads == "gradient" for mover in self.movers)
        for mover in self.movers:
            if mover.kind.reads == "residual" and isinstance(self.objective, Rowwise):
                mover.optimizer.linearize = lambda mover=mover: self.linearize(mover)  # type: ignore[attr-defined]

    def check(self) -> None:
        """Refuse what does not go together.

        Raises:
            UsageError: an optimizer that needs true losses under fp16, or one of second order in lower precision, in
                several processes, or without a residual; adaptive points without a residual to draw by.
        """
        if self.method.adaptive and not isinstance(self.objective, Adaptive):
            raise UsageError(f"adaptive=True needs sample_by_residual, which {type(self.objective).__name__} has not")
        for mover in self.movers:
            if mover.kind.reads != "gradient" and self.machine.scaler is not None:
                raise UsageError(
                    f"precision fp16 does not go with {mover.name}: a line search needs true losses; use bf16 or no"
                )
            if mover.kind.reads not in ("graph", "residual"):
                continue
            if self.mixed or self.several:
                how = f"precision {self.machine.mixed_precision}" if self.mixed else "several processes"
                raise UsageError(f"{how} does not go with {mover.name}; take one process and precision no")
            if mover.kind.reads == "residual" and not isinstance(self.objective, Residual):
                raise UsageError(
                    f"{mover.name} needs an objective with residual(model, batch); {type(self.objective).__name__} has "
                    "a loss alone: take lbfgs, ssbroyden or arc"
                )

    def draw(self) -> None:
        """Draw points; the generator's state before the draw is kept, so that a resumed run draws them again."""
        self.drawn_from = self.generator.get_state()
        if self.method.adaptive:
            assert isinstance(self.objective, Adaptive)
            batch = self.objective.sample_by_residual(self.model, self.generator, self.method.points)
        else:
            batch = self.objective.sample(self.generator, self.method.points)
        self.batch: Batch = {name: value.to(self.device) for name, value in batch.items()}
        if self.weights is None:
            self.weigh()
        self.batch |= self.weights or {}
        self.drawn = True

    def weigh(self) -> None:
        """Ask the objective for weights that suit the model as it is; several processes take their mean."""
        found = self.objective.weigh(self.model, self.batch) if isinstance(self.objective, Balanced) else {}
        self.weights = {name: mean(self.machine, value) if self.several else value for name, value in found.items()}
        self.batch |= self.weights

    def loss(self, batch: Batch) -> Tensor:
        """Return the objective's loss, in mixed precision if asked for."""
        with self.machine.autocast() if self.mixed else contextlib.nullcontext():
            return self.objective.loss(self.model, batch)

    def choose(self, mode: str | bool, remaining: Callable[[float], float]) -> None:
        """Choose between autograd and a compiled graph; see `capture`."""
        if not any(mover.kind.reads in ("gradient", "search") for mover in self.movers):
            self.capture = Capture(self.eager, False, f"eager: {self.movers[0].name} takes no plain gradients")
        elif self.machine.scaler is None:
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
            # torch's fused kernels read both in the order of memory: a gradient laid out otherwise is misread
            p.grad = gradient if gradient.stride() == p.stride() else torch.empty_like(p).copy_(gradient)
        if self.several:
            average_gradients(self.machine, self.active)
            loss = mean(self.machine, loss)
        return loss

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
        if self.method.schedule != "constant":
            for mover in self.movers:
                mover.scale(factor)
        if self.plain:
            self.trace.append(self.gradient())
        moved = self.plain
        for mover, step in zip(self.movers, self.steps, strict=True):
            if mover.kind.reads == "gradient":
                step()
            else:
                moved |= self._search(mover)
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
            "points": self._points() if self.method.adaptive else None,
            "weights": self.weights or {},
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state(self.device) if on_gpu else None,
            "scaler": None if self.machine.scaler is None else self.machine.scaler.state_dict(),
            "optimizers": [mover.optimizer.state_dict() for mover in self.movers],
        }

    def _points(self) -> dict[str, Any]:
        """Return the points in use, which the model as it was has chosen, and the generator after the draw."""

        def each(value: Tensor) -> Any:
            return self.machine.gather(value[None]) if self.several else value[None]

        batch = {name: each(value) for name, value in self.batch.items()}
        return {"batch": batch, "generator": each(self.generator.get_state().to(self.device))}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Undo `state`, after `enter`; the points are drawn again."""
        self.generator.set_state(state["generator"][self.machine.process_index])
        self.weights = {name: value.to(self.device) for name, value in state.get("weights", {}).items()}
        if state["points"] is None:
            self.draw()
        else:
            self.drawn_from = self.generator.get_state()
            place = self.machine.process_index
            self.batch = {name: value[place].to(self.device) for name, value in state["points"]["batch"].items()}
            self.generator.set_state(state["points"]["generator"][place])
        self.drawn = False
        for mover, saved in zip(self.movers, state["optimizers"], strict=True):
            mover.optimizer.load_state_dict(saved)
            # torch casts what it loads to the parameters' dtype, also counters that began in float32
            for index, kept in saved["state"].items():
                own = mover.optimizer.state[mover.parameters[index]]
                own |= {k: own[k].to(v.dtype) for k, v in kept.items() if isinstance(v, Tensor)}
        if self.machine.scaler is not None:
            self.machine.scaler.load_state_dict(state["scaler"])
        torch.set_rng_state(state["random"])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(state["random_cuda"], self.device)
