r"""Ranks for the layers of a `peft` LoRA model: chosen, turned and cut, on the model as it is.

A LoRA layer of peft adds scaling * B A x, with A (r, in) in `lora_A` and B (out, r) in `lora_B`. What is asked of the
terms goes through the weight of `lora_A` (see `allocation.terms`), so nothing of peft is changed to measure them, and
the base, quantised or not, is left alone.

SubLoRA (arXiv 2507.01841); the change of basis comes first, for a trained LoRA's terms have no meaning of their own.
DoRA's own gradient holds the norm of each row of the whole weight constant (arXiv 2402.09353, section 4.3), its loss
does not: here the gates' derivatives are those of the loss.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lissome._errors import UsageError
from lissome._vector import functional
from lissome.adapt.basis import Rotation
from lissome.allocation import Allocation, Tap, choose, rotations
from lissome.bridges.covered import active, check_cuttable, check_layer, check_shared
from lissome.bridges.labels import own_loss, sampled_likelihood

try:
    from peft.tuners.lora import LoraLayer, LoraModel
    from peft.utils.integrations import dequantize_module_weight
except ImportError as error:
    raise UsageError("lissome.bridges.peft needs peft; install it with: pip install 'lissome[peft]'") from error


@dataclass(frozen=True)
class PeftRanks:
    """What a `LoraConfig` needs, and what was chosen.

    Attributes:
        rank_pattern: layer -> rank, for `LoraConfig`; keys are escaped and anchored paths.
        alpha_pattern: layer -> lora_alpha, by which each layer's scaling stays as it was.
        exclude_modules: a regular expression of the layers that keep no term, or None.
        allocation: the choice, its basis and curvature.
        adapter: whose terms they are.
    """

    rank_pattern: dict[str, int]
    alpha_pattern: dict[str, float]
    exclude_modules: str | None
    allocation: Allocation
    adapter: str

    def settings(self) -> dict[str, Any]:
        """Return the three settings as JSON types: `LoraConfig(..., **ranks.settings())`."""
        found = {"rank_pattern": self.rank_pattern, "alpha_pattern": self.alpha_pattern}
        return found | ({"exclude_modules": self.exclude_modules} if self.exclude_modules else {})


def choose_ranks(
    model: nn.Module,
    loss: Callable[[nn.Module, Any], Tensor] | None,
    batches: Sequence[Any],
    budget: int,
    *,
    adapter: str | None = None,
    probe: Callable[[nn.Module, Any], Tensor] | None = None,
    seed: int = 0,
    **options: Any,
) -> PeftRanks:
    """Choose which terms of a trained LoRA stay; the model is left as it is.

    Args:
        model: a `PeftModel` of any task, or any module with LoRA layers of peft; the base may be quantised.
        loss: (model, batch) -> scalar; None takes `model(**batch).loss`.
        batches: a fixed few.
        budget: how many terms may stay over all layers; one where DoRA's magnitude or a bias would go with the last.
        adapter: its name; None is the active one.
        probe: (model, batch) -> scalar by whose gradient the basis is found; None draws labels from `logits`.
        seed: of those labels, and of the rule `random`.
        options: `rule`, `basis` and the others of `allocation.choose`; usual here is `sublora`, without compensation:
            on small language models that lost 0.6 and 0.8 of what `reverse` did.

    Raises:
        UsageError: no LoRA, an untrained, merged, disabled or half-precision one, a layer of a kind that is not covered
            (named), a budget that does not fit, a loss that is not finite or has no graph.
    """
    terms = PeftTerms(model, adapter)
    generator = torch.Generator().manual_seed(seed)
    drawn = probe or (lambda net, batch: sampled_likelihood(net, batch, generator))
    usual = {"rule": "sublora", "basis": "kronecker", "compensate": False, "generator": generator}
    options = usual | options
    if type(budget) is not int or not 1 <= budget <= terms.count:
        raise UsageError(f"budget is {budget!r}; legal are 1 to {terms.count}, for peft has no LoRA without a term")
    options["least"] = terms.least(options.get("least", 0))
    allocation = choose(terms, loss or own_loss, batches, budget, probe=drawn, **options)
    if not any(allocation.ranks.values()):
        raise UsageError(f"most is {options['most']}, which leaves no term, and peft has no LoRA without one")
    return PeftRanks(*terms.patterns(allocation.ranks), allocation, terms.adapter)


def rotate_adapter_(
    model: nn.Module,
    batches: Sequence[Any] = (),
    *,
    adapter: str | None = None,
    basis: str | None = None,
    probe: Callable[[nn.Module, Any], Tensor] | None = None,
    seed: int = 0,
) -> dict[str, Rotation]:
    """Turn the terms of a LoRA in place, largest first; outputs stay to rounding.

    An optimizer's state for these weights speaks of the old terms: make a new one.

    Args:
        model: as in `choose_ranks`.
        batches: on which moments are measured; not needed by `svd`.
        adapter: its name; None is the active one.
        basis: `svd`, `whitened` or `kronecker`; None is `kronecker` with batches and `svd` without.
        probe: as in `choose_ranks`.
        seed: as in `choose_ranks`.

    Returns:
        layer -> X and its inverse.
    """
    terms, generator = PeftTerms(model, adapter), torch.Generator().manual_seed(seed)
    drawn = probe or (lambda net, batch: sampled_likelihood(net, batch, generator))
    basis = basis or ("kronecker" if batches else "svd")
    if basis in ("whitened", "kronecker") and not batches:
        raise UsageError(f"the basis '{basis}' needs batches to measure moments on; give a few, or take 'svd'")
    turned = rotations(terms, basis, batches, probe=drawn)
    terms.write(turned)
    return turned


def cut_adapter_(model: nn.Module, ranks: PeftRanks) -> nn.Module:
    """Keep in place what was chosen: the kept terms, each times its gate; ready for `save_pretrained`.

    Layers that keep none give their adapter up. An optimizer made before holds none of the new weights.

    Args:
        model: the model for which the ranks were chosen, as it was then.
        ranks: of `choose_ranks`.

    Returns:
        the model itself.

    Raises:
        UsageError: the model's adapter has other ranks by now, or the model no settings of peft, or a start that took
            something off the base.
    """
    terms, choice = PeftTerms(model, ranks.adapter), ranks.allocation.choice
    if ranks.adapter not in getattr(model, "peft_config", {}):
        raise UsageError(f"the {type(model).__name__} has no settings of peft to bring up to date; give the PeftModel")
    if terms.sizes() != dict(choice.layers):
        raise UsageError("the adapter does not have the terms that were chosen from; choose again for this model")
    kept = {layer: torch.tensor(indices, dtype=torch.long) for layer, indices in choice.kept.items()}
    terms.check_cuttable()
    terms.write(ranks.allocation.rotations, kept, choice.values)
    terms.settle(choice.ranks)
    return model


class PeftTerms:
    """The terms of one LoRA adapter of peft.

    Args:
        model: holds LoRA layers.
        adapter: its name; None is the active one.

    Raises:
        UsageError: see `choose_ranks`.
    """

    def __init__(self, model: nn.Module, adapter: str | None = None):
        layers = {path: module for path, module in model.named_modules() if isinstance(module, LoraLayer)}
        if not layers:
            raise UsageError(f"the {type(model).__name__} has no LoRA layer of peft; make one by peft.get_peft_model")
        self.model, self.adapter = model, active(layers, adapter)
        self.layers: dict[str, LoraLayer] = {}
        self.paths: dict[str, str] = {}  # path in the model that peft's settings speak of -> path here
        tuner = next(
            (f"{path}.model.".lstrip(".") for path, each in model.named_modules() if isinstance(each, LoraModel)), ""
        )
        for path, layer in layers.items():
            if self.adapter in {**layer.lora_A, **layer.lora_embedding_A}:
                check_layer(path, layer, self.adapter)
                self.paths[path.removeprefix(tuner)] = path
                self.layers[path.removeprefix(tuner)] = layer
        check_shared(self.layers, self.adapter)

    @property
    def count(self) -> int:
        """All terms."""
        return sum(self.sizes().values())

    @property
    def device(self) -> torch.device:
        """Where the first of the factors is."""
        return next(iter(self.weights().values()))[0].device

    def sizes(self) -> dict[str, int]:
        """Return layer -> rank."""
        return {path: layer.r[self.adapter] for path, layer in self.layers.items()}

    def least(self, asked: int | Mapping[str, int] = 0) -> int | dict[str, int]:
        """Return how many terms layers keep at least: one where a bias or a magnitude would go with the last."""
        given = dict(asked) if isinstance(asked, Mapping) else dict.fromkeys(self.layers, asked)
        more = {path: max(1, given.get(path, 0)) for path, layer in self.layers.items() if self._holds_more(layer)}
        return given | more if more or isinstance(asked, Mapping) else asked

    def check_cuttable(self) -> None:
        """Refuse an adapter that cannot be cut, see `covered`."""
        check_cuttable(getattr(self.model, "peft_config", {}).get(self.adapter))

    def weights(self) -> dict[str, tuple[nn.Parameter, nn.Parameter]]:
        """Return layer -> the weights of `lora_B` and of `lora_A`."""
        return {path: self._pair(layer) for path, layer in self.layers.items()}

    def halves(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Return layer -> B (out, r), with its scaling, and A (r, in)."""
        found = {}
        for path, layer in self.layers.items():
            B, A = self._pair(layer)
            found[path] = (layer.scaling[self.adapter] * B.detach().flatten(1), A.detach().flatten(1))
        return found

    def function(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """Return `call(model, ...)` as a function of right factors (r, in)."""
        names = {path: f"{self.paths[path]}.lora_A.{self.adapter}.weight" for path in self.layers}
        shapes = {path: self._pair(layer)[1].shape for path, layer in self.layers.items()}
        scaled = [path for path, layer in self.layers.items() if self.adapter in layer.lora_magnitude_vector]
        sizes = {path: f"{self.paths[path]}.lora_magnitude_vector.{self.adapter}.weight" for path in scaled}
        inner, _ = functional(call, self.model, [*names.values(), *sizes.values()])

        def function(right: Mapping[str, Tensor], *others: Any) -> Any:
            given = {names[path]: A.reshape(shapes[path]) for path, A in right.items()}
            given |= {name: self._magnitude(path, right[path]) for path, name in sizes.items() if path in right}
            return inner(given, *others)

        return function

    def taps(self) -> dict[str, Tap]:
        """Return the modules A, whose output is y."""
        modules = {path: layer.lora_A[self.adapter] for path, layer in self.layers.items()}
        return {
            path: Tap(module, lambda x, out, m=module: _rows(out, m), lambda gradient, m=module: _rows(gradient, m))
            for path, module in modules.items()
        }

    def write(
        self,
        turned: Mapping[str, Rotation],
        kept: Mapping[str, Tensor] | None = None,
        values: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Write B X and X^-1 A into the adapter, or those of their terms that are kept, each times its value."""
        for path, indices in (kept or {}).items():
            if not len(indices) and self._holds_more(self.layers[path]):
                raise UsageError(f"'{path}' has a magnitude or a bias beside its terms; keep one term, see `least`")
        for path, layer in self.layers.items():
            B, A = self._pair(layer)
            X = turned[path]
            left, right = B.detach().double().flatten(1) @ X.forth, X.back @ A.detach().double().flatten(1)
            if kept is not None:
                left, right = left[:, kept[path]], right[kept[path]]
            if values is not None:
                left = left * values[path].to(left)
            r = len(right)
            A.data = right.reshape(r, *A.shape[1:]).to(A)
            B.data = left.reshape(B.shape[0], r, *B.shape[2:]).to(B)
            A.grad = B.grad = None

    def patterns(self, ranks: Mapping[str, int]) -> tuple[dict[str, int], dict[str, float], str | None]:
        """Return layer -> rank in the words of `LoraConfig`: rank_pattern, alpha_pattern, exclude_modules."""
        patterns, alphas = {}, {}
        for path, r in ranks.items():
            if r:
                layer = self.layers[path]
                alpha = layer.scaling[self.adapter] * (r**0.5 if layer.use_rslora.get(self.adapter) else r)
                patterns[_key(path)] = r
                alphas[_key(path)] = int(alpha) if float(alpha).is_integer() else alpha
        gone = [re.escape(path) for path, r in ranks.items() if r == 0]
        return patterns, alphas, "|".join(gone) or None

    def settle(self, ranks: Mapping[str, int]) -> None:
        """Bring sizes and settings of peft to the weights' new shapes: layer -> rank."""
        config: Any = self.model.peft_config[self.adapter]  # type: ignore[index, union-attr]
        config.rank_pattern, config.alpha_pattern, gone = self.patterns(ranks)
        config.exclude_modules = _excluded(config.exclude_modules, gone)
        for path, layer in self.layers.items():
            r = ranks[path]
            if r == 0:
                self._give_up(path, layer)
                continue
            alpha, rooted = config.alpha_pattern[_key(path)], layer.use_rslora.get(self.adapter)
            layer.r[self.adapter], layer.lora_alpha[self.adapter] = r, alpha
            layer.scaling[self.adapter] = alpha / (math.sqrt(r) if rooted else r)  # to the bit what a file will give
            inner, outer = layer.lora_A[self.adapter], layer.lora_B[self.adapter]
            for module, side in ((inner, "out"), (outer, "in")):
                kind = "features" if isinstance(module, nn.Linear) else "channels"
                setattr(module, f"{side}_{kind}", r)

    def _magnitude(self, path: str, A: Tensor) -> Tensor:
        """Return DoRA's magnitude (out,) as it is, with the derivative of the norm that DoRA holds constant."""
        layer = self.layers[path]
        W = dequantize_module_weight(layer.get_base_layer()).detach()
        W = W.mT if getattr(layer, "fan_in_fan_out", False) else W  # (out, in)
        m: Tensor = layer.lora_magnitude_vector[self.adapter].weight  # type: ignore[assignment]
        B, _ = self._pair(layer)
        norm = (W.to(A) + layer.scaling[self.adapter] * B.detach() @ A).norm(dim=1)
        return m.detach() * (norm.detach() / norm).to(m)

    def _holds_more(self, layer: LoraLayer) -> bool:
        return self.adapter in layer.lora_magnitude_vector or bool(layer.lora_bias.get(self.adapter))

    def _pair(self, layer: LoraLayer) -> tuple[nn.Parameter, nn.Parameter]:
        return layer.lora_B[self.adapter].weight, layer.lora_A[self.adapter].weight  # type: ignore[return-value]

    def _give_up(self, path: str, layer: LoraLayer) -> None:
        """Take this adapter off a layer; one that has no other becomes its base again."""
        for attribute in (*layer.adapter_layer_names, *layer.other_param_names):
            held = getattr(layer, attribute)
            if self.adapter in held:
                del held[self.adapter]
        layer.lora_variant.pop(self.adapter, None)
        if not layer.lora_A and not layer.lora_embedding_A:
            parent, _, name = self.paths[path].rpartition(".")
            setattr(self.model.get_submodule(parent), name, layer.get_base_layer())


def _rows(out: Tensor, module: nn.Module) -> Tensor:
    return out if isinstance(module, nn.Linear) else out.movedim(1, -1)


def _key(path: str) -> str:
    """Return a path as peft reads it: a regular expression, of which an unanchored one would match longer paths too."""
    return f"^{re.escape(path)}"


def _excluded(before: Any, now: str | None) -> Any:
    """Join what a configuration excluded with what is excluded now, as one regular expression."""
    if not before or not now:
        return now or before
    if not isinstance(before, str):
        before = rf"(?:.*\.)?(?:{'|'.join(re.escape(each) for each in sorted(before))})"
    if flags := re.match(r"\(\?([a-z]+)\)", before):  # legal at the start of the whole alone
        return f"(?{flags[1]}:{before[flags.end() :]})|{now}"
    return f"(?:{before})|{now}"
