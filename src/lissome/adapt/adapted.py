"""A frozen module some of whose weights are small forms.

The forward pass is `torch.func.functional_call(base, weights)`: each dense weight is formed once per
forward pass, even where the base uses it many times, and copies, pickles and torch.func's transforms
work as they do for any module. `torch.nn.utils.parametrize` gives none of these.
"""

from __future__ import annotations

import copy
import fnmatch
import functools
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from lissome._errors import UsageError, unknown
from lissome.adapt.archive import check_fingerprint, fingerprint, read, write
from lissome.adapt.factored import Chain, factored
from lissome.adapt.forms import RESTORED
from lissome.adapt.tucker import Tucker

FEW = 2  # rows below which forms are left in factors: one, as where each row is differentiated by itself


def match(pattern: str, paths: Iterable[str]) -> list[str]:
    """Return the parameter paths that a glob matches (`*` also matches dots).

    Raises:
        UsageError: it matches none; the pattern and the paths are named.
    """
    paths = list(paths)
    found = [path for path in paths if fnmatch.fnmatchcase(path, pattern)]
    if not found:
        raise UsageError(f"the rule '{pattern}' matches no parameter; there are: {', '.join(paths) or 'none'}")
    return found


class Adapted(nn.Module):
    """A frozen copy of `base`, computed with some of its parameters replaced.

    The module that is handed in is copied and never changed; later changes to it do not reach the
    adapter. The trained numbers are `form.<path>.<part>` for the small forms and `free.<path>` for
    parameters that are trained whole: those that `train` matches and that have no form.

    Args:
        base: any module.
        forms: parameter path -> form of that parameter's shape.
        train: globs on parameter paths.

    Example:
        >>> base = nn.Linear(3, 3)
        >>> form = Tucker([torch.eye(3), torch.eye(3)], torch.zeros(3), train=["core"])
        >>> model = Adapted(base, {"weight": form}, train=["bias"])
        >>> {name: tuple(p.shape) for name, p in model.trainable().items()}
        {'form.weight.core': (3,), 'free.bias': (3,)}
    """

    def __init__(
        self, base: nn.Module, forms: Mapping[str, Tucker] | None = None, *, train: Iterable[str] = ()
    ) -> None:
        super().__init__()
        self.base = copy.deepcopy(base).requires_grad_(False)
        self._hand = (_Hand(self.base),)  # in a tuple, so that torch does not count the base twice
        self.form, self.free = nn.Module(), nn.Module()  # trees with the base's own paths
        parameters = dict(self.base.named_parameters())
        forms = dict(forms or {})
        for path, form in forms.items():
            if path not in parameters:
                raise unknown("parameter path", path, parameters)
            if form.shape != tuple(parameters[path].shape):
                raise UsageError(f"the form of '{path}' has shape {form.shape}, not {tuple(parameters[path].shape)}")
            parent, name = _grow(self.form, path)
            parent.add_module(name, form)
        whole = {path for pattern in train for path in match(pattern, parameters)} - set(forms)
        for path in (path for path in parameters if path in whole):
            parent, name = _grow(self.free, path)
            parent.register_parameter(name, nn.Parameter(parameters[path].detach().clone()))
        self._forms, self._free = tuple(forms), tuple(path for path in parameters if path in whole)

    def forward(self, *arguments: Any, **named: Any) -> Any:
        """Call the base with the replaced weights."""
        few = len(arguments) == 1 and not named and isinstance(arguments[0], Tensor) and arguments[0].dim() == 2
        chain = self._factored(arguments[0]) if few else None
        return functional_call(self.base, self.weights(), arguments, named) if chain is None else chain(*arguments)

    def derive(self, z: Tensor, first: Any, second: Any, along: Any, recurse: Callable[..., Any]) -> Any:
        """Return the derivatives of the base with the replaced weights, as `calculus.derivatives` asks for them."""
        chain = self._factored(z)
        if chain is not None:
            return recurse(chain, z, first, second, along)
        weights = {f"base.{path}": weight for path, weight in self.weights().items()}
        return functional_call(self._hand[0], weights, (lambda base: recurse(base, z, first, second, along),))

    def _factored(self, z: Tensor) -> Chain | None:
        """Return the base with its forms left in factors where the rows of z (N, D) are few, if that can be."""
        if len(z) >= FEW:
            return None
        return factored(self.base, self.forms(), {path: _at(self.free, path) for path in self._free})

    def weights(self) -> dict[str, Tensor]:
        """Return every replaced parameter, dense and with its graph: path -> tensor."""
        dense = {path: form.dense(_at(self.base, path)) for path, form in self.forms().items()}
        return dense | {path: _at(self.free, path) for path in self._free}

    def forms(self) -> dict[str, Tucker]:
        """Return the small forms: path -> form."""
        return {path: _at(self.form, path) for path in self._forms}

    def trainable(self) -> dict[str, nn.Parameter]:
        """Return the trained parameters under the names of `named_parameters`, which `functional_call` takes."""
        return {name: parameter for name, parameter in self.named_parameters() if parameter.requires_grad}

    def count(self) -> int:
        """Return how many numbers are trained."""
        return sum(parameter.numel() for parameter in self.trainable().values())

    def total(self) -> int:
        """Return how many numbers the base has."""
        return sum(parameter.numel() for parameter in self.base.parameters())

    def merged(self) -> nn.Module:
        """Return a plain module of the base's own class with the dense weights; all its parameters want gradients."""
        module = copy.deepcopy(self.base).requires_grad_(True)
        with torch.no_grad():
            for path, weight in self.weights().items():
                module.get_parameter(path).copy_(weight)
        return module

    def save(self, path: str | os.PathLike[str], *, lean: bool = False) -> None:
        """Save the adapter alone, without the base, to one safetensors file.

        Args:
            path: the file; it is written whole or not at all.
            lean: leave out the singular vectors, which `load` then computes again from the base. For `svd` forms
                of full rank they are all but a few numbers of the file. The result is bit-equal on the same
                machine and equal to rounding on another, which `load` checks.
        """
        state, probes = self._state(), {}
        gone = _left_out(self.forms()) if lean else {}
        for place in gone:
            probes[f"probe.{place}"] = _probe(self.forms()[place], _at(self.base, place))
        left = {name for names in gone.values() for name in names}
        header = {
            "base": fingerprint(self.base),
            "forms": {place: form.settings() for place, form in self.forms().items()},
            "free": list(self._free),
            "lean": lean,
        }
        write(path, {name: tensor for name, tensor in state.items() if name not in left} | probes, header)

    @classmethod
    def load(cls, base: nn.Module, path: str | os.PathLike[str]) -> Adapted:
        """Load an adapter onto the base it was made for, bit for bit (unless it is lean).

        Raises:
            UsageError: the file is missing, damaged or no adapter, or it was made for another network, or it is
                lean and the singular vectors come out otherwise here.
        """
        tensors, header = read(path)
        check_fingerprint(path, header["base"], base)
        forms = {place: _blank(settings).to(_at(base, place)) for place, settings in header["forms"].items()}
        adapted = cls(base, forms, train=header["free"])
        state = adapted._state()
        gone = _left_out(forms) if header["lean"] else {}
        probes = {f"probe.{place}": tensors.pop(f"probe.{place}", None) for place in gone}
        for place, names in gone.items():
            again = RESTORED[forms[place].kind](_at(base, place), forms[place].ranks[0]).state_dict()
            tensors |= {name: again[name.rpartition(".")[2]] for name in names}
        wrong = sorted(name for name in {*state, *tensors} if _shape(state, name) != _shape(tensors, name))
        if wrong:
            raise UsageError(f"'{path}' does not hold what its header says: {', '.join(wrong)} is missing or misshapen")
        with torch.no_grad():
            for name, tensor in tensors.items():
                state[name].copy_(tensor)
        for place in gone:
            then, now = probes[f"probe.{place}"], _probe(forms[place], _at(base, place)).cpu()
            if then is None or (then - now).norm() > torch.finfo(now.dtype).eps ** 0.5 * now.norm():
                raise UsageError(f"the singular vectors of '{place}' come out otherwise here; save it with lean=False")
        return adapted

    def _state(self) -> dict[str, Tensor]:
        """Return everything but the base."""
        return {name: value for name, value in self.state_dict().items() if not name.startswith("base.")}


class _Hand(nn.Module):
    """Hands its base to a function, so that the function sees it while its weights are replaced."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base

    def forward(self, function: Callable[[nn.Module], Any]) -> Any:
        return function(self.base)


def _at(root: nn.Module, path: str) -> Any:
    """Walk a dotted path; `get_parameter` would refuse the plain tensors that `functional_call` puts in."""
    return functools.reduce(getattr, path.split("."), root)


def _grow(root: nn.Module, path: str) -> tuple[nn.Module, str]:
    """Return the module at which the last name of a dotted path belongs, growing the tree where needed."""
    *way, name = path.split(".")
    for step in way:
        if step not in root._modules:
            root.add_module(step, nn.Module())
        root = root.get_submodule(step)
    return root, name


def _left_out(forms: Mapping[str, Tucker]) -> dict[str, list[str]]:
    """Return path -> names of the parts that can be computed again from the base."""
    return {
        path: [f"form.{path}.{name}" for name, _ in form.named_buffers() if name != "gates"]
        for path, form in forms.items()
        if form.kind in RESTORED
    }


def _probe(form: Tucker, base: Tensor) -> Tensor:
    """Return the weight's product with a fixed vector, by which a form is known again."""
    with torch.no_grad():
        return form(torch.arange(form.shape[-1]).cos().to(base), base)


def _blank(settings: dict[str, Any]) -> Tucker:
    """Build a form from `Tucker.settings`, with zeros for its numbers."""
    ranks = settings["ranks"]
    factors = [torch.zeros(d, r) for d, r in zip(settings["shape"], ranks, strict=True)]
    core = {"full": torch.zeros(ranks), "diagonal": torch.zeros(ranks[0]), "none": None}[settings["core"]]
    same = {key: settings[key] for key in ("base", "scale", "train", "kind")}
    return Tucker(factors, core, **same)


def _shape(tensors: Mapping[str, Tensor], name: str) -> tuple[int, ...] | None:
    return tuple(tensors[name].shape) if name in tensors else None
