"""Whether torch.compile captures the loss: a short trial that compares numbers and times."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lissome._errors import unknown
from lissome._types import Batch

Loss = Callable[[Batch], Tensor]
MODES = ("auto", True, False)
TRIAL = 5  # steps timed each way
USUAL_COMPILE_SECONDS = 30.0  # what the compiler takes for a residual network on two cores
WORTH = 0.9  # compiled must take at most this part of the eager time


@dataclass(frozen=True)
class Capture:
    """The loss to call, whether it is compiled, and why."""

    loss: Loss
    compiled: bool
    reason: str


def capture(
    loss: Loss,
    batch: Batch,
    parameters: Sequence[Tensor],
    mode: str | bool,
    remaining: Callable[[float], float],
) -> Capture:
    """Choose between the loss and its compiled form.

    Both are timed with their gradients after a warm-up. The compiled form is refused when it raises,
    when its loss or gradients differ by more than rounding, or (under "auto") when the steps left
    would not pay for it.

    Args:
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
    if mode is False:
        return Capture(loss, False, "not asked for")
    eager = 0.0
    if mode == "auto":
        eager = _seconds(loss, batch, parameters)
        if eager * remaining(eager) < 2 * USUAL_COMPILE_SECONDS:
            return Capture(loss, False, f"eager: {eager * remaining(eager):.1f} s of steps do not repay compiling")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the compiler's own remarks are no news to the user
            torch.compiler.reset()  # an earlier run's captures count against the compiler's limit
            fast = torch.compile(loss)
            wrong = _difference(_evaluate(loss, batch, parameters), _evaluate(fast, batch, parameters))
            if wrong:
                return Capture(loss, False, f"eager: {wrong}")
            if mode is True:
                return Capture(fast, True, "compiled: asked for")
            compiled = _seconds(fast, batch, parameters)
    except Exception as error:  # whatever the compiler cannot do, the loss itself can
        return Capture(loss, False, f"eager: the compiler failed with {excuse(error)}")
    timing = f"{1e3 * compiled:.2f} ms compiled, {1e3 * eager:.2f} ms eager"
    if compiled <= WORTH * eager:
        return Capture(fast, True, f"compiled: {timing}")
    return Capture(loss, False, f"eager: {timing}")


def excuse(error: Exception) -> str:
    """Return an exception's name and first line."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:200]}"


def _evaluate(loss: Loss, batch: Batch, parameters: Sequence[Tensor]) -> list[Tensor]:
    value = loss(batch)
    gradients = torch.autograd.grad(value, list(parameters), allow_unused=True)
    return [value.detach(), *(p.new_zeros(()) if g is None else g for p, g in zip(parameters, gradients, strict=True))]


def _difference(eager: list[Tensor], compiled: list[Tensor]) -> str:
    """Name the first tensor that differs by more than rounding, or return nothing."""
    for index, (a, b) in enumerate(zip(eager, compiled, strict=True)):
        tolerance = 1e3 * torch.finfo(a.dtype).eps if a.dtype == torch.float64 else 1e-3
        scale = max(float(a.abs().max()), 1e-12) if a.numel() else 1.0
        if a.shape != b.shape or not float((a - b).abs().max() if a.numel() else 0.0) <= tolerance * scale:
            what = "loss" if index == 0 else f"gradient {index - 1}"
            return f"the compiled {what} differs by more than rounding"
    return ""


def _seconds(loss: Loss, batch: Batch, parameters: Sequence[Tensor]) -> float:
    """Seconds per loss and gradient, after one that is not counted."""
    _evaluate(loss, batch, parameters)
    best = float("inf")
    for _ in range(TRIAL):
        _wait(parameters[0].device)
        start = time.perf_counter()
        _evaluate(loss, batch, parameters)
        _wait(parameters[0].device)
        best = min(best, time.perf_counter() - start)
    return best


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
