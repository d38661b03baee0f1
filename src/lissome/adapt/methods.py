"""Ways to fit a trained network to a new task, as data, behind the one function `adapt`.

A network's parameters fall into two tiers (`large`): the *large* ones are the hidden matrices, and all
others, first and last layers and biases, are *small*. A method says what becomes of each tier.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from lissome._errors import UsageError, unknown
from lissome.adapt.adapted import Adapted, match
from lissome.adapt.forms import adalora, lora, lora_xs, lotra, pissa, svd
from lissome.adapt.tucker import Tucker

Rule = str | Callable[[Tensor], Tucker]


@dataclass(frozen=True)
class Method:
    """What becomes of the tiers: the name of a form, `train` (whole) or `freeze`."""

    large: str
    small: str
    last: str = ""  # what becomes of the last layer, if not the same as of its tier
    rank: int | None = None  # of the form, when none is asked; None is the full rank
    fresh: bool = False  # trained parameters start anew
    ways: int = 2  # of the tensors that its form is made for

    @property
    def formed(self) -> bool:
        """Whether the large tier takes a small form."""
        return self.large in FORMS


FORMS: dict[str, Callable[[Tensor, int | None, torch.Generator | None], Tucker]] = {
    "svd": lambda weight, rank, generator: svd(weight, rank),
    "lora": lambda weight, rank, generator: lora(weight, _given(rank), generator=_drawn(generator, "lora")),
    "adalora": lambda weight, rank, generator: adalora(weight, _given(rank), generator=_drawn(generator, "adalora")),
    "lora-xs": lambda weight, rank, generator: lora_xs(weight, _given(rank)),
    "pissa": lambda weight, rank, generator: pissa(weight, _given(rank)),
    "lotra": lambda weight, rank, generator: lotra(weight, _given(rank), generator=_drawn(generator, "lotra")),
}

METHODS: dict[str, Method] = {
    "svd": Method("svd", "train"),
    "lora": Method("lora", "train", rank=4),
    "lora-xs": Method("lora-xs", "train", rank=16),
    "pissa": Method("pissa", "train", rank=4),
    "lotra": Method("lotra", "train", rank=4, ways=3),
    "last": Method("freeze", "freeze", last="train"),
    "full": Method("train", "train"),
    "scratch": Method("train", "train", fresh=True),
}


def adapt(
    model: nn.Module,
    method: str = "svd",
    *,
    rank: int | None = None,
    ranks: Sequence[int] | None = None,
    small: bool | None = None,
    rules: Mapping[str, Rule] | None = None,
    generator: torch.Generator | None = None,
) -> Adapted:
    """Return a copy of a trained network, ready to be trained on a new task by a method.

    `svd` (SVD-PINNs, arXiv 2211.08760) trains the singular values of the large matrices; `lora`,
    `lora-xs`, `pissa` put that form on them, and `lotra` one on the tensors of a KAN (arXiv 2502.06153); `last`
    trains the last layer, `full` everything, and `scratch` everything from newly drawn weights. Those with a form
    train all small parameters whole as well, so that they are comparable; `small=False` trains the forms alone.

    Args:
        model: any module; it is not changed.
        method: a name in `METHODS`.
        rank: of the forms; None is the full rank for svd, 4 for lora and pissa, 16 for lora-xs, or the
            matrix's smaller side where that is less. For lotra it is that of every mode, up to its size.
        ranks: of lotra, one for each mode, such as (out, basis, in) for a KAN; in place of `rank`.
        small: whether the small parameters are trained, for the methods with a form.
        rules: glob on parameter paths -> the name of a form, `train`, `freeze`, or a function from a
            weight to a form; they come after the method's own, and a later rule wins.
        generator: draws what starts at random (lora, scratch).

    Raises:
        UsageError: an unknown method, a rule that matches nothing, a rank that does not fit, an option
            that the method does not have, or nothing left to train.
    """
    if method not in METHODS:
        raise unknown("method", method, METHODS)
    chosen, parameters = METHODS[method], dict(model.named_parameters())
    if not chosen.formed and (rank is not None or small is not None):
        option, value = ("rank", rank) if rank is not None else ("small", small)
        raise UsageError(f"{option}={value} has no meaning for the method '{method}'; it is for {_formed()}")
    verdict: dict[str, Rule] = _verdict(model, chosen, small)
    for pattern, rule in (rules or {}).items():
        if isinstance(rule, str) and rule not in (legal := [*FORMS, "train", "freeze"]):
            raise unknown(f"rule for '{pattern}'", rule, legal)
        verdict |= dict.fromkeys(match(pattern, parameters), rule)

    forms: dict[str, Tucker] = {}
    if ranks is not None and chosen.large != "lotra":
        raise UsageError(f"ranks={list(ranks)} has no meaning for the method '{method}'; it is for lotra")
    for path, rule in verdict.items():
        if rule == "lotra" and ranks is not None:
            forms[path] = lotra(parameters[path], ranks, generator=_drawn(generator, "lotra"))
        elif callable(rule):
            forms[path] = rule(parameters[path])
        elif rule in FORMS:
            forms[path] = FORMS[rule](parameters[path], _rank(parameters[path], rule, rank), generator)
    if chosen.formed and not forms:
        raise UsageError(
            f"no parameter is a hidden matrix for '{method}'; name one by rules={{glob: '{chosen.large}'}}"
        )
    adapted = Adapted(model, forms, train=[path for path, rule in verdict.items() if rule == "train"])
    if chosen.fresh:
        _start_anew(adapted, reinitialize(model, _drawn(generator, method)))
    if adapted.count() == 0:
        raise UsageError(f"method '{method}' with these options leaves nothing to train")
    return adapted


def large(model: nn.Module) -> list[str]:
    """Return the paths of the large parameters: the hidden matrices, or tensors (out, K, in) of a KAN.

    Of these, in the order of registration, the first and the last belong to the input and the output and are
    small. Of those between, one is large when its smaller side, of outputs and inputs, is at least half of the
    largest smaller side.
    """
    matrices = {path: min(p.shape[0], p.shape[-1]) for path, p in model.named_parameters() if p.dim() in (2, 3)}
    hidden = dict(list(matrices.items())[1:-1])
    return [path for path, side in hidden.items() if 2 * side >= max(hidden.values())]


def fitting(model: nn.Module) -> list[str]:
    """Return the methods that suit a model: those whose form is made for its large parameters, or that have none."""
    ways = {model.get_parameter(path).dim() for path in large(model)}
    return [name for name, method in METHODS.items() if not method.formed or ways == {method.ways}]


@runtime_checkable
class Resettable(Protocol):
    """A module that draws its own start, such as `models.MLP`."""

    def reset(self, generator: torch.Generator) -> None:
        """Draw new parameters, of itself and all it contains."""
        ...


def reinitialize(model: nn.Module, generator: torch.Generator) -> nn.Module:
    """Return a copy with newly drawn parameters, by each module's own rule.

    A module with `reset(generator)` draws itself and all it contains. Torch's own modules draw from the
    global generator, which is seeded from `generator` for the time and put back.

    Raises:
        UsageError: a module has parameters, and neither `reset` nor `reset_parameters`.
    """
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    fresh = copy.deepcopy(model).cpu()  # drawn on the CPU, so that devices agree
    seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        _reset(fresh, torch.Generator().manual_seed(seed))
    return fresh.to(device)


def _reset(module: nn.Module, generator: torch.Generator) -> None:
    if isinstance(module, Resettable):
        module.reset(generator)
        return
    for child in module.children():
        _reset(child, generator)
    own = getattr(type(module), "reset_parameters", None)
    if own is not None:
        own(module)
    elif any(True for _ in module.parameters(recurse=False)):
        raise UsageError(f"a {type(module).__name__} cannot be drawn anew: give it a method reset(generator)")


def _verdict(model: nn.Module, method: Method, small: bool | None) -> dict[str, Rule]:
    """Return path -> rule by the method's own tiers."""
    rest = method.small if small is None else ("train" if small else "freeze")
    paths = [path for path, _ in model.named_parameters()]
    if not paths:
        raise UsageError(f"a {type(model).__name__} has no parameters to adapt")
    big = set(large(model))
    verdict: dict[str, Rule] = {path: method.large if path in big else rest for path in paths}
    if method.last:
        layer = paths[-1].rpartition(".")[0]
        verdict |= {path: method.last for path in paths if path.rpartition(".")[0] == layer}
    return verdict


def _rank(weight: Tensor, form: str, rank: int | None) -> int | None:
    if rank is not None or form not in METHODS or METHODS[form].rank is None or weight.dim() not in (2, 3):
        return rank
    return min(_given(METHODS[form].rank), weight.shape[0], weight.shape[-1])


def _start_anew(adapted: Adapted, fresh: nn.Module) -> None:
    with torch.no_grad():
        for path, parameter in adapted.free.named_parameters():
            parameter.copy_(fresh.get_parameter(path))


def _given(rank: int | None) -> int:
    if rank is None:
        raise UsageError("this form needs a rank")
    return rank


def _drawn(generator: torch.Generator | None, what: str) -> torch.Generator:
    if generator is None:
        raise UsageError(f"'{what}' starts from random numbers: give generator=torch.Generator().manual_seed(...)")
    return generator


def _formed() -> str:
    return ", ".join(name for name, method in METHODS.items() if method.formed)
