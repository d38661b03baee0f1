"""Small decoders of every kind."""

import pytest
import torch

from lissome.models import Decoder, DecoderShape

SMALL = {"vocabulary": 17, "layers": 2, "width": 16, "heads": 4}
STAGES = {
    "rotary": {},
    "bare": {"position": "none"},
    "alibi": {"position": "alibi"},
    "kerple": {"position": "kerple"},
    "fire": {"position": "fire", "length": 6},
    "dape": {"position": "kerple", "refine": "dape"},
    "dape v2": {"position": "kerple", "refine": "dape(3)"},
    "dape v2 without bias": {"position": "rotary", "refine": "dape(5)"},
    "self-adjusting": {"position": "alibi", "normalize": "self_adjust(4)"},
    "window": {"validity": "causal & (window(3) | every_kth(4))"},
    "separators": {"validity": "causal & (sinks(1) | separators(3, 5) | window(2))"},
    "windows by layer": {"validity": "causal & (separators(3, 5) | window(2)), causal"},
    "all at once": {"position": "fire", "length": 6, "refine": "dape(3)", "normalize": "self_adjust(3)"},
}
KINDS = {
    "as it is": {},
    "grouped": {"key_heads": 2},
    "one key head": {"key_heads": 1},
    "untied": {"tied": False},
    "gelu": {"feed": "gelu"},
    "feed width": {"feed_width": 5},
}
ALL = {**{name: {**values} for name, values in STAGES.items()}, **KINDS}
every_kind = pytest.mark.parametrize("kind", ALL)


def decoder(**values):
    """Return a decoder in float64 whose every number counts."""
    torch.manual_seed(0)
    model = Decoder(DecoderShape(**{**SMALL, **values})).double().eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.2 * torch.randn(weight.shape, dtype=weight.dtype)
    return model


def drawn(*shape, seed=1, size=17):
    return torch.randint(size, shape, generator=torch.Generator().manual_seed(seed))


def equal(found, truth):
    torch.testing.assert_close(found, truth, rtol=0, atol=1e-10)
