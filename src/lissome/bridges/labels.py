"""What a transformers model is asked when nothing else is given: its own loss, and labels drawn from its own logits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lissome._errors import UsageError

Batch = Mapping[str, Any]


def own_loss(model: nn.Module, batch: Batch) -> Tensor:
    """Return what a transformers model calls its loss.

    Raises:
        UsageError: it gives none, as without `labels` in the batch.
    """
    loss = getattr(model(**batch), "loss", None)
    if loss is None:
        raise UsageError(f"the model gives no loss for a batch with {', '.join(batch)}; add labels, or give a loss")
    return loss


def sampled_likelihood(model: nn.Module, batch: Batch, generator: torch.Generator) -> Tensor:
    """Return the log-probability of labels drawn from the model's own logits, summed over what its loss looks at.

    Args:
        model: called with the batch; gives `logits` (..., classes).
        batch: `labels` that are -100, and positions that `attention_mask` hides, count for nothing.
        generator: draws the labels, on the CPU.

    Raises:
        UsageError: the model gives no logits, or some that are not finite.
    """
    logits = getattr(model(**batch), "logits", None)
    if logits is None or logits.shape[-1] < 2:
        raise UsageError("the model gives no logits of two or more classes to draw labels from; give a probe")
    scores = logits.float().log_softmax(-1)  # (..., C); -inf where a class is ruled out
    if bool(scores.isnan().any()):
        raise UsageError("the model's logits are not finite; look at the batch, the weights and the model's dtype")
    draws = torch.multinomial(scores.detach().cpu().exp().flatten(0, -2), 1, generator=generator)  # (rows, 1)
    taken = scores.flatten(0, -2).gather(1, draws.to(scores.device)).reshape(scores.shape[:-1])
    seen = torch.ones_like(taken)
    coded = getattr(getattr(model, "config", None), "is_encoder_decoder", False)  # its own mask is of what is read
    mask, labels = batch.get("decoder_attention_mask" if coded else "attention_mask"), batch.get("labels")
    if mask is not None and mask.shape == taken.shape:
        seen = seen * mask
    if labels is not None and labels.shape == taken.shape and taken.ndim == 2:
        wanted = labels.ne(-100).to(seen)
        if _causal(model):  # position t speaks of the label at t + 1
            wanted = torch.cat([wanted[:, 1:], torch.zeros_like(wanted[:, :1])], 1)
        seen = seen * wanted
    return (taken * seen).sum()


def _causal(model: nn.Module) -> bool:
    names = [type(each).__name__ for each in model.modules()]
    return any(name.endswith(("CausalLM", "LMHeadModel")) for name in names)  # a RobertaLMHead is no model
