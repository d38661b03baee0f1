"""Whether torch.compile captures loss and gradient, as one graph: a short trial that compares numbers and times."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import grad_and_value

from lissome._errors import unknown
from lissome._types import Batch
from lissome._vector import functional

Loss = Callable[[Batch], Tensor]
Gradient = Callable[[Sequence[nn.Parameter], Batch], tuple[Tensor, Sequence[Tensor]]]
MODES = ("auto", True, False)
TRIAL = 5  # steps timed each way
USUAL_COMPILE_SECONDS = 30.0  # what the compiler takes for a residual network on two cores
WORTH = 0.9  # compiled must take at most this part of the eager time


@dataclass(frozen=True)
class Capture:
    """How loss and gradient are computed from parameters and a batch, whether compiled, and why."""

    gradient: Gradient
    compiled: bool
    reason: str


def eager(loss: Loss, scale: Callable[[Tensor], Tensor] = lambda loss: loss) -> Gradient:
    """Return loss and gradient by autograd; the gradient is that of the scaled loss."""

    def gradient(parameters: Sequence[nn.Parameter], batch: Batch) -> tuple[Tensor, Sequence[Tensor]]:
        value = loss(batch)
        return value.detach(), torch.autograd.grad(scale(value), parameters, allow_unused=True, materialize_grads=True)

    return gradient


def compiled(model: nn.Module, loss: Loss) -> Gradient:
    """Return loss and gradient by one compiled graph, a tenth faster than two: nothing is handed over in between."""
    names = {id(p): name for name, p in model.named_parameters()}
    function, _ = functional(lambda model, batch: loss(batch), model, names.values())
    fast = torch.compile(grad_and_value(function))

    def gradient(parameters: Sequence[nn.Parameter], batch: Batch) -> tuple[Tensor, Sequence[Tensor]]:
        with torch.no_grad():  # parameters that are not asked for have no part in it
            gradients, value = fast({names[id(p)]: p.detach() for p in parameters}, batch)
        return value, [gradients[names[id(p)]] for p in parameters]

    return gradient


def capture(
    model: nn.Module,
    loss: Loss,
    batch: Batch,
    parameters: Sequence[nn.Parameter],
    mode: str | bool,
    remaining: Callable[[float], float],
) -> Capture:
    """Choose between the gradient by autograd and its compiled form.

    Both are timed after a warm-up. The compiled form is refused when it raises,
    when its loss or gradients differ by more than rounding, or (under "auto") when the steps left
    would not pay for it.

    Args:
        model: what the loss is a loss of.
        loss: from a batch to a scalar with its graph.
        batch: the points of the trial.
        parameters: what the gradient is taken in.
        mode: "auto", True (no timing, only the check of numbers) or False.
        remaining: from the seconds of one step to the number of steps left.

    Raises:
        UsageError: another mode.
    """
    if mode not in MODES:
        raise unknown("compile", mode, MODES)
    plain = eager(loss)
    if mode is False:
        return Capture(plain, False, "not asked for")
    usual = 0.0
    if mode == "auto":
        usual = _seconds(plain, batch, parameters)
        if usual * remaining(usual) < 2 * USUAL_COMPILE_SECONDS:
            return Capture(plain, False, f"eager: {usual * remaining(usual):.1f} s of steps do not repay compiling")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the compiler's own remarks are no news to the user
            torch.compiler.reset()  # an earlier run's captures count against the compiler's limit
            fast = compiled(model, loss)
            wrong = _difference(_evaluate(plain, batch, parameters), _evaluate(fast, batch, parameters))
            if wrong:
                return Capture(plain, False, f"eager: {wrong}")
            if mode is True:
                return Capture(fast, True, "compiled: asked for")
            quick = _seconds(fast, batch, parameters)
    except Exception as error:  # whatever the compiler cannot do, autograd can
        return Capture(plain, False, f"eager: the compiler failed with {excuse(error)}")
    timing = f"{1e3 * quick:.2f} ms compiled, {1e3 * usual:.2f} ms eager"
    if quick <= WORTH * usual:
        return Capture(fast, True, f"compiled: {timing}")
    return Capture(plain, False, f"eager: {timing}")


def excuse(error: Exception) -> str:
    """Return an exception's name and first line."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:200]}"


def _evaluate(gradient: Gradient, batch: Batch, parameters: Sequence[nn.Parameter]) -> list[Tensor]:
    value, gradients = gradient(parameters, batch)
    return [value, *gradients]


def _difference(eager: list[Tensor], compiled: list[Tensor]) -> str:
    """Name the first tensor that differs by more than rounding, or return nothing."""
    for index, (a, b) in enumerate(zip(eager, compiled, strict=True)):
        tolerance = 1e3 * torch.finfo(a.dtype).eps if a.dtype == torch.float64 else 1e-3
        scale = max(float(a.abs().max()), 1e-12) if a.numel() else 1.0
        if a.shape != b.shape or not float((a - b).abs().max() if a.numel() else 0.0) <= tolerance * scale:
            what = "loss" if index == 0 else f"gradient {index - 1}"
            return f"the compiled {what} differs by more than rounding"
    return ""


def _seconds(gradient: Gradient, batch: Batch, parameters: Sequence[nn.Parameter]) -> float:
    """Seconds per loss and gradient, after one that is not counted."""
    gradient(parameters, batch)
    best = float("inf")
    for _ in range(TRIAL):
        _wait(parameters[0].device)
        start = time.perf_counter()
        gradient(parameters, batch)
        _wait(parameters[0].device)
        best = min(best, time.perf_counter() - start)
    return best


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
