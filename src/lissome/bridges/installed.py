"""All that attention takes of transformers, or a sentence that says how to install it."""

from __future__ import annotations

from lissome._errors import UsageError

try:
    from transformers import AttentionInterface, AutoConfig, AutoModelForCausalLM, PreTrainedModel
    from transformers.masking_utils import (
        AttentionMaskInterface,
        causal_mask_function,
        sdpa_mask,
        sliding_window_causal_mask_function,
    )
except ImportError as error:
    raise UsageError(
        "lissome.bridges.transformers needs transformers; install it with: pip install 'lissome[language]'"
    ) from error

__all__ = [
    "AttentionInterface",
    "AttentionMaskInterface",
    "AutoConfig",
    "AutoModelForCausalLM",
    "PreTrainedModel",
    "causal_mask_function",
    "sdpa_mask",
    "sliding_window_causal_mask_function",
]
