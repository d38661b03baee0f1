"""The one training loop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lissome._errors import Interrupted, RunError, UsageError
from lissome._types import Objective, Watcher
from lissome.optim import checkpoint, sharding, snapshot
from lissome.optim.bar import Bar
from lissome.optim.capture import ONE, Capture
from lissome.optim.conditions import check
from lissome.optim.journal import Journal
from lissome.optim.machine import Stop, accelerator, agree, begin_trackers, mean, numbers, stoppable
from lissome.optim.method import Budget, Method, Outcome, Result
from lissome.optim.optimizers import build
from lissome.optim.step import Stepper

CHECKPOINT_SECONDS = 60.0  # between checkpoints when checkpoint_every is None
LONGEST_TRACE = 1000  # losses kept unread on the device; after so many they are checked
FORMAT = 1


def fit(
    model: nn.Module,
    objective: Objective,
    method: Method | Sequence[Method],
    budget: Budget,
    *,
    parameters: Mapping[str, nn.Parameter] | None = None,
    seed: int = 0,
    directory: str | Path | None = None,
    evaluate_every: int | None = None,
    checkpoint_every: int | None = None,
    resume: bool = False,
    progress: bool = True,
    precision: str = "no",
    compile: str | bool = False,
    tensorboard: bool = False,
    on_step: Callable[[int, nn.Module], bool | None] | None = None,
) -> Result:
    """Train the model in place until the budget is used up.

    On a CPU the same call gives the same bits, and so does a run that was stopped at any moment and
    resumed (with a budget in steps, and with `compile` other than True and "auto" for two separate runs:
    the choice made by timing is kept over a resume, but another run may choose otherwise).

    Several processes train a `Divisible` objective as one does, to rounding: all draw one batch and take their rows of
    it (what a model draws itself, as dropout does, is drawn by each). Any other objective is drawn by each process, all
    `points`. Launched for FSDP, the model is sharded (see `sharding`) and stays so, also for callbacks and `evaluate`.

    Args:
        model: trained where it is; its device is the run's device.
        objective: what is minimised; batches are drawn from a CPU generator and moved to the device.
        method: one method, or several that are trained one after another.
        budget: when to stop.
        parameters: what is trained, by name; None takes those of the model that require gradients.
        seed: of the batches and of everything random inside the model.
        directory: gets `metrics.jsonl` and `checkpoint/`; None writes nothing.
        evaluate_every: steps between evaluations; None makes about 50 of a budget in steps, and one every 100
            steps of a budget in seconds. The start and the end are always evaluated.
        checkpoint_every: steps between checkpoints; None writes one a minute. The start and the end always have one.
        resume: go on from the directory's checkpoint.
        progress: show a bar if the error stream is a terminal.
        precision: no, bf16 or fp16 (mixed precision by Accelerate).
        compile: capture loss and gradient by torch.compile: False, "one graph", "two graphs", True for the quicker of
            these two, or "auto" for the quickest of all by a short timing trial.
        tensorboard: write curves for TensorBoard too (needs `lissome[tensorboard]`).
        on_step: called with the number of steps done and the model after each step; True ends the run. A `Watcher`
            is told of the optimizers too, before the first of its steps.

    Returns:
        What came of it; see `Result`.

    Raises:
        UsageError: something was asked wrongly, or the checkpoint is damaged or of another run.
        RunError: the loss became NaN or infinite, or a file could not be written; earlier checkpoints are kept.
        Interrupted: Ctrl-C or SIGTERM; a checkpoint is left if there is a directory.
    """
    methods = (method,) if isinstance(method, Method) else tuple(method)
    if not methods:
        raise UsageError("method is an empty sequence; give at least one Method")
    for name, value in (("evaluate_every", evaluate_every), ("checkpoint_every", checkpoint_every)):
        if value is not None and value < 1:
            raise UsageError(f"{name} must be None or at least 1, not {value}")
    trained = _trained(model, parameters)
    folder = None if directory is None else Path(directory)
    if resume and folder is None:
        raise UsageError("resume=True needs the directory of the run to go on with")
    if folder is not None and not resume and checkpoint.exists(folder / "checkpoint"):
        raise UsageError(f"{folder} holds a run already; resume it, delete it or choose another directory")
    device = next(iter(trained.values())).device
    machine = accelerator(device, precision, tensorboard=tensorboard, directory=folder)
    sharded = sharding.asked(machine)
    agree(model, machine)
    if sharded:
        trained = sharding.shard(model, machine, trained)
    stepper = Stepper(model, objective, trained, machine, seed, sharded)
    for each in methods:
        check(each, build(each, trained), objective, machine, sharded=sharded)  # also of later methods, said now
    run = _Run(stepper, methods, budget, seed, folder, on_step)
    run.evaluate_every = evaluate_every or (max(1, budget.steps // 50) if budget.steps else 100)
    run.checkpoint_every = checkpoint_every
    run.tensorboard = tensorboard
    cuda = [device] if device.type == "cuda" else []
    bar = Bar(budget, show=progress and machine.is_main_process)
    with torch.random.fork_rng(devices=cuda), stoppable() as stop, bar:
        torch.manual_seed(seed)
        try:
            if resume:
                run.load()
            else:
                run.begin(compile)
            return run.train(stop, bar)
        finally:
            for tracker in machine.trackers:
                tracker.finish()


def _trained(model: nn.Module, parameters: Mapping[str, nn.Parameter] | None) -> dict[str, nn.Parameter]:
    """Return what is trained, after a check that it is the model's."""
    if parameters is None:
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    else:
        trained = dict(parameters)
    own = {id(p) for p in model.parameters()}
    for name, p in trained.items():
        if id(p) not in own:
            raise UsageError(f"the parameter '{name}' is none of the model's, so it would not be kept in checkpoints")
        if not p.requires_grad:
            raise UsageError(f"the parameter '{name}' does not require gradients; call requires_grad_() on it")
    if not trained:
        raise UsageError("there is nothing to train: no parameter of the model requires gradients")
    return trained


class _Run:
    """The course of one run: clocks, phases, rows and checkpoints."""

    evaluate_every: int
    checkpoint_every: int | None
    tensorboard: bool

    def __init__(
        self,
        stepper: Stepper,
        methods: tuple[Method, ...],
        budget: Budget,
        seed: int,
        folder: Path | None,
        on_step: Callable[[int, nn.Module], bool | None] | None,
    ):
        self.stepper, self.machine, self.model = stepper, stepper.machine, stepper.model
        self.methods, self.budget, self.folder, self.on_step = methods, budget, folder, on_step
        self.main = self.machine.is_main_process
        self.journal = Journal(None if folder is None else folder / "metrics.jsonl", writes=self.main)
        self.step, self.seconds = 0, 0.0
        self.pace = 0.0  # seconds of the last step
        self.phase, self.phase_step, self.phase_seconds = 0, 0, 0.0
        self.stalled = self.stopping = self.enough = False
        self.resumed_from: int | None = None
        self.saved_step, self.saved_seconds = -1, 0.0
        self.offset, self.start = 0.0, time.perf_counter()
        total = sum(method.share for method in methods)
        self.shares = [sum(method.share for method in methods[: i + 1]) / total for i in range(len(methods))]
        self.settings = {
            "format": FORMAT,
            "parameters": list(stepper.trained),
            "seed": seed,
            "methods": [method.settings() for method in methods],
            "processes": stepper.streams,  # of batches: one where processes share them, however many they are
            "precision": self.machine.mixed_precision,
        }

    def begin(self, mode: str | bool) -> None:
        """Start a new run: points, weights, the choice of capture, the evaluation at step 0."""
        self.journal.start()
        self.stepper.enter(self.methods[0])
        self.introduce()
        self.stepper.draw()
        self.stepper.choose(mode, self.remaining)
        if self.tensorboard:
            begin_trackers(self.machine, 0)
        self.evaluate()
        self.save()

    def load(self) -> None:
        """Go on from the checkpoint, after a check that it is of this run."""
        assert self.folder is not None
        place = self.folder / "checkpoint"
        loaded = checkpoint.read(place)
        checkpoint.load_weights(self.model, loaded.model, str(place))
        state = loaded.state
        usual = Method().settings()  # of what a method had not when the checkpoint was written
        state["methods"] = [usual | method for method in state.get("methods", [])]
        different = checkpoint.difference({name: state.get(name) for name in self.settings}, self.settings)
        if different:
            raise UsageError(f"{place} is of another run: {different}")
        self.step, self.phase, self.stalled = state["step"], state["phase"], state["stalled"]
        self.phase_step, self.phase_seconds = state["phase_step"], state["phase_seconds"]
        self.saved_step = self.resumed_from = self.step
        self.stepper.enter(self.methods[self.phase])
        snapshot.restore(self.stepper, state)
        self.introduce()
        kept = state["capture"]
        if kept["compiled"]:  # the same choice, or the bits would differ
            self.stepper.choose(kept.get("form") or ONE, self.remaining)  # the first version had one form
        else:
            self.stepper.capture = Capture(self.stepper.eager, False, kept["reason"])
        self.journal.start(upto=self.step)
        if self.tensorboard:
            begin_trackers(self.machine, self.step + 1)
        self.offset, self.start = state["seconds"], time.perf_counter()
        self.seconds = self.saved_seconds = self.offset

    def introduce(self) -> None:
        """Tell a callback that asks for it which optimizers move the model now."""
        if isinstance(self.on_step, Watcher):
            self.on_step.begin(self.step, self.model, [mover.optimizer for mover in self.stepper.movers])

    def remaining(self, step_seconds: float) -> float:
        """Return the number of steps left if one takes so long."""
        limits = [] if self.budget.steps is None else [self.budget.steps - self.step]
        if self.budget.seconds is not None:
            limits.append((self.budget.seconds - self.seconds) / step_seconds)
        return max(min(limits), 0)

    def done(self, after: int = 0) -> float:
        """Return the part of the phase that is over after some steps more, by steps or seconds, the larger of both.

        A step is expected to take as long as the last one.
        """
        parts = [0.0]
        share = self.shares[self.phase]
        if self.budget.steps is not None:
            span = round(self.budget.steps * share) - self.phase_step
            parts.append((self.step + after - self.phase_step) / span if span > 0 else 1.0)
        if self.budget.seconds is not None:
            span = self.budget.seconds * share - self.phase_seconds
            seconds = self.seconds + after * self.pace - self.phase_seconds
            parts.append(seconds / span if span > 0 else 1.0)
        return max(parts)

    def train(self, stop: Stop, bar: Bar) -> Result:
        """Go through the phases that are left."""
        self.tick(stop)
        self.seconds -= self.pace  # so long the start took, a first guess; it costs a short budget no first step
        while True:
            while not (self.stalled or self.stopping or self.enough) and self.done() < 1:
                self.stalled = not self.advance()
                self.step += 1
                if self.on_step is not None:
                    self.enough = self.on_step(self.step, self.model) is True
                self.tick(stop)
                if self.step % self.evaluate_every == 0:
                    self.evaluate()
                elif len(self.stepper.trace) >= LONGEST_TRACE:
                    self.check()
                if self.due():
                    self.save()
                bar.draw(self.step, self.seconds, self.journal.rows[-1] if self.journal.rows else None)
            if self.stopping or self.enough or self.phase == len(self.methods) - 1:
                break
            self.phase += 1
            self.phase_step, self.phase_seconds, self.stalled = self.step, self.seconds, False
            self.stepper.enter(self.methods[self.phase])
            self.introduce()
            self.stepper.draw()
        if not self.stopping and self.last() != self.step:
            self.evaluate()
        if self.saved_step != self.step:
            self.save()
        self.tick(stop)
        if self.stopping:
            raise self.interrupted(stop)
        return self.result()

    def advance(self) -> bool:
        """Do one step and say whether anything can still move; what a method refuses is told with what is kept."""
        try:
            factor = self.methods[self.phase].factor(self.done(), self.done(after=1))
            return self.stepper.advance(self.step - self.phase_step, factor)
        except RunError as error:
            raise RunError(f"after {self.step} steps {error}; {self.kept()}") from error

    def tick(self, stop: Stop) -> None:
        """Read the clock and the wish to stop; several processes agree on both."""
        before, self.seconds = self.seconds, self.offset + time.perf_counter() - self.start
        self.stopping = bool(stop.name)
        if self.stepper.several:
            both = torch.tensor([self.seconds, self.stopping], device=self.stepper.device)
            seconds, stopping = mean(self.machine, both).tolist()
            self.seconds, self.stopping = seconds, stopping > 0
        self.pace = self.seconds - before

    def due(self) -> bool:
        if self.folder is None:
            return False
        if self.checkpoint_every is not None:
            return self.step % self.checkpoint_every == 0
        return self.seconds - self.saved_seconds >= CHECKPOINT_SECONDS

    def last(self) -> int:
        return self.journal.rows[-1]["step"] if self.journal.rows else -1

    def check(self) -> None:
        """Raise if a loss since the last check, or a weight, is NaN or infinite."""
        found = self.stepper.broken()
        if found is not None:
            raise self.broken(found[0], self.step - found[1])

    def evaluate(self) -> None:
        """Check the numbers and add a row to the journal."""
        self.check()
        training = self.model.training
        cuda = [self.stepper.device] if self.stepper.device.type == "cuda" else []
        with torch.random.fork_rng(devices=cuda):  # how often one looks must not change what is trained
            loss = self.stepper.current()
            if not math.isfinite(loss) and not self.methods[self.phase].skip:
                raise self.broken("the loss", self.step)
            self.model.eval()
            figures = self.stepper.objective.evaluate(self.model)
            self.model.train(training)
            sharding.close(self.model)
        row: dict[str, Any] = {"step": self.step, "seconds": self.seconds, "loss": loss}
        row |= self.stepper.figures()
        if len(self.methods) > 1:
            row["phase"] = self.phase
        self.journal.append(row | figures)
        if self.machine.trackers:
            self.machine.log(numbers(self.journal.rows[-1]), step=self.step)

    def save(self) -> None:
        """Write a checkpoint, unless the numbers are broken."""
        self.check()
        if self.folder is None:
            return
        state = self.settings | snapshot.state(self.stepper)
        state |= {"step": self.step, "seconds": self.seconds, "stalled": self.stalled}
        state |= {"phase": self.phase, "phase_step": self.phase_step, "phase_seconds": self.phase_seconds}
        weights = sharding.whole(self.model.state_dict(), keep=self.main)
        if self.main:
            checkpoint.write(self.folder / "checkpoint", weights, state)
        self.machine.wait_for_everyone()
        self.saved_step, self.saved_seconds = self.step, self.seconds

    def kept(self) -> str:
        """Say which checkpoint there is."""
        if self.folder is None:
            return "no checkpoint is kept, for no directory was given"
        if self.saved_step < 0:
            return "there is no checkpoint yet"
        return f"the checkpoint of step {self.saved_step} is kept in {self.folder / 'checkpoint'}"

    def broken(self, what: str, step: int) -> RunError:
        mover = self.stepper.movers[0]
        rate = "" if mover.lr is None else f", lr {mover.optimizer.param_groups[0]['lr']:.3g}"
        cure = "float64" if mover.lr is None else "a smaller learning rate or float64"
        who = type(mover.optimizer).__name__
        return RunError(f"{what} is not finite after {step} steps ({who}{rate}); {self.kept()}: try {cure}")

    def interrupted(self, stop: Stop) -> Interrupted:
        return Interrupted(
            f"stopped by {stop.name or 'another process'} after {self.step} steps; {self.kept()}: resume goes on"
        )

    def outcome(self) -> Outcome:
        if self.stalled or self.enough:
            return Outcome.STALLED if self.stalled else Outcome.ENOUGH
        within = self.budget.steps is not None and self.step >= self.budget.steps
        return Outcome.STEPS if within else Outcome.SECONDS

    def result(self) -> Result:
        row = self.journal.rows[-1]
        return Result(
            outcome=self.outcome(),
            steps=self.step,
            seconds=self.seconds,
            loss=row["loss"],
            metrics=row,
            history=tuple(self.journal.rows),
            trained=sum(p.numel() for p in self.stepper.trained.values()),
            compiled=self.stepper.capture.compiled,
            capture=self.stepper.capture.reason,
            resumed_from=self.resumed_from,
        )
