"""Kerple, FIRE, ALiBi, DAPE and SA-Softmax for a transformers model, by one call.

The stages of each layer become a submodule of its attention module, named `lissome`: their numbers are parameters of
the model, which any Trainer trains and `save_pretrained` saves. `stored.load` reads such a folder.
"""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor, nn

from lissome._errors import UsageError
from lissome.attention import Attention
from lissome.bridges import asked
from lissome.bridges.families import Parts, parts, unturned
from lissome.bridges.frames import mask
from lissome.bridges.installed import AttentionInterface, AttentionMaskInterface
from lissome.bridges.named import mixed

NAME = "lissome_attached"  # of the attention function
CHILD = "lissome"  # of the submodule, and of the dict in the config


class Added(nn.Module):
    """The stages of one layer.

    Args:
        recipe: validity, bias, refine, normalize.
        heads: H, which the stages were made for.
        before: the attention function that the model had.
    """

    def __init__(self, recipe: Attention, heads: int, before: str):
        super().__init__()
        self.recipe, self.heads, self.before = recipe, heads, before

    def forward(self, module: nn.Module, tensors: tuple[Tensor, Tensor, Tensor], *rest: Any) -> Any:
        """Return what an attention function of transformers returns; see `named.mixed`."""
        if tensors[0].shape[1] != self.heads:
            raise UsageError(
                f"the stages were made for {self.heads} heads and {tensors[0].shape[1]} came; tensor parallelism "
                "splits heads, which these stages need together: use data parallelism"
            )
        return mixed(module, self.recipe, tensors, *rest)


def attach(
    model: nn.Module,
    *,
    position: str | None = None,
    refine: str = "none",
    normalize: str = "softmax",
    validity: str = "causal",
    length: int | None = None,
    zero_init: bool = False,
    recipe: asked.Recipe | None = None,
) -> nn.Module:
    """Give a model of transformers other stages of attention, in place.

    Args:
        model: Llama, GPT-NeoX, Qwen2, Qwen3, Mistral, Phi or Phi3, with any head; also inside a `PeftModel`.
        position: none, alibi, kerple, kerple(power) or fire, each of which switches the model's rotary embedding off;
            rotary keeps it, as does None.
        refine: none, dape, dape(3) for DAPE V2, and what else `lissome.attention.attention` reads.
        normalize: softmax, self_adjust(4), self_adjust(4, detach_extrema=True).
        validity: causal, or a rule joined to it, such as causal & window(256).
        length: the training length, which FIRE needs.
        zero_init: start the refinement at 0: with the model's own rotary the outputs are then what they were.
        recipe: layer -> `Attention`, for stages of your own in place of the names; `position` may then be none to
            switch rotary off. Such a model is read again by `load(folder, recipe=...)`.

    Returns:
        The model; its new parameters are in its dtype, on the devices of their layers, and drawn by torch's generator.

    Raises:
        UsageError: a model whose attention modules are not known, one that has stages already, an unknown stage,
            stages that do not fit its heads, tensor parallelism. Nothing is changed then.

    >>> from transformers import LlamaConfig, LlamaForCausalLM
    >>> small = LlamaConfig(hidden_size=16, num_hidden_layers=2, num_attention_heads=4, vocab_size=8)
    >>> model = attach(LlamaForCausalLM(small), position="kerple", refine="dape(3)")
    >>> model.model.layers[0].self_attn.lissome.recipe.explain()
    'causal; kerple; dape(3); softmax'
    >>> model.config.lissome["position"]
    'kerple'
    """
    found = parts(model)
    _check_untouched(found)
    names = {"position": position, "refine": refine, "normalize": normalize, "validity": validity, "length": length}
    if recipe is None:
        built, kept = asked.named(found, names, zero_init)
    else:
        built, kept = asked.given(found, names, zero_init, recipe)
    asked.check_recipes(found, built)
    _own_config(model, found.model.config)
    setattr(found.model.config, CHILD, kept)
    _put(found, built, asked.keeps_rotary(position))
    return model


def detach(model: nn.Module) -> nn.Module:
    """Take the stages off again, in place, and return the model with its own attention and rotary embedding.

    Raises:
        UsageError: it has none.
    """
    found = parts(model)
    added = [each for module in found.attentions for each in module.modules() if isinstance(each, Added)]
    if not added:
        raise UsageError(f"this {type(found.model).__name__} has no stages of Lissome; attach gives it some")
    for module in found.attentions:
        delattr(module, CHILD)
    for hooks, ours in ((found.rotary._forward_hooks, unturned), (found.decoder._forward_pre_hooks, _at_work)):
        for key in [key for key, hook in hooks.items() if hook is ours]:
            del hooks[key]
    found.model.set_attn_implementation(added[0].before)
    delattr(found.model.config, CHILD)
    return model


def _check_untouched(found: Parts) -> None:
    kind = type(found.model).__name__
    if any(isinstance(each, Added) for each in found.decoder.modules()):
        raise UsageError(f"this {kind} has stages already; take them off by detach, or give all in one call")
    if getattr(found.model.config, CHILD, None):
        raise UsageError(
            f"the config of this {kind} names stages, and the model was read without them; read it by "
            "lissome.bridges.transformers.load, or delete config.lissome to begin anew"
        )
    if (getattr(found.model, "tp_size", None) or 1) > 1:
        raise UsageError(
            f"this {kind} splits its heads over {found.model.tp_size} devices (tensor parallelism), and the stages "
            "need them together; use data parallelism"
        )


def _own_config(model: nn.Module, shared: Any) -> None:
    """Give a model a config of its own: others may be built of the same one."""
    own = copy.deepcopy(shared)
    for module in model.modules():
        if vars(module).get("config") is shared:
            module.config = own


def _put(found: Parts, built: list[Attention], kept: bool) -> None:
    before = found.model.config._attn_implementation
    found.model.set_attn_implementation(NAME)
    for module, recipe in zip(found.attentions, built, strict=True):
        module.add_module(CHILD, Added(recipe, found.heads, before).train(module.training))
    found.decoder.register_forward_pre_hook(_at_work)
    if not kept:
        found.rotary.register_forward_hook(unturned)


def _at_work(decoder: Any, inputs: tuple[Any, ...]) -> None:
    """Refuse a forward in which the stages would be passed by."""
    if decoder.config._attn_implementation != NAME:
        raise UsageError(
            f"this model's attention was set to '{decoder.config._attn_implementation}', which passes its stages by; "
            f"call model.set_attn_implementation('{NAME}'), or detach"
        )


def _attached(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **named: Any,
) -> tuple[Tensor, Tensor | None]:
    added: Any = getattr(module, CHILD, None)
    if added is None:
        raise UsageError(f"'{NAME}' is the attention of models that have stages, and this one has none; call attach")
    return added(module, (query, key, value), attention_mask, scaling, dropout, named)


AttentionInterface.register(NAME, _attached)
AttentionMaskInterface.register(NAME, mask)
