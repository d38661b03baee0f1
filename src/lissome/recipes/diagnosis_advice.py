"""What the figures of a diagnosis mean, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from lissome.models.bases import ENDLESS, Smooth
from lissome.pde import Problem
from lissome.report.diagnosis import many
from lissome.report.numerals import count, quantity, share

REASONABLE = 100_000  # steps that a person may wait for
OFF = 0.05  # error of a prediction from where it says little: the paper's own networks reach 0.01
FAR = 0.3  # drift of a kernel that is no longer the one at the start
PLATEAU = 0.01  # part of |r|^2 that stays: a loss a hundred times smaller is out of reach
HEART = 0.1  # part of |r|^2 that stays at other points, of a fit that is good at its own
TWICE = 2.0  # between weights that are told apart

Found = Mapping[str, Any]


def smoothness(problem: Problem, model: nn.Module) -> dict[str, Any]:
    """Return how many continuous derivatives the network has, and how many its tangent kernel needs.

    The residual holds derivatives of the operator's order, and its slope in a number of an inner layer one more.
    """
    order = 2 if problem.needs.second else 1 if problem.needs.first or problem.needs.along else 0
    least = min((module.smooth for module in model.modules() if isinstance(module, Smooth)), default=ENDLESS)
    return {"has": None if least >= ENDLESS else int(least), "needs": order + 1, "enough": least >= order + 1}


def advise(found: Found) -> list[dict[str, str]]:
    """Return the advice, the most pressing first: `topic`, `verdict` (good, mind or bad) and `says`."""
    told = [_smooth(found), _weights(found), _rate(found), _steps(found), _plateau(found), _elsewhere(found)]
    told += [_prediction(found), _ends(found)]
    order = ("bad", "mind", "good")
    return sorted((each for each in told if each), key=lambda each: order.index(each["verdict"]))


def _advice(topic: str, verdict: str, says: str) -> dict[str, str]:
    return {"topic": topic, "verdict": verdict, "says": says}


def _smooth(found: Found) -> dict[str, str]:
    smooth = found["smooth"]
    if smooth["enough"]:
        return {}
    off = found["course"]["error"] > OFF
    return _advice(
        "smoothness",
        "bad" if off else "mind",
        f"The network has {smooth['has']} continuous derivatives, and the slope of this residual in its numbers holds "
        f"the {_ordinal(smooth['needs'])}, which jumps: the kernel changes by leaps, and what it foretells "
        f"{'is not to be trusted' if off else 'may be far off'}. Take a smooth basis, network.basis=chebyshev, rbf "
        f"or fourier, or B-splines of order {smooth['needs'] + 1}, network.order={smooth['needs'] + 1} (here "
        "--set solve.network.basis=rbf).",
    )


def _weights(found: Found) -> dict[str, str]:
    weights = found["weights"]
    if weights is None:
        return _advice(
            "weights", "good", "Boundary and initial values hold by construction: no weight has to be chosen."
        )
    now, balanced = weights["now"], weights["balanced"]
    if not 0 < balanced < float("inf"):
        return _advice("weights", "mind", "One side of the residual does not move at all here: no weight balances it.")
    if weights["follows"]:
        says = f"The weight is balanced, {quantity(now)} here, and follows the network in training."
        return _advice("weights", "good", says)
    if 1 / TWICE <= balanced / now <= TWICE:
        says = (
            f"The weight {quantity(now)} of boundary and initial values is near the balanced one, {quantity(balanced)}."
        )
        return _advice("weights", "good", says)
    slow = "them" if balanced > now else "the equation inside"
    off, exact = max(balanced / now, now / balanced), float(f"{balanced:.2g}")
    return _advice(
        "weights",
        "bad" if off > 10 else "mind",
        f"Boundary and initial values weigh {quantity(now)}; both sides move at one pace if they weigh "
        f"{quantity(balanced)}. As it is, gradient descent learns {slow} {quantity(off)} times slower; Gauss-Newton "
        f"minds less. Solve with --set weights={exact:g}, or with --set weights=balanced, which follows the network.",
    )


def _rate(found: Found) -> dict[str, str]:
    steps = found["steps"]
    return _advice(
        "step",
        "good",
        f"Gradient descent on the loss, a mean square, is stable for rates below {quantity(steps['largest'])} (on "
        f"1/2 |r|^2 of the same rows, below {quantity(steps['plain'])}), and SGD on batches of {steps['batch']} rows "
        f"up to {quantity(steps['stochastic'])}.",
    )


def _steps(found: Found) -> dict[str, str]:
    told = [
        f"{each['fraction']:g} in {many(each['steps'])} steps"
        if each["steps"] is not None
        else f"{each['fraction']:g} never, or not in a thousand million steps"
        for each in found["forecast"]
    ]
    says = f"At a rate of {quantity(found['steps']['taken'])} the kernel foretells this part of the loss: "
    says += "; ".join(told) + "."
    hundredth = next(each["steps"] for each in found["forecast"] if each["fraction"] == 0.01)
    if hundredth is not None and hundredth <= REASONABLE:
        return _advice("pace", "good", says)
    says += " Take an optimizer that does not feel the condition number, such as gauss-newton."
    return _advice("pace", "bad", says)


def _plateau(found: Found) -> dict[str, str]:
    stays, spectrum = found["plateau"]["share"], found["spectrum"]
    lost = spectrum["at_rounding"]
    n = found["rows"]["inside"] + found["rows"]["outside"]
    says = ""
    if lost:
        says = (
            f"{count(lost)} of {count(n)} eigenvalues are at rounding: those combinations of rows do not move at all. "
        )
    where = f"{share(stays, 1.0) if stays > 0 else 'Nothing'} of the loss lies in directions that lose less than half "
    says += where + f"of their part in {count(found['plateau']['steps'])} steps"
    if stays <= PLATEAU:
        return _advice("plateau", "good", says + ".")
    says += ", where it will stay on a plateau: take a wider network, fewer points, or an optimizer of second order."
    return _advice("plateau", "bad" if stays > 10 * PLATEAU else "mind", says)


def _elsewhere(found: Found) -> dict[str, str]:
    beyond = found["elsewhere"]
    if beyond is None:
        return {}
    here, there = beyond["here"], beyond["there"]
    n = found["rows"]["inside"] + found["rows"]["outside"]
    says = f"After {count(REASONABLE)} steps on these {count(n)} rows {_part(here)} of the loss is left there, and "
    says += f"{_part(there)} at as many other points"
    if there <= max(HEART, 10 * here):
        return _advice("points", "good", says + ": the points are enough for this network.")
    says += ": so few would be learnt by heart. Train with more points, or draw new ones (points.resample)."
    return _advice("points", "bad" if there > 0.5 else "mind", says)


def _prediction(found: Found) -> dict[str, str]:
    course, taken = found["course"], found["steps"]["taken"]
    steps = len(course["measured"]) - 1
    if course["diverged"]:
        says = (
            f"Gradient descent diverged within {count(steps)} steps at a rate of {quantity(taken)}: the kernel moves "
        )
        return _advice("prediction", "bad", says + "too fast. Take a smaller step, --set rate=0.1, or a wider network.")
    says = f"In {count(steps)} steps the norm of the residual is off by at most {_part(course['error'])} of its start, "
    says += f"while the kernel moves by {_part(course['drift'])}"
    if course["error"] <= OFF and course["drift"] <= FAR:
        return _advice("prediction", "good", says + ": the forecast holds.")
    if course["error"] <= OFF:
        return _advice(
            "prediction", "mind", says + ": the forecast holds for now, and later steps go by another kernel."
        )
    own = next(row for row in found["widths"] if row["diagnosed"])
    good = [row for row in found["widths"] if row["kind"] == own["kind"] and row["error"] <= OFF]
    wider = min((row["width"] for row in good if row["width"] > own["width"]), default=None)
    larger = [row for row in found["widths"] if row["kind"] == own["kind"] and row["width"] > own["width"]]
    if wider:
        cure = f": the network is too narrow for the forecast; width {wider} is enough for it."
    elif larger and min(row["error"] for row in larger) >= course["error"]:
        cure = ": no width that was tried helps the forecast; a smaller step, --set rate=0.1, may."
    else:
        cure = ": the network is too narrow for the forecast, or the step too large, --set rate=0.1."
    return _advice("prediction", "mind", says + cure)


def _ends(found: Found) -> dict[str, str]:
    spectrum = found["spectrum"]
    if spectrum["whole"]:
        return {}
    n = found["rows"]["inside"] + found["rows"]["outside"]
    low, high = (max(spectrum[key], spectrum["rounding"]) for key in ("smallest_bound", "largest_bound"))
    return _advice(
        "spectrum",
        "mind",
        f"The kernel has {count(n)} rows, more than limit={spectrum['limit']}: its ends come from Lanczos' method, the "
        f"smallest eigenvalue to {quantity(low)} and the largest to {quantity(high)}. Fewer --points, or a larger "
        "--set limit, give all.",
    )


def _part(value: float) -> str:
    return share(value, 1.0) if value < 10 else f"{quantity(value)} times"


def _ordinal(number: int) -> str:
    return {1: "first", 2: "second", 3: "third"}[number]
