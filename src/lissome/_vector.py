"""Modules as functions of their parameters; a dict of tensors as one flat vector, and back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from lissome._errors import UsageError, unknown


def flatten(tensors: Mapping[str, Tensor]) -> Tensor:
    """Join the tensors, in their order, into one vector of shape (p,)."""
    return torch.cat([tensor.reshape(-1) for tensor in tensors.values()])


def unflatten(vector: Tensor, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Cut a vector (p,) into tensors of the names and shapes of `like`.

    Raises:
        UsageError: the vector has another number of entries than `like`.
    """
    total = sum(tensor.numel() for tensor in like.values())
    if vector.shape != (total,):
        raise UsageError(f"a vector of shape {tuple(vector.shape)} does not fit {total} numbers in {len(like)} tensors")
    parts = vector.split([tensor.numel() for tensor in like.values()])  # one node of the graph, not one a tensor
    return {name: part.reshape(tensor.shape) for (name, tensor), part in zip(like.items(), parts, strict=True)}


def functional(
    call: Callable[..., Any], model: nn.Module, names: Iterable[str] | None = None
) -> tuple[Callable[..., Any], dict[str, Tensor]]:
    """Return `call(model, ...)` as a function of some of the model's parameters or buffers, and their values now.

    The only way from a module to a function: what comes back goes into `torch.func` and `calculus`.

    Args:
        call: from the model, and whatever else, to tensors.
        model: its other parameters and its buffers stay as they are.
        names: parameters or buffers, as in `named_parameters`; None takes the parameters that require gradients.

    Returns:
        f with f(tensors, *others) = call(model with these tensors, *others), and the tensors (name -> value) at which
        it gives what the model gives now, without graph.

    Raises:
        UsageError: a name that the model does not have.

    >>> f, start = functional(lambda net, x: net(x).sum(), nn.Linear(2, 1))
    >>> {name: tuple(gradient.shape) for name, gradient in torch.func.grad(f)(start, torch.ones(3, 2)).items()}
    {'weight': (1, 2), 'bias': (1,)}
    """
    own = dict(model.named_parameters())
    wanted = [name for name, p in own.items() if p.requires_grad] if names is None else list(names)
    own |= dict(model.named_buffers())
    for name in wanted:
        if name not in own:
            raise unknown("parameter", name, own)
    carrier = _Carrier(model, call)

    def function(tensors: Mapping[str, Tensor], *others: Any) -> Any:
        return functional_call(carrier, {f"model.{name}": tensor for name, tensor in tensors.items()}, others)

    return function, {name: own[name].detach() for name in wanted}


class _Carrier(nn.Module):
    """A call on a module as a module, so that the parameters can be given from outside."""

    def __init__(self, model: nn.Module, call: Callable[..., Any]):
        super().__init__()
        self.model = model
        self.call = call

    def forward(self, *others: Any) -> Any:
        return self.call(self.model, *others)
