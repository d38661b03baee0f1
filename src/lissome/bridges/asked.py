"""The recipes that `attach` is asked for, one for each layer, or a sentence that says why not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from lissome._checks import check_flag, check_function, check_kind
from lissome._errors import UsageError
from lissome.attention import Attention, Frame, attend, attention
from lissome.attention.build import POSITIONS, REFINEMENTS
from lissome.attention.notation import call
from lissome.bridges.families import Parts

OWN = "own"  # stands in the config for a recipe given by a function
USUAL: Mapping[str, Any] = {"refine": "none", "normalize": "softmax", "validity": "causal", "length": None}
Recipe = Callable[[int], Attention]


def keeps_rotary(position: str | None) -> bool:
    """Say whether the model's own rotary embedding stays at work.

    Raises:
        UsageError: a rotary with numbers of its own, or text that is no position.

    >>> keeps_rotary(None), keeps_rotary("rotary"), keeps_rotary("kerple(power)")
    (True, True, False)
    """
    if position is None:
        return True
    name, values, named = call(position, "position", POSITIONS)
    if name == "rotary" and (values or named):
        raise UsageError(f"position is '{position}'; the model turns by its own base, which its config has: say rotary")
    return name == "rotary"


def named(found: Parts, names: Mapping[str, Any], zero_init: bool) -> tuple[list[Attention], dict[str, Any]]:
    """Return a recipe for each layer by the names of its stages, and the names as a config keeps them.

    Raises:
        UsageError: an unknown stage, values that it does not take, FIRE without a length.
    """
    names = {**names, "refine": _from_zero(names["refine"], zero_init)}
    position = "none" if keeps_rotary(names["position"]) else names["position"]
    made = {**names, "position": position}
    return [attention(found.heads, found.dimension, **made) for _ in found.attentions], dict(names)


def given(
    found: Parts, names: Mapping[str, Any], zero_init: bool, recipe: Recipe
) -> tuple[list[Attention], dict[str, Any]]:
    """Return what a function gives for each layer, and what a config keeps of it.

    Raises:
        UsageError: no function, or names beside it that it would leave unread.
    """
    check_function("recipe", recipe, "is a function layer -> Attention, or None")
    unread = [name for name, value in USUAL.items() if names[name] != value] + ["zero_init"] * bool(zero_init)
    if unread:
        raise UsageError(f"{', '.join(unread)} came beside a recipe, which says it all; give one or the other")
    position = names["position"]
    if position not in (None, "rotary", "none"):
        raise UsageError(
            f"position is '{position}' beside a recipe; legal are rotary and None, which keep the model's own rotary, "
            "and none, which switches it off"
        )
    return [recipe(layer) for layer in range(len(found.attentions))], {"recipe": OWN, "position": position}


def check_recipes(found: Parts, built: list[Attention]) -> None:
    """Bring recipes to the devices and the dtype of their layers, and try each on two tokens.

    Raises:
        UsageError: one is none, turns q and k, lets tokens see later ones, reads tokens, or does not fit the model's
            heads; two share a stage that learns.
    """
    owners: dict[int, int] = {}
    for layer, recipe in enumerate(built):
        check_kind(f"what the recipe gives for layer {layer}", recipe, Attention, "is an Attention")
        if recipe.rotary is not None:
            raise UsageError(
                f"the recipe of layer {layer} turns q and k, which the model does itself; leave its rotary out"
            )
        if not recipe.validity.causal:
            raise UsageError(
                f"validity '{recipe.validity.name}' lets a token see later ones, which this model has to predict; "
                f"legal is such as 'causal & {recipe.validity.name}'"
            )
        for parameter in recipe.parameters():
            if owners.setdefault(id(parameter), layer) != layer:
                raise UsageError(
                    f"the recipes of layers {owners[id(parameter)]} and {layer} share a stage, which cannot be saved; "
                    "make a new one for each layer"
                )
        device, dtype = next(found.attentions[layer].parameters()).device, found.model.dtype
        recipe.to(device, dtype)
        with torch.no_grad():
            like = torch.zeros(1, 1, 2, found.dimension, device=device, dtype=dtype)
            q, k = like.expand(-1, found.heads, -1, -1), like.expand(-1, found.groups, -1, -1)
            _check_without_tokens(recipe)
            attend(q, k, k, Frame.full(2, device=device), recipe, backend="naive")


def _check_without_tokens(recipe: Attention) -> None:
    try:
        recipe.validity(Frame.full(2))
    except UsageError as error:
        raise UsageError(
            f"validity '{recipe.validity.name}' reads tokens, which transformers does not tell an attention; legal are "
            "rules on positions"
        ) from error


def _from_zero(refine: str, zero_init: bool) -> str:
    """Return the refinement's text with zero_init in it, where that is asked."""
    check_flag("zero_init", zero_init)
    if not zero_init:
        return refine
    name, values, further = call(refine, "refine", REFINEMENTS)
    if name == "none":
        raise UsageError("zero_init starts a refinement at 0, and there is none; say refine='dape'")
    words = [*map(str, values), *(f"{key}={value}" for key, value in {**further, "zero_init": True}.items())]
    return f"{name}({', '.join(words)})"
