"""Which LoRA layers of peft can have their terms measured and cut; all others are refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from lissome._errors import UsageError, unknown

try:
    from peft.tuners.lora import LoraLayer
    from peft.tuners.lora.layer import Embedding, MultiheadAttention, ParamWrapper
    from peft.tuners.lora.variants import DoraLinearVariant
except ImportError as error:
    raise UsageError("lissome.bridges.peft needs peft; install it with: pip install 'lissome[peft]'") from error

TAKEN = ("pissa", "corda", "olora", "OLoRA", "loftq", "lora_ga")  # starts that change the base
KNOWN = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)  # what A may be


def check_cuttable(settings: Any) -> None:
    """Refuse an adapter of a `LoraConfig` that cannot be cut.

    peft starts some adapters by what it takes off the base, and does so again when it loads them: with other ranks
    that is something else.
    """
    start = getattr(settings, "init_lora_weights", True)
    if isinstance(start, str) and start.startswith(TAKEN):
        raise UsageError(
            f"the adapter began by '{start}', which takes its start off the base; save it as a plain LoRA by "
            "save_pretrained(..., path_initial_model_for_weight_conversion=...), and cut that"
        )


def active(layers: Mapping[str, LoraLayer], adapter: str | None) -> str:
    """Return the adapter that is meant, if it is one that is at work."""
    known = dict.fromkeys(name for layer in layers.values() for name in {**layer.lora_A, **layer.lora_embedding_A})
    active = dict.fromkeys(name for layer in layers.values() for name in layer.active_adapters)
    if adapter is None:
        if len(active) != 1:
            raise UsageError(f"the active adapters are {', '.join(active) or 'none'}; name one by adapter=")
        adapter = next(iter(active))
    if adapter not in known:
        raise unknown("adapter", adapter, known)
    if adapter not in active:
        raise UsageError(f"the adapter '{adapter}' is not active; call model.set_adapter('{adapter}') first")
    return adapter


def check_layer(path: str, layer: LoraLayer, adapter: str) -> None:
    """Refuse a layer whose terms cannot be measured by the weight of its A."""
    kind = type(layer).__name__
    if isinstance(layer, Embedding | MultiheadAttention | ParamWrapper) or adapter not in layer.lora_A:
        what = {Embedding: "an embedding's LoRA", ParamWrapper: "a LoRA of target_parameters"}.get(type(layer), kind)
        raise UsageError(f"'{path}' is {what}, whose terms cannot be measured; legal are linear and convolution layers")
    inner, outer = layer.lora_A[adapter], layer.lora_B[adapter]
    if not isinstance(inner, KNOWN) or not isinstance(outer, KNOWN):
        raise UsageError(f"'{path}' is a {kind} with factors of type {type(inner).__name__}, which is not covered")
    if getattr(outer, "groups", 1) != 1 or getattr(inner, "groups", 1) != 1:
        raise UsageError(f"'{path}' is a convolution in groups, of which each has terms of its own; it is not covered")
    variant = layer.lora_variant.get(adapter)
    if variant is not None and not isinstance(variant, DoraLinearVariant):
        raise UsageError(
            f"'{path}' is of the variant {type(variant).__name__}; legal are LoRA, and DoRA of a linear layer"
        )
    if layer.merged:
        raise UsageError(f"the adapter is merged into '{path}'; call model.unmerge_adapter() first")
    if layer.disable_adapters:
        raise UsageError(f"adapters are disabled in '{path}'; leave disable_adapter(), or enable them first")


def check_shared(layers: Mapping[str, LoraLayer], adapter: str) -> None:
    """Refuse factors that two layers share: a cut in one would be a cut in the other."""
    owners: dict[int, str] = {}
    for path, layer in layers.items():
        for module in (layer.lora_A[adapter], layer.lora_B[adapter]):
            first = owners.setdefault(id(module.weight), path)
            if first != path:
                raise UsageError(f"'{first}' and '{path}' share a factor; cutting one would cut the other")
