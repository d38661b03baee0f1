"""`lissome lm train`, `evaluate` and `generate`: what they print, leave behind, refuse, and lose to nothing."""

import json
import os
import shutil
import signal
import subprocess
import sys

import pytest
import yaml

from lissome import report
from lissome.language import Bpe, perplexity
from lissome.recipes import lock, train_language
from lissome.recipes.language.settings import LanguageSettings
from lissome.recipes.settings import load
from tests.cli.command import one_sentence, same, start, wait_for
from tests.recipes.tables import blobs

SIZES = {"model.layers": 1, "model.width": 16, "model.heads": 2, "scored": 64}
SMALL = SIZES | {"length": 16, "batch": 4, "training.steps": 6}
TINY = [word for key, value in SIZES.items() for word in ("--set", f"{key}={value}")]
TINY += ["--length", "16", "--batch", "4", "--steps", "6"]
STAGES = {"model.position": "kerple", "model.refine": "dape(3)", "model.normalize": "self_adjust(4)"}
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


@pytest.fixture(scope="session")
def text(tmp_path_factory):
    place = tmp_path_factory.mktemp("text") / "text.txt"
    place.write_text("".join(f"line {i}: the sum of {i} and {i + 1} is {2 * i + 1}.\n" for i in range(120)))
    return place


@pytest.fixture(scope="session")
def trained(text, tmp_path_factory):
    """One tiny run that tests read and copy and never change."""
    out = tmp_path_factory.mktemp("runs") / "trained"
    train_language(load(LanguageSettings, given=SMALL | STAGES | {"data": str(text)}), out, progress=False)
    return out


@pytest.fixture
def run(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run")


@pytest.fixture
def undrawn(monkeypatch):
    """Leave out the page, which takes seconds and is looked at in other tests."""
    for page in ("language_page", "table_page"):
        monkeypatch.setattr(report, page, lambda out: None)


def ask(text, out, *more):
    return ["lm", "train", text, *TINY, "--out", out, *more]


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


LONG = [
    "--steps",
    "200",
    "--set",
    "training.evaluate=50",
    "--set",
    "training.checkpoint=20",
    "--set",
    "model.dropout=0.1",
]


def written(run):
    try:
        return (run / "checkpoint" / "state.json").stat().st_mtime_ns
    except OSError:
        return 0


@pytest.mark.slow
def test_ctrl_c_and_sigkill_lose_nothing(lissome, undrawn, text, tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    process = start(*ask(text, broken, *LONG))
    wait_for(lambda: written(broken), process)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert one_sentence(err).endswith(f"`lissome lm train --resume --out {broken}`")
    assert not (broken / "summary.json").exists()
    assert "steps" in lissome("show", broken)

    then = written(broken)
    process = start("lm", "train", "--resume", "--out", broken)
    wait_for(lambda: written(broken) > then, process)
    process.kill()
    process.communicate(timeout=60)
    assert not (broken / "summary.json").exists()

    lissome("lm", "train", "--resume", "--out", broken)
    lissome(*ask(text, whole, *LONG))
    assert same(broken, whole)
    assert (broken / "gradients.jsonl").read_text() == (whole / "gradients.jsonl").read_text()


FORKED = """
import os, socket, sys, torch
from lissome import cli
import lissome.recipes.language.train
torch.set_num_threads(1)
with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2"}
children = []
for rank in range(2):
    children.append(os.fork())
    if not children[-1]:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": "2"}
        code = 1
        try:
            code = cli._guarded(lambda: cli.app(args=sys.argv[1:], standalone_mode=False))
        except SystemExit as stop:
            code = stop.code
        finally:
            sys.stdout.flush()
            os._exit(code)
print("codes", *[os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children])
"""
LAUNCH = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "2", "--num_machines", "1"]
LAUNCH += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]


def launched(*words):
    """Run a command with one thread in each process; return its code, and what it printed."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run([*map(str, words)], env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def alike(one, other):
    """Compare the losses of two runs, to rounding."""
    ends = [[json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()] for run in (one, other)]
    for a, b in zip(*ends, strict=True):
        assert a["step"] == b["step"]
        assert [b["loss"], b["validation_loss"]] == pytest.approx([a["loss"], a["validation_loss"]], rel=1e-5)


def test_two_processes_give_the_losses_of_one_and_one_of_them_speaks(lissome, undrawn, text, tmp_path):
    lissome(*ask(text, tmp_path / "one"))
    words = ask(text, tmp_path / "two", "--device", "cpu", "--json")
    _, out, err = launched(sys.executable, "-c", FORKED, *words)
    assert (out.splitlines()[-1], err) == ("codes 0 0", "")
    assert json.loads(out[: out.rindex("codes")])["steps"] == 6
    alike(tmp_path / "one", tmp_path / "two")
    _, out, err = launched(sys.executable, "-c", FORKED, *words)
    assert out == "codes 2 2\n"
    assert "exists; name another directory by --out" in one_sentence(err)


@pytest.mark.slow
@pytest.mark.parametrize("flags", [["--multi_gpu"], ["--use_fsdp", "--fsdp_version", "2"]], ids=["plain", "sharded"])
def test_accelerate_launches_it(lissome, undrawn, text, tmp_path, flags):
    lissome(*ask(text, tmp_path / "one"))
    words = ["-m", "lissome.cli", *ask(text, tmp_path / "two", "--device", "cpu", "--json")]
    code, out, err = launched(*LAUNCH, *flags, *words)
    assert code == 0, err
    assert json.loads(out)["steps"] == 6
    alike(tmp_path / "one", tmp_path / "two")
