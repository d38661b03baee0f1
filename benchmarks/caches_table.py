"""`python -m benchmarks.caches_table FOLDER TEXT`: caches on a trained model, speed, bytes and perplexity.

FOLDER is a Llama of transformers with its tokenizer, as `lissome lm export` writes it, and TEXT a file that it was not
trained on. From each of some passages a cache is given 384 tokens and then the next 128 one by one, each scored by
what the one before it gave: the same tokens, model and positions for all. Caches of the same budget hold 96 entries
right after the first 384, or on average.

All caches of transformers that run on this machine are here, quantised ones where their package is installed, and some
presses of kvpress. Those drop once, after the prompt, and grow from there; as released they ask for transformers below
5.3 and pandas below 3, so that they are not in peers.txt, and read `cache_position`, which is no longer given and is
handed in by name: `pip install --no-deps kvpress==0.5.5 'fire<0.7' 'cachetools<6' termcolor`, beside datasets, runs.

What to expect: whole caches agree in perplexity to rounding, 8 bits nearly, and are as fast as one another, slower the
more they unpack; dropping costs perplexity, least where what is kept was chosen by looking (SnapKV), and at this size
gains no speed: 512 entries are a small part of a step. Speed at 32,768 tokens is in `caches`.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import importlib
import json
import math
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DynamicCache,
    MistralConfig,
    MistralForCausalLM,
    QuantizedCache,
    StaticCache,
)

from benchmarks import record
from benchmarks.caches import held
from lissome.bridges.chosen import chosen

PROMPT, SCORED, PASSAGES = 384, 128, 8
BUDGET, CHUNK = 96, 16
SIZES = {"initial": 4, "capacity": 128, "chunk": CHUNK}  # 64 to 128 entries, on average 96
PRESSES = ("StreamingLLMPress", "KnormPress", "SnapKVPress", "ExpectedAttentionPress")


@dataclass(frozen=True)
class Way:
    """A cache: what makes it, what is around a prompt and around all, the parts a prompt is read in, and its model."""

    make: Callable[[], Any]
    prompt: Callable[[], Any] = contextlib.nullcontext
    around: Callable[[Any], Any] = contextlib.nullcontext
    part: int = PROMPT
    model: Any = None


def ways(model: Any, tokenizer: Any) -> tuple[dict[str, Way], list[str]]:
    """Return the caches by name, and sentences on those that are left out."""
    config = model.config
    found = {
        "DynamicCache": Way(lambda: DynamicCache(config=config)),
        "StaticCache": Way(lambda: StaticCache(config=config, max_cache_len=PROMPT + SCORED)),
        f"sliding window of {BUDGET}": _windowed(model),
        "QuantizedCache, fp8": Way(lambda: QuantizedCache("fp8", config)),
    }
    left = [] if torch.cuda.is_available() else ["DynamicCache with offloading moves to a GPU and back; there is none."]
    for backend, package, axis in (("quanto", "optimum-quanto", 0), ("hqq", "hqq", 1)):
        make = partial(QuantizedCache, backend, config, nbits=4, axis_key=axis, axis_value=axis)
        try:
            make()
        except ImportError:
            left.append(f"QuantizedCache with {backend} needs {package}, which is not installed here.")
        else:
            found[f"QuantizedCache, {backend}, 4 bits"] = Way(make)
    for name, kept, near in (("separators", 28, 32), ("sinks", 0, 60), ("fixed(8)", 28, 32)):
        make = chosen(name, "auto", tokenizer, separators_kept=kept, local=near, **SIZES)
        found[f"SepCache, {name}"] = Way(partial(make, config), around=lambda one: one.attach(model), part=CHUNK)
    try:
        presses = importlib.import_module("kvpress")
    except ImportError:
        return found, [*left, "kvpress is not installed here."]
    for name in PRESSES:
        press = getattr(presses, name)(compression_ratio=1 - (BUDGET + 0.5) / PROMPT)  # it rounds down
        found[f"kvpress, {name}"] = Way(lambda: DynamicCache(config=config), prompt=partial(press, model))
    return found, left


def _windowed(model: Any) -> Way:
    """Return the sliding window of transformers: a Mistral with the weights of the Llama, no other difference."""
    told = {
        name: value for name, value in model.config.to_dict().items() if name not in ("model_type", "architectures")
    }
    config = MistralConfig(**{**told, "sliding_window": BUDGET})
    other = MistralForCausalLM(config).eval()
    other.load_state_dict(model.state_dict())
    return Way(lambda: DynamicCache(config=config), model=other)


def measured(model: Any, way: Way, text: Tensor) -> dict[str, float]:
    """Return nats of each scored token, seconds of a step, entries and bytes held on average of one passage (1, T)."""
    model, cache = way.model or model, way.make()
    nats, seconds, sizes, entries = [], [], [], []
    with torch.no_grad(), way.around(cache):
        with way.prompt():
            for start in range(0, PROMPT, way.part):
                logits = _call(model, cache, text[:, start : start + way.part], start)
        for place in range(PROMPT, PROMPT + SCORED):
            nats.append(-float(logits[0, -1].log_softmax(-1)[text[0, place]]))
            start = time.perf_counter()
            logits = _call(model, cache, text[:, place : place + 1], place)
            seconds.append(time.perf_counter() - start)
            sizes.append(held(cache))
            entries.append(cache.layers[0].get_mask_sizes(1)[0] - 1)
    return {
        "nats": statistics.fmean(nats),
        "seconds": statistics.median(seconds),
        "bytes": statistics.fmean(sizes),
        "entries": statistics.fmean(entries),
    }


def _call(model: Any, cache: Any, part: Tensor, start: int) -> Tensor:
    places = torch.arange(start, start + part.shape[1])
    named = {"position_ids": places[None], "cache_position": places}
    return model(part, past_key_values=cache, logits_to_keep=1, **named).logits


def run(folder: str, text: Path) -> dict[str, Any]:
    """Return all figures; passages are read by every cache in turn, so that other work slows them alike."""
    torch.set_num_threads(1)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    ids = tokenizer.encode(text.read_text(encoding="utf-8")[:300_000], add_special_tokens=False)
    starts = [number * ((len(ids) - PROMPT - SCORED) // PASSAGES) for number in range(PASSAGES)]
    found, left = ways(model, tokenizer)
    load, rows = os.getloadavg()[0], {name: [] for name in found}
    for start in starts:
        passage = torch.tensor([ids[start : start + PROMPT + SCORED]])
        for name, way in found.items():
            rows[name].append(measured(model, way, passage))
    table = {
        name: {
            "tokens_per_second": 1 / statistics.median(row["seconds"] for row in own),
            "bytes": statistics.fmean(row["bytes"] for row in own),
            "entries": statistics.fmean(row["entries"] for row in own),
            "perplexity": math.exp(statistics.fmean(row["nats"] for row in own)),
        }
        for name, own in rows.items()
    }
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": record.commit(),
        "machine": record.machine(),
        "load": (round(load, 2), round(os.getloadavg()[0], 2)),
        "weights": sum(parameter.numel() for parameter in model.parameters()),
        "text": {"prompt": PROMPT, "scored": SCORED, "passages": PASSAGES},
        "caches": table,
        "left_out": left,
    }


def page(told: dict[str, Any]) -> str:
    """Return the figures as Markdown."""
    machine, text = told["machine"], told["text"]
    head = (
        f"# Caches on a trained model of {told['weights']:,} weights\n\n"
        f"`python -m benchmarks.caches_table`, {told['date'][:10]}, {machine['cpu']}, {machine['threads']} thread, "
        f"torch {machine['torch']}, load {told['load'][0]} to {told['load'][1]}. {text['passages']} passages of "
        f"{text['prompt']} tokens and then {text['scored']} one by one, which are scored; bytes and entries of a layer "
        "are means over those. One model, one text: a sign and no ranking of methods.\n\n"
        "| cache | tokens/s | bytes held | entries | perplexity |\n|---|---|---|---|---|\n"
    )
    rows = [
        f"| {name} | {row['tokens_per_second']:,.0f} | {row['bytes']:,.0f} | {row['entries']:.0f} | "
        f"{row['perplexity']:.2f} |\n"
        for name, row in told["caches"].items()
    ]
    whole, near = (told["caches"][name]["perplexity"] for name in ("DynamicCache", f"sliding window of {BUDGET}"))
    doubt = (
        ""
        if whole < near
        else (
            "\nThe whole cache is no better than a window: this model does not use what lies far behind, so its "
            "perplexities say nothing of what is worth keeping. Train it for longer.\n"
        )
    )
    left = "".join(f"- Left out: {sentence}\n" for sentence in told["left_out"])
    return head + "".join(rows) + doubt + (f"\n{left}" if left else "")


def main() -> None:
    """Measure, and write the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.caches_table", description=__doc__)
    parser.add_argument("folder", help="a Llama of transformers with its tokenizer, as `lissome lm export` writes it")
    parser.add_argument("text", type=Path, help="a file that it was not trained on")
    asked = parser.parse_args()
    told = run(asked.folder, asked.text)
    (record.RESULTS / "caches-table.json").write_text(json.dumps(told, indent=1) + "\n")
    (record.RESULTS / "caches.md").write_text(page(told))
    print(page(told))


if __name__ == "__main__":
    main()
