"""What `lissome lm` refuses: words, texts, runs and files, each by a sentence that leaves nothing."""

import json
import shutil
import subprocess
import sys

import pytest

from lissome.language import Bpe, perplexity
from lissome.recipes import lock
from tests.cli.language import ask
from tests.recipes.tables import blobs

WRONG = [
    (["--set", "model.heads=3"], "3 heads do not divide the width 16; legal are: 1, 2, 4, 8, 16"),
    (["--position", "kerpel"], "unknown position 'kerpel'; legal are: none, rotary, alibi, kerple, fire (did you mean"),
    (["--refine", "dappe(3)"], "did you mean 'dape'?"),
    (["--normalize", "softmx"], "did you mean 'softmax'?"),
    (["--validity", "causl"], "did you mean 'causal'?"),
    (["--visible", "seperators"], "did you mean 'separators'?"),
    (["--visible", "separators"], "has a window of 64, and the model sees 16 tokens in training"),
    (["--start", "nowhere"], "there is no run directory"),
    (["--start", "runs/lm", "--vocabulary", "bpe"], "the vocabulary is that of 'runs/lm', and 'bpe' is asked for"),
    (["--preset", "tinny"], "unknown preset 'tinny'; legal are: tiny, small, 125m, 350m (did you mean 'tiny'?)"),
    (["--precision", "bf15"], "did you mean 'bf16'?"),
    (["--precision", "fp16", "--device", "cpu"], "precision fp16 needs a CUDA device"),
    (["--vocabulary", "byte"], "did you mean 'bytes'?"),
    (["--vocabulary", "none.json"], "cannot be read"),
    (["--vocabulary", "bpe", "--vocabulary-size", "100"], "the vocabulary's size is 100; legal are"),
    (["--vocabulary", "bpe", "--vocabulary-size", "100000000000"], "legal are whole numbers from 257 to 4,194,304"),
    (["--vocabulary-size", "300"], "'vocabulary_size': 300 is of no use with vocabulary 'bytes'"),
    (["--batch", "1000000000000"], "batch 1,000,000,000,000 needs more than"),
    (["--set", "tokens=/dev/null/a"], "'/dev/null/a' cannot be made"),
    (["--length", "4000"], "the text is too short for length 4,000"),
    (["--length", "0"], "greater than or equal to 1"),
    (["--accumulate", "5"], "accumulate must lie between 1 and points=4, not 5"),
    (["--device", "cuda:99"], "device 'cuda:99' is not to be had"),
    (["--set", "training.betas=[0.9, 1.5]"], "legal are two numbers from 0 to below 1"),
    (["--set", "model.wdth=3"], "did you mean 'model.width'?"),
]


@pytest.mark.parametrize(
    ("words", "sentence"), WRONG, ids=lambda each: " ".join(each) if isinstance(each, list) else ""
)
def test_what_is_asked_wrongly_is_a_sentence_and_leaves_nothing(lissome, text, tmp_path, words, sentence):
    assert sentence in lissome.complaint(*ask(text, tmp_path / "run", *words))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [(b"", "is empty"), (b"good \xff bad", "is not UTF-8 (invalid start byte at byte 5)"), (None, "there is no text")],
)
def test_a_text_that_is_none_is_a_sentence(lissome, tmp_path, content, sentence):
    place = tmp_path / "text.txt"
    if content is not None:
        place.write_bytes(content)
    assert sentence in lissome.complaint(*ask(place, tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_runs_that_cannot_be_read_are_a_sentence(lissome, undrawn, run, tmp_path):
    def complain(place, sentence):
        for words in (["evaluate", place], ["generate", place, "--prompt", "a"]):
            assert sentence in lissome.complaint("lm", *words)

    complain(tmp_path / "nowhere", "there is no run directory")
    complain(run / "text.json", "is a file; legal is the directory of a run")
    lissome("fit", blobs(tmp_path / "t.csv"), "--quick", "--steps", "2", "--out", tmp_path / "fit")
    complain(tmp_path / "fit", "is no run of `lissome lm train`")
    kept = (run / "vocabulary.json").read_bytes()
    Bpe.train(["another text"], 258).save(run / "vocabulary.json")
    complain(run, "was made with a vocabulary of 256 (bytes")
    (run / "vocabulary.json").write_bytes(kept)
    shutil.rmtree(run / "checkpoint")
    complain(run, f"holds no checkpoint; `lissome lm train --resume --out {run}` goes on to one")


def test_a_run_that_was_killed_before_its_text_was_read_is_a_sentence_and_goes_on(lissome, undrawn, run):
    for place in run.iterdir():
        if place.name not in ("settings.yaml", "environment.json"):
            shutil.rmtree(place) if place.is_dir() else place.unlink()
    for words in (["show", run], ["lm", "evaluate", run], ["lm", "generate", run], ["compare", run, "--out", "both"]):
        said = lissome.complaint(*words)
        assert f"'{run}' was stopped before its text was read and its model made" in said
        assert f"`lissome lm train --resume --out {run}` goes on" in said
    assert sorted(path.name for path in run.iterdir()) == ["environment.json", "settings.yaml"]
    lissome("lm", "train", "--resume", "--out", run)
    assert json.loads((run / "summary.json").read_text())["steps"] == 6


def test_lengths_that_are_none_are_a_sentence(lissome, run, monkeypatch):
    for words, sentence in [
        (["--lengths", "16,many"], "--lengths takes whole numbers with commas, such as 128,256; 'many' is none"),
        (["--lengths", "0"], "'0' is none"),
        (["--lengths", "9" * 5000], "is none"),
        (["--lengths", "8,,16"], "'8,,16' lacks one of them"),
        (["--data", ""], "'' names no text"),
        (["--lengths", "16,100000"], "too few for length 100,000; legal are lengths up to"),
        (["--data", "nowhere.txt"], "there is no text 'nowhere.txt'"),
    ]:
        assert sentence in lissome.complaint("lm", "evaluate", run, *words)
    monkeypatch.setattr(perplexity, "available_memory", lambda device: 1 << 18)
    said = lissome.complaint("lm", "evaluate", run, "--lengths", "16,256")
    assert "length 256 needs about" in said
    assert "legal are lengths up to" in said
    assert not (run / "lengths.json").exists()


def test_prompts_and_draws_that_are_none_are_a_sentence(lissome, run):
    for words, sentence in [
        ([], "the prompt is empty"),
        (["--prompt", "a", "--temperature", "-1"], "temperature is -1.0"),
        (["--prompt", "a", "--top-k", "0"], "top_k is 0"),
        (["--prompt", "a", "--top-p", "1.5"], "top_p is 1.5"),
        (["--prompt", "a", "--tokens", "-1"], "tokens is -1; legal are whole numbers from 0"),
        (["--prompt", "a", "--seed", "-1"], "seed is -1; legal are whole numbers from 0"),
        (["--prompt", "a", "--seed", "9" * 20], f"seed is {'9' * 20}; legal are whole numbers from 0"),
    ]:
        assert sentence in lissome.complaint("lm", "generate", run, *words)


def test_another_text_or_vocabulary_is_not_gone_on_with(lissome, undrawn, text, tmp_path):
    data, out = tmp_path / "data.txt", tmp_path / "run"
    data.write_text(text.read_text())
    lissome(*ask(data, out))
    before = (out / "summary.json").read_bytes()
    again = ["lm", "train", "--resume", "--steps", "8", "--out", out]
    data.write_text(text.read_text().replace("sum", "mus"))
    assert f"'{data}' has changed since the run was begun" in lissome.complaint(*again)
    assert (out / "summary.json").read_bytes() == before
    data.write_text(text.read_text())  # the same text at another time
    kept = (out / "vocabulary.json").read_bytes()
    Bpe.train(["another text"], 258).save(out / "vocabulary.json")
    assert "was made with a vocabulary of 256 (bytes" in lissome.complaint(*again)
    (out / "vocabulary.json").write_bytes(kept)
    assert "'model.refine' was 'none' and is 'dape' now" in lissome.complaint(*again, "--refine", "dape")
    lissome(*again)
    assert json.loads((out / "summary.json").read_text())["steps"] == 8


def halved(content):
    return content[: content.index(b"training:")]


DAMAGED = [
    ("settings.yaml", lambda _: b"", "settings.yaml' is damaged: it is empty or cut off"),
    ("settings.yaml", lambda was: was[: len(was) // 2], "settings.yaml' is damaged"),
    ("settings.yaml", lambda was: halved(was), "settings.yaml' is damaged: it holds no 'training'"),
    (
        "settings.yaml",
        lambda _: b"paper: arcm\nseeds: 3\n",
        "is no run of `lissome lm train`: its settings have 'paper'",
    ),
    ("metrics.jsonl", lambda was: was + b"\xff\n", "metrics.jsonl' is not UTF-8 text (byte"),
    ("gradients.jsonl", lambda was: was + b"\xff\n", "gradients.jsonl' is not UTF-8 text (byte"),
]


@pytest.mark.parametrize(("name", "harm", "sentence"), DAMAGED, ids=[f"{row[0]} {row[2][-16:]}" for row in DAMAGED])
def test_a_run_whose_files_are_damaged_is_not_gone_on_with(lissome, undrawn, run, name, harm, sentence):
    before = (run / "summary.json").read_bytes()
    (run / name).write_bytes(harm((run / name).read_bytes()))
    then = (run / name).read_bytes()
    assert sentence in lissome.complaint("lm", "train", "--resume", "--out", run)
    assert ((run / "summary.json").read_bytes(), (run / name).read_bytes()) == (before, then)


def test_fewer_steps_than_were_done_are_refused(lissome, undrawn, run):
    kept = (run / "settings.yaml").read_bytes()
    said = lissome.complaint("lm", "train", "--resume", "--steps", "5", "--out", run)
    assert f"training.steps is 5, and the run '{run}' is already at step 6; legal are more" in said
    assert (run / "settings.yaml").read_bytes() == kept
    lissome("lm", "train", "--resume", "--out", run)


def test_a_run_is_written_by_one_process_at_a_time(lissome, undrawn, run, monkeypatch):
    monkeypatch.setattr(lock, "PATIENCE", 0.0)
    hold = "import sys, time; from lissome.recipes.lock import *; from pathlib import Path\n"
    hold += "with locked(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", hold, run], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        before = (run / "summary.json").read_bytes()
        said = lissome.complaint("lm", "train", "--resume", "--steps", "8", "--out", run)
        assert f"'{run}' is being written by process {other.pid}" in said
        assert (run / "summary.json").read_bytes() == before
        other.kill()
    assert (run / lock.LOCK).is_file()
    lissome("lm", "train", "--resume", "--steps", "8", "--out", run)
    assert not (run / lock.LOCK).exists()
