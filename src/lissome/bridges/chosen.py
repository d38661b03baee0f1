"""A `SepCache` by words, as a command line has them: what is kept, and the ids of separators."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from lissome._checks import refuse
from lissome._errors import UsageError, unknown
from lissome.attention.notation import made
from lissome.bridges.marks import Every
from lissome.bridges.separators import PAPER, separator_ids
from lissome.bridges.sepcache import SepCache

PAPERS = "paper:"
Ask = Callable[[], tuple[int, ...]]


def ids_of(separators: object, tokenizer: Any) -> tuple[int, ...]:
    """Return the ids that words ask for.

    Args:
        separators: auto, those of the tokenizer; paper:llama-3 and paper:gpt-neox, the published lists; or ids, as
            text ("13 11 30") or as a list.
        tokenizer: as of `separators.separator_ids`; None: there is none, which auto alone needs.

    Raises:
        UsageError: other words, or no tokenizer where it is needed.

    >>> ids_of("13 11", None), ids_of("paper:gpt-neox", None)[:3]
    ((13, 11), (15, 13, 32))
    """
    if separators == "auto":
        if tokenizer is None:
            raise UsageError("separators is 'auto' and there is no tokenizer to take them from; give one, or ids")
        return separator_ids(tokenizer)
    if isinstance(separators, str) and separators.startswith(PAPERS):
        name = separators.removeprefix(PAPERS)
        if name not in PAPER:
            raise unknown("list of separators", name, PAPER)
        return PAPER[name]
    found = separators
    if isinstance(separators, str):
        words = separators.strip("[]() ").replace(",", " ").split()
        found = [int(word) for word in words] if words and all(word.isdecimal() for word in words) else None
    elif isinstance(separators, int) and not isinstance(separators, bool):
        found = [separators]  # a lone id loses its quotes on the way
    if not isinstance(found, Iterable):
        papers = ", ".join(PAPERS + name for name in PAPER)
        raise refuse("separators", separators, f"are auto, {papers}, and ids such as '13 11 30'")
    return tuple(found)


def chosen(cache: str, separators: object = "auto", tokenizer: Any = None, **sizes: Any) -> Callable[[Any], SepCache]:
    """Return what makes a cache for the config of a model.

    Args:
        cache: separators (SepLLM), sinks (StreamingLLM), fixed or fixed(8) (FixLLM, every 5th or 8th token in place
            of separators), full (all stays).
        separators: as in `ids_of`; asked for by `cache="separators"` alone.
        tokenizer: as in `ids_of`.
        sizes: further arguments of `SepCache`.

    Raises:
        UsageError: another cache, ids that there are not; those of `SepCache` come when the cache is made.

    >>> from transformers import LlamaConfig
    >>> small = LlamaConfig(hidden_size=16, num_hidden_layers=2, num_attention_heads=4, vocab_size=8, pad_token_id=0)
    >>> chosen("separators", "3 4", initial=1, separators_kept=2, local=4, capacity=10)(small).capacity
    10
    """
    return made(cache, "cache", _kinds(partial(ids_of, separators, tokenizer), sizes))


def _kinds(ids: Ask, sizes: Mapping[str, Any]) -> Mapping[str, Callable[..., Callable[[Any], SepCache]]]:
    def by_separators() -> Callable[[Any], SepCache]:
        return partial(SepCache, separators=ids(), **sizes)

    def by_sinks() -> Callable[[Any], SepCache]:
        return partial(SepCache, separators=(), **{**sizes, "separators_kept": 0})

    def by_count(every: int = 5) -> Callable[[Any], SepCache]:
        return partial(SepCache, separators=Every(every), **sizes)

    def whole() -> Callable[[Any], SepCache]:
        return partial(SepCache, separators=(), **{**sizes, "full": "all"})

    return {"separators": by_separators, "sinks": by_sinks, "fixed": by_count, "full": whole}
