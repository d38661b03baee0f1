"""One start and one contestant of a benchmark: functions from plain values to plain values, for any process."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as read_tensors
from safetensors.torch import save
from torch import nn

from lissome._errors import RunError
from lissome.adapt import METHODS, Adapted, adapt
from lissome.optim import Budget
from lissome.pde.registry import member
from lissome.recipes.archive import build
from lissome.recipes.bench_settings import ONLY
from lissome.recipes.course import usual
from lissome.recipes.operations import SPENDS, Counted
from lissome.recipes.settings import Common, NetworkSettings, load
from lissome.recipes.training import DTYPES, in_memory, problem_of

Row = dict[str, Any]
Tick = Callable[[], None]
CONSTRAINT = "boundary"
LOOKS = 20  # evaluations of a run, about
REFERENCE = 10.0  # seconds in which an optimizer's usual number of steps between evaluations gives that many
CURVE = ("step", "seconds", "operations", "error", "loss", "fresh")
COUNTED = tuple(SPENDS)


def prepare(
    tick: Tick,
    *,
    family: str,
    dimension: int | None,
    network: dict[str, Any],
    points: dict[str, Any],
    weighing: float | str | None,
    steps: int,
    seed: int,
) -> Row:
    """Solve the family's first member by Gauss-Newton; return the weights as the bytes of safetensors, and figures."""
    settings = _settings("gauss-newton", points, weighing, seed, steps=steps)
    problem = problem_of(member(family, dimension, {}), settings, CONSTRAINT)
    net = build(problem, NetworkSettings(**network), seed).to(DTYPES[settings.dtype])
    model = problem.wrap(net)
    try:
        looks = max(1, steps // 4)
        result = in_memory(model, problem, settings, Budget(steps=steps), every=looks, on_step=lambda *_: tick())
    except RunError as error:
        return {"weights": None, "error": None, "seconds": None, "failed": str(error)}
    weights = save({name: value.detach().contiguous() for name, value in net.state_dict().items()})
    return {"weights": weights, "error": result.metrics.get("error"), "seconds": result.seconds, "failed": None}


def compete(
    tick: Tick,
    *,
    family: str,
    dimension: int | None,
    parameters: dict[str, float],
    network: dict[str, Any],
    points: dict[str, Any],
    weighing: float | str | None,
    adapter: str,
    rank: int | None,
    optimizer: str,
    budget: str,
    amount: float,
    seed: int,
    weights: bytes | None,
) -> Row:
    """Adapt a start to a member by one adapter and one optimizer until a budget is used up.

    Args:
        tick: called at each step.
        family: name or file.
        dimension: of the member; None is the family's own.
        parameters: of the member.
        network: as in the settings.
        points: as in the settings.
        weighing: the settings' `weights`.
        adapter: a method, with `-only` behind it where the small layers stay.
        rank: of the adapter's forms, if it has any; None is its own.
        optimizer: or a course of several.
        budget: `seconds` of this process, or `operations`.
        amount: of them.
        seed: of points and of what the adapter draws.
        weights: of the start, from `prepare`; None where it failed.

    Returns:
        What the run is worth: trained, total, error where the budget ended, steps, seconds, operations (None where
        they are not counted), the curve, and `failed`, which says why there is no error.
    """
    settings = _settings(optimizer, points, weighing, seed, **({"seconds": amount} if budget == "seconds" else {}))
    problem = problem_of(member(family, dimension, parameters), settings, CONSTRAINT)
    net = build(problem, NetworkSettings(**network), seed).to(DTYPES[settings.dtype])
    if weights is not None:
        _put(net, weights)
    adapted = adapted_by(net, adapter, rank, seed)
    model = problem.wrap(adapted)
    objective = Counted(problem, model, optimizer) if optimizer in COUNTED else problem
    every = max(1, round(usual(_last(optimizer)).evaluate * amount / REFERENCE))
    wanted, limit = Budget(seconds=amount), math.inf
    if isinstance(objective, Counted) and budget == "operations":
        steps, limit = max(1, int(amount / objective.per_step())), amount  # dearer steps end the run before
        every, wanted = max(1, steps // LOOKS), Budget(steps=steps)
    own: Row = {"trained": adapted.count(), "total": adapted.total()}
    nothing: Row = {"error": None, "steps": None, "seconds": None, "operations": None, **_curve([])}
    if weights is None:
        return own | nothing | {"failed": "the network that it starts from failed"}

    def on_step(step: int, model: nn.Module) -> bool:
        tick()
        return isinstance(objective, Counted) and objective.spent >= limit

    try:
        result = in_memory(model, problem, settings, wanted, every=every, objective=objective, on_step=on_step)
    except RunError as error:
        return own | nothing | {"failed": str(error)}
    last = [row for row in result.history if row.get("operations", 0.0) <= limit][-1]
    figures = {"error": last["error"], "steps": last["step"], "seconds": last["seconds"]}
    return own | figures | {"operations": last.get("operations"), "failed": None} | _curve(result.history)


def adapted_by(network: nn.Module, adapter: str, rank: int | None, seed: int) -> Adapted:
    """Return a network ready for an adapter of the benchmark; one that ends in `-only` leaves the small layers.

    Raises:
        UsageError: a rank that does not fit, or no adapter with a form that has one.
    """
    method, options = adapter.removesuffix(ONLY), dict[str, Any]()
    if METHODS[method].formed:
        options = {"rank": rank, "small": not adapter.endswith(ONLY)}
    return adapt(network, method, generator=torch.Generator().manual_seed(seed), **options)


def _curve(history: Any) -> Row:
    return {"curve": {key: [row.get(key) for row in history] for key in CURVE}}


def _settings(optimizer: str, points: dict[str, Any], weighing: float | str | None, seed: int, **budget: Any) -> Common:
    training = {"optimizer": optimizer, "compile": False, **budget}
    return load(Common, given={"training": training, "points": points, "weights": weighing, "seed": seed})


def _put(network: nn.Module, weights: bytes) -> None:
    try:
        network.load_state_dict(read_tensors(weights))
    except (SafetensorError, RuntimeError) as error:
        raise RunError(
            f"the weights of a start are damaged ({str(error).splitlines()[0]}): remove its file in starts/, and resume"
        ) from error


def _last(optimizer: str) -> str:
    return optimizer.split("+")[-1].partition(":")[0].strip()
