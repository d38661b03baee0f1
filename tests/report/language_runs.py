"""Made-up directories of language models that look like real ones."""

import json
import re

import numpy as np
import yaml
from safetensors.numpy import save_file

from tests.report.test_page import parsed

CLASSES = ("separators", "first", "first_4", "nearest_16", "far_separators", "rest")


def kept(path, *, layers=2, many=3, text="to be, or not <to> be $x$", bias=True, refine=True, rng=None):
    """Write maps and sentence, with weights that are a causal softmax."""
    rng = rng or np.random.default_rng(0)
    size = len(text)
    valid = np.tril(np.ones((size, size), bool))
    d = np.arange(0, 65)
    arrays = {"distance": d}
    for layer in range(layers):
        scores = rng.standard_normal((many, size, size)).astype(np.float32)
        own = {"scores": scores, "valid": valid}
        total = scores
        if bias:
            slopes = np.arange(1, many + 1)[:, None, None] * 0.1 * (layer + 1)
            own["bias"] = (-slopes * np.maximum(np.subtract.outer(np.arange(size), np.arange(size)), 0)).astype(
                np.float32
            )
            own["decay"] = (-slopes[:, 0] * d).astype(np.float32)
            total = scores + own["bias"]
        if refine:
            own["correction"] = rng.standard_normal((many, size, size)).astype(np.float32)
            total = total + own["correction"]
        own["refined"] = total
        raised = np.exp(np.where(valid, total, -np.inf))
        own["weights"] = (raised / raised.sum(-1, keepdims=True)).astype(np.float32)
        arrays |= {f"layers/{layer}/{name}": value for name, value in own.items()}
    save_file(arrays, path / "maps.safetensors")
    told = {"pieces": list(text), "tokens": [ord(c) for c in text], "text": text, "cut": 0, "length": 16}
    told |= {"layers": list(range(layers)), "heads": list(range(many)), "depth": layers, "width": many}
    (path / "sentence.json").write_text(json.dumps(told))


def shares(depth=2, many=3):
    """Return shares that differ from head to head, and the even ones."""
    level = np.linspace(0.1, 0.4, depth * many).reshape(depth, many)
    attention = {"separators": level, "first": level / 8, "first_4": level / 4, "nearest_16": 0.5 + 0 * level}
    attention |= {"far_separators": level / 2, "rest": 0.5 - 0.75 * level}
    keys = dict(zip(CLASSES, (0.08, 0.02, 0.1, 0.5, 0.05, 0.35), strict=True))
    told = {"attention": {name: value.tolist() for name, value in attention.items()}, "keys": keys}
    return told | {"row_sum": np.ones((depth, many)).tolist(), "windows": 4, "length": 64, "rows": 100, "kinds": [","]}


def lengths(trained=64, perplexity=(8.0, 7.0, 9.0), error=0.05):
    rows = [
        {
            "length": trained * 2**i,
            "nats": float(np.log(p)),
            "perplexity": p,
            "error": error,
            "windows": 9,
            "scored": 64,
        }
        for i, p in enumerate(perplexity)
    ]
    return {"kind": "lengths", "data": "held-out part of <a>", "trained": trained, "steps": 100, "rows": rows[::-1]}


def made(path, *, summary=True, all_files=True, full=True, **model):
    path.mkdir(parents=True)
    stages = {"position": "kerple", "refine": "dape(3)", "normalize": "softmax", "validity": "causal"} | model
    settings = {"data": "<b>x</b>", "vocabulary": "bytes", "length": 64, "model": stages, "seed": 0, "out": str(path)}
    (path / "settings.yaml").write_text(yaml.safe_dump(settings))
    (path / "text.json").write_text(json.dumps({"name": "the text <i> & more"}))
    (path / "shape.json").write_text("{}")
    rows = [
        {"step": s, "seconds": s / 4, "loss": 5 - s / 50, "validation_loss": 5.2 - s / 50} for s in range(0, 101, 10)
    ]
    rows = [row | {"perplexity": float(np.exp(row["validation_loss"])), "bits_per_byte": 3.0} for row in rows]
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if summary:
        row = {
            "kind": "lm",
            "data": "the text <i> & more",
            "stages": "; ".join(map(str, stages.values())),
            "trained": 1234,
            "steps": 100,
        }
        row |= {"seconds": 25.0, "vocabulary": 256} | {key: rows[-1][key] for key in rows[-1] if key != "step"}
        (path / "summary.json").write_text(json.dumps(row))
    if all_files:
        kept(path, **({} if full else {"layers": 1, "many": 1, "text": "to be"}))
        (path / "separators.json").write_text(json.dumps(shares()))
        (path / "lengths.json").write_text(json.dumps(lengths()))
        norms = [
            {"step": s, "embedding": 1.0, "layers": [0.5, s], "stages": [0.1, None], "rest": 2.0} for s in (1, 20, 40)
        ]
        (path / "gradients.jsonl").write_text("".join(json.dumps(row) + "\n" for row in norms))
    return path


def checked(path):
    """Return the page's text, after a check that it is one file: its only addresses are data and places in it."""
    text = path.read_text(encoding="utf-8")
    bare = re.sub(r'xlink:href="data:image/png;base64,[^"]+"', "", text)
    twin = path.with_name("bare.html")
    twin.write_text(bare, encoding="utf-8")
    parsed(twin)
    twin.unlink()
    assert not re.search(r"(src|href)=\"(?!#)", bare)
    assert "url(http" not in text
    assert "@import" not in text
    return text


def checked_links(path):
    text, parser = parsed(path)
    assert all(link.startswith("#") or link.endswith("/index.html") for link in parser.links)
    return text
