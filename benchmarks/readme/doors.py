"""The sentence of numbers below each of the two pictures."""

from __future__ import annotations

import re
from typing import Any

from benchmarks.race import ratio
from benchmarks.readme import kept
from benchmarks.readme.number import plain, short, times
from benchmarks.readme.races import DECODING, TRAINING
from benchmarks.readme.record import Record, read, stamp

BYTES = re.compile(r"DynamicCache and StaticCache ([\d,]+) MB, SepCache ([\d,]+) MB")


def equations() -> str:
    """Return what the demonstration found."""
    found = kept.load("demo")
    rows = {(row["target"], row["method"]): row for row in found["rows"]}
    targets = list(dict.fromkeys(target for target, _ in rows))
    svd, full, last = ([rows[target, method] for target in targets] for method in ("svd", "full", "last"))
    return (
        f"For each of {len(targets)} further equations `svd` trains {svd[0]['trained']:,} of {svd[0]['total']:,} "
        f"numbers for {svd[0]['steps']} steps. Its relative errors are {_ends(svd)}, those of all weights "
        f"{_ends(full)}, those of the last layer alone, the usual baseline, {_ends(last)}.\n\n"
        + kept.sources([_demo(found)])
    )


def _ends(rows: list[dict[str, Any]]) -> str:
    errors = [row["error"] for row in rows]
    return f"{short(min(errors))} to {short(max(errors))}"


def _demo(found: dict[str, Any]) -> str:
    made = found["environment"]
    told = [made["started"][:10], made["processor"], f"{made['threads']} thread for each run", f"torch {made['torch']}"]
    return f"{kept.link('demo.json')}: `{made['command']}`, {', '.join(told)}, commit {made['commit']}"


def megabytes() -> tuple[str, str]:
    """Return the megabytes that whole caches hold at the long context, and those of a cache of separators at most."""
    found = BYTES.search(" ".join(kept.load("caches")["notes"]))
    if found is None:
        raise LookupError("the notes of caches.json no longer say how many MB the caches hold")
    return found[1], found[2]


def language() -> str:
    """Return what is gained in decoding, in training, and by ranks, and what it costs."""
    decoding = ratio(kept.cell("caches", DECODING)["raw_ms"], "DynamicCache", "SepCache, a cycle")
    step = ratio(kept.cell("training", TRAINING)["raw_ms"], "full attention", "separators, n = 64")
    whole, bounded = megabytes()
    level = _told("sepllm", "stream stays level")
    beside = _told("sepllm", "by mask, SepLLM is the best of")
    chosen = _told("sublora", "AdaLoRA's rule with final cuts beats peft's AdaLoRA, the better of two rates")
    tokens, steps = DECODING.partition(" ")[0], TRAINING.rpartition(", ")[2]
    return (
        f"At {tokens} tokens of context `SepCache` decodes {times(decoding.median)} times as fast as `DynamicCache` "
        f"and holds {bounded} MB at most in place of {whole}; a training step of {steps} is {times(step.median)} times "
        f"as fast. What it costs is measured too: the last tenth of a long stream has {level} times the perplexity of "
        "the first, and beside the best of windows, fixed places and random ids of as many keys, in small models, the "
        f"perplexity is {beside} times as high. Ranks chosen while a LoRA trains, by AdaLoRA's rule with lasting cuts, "
        f"end at {chosen} times the perplexity of peft's AdaLoRA.\n\n" + kept.sources(_sources())
    )


def _record(name: str) -> Record:
    record = read(name)
    if record is None:
        raise LookupError(f"{name}-replication.md is not there")
    return record


def _told(name: str, part: str) -> str:
    """Return the number of a claim."""
    claim = _record(name).claim(part)
    if claim.found is None:
        raise LookupError(f"nothing was measured of '{claim.text}'")
    return plain(claim.found.value)


def _sources() -> list[str]:
    records = [stamp(name, _record(name)) for name in ("sepllm", "sublora")]
    return [*map(kept.stamp, ("caches", "training", "compact")), *records]
