"""A model whose terms can be put out of work and back while it is trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from lissome._errors import UsageError
from lissome.adapt import Adapted
from lissome.adapt.basis import Rotation, rotated, rotated_along, unturned
from lissome.allocation.terms import AdaptedTerms, Terms, adapted_in

Parts = dict[str, list[tuple[nn.Parameter, int]]]


@runtime_checkable
class Gated(Protocol):
    """Terms of a model, of which some are out of work: they do nothing, and keep their numbers."""

    @property
    def terms(self) -> Terms:
        """All terms of the model."""
        ...

    def parts(self) -> Parts:
        """Return layer -> the trained parameters that hold its terms, each with the dimension that counts them."""
        ...

    def at_work(self) -> dict[str, Tensor]:
        """Return layer -> (r,) bool."""
        ...

    def put(self, at_work: Mapping[str, Tensor]) -> None:
        """Say which terms are at work."""
        ...

    def turn(self, rotations: Mapping[str, Rotation]) -> None:
        """Write B X and X^-1 A where both are trained, and leave other layers."""
        ...


@contextmanager
def opened(gated: Gated) -> Iterator[None]:
    """Put all terms to work for the time."""
    before = gated.at_work()
    gated.put({layer: torch.ones_like(work) for layer, work in before.items()})
    try:
        yield
    finally:
        gated.put(before)


class GatedForms:
    """The forms of an `Adapted`, by their own gates, which its files and checkpoints keep.

    Args:
        model: as in `AdaptedTerms`; its forms do not subtract their start, and those of matrices have no full core. The
            gates of a tensor's core are the product of those of its slices along each mode, so that each mode has to
            have a term at work.

    Raises:
        UsageError: a form of another kind.
    """

    def __init__(self, model: nn.Module):
        for path, form in adapted_in(model)[1].forms().items():
            full = form.core_kind == "full"
            if (form.ways == 2 and full) or (form.base == "residual" and (form.ways == 2 or full)):
                raise UsageError(
                    f"the form of '{path}' is of kind '{form.kind}', which has no gate for each term; legal are lora "
                    "and others with a diagonal core or none, and lotra of a tensor"
                )
        self.terms = AdaptedTerms(model)
        self.forms = {path: self.terms.adapted.forms()[path] for path, _ in self.terms.places.values()}

    def parts(self) -> Parts:
        """Return the trained factors, columns of terms, and the trained core; along a mode its factor and the core."""
        found: Parts = {}
        for layer, (path, mode) in self.terms.places.items():
            trained = dict(self.forms[path].named_parameters(recurse=False))
            if mode is None:
                found[layer] = [(p, 0 if name == "core" else 1) for name, p in trained.items()]
            else:
                dims = {"core": mode, f"factor{mode}": 1}
                found[layer] = [(trained[name], dim) for name, dim in dims.items() if name in trained]
        return found

    def at_work(self) -> dict[str, Tensor]:
        """Return which gates are not 0; along a mode, which slices have one that is not."""
        found = {}
        for layer, (path, mode) in self.terms.places.items():
            gates = self.forms[path].gates != 0
            found[layer] = gates if mode is None else gates.movedim(mode, 0).flatten(1).any(1)
        return found

    def put(self, at_work: Mapping[str, Tensor]) -> None:
        """Set the gates to 1 and 0."""
        for form in self.forms.values():
            form.gates.fill_(1)
        for layer, (path, mode) in self.terms.places.items():
            gates = self.forms[path].gates
            work = at_work[layer].to(gates)
            gates.mul_(work if mode is None else work.view(-1, *[1] * (gates.dim() - 1 - mode)))

    def turn(self, rotations: Mapping[str, Rotation]) -> None:
        """Turn the forms whose factors are trained; those of others are what their method holds fast."""
        with torch.no_grad(), opened(self):
            for layer, (path, mode) in self.terms.places.items():
                form, X = self.forms[path], rotations[layer]
                needed = {"factor0", "factor1"} if mode is None else {"core", f"factor{mode}"}
                if needed <= set(form.trained):
                    new = rotated(form, X) if mode is None else rotated_along(form, mode, X)
                    for name, part in form.named_parameters(recurse=False):
                        part.copy_(getattr(new, name))

    def finished(self) -> Adapted:
        """Return a model of the terms at work alone."""
        stay = {path: unturned(len(work)) for path, work in self.at_work().items()}
        kept = {path: work.nonzero().flatten() for path, work in self.at_work().items()}
        ones = {path: torch.ones(len(indices)) for path, indices in kept.items()}
        return self.terms.cut(stay, kept, ones)


class Frozen:
    """Terms out of work as they were when they left it: weights, and what optimizers hold of them."""

    def __init__(self, gated: Gated, optimizers: list[torch.optim.Optimizer]):
        self.kept: list[tuple[Tensor, int, Tensor, Tensor]] = []  # tensor, dimension, indices, values
        work = gated.at_work()
        for layer, parts in gated.parts().items():
            gone = (~work[layer]).nonzero().flatten()
            if not len(gone):
                continue
            for parameter, dim in parts:
                for tensor in (parameter.data, *_states(parameter, optimizers)):
                    self.kept.append((tensor, dim, gone, tensor.index_select(dim, gone).clone()))

    def hold(self) -> None:
        """Put them back after a step: momentum and decay moved them, though their gradient is 0."""
        for tensor, dim, gone, values in self.kept:
            tensor.index_copy_(dim, gone, values)


def _states(parameter: nn.Parameter, optimizers: list[torch.optim.Optimizer]) -> list[Tensor]:
    """Return what optimizers hold of a parameter entry by entry."""
    return [
        value
        for optimizer in optimizers
        for value in optimizer.state.get(parameter, {}).values()
        if isinstance(value, Tensor) and value.shape == parameter.shape
    ]
