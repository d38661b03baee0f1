"""Learning rates for the parts of LoTRA's forms, as groups of the training: what `components` of an adaptation asks."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from lissome._errors import UsageError
from lissome._vector import functional
from lissome.adapt import Adapted, component_rates
from lissome.adapt.rates import nudged
from lissome.optim.optimizers import OPTIMIZERS
from lissome.pde import Problem
from lissome.recipes.settings import AdaptSettings, GroupSettings, PhaseSettings
from lissome.recipes.training import phases, rate_of

COMPONENTWISE = "lotra"
PROBE = 256  # points; the rates are root mean squares over them


def check_components(settings: AdaptSettings) -> None:
    """Refuse rates by component where no method has them, or no optimizer has a rate.

    Raises:
        UsageError: so it is.
    """
    rule = settings.components
    if rule == "equal":
        return
    if COMPONENTWISE not in settings.methods:
        raise UsageError(
            f"components={rule} has no meaning for {', '.join(settings.methods)}; it is for {COMPONENTWISE}"
        )
    names = list(dict.fromkeys(phase.optimizer for phase in phases(settings.training)))
    if not any(_rated(name) for name in names):
        raise UsageError(
            f"components={rule} sets learning rates, and {', '.join(names)} has none: take adam, or components=equal"
        )


def componentwise(settings: AdaptSettings, problem: Problem, adapted: Adapted, model: nn.Module) -> AdaptSettings:
    """Return settings in which each part of a form has a group of its own, after those that are given.

    Args:
        settings: of one method and target.
        problem: of the target.
        adapted: at its start.
        model: that under the problem's constraint.
    """
    factors = _factors(settings, problem, adapted, model)
    paths = {id(p): name for name, p in model.named_parameters()}
    named = {
        paths[id(p)]: factors[path][part]
        for path, form in adapted.forms().items()
        for part, p in form.named_parameters(recurse=False)
    }
    training = settings.training
    then = [phase.model_copy(update={"groups": _groups(phase, named)}) for phase in training.then]
    update = {"groups": _groups(training, named), "then": then}
    return settings.model_copy(update={"training": training.model_copy(update=update)})


def _groups(phase: PhaseSettings, named: Mapping[str, float]) -> list[GroupSettings]:
    if not _rated(phase.optimizer):
        return phase.groups
    base = rate_of(phase) or OPTIMIZERS[phase.optimizer].lr or 1.0
    own = [
        # three digits: a resumed run finds the same ones
        GroupSettings(
            pattern=name, optimizer=phase.optimizer, rate=float(f"{base * factor:.3g}"), options=phase.options
        )
        for name, factor in named.items()
        if not any(fnmatchcase(name, group.pattern) for group in phase.groups)
    ]
    return [*phase.groups, *own]


def _factors(
    settings: AdaptSettings, problem: Problem, adapted: Adapted, model: nn.Module
) -> dict[str, dict[str, float]]:
    """Return path -> part -> what the rate is multiplied by."""
    forms = adapted.forms()
    if settings.components == "closed":
        return {path: component_rates(form, 1.0, "closed") for path, form in forms.items()}
    device = next(model.parameters()).device
    drawn = problem.sample(torch.Generator().manual_seed(settings.seed), PROBE)
    batch = {name: part.to(device) for name, part in drawn.items()}
    probes = probes_of(adapted, model, batch["interior"])
    weights = {path: adapted.base.get_parameter(path) for path in forms}
    starts = {path: nudged(form, probes[path], weights[path]) for path, form in forms.items()}
    names = {id(p): name for name, p in model.named_parameters()}
    moved = {
        names[id(getattr(form, part))]: start for path, form in forms.items() for part, start in starts[path].items()
    }
    slopes = torch.func.grad(functional(problem.loss, model, moved)[0])(moved, batch)
    found = {}
    for path, form in forms.items():
        gradients = {part: slopes[names[id(getattr(form, part))]].detach() for part in form.trained}
        same = {"probe": probes[path], "gradients": gradients, "weight": weights[path]}
        found[path] = component_rates(form, 1.0, "measured", **same)
    return found


def probes_of(adapted: Adapted, model: nn.Module, z: Tensor) -> dict[str, Tensor]:
    """Return path -> what the layer's tensor is applied to at points z: its inputs, or the functions of a basis."""
    found: dict[str, Tensor] = {}
    with ExitStack() as stack, torch.no_grad():
        for path, form in adapted.forms().items():

            def hook(module: nn.Module, inputs: tuple[Tensor, ...], path: str = path, ways: int = form.ways) -> None:
                found[path] = inputs[0] if ways == 2 else module.functions(inputs[0])  # type: ignore[operator]

            layer = adapted.base.get_submodule(path.rpartition(".")[0])
            stack.callback(layer.register_forward_pre_hook(hook).remove)
        model(z)
    return found


def _rated(optimizer: str) -> bool:
    return optimizer in OPTIMIZERS and OPTIMIZERS[optimizer].lr is not None
