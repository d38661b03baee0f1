"""What ways over whole causal texts share: a bias as a table of its distances, and what all of them refuse."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lissome._errors import UsageError
from lissome.attention.backends.once import one_derivative
from lissome.attention.frame import Frame
from lissome.attention.recipe import Attention
from lissome.attention.validity import causal


def table(bias: nn.Module, q: Tensor, keys: int) -> Tensor:
    """Return what a stationary bias adds, (H, Tk) in the order of keys as the last query sees them.

    It is asked of the module itself and under autograd, so that each of its parameters gets a gradient.

    Raises:
        UsageError: a bias for another number of heads than q has.

    >>> from lissome.attention import Alibi
    >>> table(Alibi(1), torch.zeros(1, 1, 3, 4), 3).tolist() == [[-2 / 2**8, -1 / 2**8, 0]]
    True
    """
    places = torch.arange(keys, device=q.device)[None]
    with torch.autocast(q.device.type, enabled=False):
        found = bias(Frame(places[:, -1:], places))[0, :, 0]
    if len(found) != q.shape[1]:
        raise UsageError(f"the bias is for {len(found)} heads, and q has {q.shape[1]}")
    return found


def refusal(q: Tensor, k: Tensor, v: Tensor, frame: Frame, recipe: Attention, dropout: float) -> str:
    """Return why a way of whole causal texts, a table and first derivatives does not serve, or an empty text."""
    if recipe.validity != causal:
        return f"it runs causal attention, and the validity is {recipe.validity.name}"
    if (bias := recipe.bias) is not None and not getattr(bias, "stationary", False):
        said = getattr(bias, "name", type(bias).__name__.lower())
        return f"the bias has to depend on the distance alone and say so, and {said} does not"
    if not frame.whole or q.shape[2] > k.shape[2]:
        return "its queries are the last of all keys, none padded, and those of this frame are not"
    if not q.numel() or not v.numel():
        return "there is nothing to attend to"
    if dropout:
        return f"it has no dropout, and {dropout} is asked for"
    return one_derivative((q, k, v, *recipe.parameters()))
