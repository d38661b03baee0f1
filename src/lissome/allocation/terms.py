r"""A model whose layers are base + B A: what its terms are, and what the model is as a function of them.

Everything that is asked of a term, a gate g_i on it or a matrix T between B and A, is asked of the right factor alone:

    B diag(g) A = B (diag(g) A)        B T A = B (T A)        (B X) diag(g) (X^-1 A) = B (X diag(g) X^-1 A)

so a model needs one door, `function`, which puts other right factors in; nothing is written into it.

A tensor's form with a full core C x1 U1 x2 U2 x3 U3, such as LoTRA's (arXiv 2502.06153), is one such layer for each of
its modes, named `layers.1.weight[0]` for the first, with A = Uj^T and B the rest, unfolded. A gate on a term of a mode
is one on a slice of the core; gates of several modes multiply. What is counted are terms: one of the outputs' mode
takes away n_out + r2 r3 numbers, one of the basis K + r1 r3.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from lissome._errors import UsageError
from lissome._vector import functional
from lissome.adapt import Adapted, Tucker
from lissome.adapt.basis import Rotation, halves, halves_along, rotated, rotated_along, updated
from lissome.adapt.quota import Count

Call = Callable[..., Any]


class Tap(NamedTuple):
    """A module between whose calls y (..., r) and its gradient h (..., r) are seen.

    Attributes:
        module: what is listened at.
        y: from its input and output.
        h: from the gradient at its output.
    """

    module: nn.Module
    y: Callable[[Tensor, Tensor], Tensor]
    h: Callable[[Tensor], Tensor]


class Terms(Protocol):
    """A model with layers of the form base + B A."""

    @property
    def model(self) -> nn.Module:
        """The model itself."""
        ...

    def halves(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Return layer -> B (out, r) and A (r, in), whose product is what the layer adds."""
        ...

    def function(self, call: Call) -> Call:
        """Return `call(model, ...)` as a function of layer -> right factor (r, in), and whatever else."""
        ...

    def taps(self) -> dict[str, Tap]:
        """Return layer -> where its y = A x, and the gradient h there, are seen."""
        ...


class Place(NamedTuple):
    """Where a layer's terms are: the path of the form, and the mode of a tensor; a matrix has none."""

    path: str
    mode: int | None = None

    @property
    def layer(self) -> str:
        """Its name."""
        return self.path if self.mode is None else f"{self.path}[{self.mode}]"


def least_of(layers: Iterable[str], least: Count | None) -> Count:
    """Return how many terms each layer keeps at least where nothing is said: 1 for a mode of a tensor, else 0.

    A tensor without a term in one mode is gone with all the terms of its other modes. A model of second order does not
    see that far, and terms that do nothing any more would count to the budget.

    >>> least_of(["a.weight", "b.weight[0]"], None)
    {'a.weight': 0, 'b.weight[0]': 1}
    """
    if isinstance(least, int):
        return least
    return {layer: int(of_tensor(layer)) for layer in layers} | dict(least or {})


def of_tensor(layer: str) -> bool:
    """Say whether a layer, by the name that `Place` gives it, is a mode of a tensor."""
    return layer.endswith("]")


class AdaptedTerms:
    """The terms of an `Adapted`: of matrices, and of tensors with a full core along each of their modes.

    Other forms, such as sums of outer products of three vectors, are left as they are.

    Args:
        model: an `Adapted`, or a module with one in it, such as `Problem.wrap` makes. Forms that subtract their own
            start, such as `pissa`, are first written as what they add by now: then `model` here is another one, which
            computes the same.

    Raises:
        UsageError: no form with a term; no or several adapted networks; one within another module whose
            forms subtract their start.
    """

    def __init__(self, model: nn.Module):
        self.path, self.adapted = adapted_in(model)
        before = self.adapted.forms()
        forms = {path: updated(form) for path, form in before.items()}
        old = [before[path].kind for path, new in forms.items() if new is not before[path]]
        if old and self.path:
            raise UsageError(
                f"forms of kind '{old[0]}' subtract their start; wrap AdaptedTerms(adapted).model, which does not"
            )
        if old:
            self.adapted = replaced(self.adapted, forms)
        self.model: nn.Module = model if self.path else self.adapted
        found = [place for path, form in forms.items() for place in _places(path, form)]
        self.places = {place.layer: place for place in found}
        self.names = list(self.places)
        if not self.names:
            raise UsageError("the model has no small form of a matrix or of a tensor that has terms to keep or to cut")

    def halves(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Return layer -> B (out, r) and A (r, in); B (product of the other d, r) along a mode of a tensor."""
        forms = self.adapted.forms()
        return {
            layer: halves(forms[path]) if mode is None else halves_along(forms[path], mode)
            for layer, (path, mode) in self.places.items()
        }

    def function(self, call: Call) -> Call:
        """Return `call(model, ...)` as a function of right factors."""
        within = f"{self.path}." if self.path else ""
        names = {
            layer: f"{within}form.{path}.factor{1 if mode is None else mode}"
            for layer, (path, mode) in self.places.items()
        }
        inner, _ = functional(call, self.model, names.values())
        return lambda right, *others: inner({names[layer]: A.mT for layer, A in right.items()}, *others)

    def taps(self) -> dict[str, Tap]:
        """Return the linear layers of the base, where what enters B is found from what enters them."""
        found = {}
        for layer, (B, A) in self.halves().items():
            path, mode = self.places[layer]
            module = self.adapted.base.get_submodule(path.rpartition(".")[0])
            if mode is not None or not isinstance(module, nn.Linear):
                raise UsageError(
                    f"'{path}' belongs to a {type(module).__name__}, of which the inputs cannot be observed; take the "
                    "basis 'svd', or give a residual"
                )
            found[layer] = Tap(module, lambda x, out, A=A: x @ A.mT, lambda gradient, B=B: gradient @ B)
        return found

    def cut(
        self, rotations: Mapping[str, Rotation], kept: Mapping[str, Tensor], values: Mapping[str, Tensor]
    ) -> Adapted:
        """Return an `Adapted` of the kept terms alone, each times its gate's value; wrap it as the other was."""
        forms = dict(self.adapted.forms())
        for layer, (path, mode) in self.places.items():
            how = rotations[layer], kept[layer], values[layer]
            forms[path] = rotated(forms[path], *how) if mode is None else rotated_along(forms[path], mode, *how)
        return replaced(self.adapted, forms)


def _places(path: str, form: Tucker) -> list[Place]:
    if min(form.ranks) == 0:
        return []
    if form.ways == 2:
        return [Place(path)]
    return [Place(path, mode) for mode in range(form.ways)] if form.core_kind == "full" else []


def adapted_in(model: nn.Module) -> tuple[str, Adapted]:
    """Return the one adapted network that a module is, or has in it, and its path there.

    Raises:
        UsageError: none, or several.
    """
    found = [(path, module) for path, module in model.named_modules() if isinstance(module, Adapted)]
    if len(found) != 1:
        raise UsageError(
            f"the {type(model).__name__} holds {len(found)} adapted networks; legal is one: see adapt(...)"
        )
    return found[0]


def replaced(model: Adapted, forms: Mapping[str, Tucker]) -> Adapted:
    """Return a copy of an adapted model with other forms; what is trained whole keeps its numbers."""
    free = {name.removeprefix("free."): p for name, p in model.named_parameters() if name.startswith("free.")}
    new = Adapted(model.base, {path: copy.deepcopy(form) for path, form in forms.items()}, train=free)
    with torch.no_grad():
        for path, parameter in free.items():
            new.free.get_parameter(path).copy_(parameter)
    return new.train(model.training)
