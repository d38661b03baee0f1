"""All that attention and caches take of transformers, or a sentence that says how to install it."""

from __future__ import annotations

from lissome._errors import UsageError

try:
    from transformers import (
        AttentionInterface,
        AutoConfig,
        AutoModelForCausalLM,
        Cache,
        DynamicCache,
        PreTrainedModel,
    )
    from transformers.cache_utils import CacheLayerMixin
    from transformers.generation.utils import GENERATION_MODES_MAPPING
    from transformers.masking_utils import (
        AttentionMaskInterface,
        causal_mask_function,
        sdpa_mask,
        sliding_window_causal_mask_function,
    )
    from transformers.utils import logging
except ImportError as error:
    raise UsageError("this bridge needs transformers; install it with: pip install 'lissome[language]'") from error

__all__ = [
    "GENERATION_MODES_MAPPING",
    "AttentionInterface",
    "AttentionMaskInterface",
    "AutoConfig",
    "AutoModelForCausalLM",
    "Cache",
    "CacheLayerMixin",
    "DynamicCache",
    "PreTrainedModel",
    "causal_mask_function",
    "logging",
    "sdpa_mask",
    "sliding_window_causal_mask_function",
]
