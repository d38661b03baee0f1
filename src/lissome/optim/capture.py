"""Whether torch.compile captures loss and gradient, and how: a short trial that compares numbers and times.

There are two forms. As one graph, whose gradient is taken before the compiler sees it, nothing is handed over in
between: best for residuals with derivatives of the network. As two, whose gradient the compiler takes itself, what the
second shares with the first is kept or computed again, whichever is cheaper: best for values of the network alone.
"""

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
ONE, TWO = "one graph", "two graphs"
MODES = ("auto", True, False, ONE, TWO)
TRIAL = 5  # steps timed each way
USUAL_COMPILE_SECONDS = 30.0  # what the compiler takes for a residual network on two cores
WORTH = 0.9  # compiled must take at most this part of the eager time


@dataclass(frozen=True)
class Capture:
    """How loss and gradient are computed from parameters and a batch, whether compiled, why, and in which form."""

    gradient: Gradient
    compiled: bool
    reason: str
    form: str = ""


def eager(loss: Loss, scale: Callable[[Tensor], Tensor] = lambda loss: loss) -> Gradient:
    """Return loss and gradient by autograd; the gradient is that of the scaled loss."""

    def gradient(parameters: Sequence[nn.Parameter], batch: Batch) -> tuple[Tensor, Sequence[Tensor]]:
        value = loss(batch)
        return value.detach(), torch.autograd.grad(scale(value), parameters, allow_unused=True, materialize_grads=True)

    return gradient


def compiled(model: nn.Module, loss: Loss) -> Gradient:
    """Return loss and gradient by one compiled graph."""
    names = {id(p): name for name, p in model.named_parameters()}
    function, _ = functional(lambda model, batch: loss(batch), model, names.values())
    fast = torch.compile(grad_and_value(function))

    def gradient(parameters: Sequence[nn.Parameter], batch: Batch) -> tuple[Tensor, Sequence[Tensor]]:
        with torch.no_grad():  # parameters that are not asked for have no part in it
            gradients, value = fast({names[id(p)]: p.detach() for p in parameters}, batch)
        return value, [gradients[names[id(p)]] for p in parameters]

    return gradient


def compiled_apart(model: nn.Module, loss: Loss) -> Gradient:
    """Return loss and gradient by a compiled graph each."""
    names = dict(model.named_parameters())
    function, _ = functional(lambda model, batch: loss(batch), model, names)
    fast = torch.compile(function)

    def gradient(parameters: Sequence[nn.Parameter], batch: Batch) -> tuple[Tensor, Sequence[Tensor]]:
        asked = {id(p) for p in parameters}
        value = fast({name: p if id(p) in asked else p.detach() for name, p in names.items()}, batch)
        return value.detach(), torch.autograd.grad(value, parameters, allow_unused=True, materialize_grads=True)

    return gradient


FORMS: dict[str, Callable[[nn.Module, Loss], Gradient]] = {ONE: compiled, TWO: compiled_apart}


def capture(
    model: nn.Module,
    loss: Loss,
    batch: Batch,
    parameters: Sequence[nn.Parameter],
    mode: str | bool,
    remaining: Callable[[float], float],
) -> Capture:
    """Choose between the gradient by autograd and its compiled forms.

    All are timed after a warm-up. A compiled form is refused when it raises and when its loss or gradients differ by
    more than rounding. Under "auto" a form is tried only while compiling takes less than half of what the steps left
    take by the quickest form so far, and the quickest has to be worth its risk.

    Args:
        model: what the loss is a loss of.
        loss: from a batch to a scalar with its graph.
        batch: the points of the trial.
        parameters: what the gradient is taken in.
        mode: "auto", True (the quicker of the compiled forms), False, or the one form to compile, which makes two runs
            alike.
        remaining: from the seconds of one step to the number of steps left.

    Raises:
        UsageError: another mode.
    """
    if mode not in MODES:
        raise unknown("compile", mode, MODES)
    plain = eager(loss)
    if mode is False:
        return Capture(plain, False, "not asked for")
    usual = _seconds(plain, batch, parameters) if mode == "auto" else float("inf")
    if mode == "auto" and usual * remaining(usual) < 2 * USUAL_COMPILE_SECONDS:
        return Capture(plain, False, f"eager: {usual * remaining(usual):.1f} s of steps do not repay compiling")
    forms = [mode] if isinstance(mode, str) and mode in FORMS else list(FORMS)
    truth, start = _evaluate(plain, batch, parameters), time.perf_counter()
    kept, times, failures = dict[str, Gradient](), dict[str, float](), list[str]()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the compiler's own remarks are no news to the user
        torch.compiler.reset()  # an earlier run's captures count against the compiler's limit
        for form in forms:
            best, spent = min([usual, *times.values()]), time.perf_counter() - start
            if mode == "auto" and best * remaining(best) < 4 * spent:  # another takes as long again
                break
            try:
                fast = FORMS[form](model, loss)
                wrong = _difference(truth, _evaluate(fast, batch, parameters))
                if not wrong:
                    times[form] = _seconds(fast, batch, parameters) if len(forms) > 1 else 0.0
                    kept[form] = fast
            except Exception as error:  # whatever the compiler cannot do, autograd can
                wrong = f"the compiler failed with {excuse(error)}"
            failures += [f"{form}: {wrong}"] if wrong else []
    if not kept:
        return Capture(plain, False, f"eager: {'; '.join(failures)}")
    form = min(times, key=times.__getitem__)
    timing = ", ".join(f"{1e3 * each:.2f} ms {name}" for name, each in times.items())
    if mode in FORMS:
        return Capture(kept[form], True, f"compiled as {form}: asked for", form)
    if mode is True:
        return Capture(kept[form], True, f"compiled as {form}: asked for; {timing}", form)
    if times[form] <= WORTH * usual:
        return Capture(kept[form], True, f"compiled as {form}: {timing}, {1e3 * usual:.2f} ms eager", form)
    return Capture(plain, False, f"eager: {timing}, {1e3 * usual:.2f} ms eager")


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
