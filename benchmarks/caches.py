"""A step of decoding through `SepCache` beside the caches of transformers: 8 layers, width 512, 29.5M weights, float32.

Floor, in bytes, one row and one token. The step reads all weights, 118 MB, and all entries of the cache, of which each
takes 2 x 8 x 512 numbers, 33 kB: 1,074 MB of 32,768 entries, 18 MB of the 562 that a `SepCache` of 4 + 64 + 256 with
a capacity of 800 holds on average, 26 MB at most. So the step of a cache that copies nothing reads 8.8 times less.
`DynamicCache` writes its entries anew at each step, which reads and writes them once more: 3,340 MB beside 173 where
`SepCache` does the same, 19 times. Operations: 59 million for weights, 537 million for 32,768 entries and 9 for 562;
at 60 GFLOP/s they take a tenth of the time of the bytes.

The expectation, before it was run: 12 to 19 times the tokens a second of `DynamicCache`, at least 5 wanted, and 5 to 8
times those of `StaticCache`, which writes in place. The step in which entries are dropped gathers 324 of 800: some 40
MB more and a sort, 1.2 to 1.5 times another one, once in 476 steps.

While nothing is dropped a step costs a hook and a note of the token, some 20 microseconds of a step of 10 to 20 ms: 1.0
to 1.02, at most 1.1 wanted.

What comes out has to be what `DynamicCache` gives on the entries that are kept, and on all while nothing is dropped.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM, StaticCache
from transformers.cache_utils import CacheLayerMixin

from benchmarks.race import Contestant, Times
from benchmarks.registry import Benchmark, Cell, DisagreementError, Target, agree
from lissome.bridges.sepcache import SepCache

VOCABULARY, WIDTH, LAYERS, HEADS = 8192, 512, 8, 8
CONTEXT, READ, SHARE = 32_768, 2048, 0.1  # of tokens that are separators
INITIAL, KEPT, LOCAL, CAPACITY = 4, 64, 256, 800
CYCLE = CAPACITY - INITIAL - KEPT - LOCAL  # steps from one drop to the next
SEPARATORS = tuple(range(8))
DYNAMIC, STATIC, OURS, DROPS, MEAN = "DynamicCache", "StaticCache", "SepCache", "SepCache, drops", "SepCache, a cycle"


def model_of(room: int) -> Any:
    """Return a Llama with drawn weights."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=1376,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        max_position_embeddings=room,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config).eval()


def drawn(length: int) -> Tensor:
    """Return a text (1, T) a tenth of which are separators, anywhere."""
    words = torch.randint(len(SEPARATORS), VOCABULARY, (1, length))
    marks = torch.randint(len(SEPARATORS), (1, length))
    return torch.where(torch.rand(1, length) < SHARE, marks, words)


def held(cache: Any) -> int:
    """Return the bytes of all tensors that the layers of a cache hold."""
    found = {one.untyped_storage().data_ptr(): one.untyped_storage().nbytes() for one in _tensors(cache.layers)}
    return sum(found.values())


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _tensors(each)
    elif isinstance(value, CacheLayerMixin):
        yield from _tensors(list(vars(value).values()))


def _step(model: Any, cache: Any, token: Tensor, **named: Any) -> Tensor:
    with torch.no_grad():
        return model(token, past_key_values=cache, **named).logits


def _stepping(model: Any, cache: SepCache, token: Tensor) -> Contestant:
    """Return steps of a cache that stays attached."""
    around = cache.attach(model)
    around.__enter__()

    def step(around: Any = around) -> Tensor:  # which lives as long as the step
        return _step(model, cache, token)

    return step


def _filled(cache: Any, length: int) -> Any:
    """Give a cache of transformers drawn keys and values of a text (1, T)."""
    for layer in range(LAYERS):
        k, v = (torch.randn(1, HEADS, length, WIDTH // HEADS) for _ in range(2))
        cache.update(k, v, layer)
    return cache


def _read(model: Any, cache: SepCache, text: Tensor) -> None:
    with cache.attach(model), torch.no_grad():
        for part in text.split(CYCLE, 1):
            model(part, past_key_values=cache, logits_to_keep=1)


def _check(model: Any, cache: SepCache, token: Tensor) -> None:
    """Hold a step to that of a `DynamicCache` with the same entries.

    Raises:
        DisagreementError: they differ, or the cache holds more than it may.
    """
    most = held(cache) // (2 * LAYERS * WIDTH * 4)
    if most > INITIAL + KEPT + LOCAL + CAPACITY:
        raise DisagreementError(f"'{OURS}' holds {most} entries")
    own, same = copy.deepcopy(cache), DynamicCache()
    for number, layer in enumerate(cache.layers):
        same.update(layer.keys.clone(), layer.values.clone(), number)
    place = torch.tensor([[cache.get_seq_length()]])
    with own.attach(model):
        agree(OURS, [_step(model, own, token)], [_step(model, same, token, position_ids=place)], 1e-4)


def decoding() -> dict[str, Contestant]:
    """Return steps after 32,768 tokens; what a `SepCache` holds of those it holds of 2,048, in number."""
    torch.set_num_threads(1)
    model, text = model_of(CONTEXT + 1024), drawn(READ)
    token = torch.tensor([[len(SEPARATORS)]])
    sizes = {"initial": INITIAL, "separators_kept": KEPT, "local": LOCAL, "capacity": CAPACITY}
    cache = SepCache(model.config, SEPARATORS, **sizes)
    _read(model, cache, text)
    with cache.attach(model):
        while cache.stored != (INITIAL + KEPT + LOCAL + CAPACITY) // 2 - 16:  # the race goes on to about as far above
            _step(model, cache, token)
    _check(model, cache, token)
    full = copy.deepcopy(cache)
    with full.attach(model):
        while full.stored != CAPACITY:
            _step(model, full, token)
    static = StaticCache(config=model.config, max_cache_len=CONTEXT + 256)
    others = {DYNAMIC: DynamicCache(), STATIC: static}
    fillings = {name: _filled(one, CONTEXT) for name, one in others.items()}
    ready = [copy.deepcopy(full) for _ in range(ROUNDS + 3)]  # one a call: each drops once

    def drops() -> Tensor:
        one = ready.pop()
        with one.attach(model):
            return _step(model, one, token)

    steps = {name: functools.partial(_step, model, one, token) for name, one in fillings.items()}
    return {**steps, OURS: _stepping(model, cache, token), DROPS: drops}


def cycle(times: Times) -> Times:
    """Return the mean over the steps from one drop to the next."""
    pairs = zip(times[OURS], times[DROPS], strict=True)
    return {MEAN: [step + (drop - step) / CYCLE for step, drop in pairs]}


def whole(length: int) -> dict[str, Contestant]:
    """Return steps while nothing is dropped."""
    torch.set_num_threads(1)
    model, text = model_of(4096), drawn(length + 1)
    plain, own, token = DynamicCache(), SepCache(model.config, SEPARATORS, capacity=CONTEXT), text[:, -1:]
    found = {DYNAMIC: functools.partial(_step, model, plain, token), OURS: _stepping(model, own, token)}
    with torch.no_grad():
        for cache in (plain, own):
            model(text[:, :-1], past_key_values=cache, logits_to_keep=1)
    agree(OURS, [found[OURS]()], [found[DYNAMIC]()], 1e-5)
    return found


ROUNDS = 12
BENCHMARK = Benchmark(
    "caches",
    "A step of decoding through caches, 29.5M weights, one row, one thread, float32",
    (
        Cell(
            "32,768 tokens of context, capacity 800",
            decoding,
            OURS,
            rounds=ROUNDS,
            derive=cycle,
            targets=(Target(DYNAMIC, MEAN, least=5.0),),
        ),
        *(
            Cell(
                f"nothing dropped, {length:,} tokens",
                functools.partial(whole, length),
                DYNAMIC,
                rounds=20,
                burst=4,
                targets=(Target(OURS, DYNAMIC, most=1.1),),
            )
            for length in (64, 512, 2048)
        ),
    ),
    (
        "tokens a second are 1 over a step's time; wanted: at least 5 times those of DynamicCache at 32,768 tokens, "
        "and at most 1.1 times its step while nothing is dropped",
        f"bytes of entries: DynamicCache and StaticCache {2 * LAYERS * WIDTH * 4 * CONTEXT / 1e6:,.0f} MB, SepCache "
        f"{2 * LAYERS * WIDTH * 4 * CAPACITY / 1e6:,.0f} MB at most; a cell is refused where it holds more than "
        "initial + separators_kept + local + capacity entries a layer",
        "perplexity and speed of more caches on a trained model: caches.md, by python -m benchmarks.caches_table",
    ),
    rooms=("bridges",),
)
