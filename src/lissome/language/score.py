"""What a model pays for a token, in nats."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MOST = math.log(torch.finfo(torch.float64).max)


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Return -log softmax(logits)[target] of each token in nats, (...); in float32 for half precision.

    Args:
        logits: (..., V), of any floating type.
        targets: (...) int64.

    >>> cross_entropy(torch.zeros(1, 2, 4), torch.tensor([[0, 3]])).exp()
    tensor([[4., 4.]])
    """
    dtype = torch.promote_types(logits.dtype, torch.float32)
    # of half precision one array in float32 is kept for the backward pass: the logarithms, not the logits
    logs = F.log_softmax(logits.flatten(0, -2), -1, dtype=dtype)  # (N, V)
    return F.nll_loss(logs, targets.reshape(-1), reduction="none").view(targets.shape)


def perplexity(nats: float) -> float:
    """Return exp(nats), infinite where no float64 holds it.

    >>> perplexity(0.0), perplexity(1e4)
    (1.0, inf)
    """
    return math.exp(nats) if nats < MOST else nats * math.inf


@contextlib.contextmanager
def scoring(model: nn.Module) -> Iterator[torch.device]:
    """Yield the model's device; meanwhile the model does not train and no graph is made."""
    before = [(module, module.training) for module in model.modules()]
    model.eval()
    tensors = (tensor for own in (model.parameters(), model.buffers()) for tensor in own)
    first = next(tensors, None)
    try:
        with torch.no_grad():
            yield torch.device("cpu") if first is None else first.device
    finally:
        for module, training in before:
            module.training = training
