"""Modules of one structure side by side: one pass of products in batches in place of K passes of small ones.

The numbers of K modules are stacked along a first dimension, and `torch.func.vmap` calls one of the modules with each
part of them. An optimizer that works entry by entry (Adam, arXiv:1412.6980, and its kin) then does to the stack what it
does to each module alone.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from lissome._errors import UsageError


class Stack(nn.Module):
    """K modules of the same classes, names and shapes, called all at once.

    What is trained is one parameter (K, ...) for each of the modules' own. What is frozen is kept once where it is the
    same in all, such as the base of adapters, and stacked too where it is not. The modules that are handed in are never
    changed; nothing but numbers may tell them apart.

    Args:
        modules: K of them, at least 1.

    Raises:
        UsageError: there are none, they differ in structure, or nothing in them is trained.

    Example:
        >>> stack = Stack([nn.Linear(3, 2) for _ in range(5)])
        >>> {name: tuple(p.shape) for name, p in stack.trainable().items()}
        {'weight': (5, 2, 3), 'bias': (5, 2)}
        >>> stack.each(lambda module, x: module(x), torch.zeros(5, 7, 3)).shape
        torch.Size([5, 7, 2])
    """

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        super().__init__()
        if not modules:
            raise UsageError("a stack is made of no modules; legal is one or more")
        for place, module in enumerate(modules):
            _check_alike(place, module, modules[0])
        self.members = tuple(modules)  # a tuple, so that torch counts their numbers once
        self._hand = (_Hand(modules[0]),)  # made once: a compiler cannot follow a module that is made in a call
        rows = [_tensors(module) for module in modules]
        trained, frozen, shared = dict[str, Tensor](), dict[str, Tensor](), dict[str, Tensor]()
        for name, first in rows[0].items():
            column = [row[name].detach() for row in rows]
            if first.requires_grad:
                trained[name] = nn.Parameter(torch.stack(column))
            elif all(torch.equal(column[0], other) for other in column[1:]):
                shared[name] = column[0].clone()
            else:
                frozen[name] = torch.stack(column)
        if not trained:
            raise UsageError("nothing in a stack's modules requires gradients; legal is one parameter or more")
        self.trained, self.frozen, self.shared = _Table(trained), _Table(frozen), _Table(shared)

    def each(self, f: Callable[..., Any], *stacked: Any) -> Any:
        """Return f(module, *parts) of all K at once, by `torch.func.vmap`.

        Args:
            f: from a module with the numbers of one member, and that member's part of each of `stacked`, to tensors.
                It runs once, on tensors whose dimension K is out of sight.
            stacked: tensors (K, ...), or lists and dicts of them.

        Returns:
            What f returns, each tensor with K in front and with its graph.
        """
        shared = self.shared.tensors()

        def one(own: Mapping[str, Tensor], *parts: Any) -> Any:
            tensors = {f"member.{name}": tensor for name, tensor in {**own, **shared}.items()}
            return functional_call(self._hand[0], tensors, (f, *parts))

        return vmap(one)(self.trained.tensors() | self.frozen.tensors(), *stacked)

    def forward(self, *stacked: Any) -> Any:
        """Call all K modules, each with its part of the arguments."""
        return self.each(lambda module, *parts: module(*parts), *stacked)

    def split(self) -> list[nn.Module]:
        """Return K copies of the modules as they came, each with its own part of the trained numbers."""
        out, trained = [], self.trainable()
        like = next(iter(trained.values()))
        for place, member in enumerate(self.members):
            module = copy.deepcopy(member).to(like)
            own = dict(module.named_parameters())
            with torch.no_grad():
                for name, stacked in trained.items():
                    own[name].copy_(stacked[place])
            out.append(module)
        return out

    def trainable(self) -> dict[str, nn.Parameter]:
        """Return the trained parameters (K, ...), under the names that they have in each module."""
        return self.trained.tensors()  # type: ignore[return-value]

    @property
    def size(self) -> int:
        """K."""
        return len(self.members)


class _Hand(nn.Module):
    """Hands a module to a function, so that the function sees it while its numbers are replaced."""

    def __init__(self, member: nn.Module) -> None:
        super().__init__()
        self.member = member

    def forward(self, f: Callable[..., Any], *parts: Any) -> Any:
        return f(self.member, *parts)


class _Table(nn.Module):
    """Tensors under dotted names, which torch keeps for submodules."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.keys = {name: name.replace(".", "/") for name in tensors}
        for name, tensor in tensors.items():
            if isinstance(tensor, nn.Parameter):
                self.register_parameter(self.keys[name], tensor)
            else:
                self.register_buffer(self.keys[name], tensor)

    def tensors(self) -> dict[str, Tensor]:
        return {name: getattr(self, key) for name, key in self.keys.items()}


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def _check_alike(place: int, module: nn.Module, first: nn.Module) -> None:
    """Refuse a module that is made otherwise than the first, and name where."""
    for what, here, there in (
        ("module", _kinds(module), _kinds(first)),
        ("tensor", _shapes(module), _shapes(first)),
    ):
        for name in [*there, *here]:
            if here.get(name) != there.get(name):
                raise UsageError(
                    f"module {place} of a stack differs from the first: its {what} '{name or 'itself'}' is "
                    f"{here.get(name, 'missing')}, and the first's {there.get(name, 'missing')}; legal is one structure"
                )


def _kinds(module: nn.Module) -> dict[str, str]:
    """Return path -> class of all modules inside, with what torch prints of them."""
    return {name: f"{type(each).__name__}({each.extra_repr()})" for name, each in module.named_modules()}


def _shapes(module: nn.Module) -> dict[str, str]:
    return {
        name: f"{tuple(t.shape)} of {t.dtype}, {'trained' if t.requires_grad else 'frozen'}"
        for name, t in _tensors(module).items()
    }
