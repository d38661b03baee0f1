"""Made-up run directories that look like real ones."""

import json
import zlib

import numpy as np
import pytest
import yaml
from safetensors.numpy import save_file

TRAINED = {"svd": 961, "lora": 1729, "full": 12737, "scratch": 12737, "lora-xs": 449, "pissa": 1729, "last": 65}
TOTAL = 12737


def make_run(path, *, method="svd", error=1.2e-2, c=2.0, seed=0, seconds=41.0, steps=2000, summary=True, **more):
    """Write a run whose error falls from 1 to the given one."""
    path.mkdir(parents=True)
    rng = np.random.default_rng(zlib.crc32(repr((method, c, seed)).encode()))
    settings = {"kind": "adapt", "family": "sine-gordon", "dimension": 10, "parameters": {"c": c}, "method": method}
    settings |= {"seed": seed, "steps": steps, "optimizer": {"name": "adam", "lr": 1e-3}, "note": "<b>5 < 6 & 7</b>"}
    (path / "settings.yaml").write_text(yaml.safe_dump(settings))
    environment = {"lissome": "0.1.0", "torch": "2.11.0", "machine": {"cpu": "<two> cores", "gpu": None}}
    (path / "environment.json").write_text(json.dumps(environment))
    fall = np.linspace(0, 1, 81)
    finals = error if np.isfinite(error) else 1.0
    errors = finals + (1 - finals) * np.exp(-9 * fall) * np.exp(0.15 * rng.standard_normal(81) * fall)
    with (path / "metrics.jsonl").open("w") as file:
        for t, value in zip(fall, errors, strict=True):
            line = {"step": int(t * steps), "seconds": t * seconds, "loss": value**2 * 3, "fresh": value**2 * 3.6}
            file.write(json.dumps(line | {"error": value, "lr": 1e-3}) + "\n")
    x = np.linspace(-1, 1, 121)
    exact = (1 - x**2) * np.sin(c + np.cos(2 * x))
    curves = {"slice_x": x, "slice_exact": exact, "slice_network": exact + 3 * finals * np.sin(7 * x + seed)}
    for number in (2, 4, 6):
        before = np.sort(np.abs(rng.standard_normal(31)))[::-1] + 0.02
        name = f"singular/layers.{number}.weight"
        curves |= {f"{name}/before": before.copy(), f"{name}/after": before * np.exp(0.3 * rng.standard_normal(31))}
    save_file(curves, path / "curves.safetensors")
    if summary:
        row = {"kind": "adapt", "family": "sine-gordon", "dimension": 10, "parameters": {"c": c}, "method": method}
        row |= {"trained": TRAINED.get(method, 100), "total": TOTAL, "steps": steps, "seconds": seconds, "seed": seed}
        row |= {"loss": finals**2 * 3, "fresh": finals**2 * 3.6, "error": error}
        (path / "summary.json").write_text(json.dumps(row | more))
    return path


@pytest.fixture
def made():
    return make_run
