"""`lissome lm train`, `evaluate` and `generate`: what they print and leave behind."""

import json
import subprocess
import sys

import pytest
import yaml

from lissome.language import perplexity
from tests.cli.command import same
from tests.cli.language import ask
from tests.recipes.tables import blobs

SCRIPT = """
import contextlib, io, sys
from lissome import cli
for words in (["lm"], ["lm", "train"], ["lm", "evaluate"], ["lm", "generate"], ["lm", "ranks"]):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert cli._guarded(lambda: cli.app(args=[*words, "--help"], standalone_mode=False)) == 0
    assert "Usage" in out.getvalue()
print([name for name in ("torch", "matplotlib", "scipy", "numpy", "transformers", "tokenizers") if name in sys.modules])
"""


def test_help_loads_nothing_heavy():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_a_run_is_trained_told_and_drawn(lissome, text, tmp_path):
    out = tmp_path / "run"
    stages = ["--position", "kerple", "--refine", "dape(3)", "--normalize", "self_adjust(4)"]
    said = lissome(*ask(text, out, *stages))
    assert "causal; kerple; dape(3); self_adjust(4)" in said
    assert f"page: {out / 'index.html'}" in said
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["kind"], summary["steps"], summary["tokens"]["seen"]) == ("lm", 6, 6 * 4 * 16)
    assert summary["perplexity"] == pytest.approx(perplexity.perplexity(summary["validation_loss"]))
    there = {path.name for path in out.iterdir()}
    assert {"settings.yaml", "environment.json", "vocabulary.json", "shape.json", "tokens.bin", "text.json"} <= there
    assert list((out / "figures").glob("*.svg"))
    settings = yaml.safe_load((out / "settings.yaml").read_text())
    assert (settings["data"], settings["model"]["refine"]) == (str(text), "dape(3)")
    (out / "index.html").unlink()
    assert "kerple" in lissome("show", out)
    assert (out / "index.html").is_file()


def test_json_is_the_summary_and_quick_is_quick(lissome, undrawn, text, tmp_path):
    words = ["lm", "train", text, "--quick", "--steps", "3", "--length", "16", "--json", "--out", tmp_path / "run"]
    row = json.loads(lissome(*words))
    assert row == json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (row["steps"], row["length"], row["batch"]) == (3, 16, 8)


def test_a_finished_run_is_given_more_steps(lissome, undrawn, run):
    row = json.loads(lissome("lm", "train", "--resume", "--steps", "8", "--out", run, "--json"))
    assert row["steps"] == 8


def test_a_damaged_summary_is_written_anew(lissome, undrawn, run):
    told = json.loads((run / "summary.json").read_text())
    (run / "summary.json").write_text("{")
    lissome("lm", "train", "--resume", "--out", run)
    assert json.loads((run / "summary.json").read_text())["validation_loss"] == told["validation_loss"]


def test_lengths_are_measured_written_and_drawn(lissome, run, text, tmp_path):
    (run / "index.html").unlink()
    said = lissome("lm", "evaluate", run, "--lengths", "8,16,64", "--windows", "4")
    assert "as trained" in said
    told = json.loads((run / "lengths.json").read_text())
    assert [row["length"] for row in told["rows"]] == [8, 16, 64]
    assert told["trained"] == 16
    assert (run / "figures" / "lengths.svg").is_file()
    assert (run / "index.html").is_file()
    other = tmp_path / "other.txt"
    other.write_text(text.read_text()[:2000])
    found = json.loads(lissome("lm", "evaluate", run, "--data", other, "--windows", "4", "--json"))
    assert [row["length"] for row in found["rows"]] == [16, 32, 64]
    assert found["data"] == f"'{other}'"
    assert found["rows"][0]["nats"] != told["rows"][1]["nats"]


def test_a_model_writes_on_the_same_for_the_same_seed(lissome, run):
    words = ["lm", "generate", run, "--prompt", "line 7", "--tokens", "12"]
    said = lissome(*words, "--seed", "3")
    assert said.startswith("line 7")
    found = json.loads(lissome(*words, "--seed", "3", "--json"))
    assert (found["prompt"], found["tokens"], found["ended"]) == ("line 7", 12, False)
    assert said.startswith(found["prompt"] + found["text"].rstrip("\ufffd"))
    likeliest = [
        json.loads(lissome(*words, "--temperature", "0", *more, "--json"))["text"] for more in ([], ["--top-k", "1"])
    ]
    assert likeliest[0] == likeliest[1]
    assert json.loads(lissome("lm", "generate", run, "--prompt", "é", "--tokens", "0", "--json"))["text"] == ""


def test_runs_are_compared_with_their_kind_alone(lissome, run, trained, tmp_path):
    said = lissome("compare", run, trained, "--out", tmp_path / "both")
    assert "perplexity" in said
    assert (tmp_path / "both" / "index.html").is_file()
    lissome("fit", blobs(tmp_path / "t.csv"), "--quick", "--steps", "2", "--out", tmp_path / "fit")
    assert "is a fit of a table" in lissome.complaint("compare", run, tmp_path / "fit", "--out", tmp_path / "c")


def test_a_language_model_is_adapted_to_no_equation(lissome, run, tmp_path):
    said = lissome.complaint("pde", "adapt", run, "--parameter", "c=1", "--out", tmp_path / "new")
    assert f"'{run}' is no run of an equation; legal is one of `lissome pde solve` or adapt" in said
    assert not (tmp_path / "new").exists()


def test_byte_pairs_are_trained_kept_and_used_again(lissome, undrawn, text, tmp_path):
    out, cache = tmp_path / "run", tmp_path / "cache"
    lissome(*ask(text, out, "--vocabulary", "bpe", "--vocabulary-size", "270", "--set", f"tokens={cache}"))
    assert json.loads((out / "text.json").read_text())["vocabulary"]["size"] == 270
    assert not (out / "tokens.bin").exists()
    (kept,) = cache.glob("*.bin")
    then = kept.stat().st_mtime_ns
    again = ["--vocabulary", out / "vocabulary.json", "--set", f"tokens={cache}"]
    lissome(*ask(text, tmp_path / "again", *again))
    assert kept.stat().st_mtime_ns == then
    assert same(out, tmp_path / "again")
    found = json.loads(lissome("lm", "generate", out, "--tokens", "3", "--json"))  # the end of a text begins one
    assert found["prompt"] == ""


def test_fire_knows_the_training_length(lissome, undrawn, text, tmp_path):
    lissome(*ask(text, tmp_path / "run", "--position", "fire"))
    assert json.loads((tmp_path / "run" / "shape.json").read_text())["length"] == 16


def test_weights_alone_are_enough_to_write_and_to_measure(lissome, undrawn, run, text):
    words = ["lm", "generate", run, "--prompt", "line", "--tokens", "4", "--json"]
    before = json.loads(lissome(*words))["text"]
    for name in ("state.json", "state.safetensors"):
        (run / "checkpoint" / name).unlink()
    (run / "tokens.bin").unlink()
    assert json.loads(lissome(*words))["text"] == before
    measured = ["lm", "evaluate", run, "--lengths", "16,16,1", "--windows", "2"]
    assert "or --data names another text" in lissome.complaint(*measured)
    found = json.loads(lissome(*measured, "--data", text, "--json"))
    assert ([row["length"] for row in found["rows"]], found["steps"]) == ([16, 1], None)
    (run / "checkpoint" / "model.safetensors").write_bytes(b"")
    assert "model.safetensors' are damaged" in lissome.complaint(*words)


def test_a_checkpoint_that_is_not_evaluated_is_told(lissome, undrawn, run):
    (run / "summary.json").unlink()
    rows = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text(rows[0])
    said = " ".join(lissome("show", run).split())
    assert "after 0 steps" in said
    assert "The last checkpoint is of step 6, which is not evaluated yet." in said
