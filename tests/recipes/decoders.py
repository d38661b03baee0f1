"""Decoders of a few numbers, what they read, and the stages of their own pass."""

import numpy as np
import torch

from lissome.attention import stages
from lissome.models import Decoder, DecoderShape

SENTENCE = "Of a text, one line: is it read?\n"
WORDS = np.frombuffer(b"one, two; three words. And a line\nof more: is it so? It is! " * 12, np.uint8)


def decoder(seed=0, **named):
    torch.manual_seed(seed)
    sizes = {"vocabulary": 256, "layers": 2, "width": 16, "heads": 4, "length": 16, "position": "kerple"}
    model = Decoder(DecoderShape(**(sizes | named)))
    with torch.no_grad():  # as drawn, scores are near 0 and nothing could be told apart
        for block in model.blocks:
            block.heads.qkv.weight.mul_(20)
    return model


def seen(model, tokens):
    """Return the stages of each layer, by a hook on what its heads are given."""
    found, hooks = [], []
    for block in model.blocks:

        def look(heads, given):
            q, k, _ = heads.project(given[0], given[1])
            found.append(stages(q, k, given[1], heads.recipe))

        hooks.append(block.heads.register_forward_pre_hook(look))
    with torch.no_grad():
        model.eval()(tokens)
    for hook in hooks:
        hook.remove()
    return found
