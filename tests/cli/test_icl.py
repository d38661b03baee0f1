"""`lissome icl train` and `evaluate`: what they print, leave behind, refuse, and lose to nothing."""

import json
import shutil
import subprocess
import sys

import pytest
import torch
import yaml

from lissome import report
from lissome.recipes import evaluate_incontext, train_incontext
from lissome.recipes.directory import write_tensors
from lissome.recipes.incontext.evaluate import load_incontext
from lissome.recipes.incontext.settings import IncontextSettings
from lissome.recipes.settings import load
from tests.cli.command import same

SIZES = {"dimension": 3, "pairs": 5, "batch": 4, "prompts": 12, "model.width": 8, "model.heads": 1}
SIZES |= {"model.iterations": 3, "training.steps": 12}
TINY = [word for key, value in SIZES.items() for word in ("--set", f"{key}={value}")]
SCRIPT = """
import contextlib, io, sys
from lissome import cli
for words in (["icl"], ["icl", "train"], ["icl", "evaluate"]):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert cli._guarded(lambda: cli.app(args=[*words, "--help"], standalone_mode=False)) == 0
    assert "Usage" in out.getvalue()
print([name for name in ("torch", "matplotlib", "scipy", "numpy", "transformers") if name in sys.modules])
"""


def asked(**more):
    return load(IncontextSettings, given=SIZES | {key.replace("__", "."): value for key, value in more.items()})


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """One tiny run that tests read and copy and never change."""
    out = tmp_path_factory.mktemp("runs") / "icl"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "incontext_page", lambda out: None)
        train_incontext(asked(), out, progress=False)
    return out


@pytest.fixture
def run(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run")


def test_help_loads_nothing_heavy():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_a_run_is_trained_told_measured_and_drawn(lissome, tmp_path):
    out = tmp_path / "run"
    said = lissome("icl", "train", "linear", "--model", "looped", *TINY, "--out", out)
    assert "Looped transformer on linear, d = 3, 5 examples" in said
    assert "least squares" in said
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["kind"], summary["task"], summary["model"], summary["steps"]) == ("icl", "linear", "looped", 12)
    assert summary["oracles"]["least squares"]["error"] < 1e-9
    kept = yaml.safe_load((out / "settings.yaml").read_text())
    assert kept["curriculum"]["loops"] == {"first": 2, "by": 1, "every": 4}
    page = (out / "index.html").read_text()
    for text in ("examples in context", "Beside statistics", "trained", "least squares", "left early"):
        assert text in page
    drawn = {path.name for path in (out / "figures").iterdir()}
    assert drawn == {"error-steps.svg", "error-examples.svg", "error-iterations.svg", "error-shifts.svg"}
    assert "Looped transformer on linear" in lissome("show", out)
    assert one_sentence_of_compare(lissome, out).endswith("which has a page of its own kind")


def one_sentence_of_compare(lissome, out):
    return lissome.complaint("compare", out, "--out", out.parent / "c")


@pytest.mark.parametrize("task", ["sparse", "ar", "chain", "two-layer", "tree"])
def test_every_task_trains(task, tmp_path, undrawn):
    found = train_incontext(asked(task=task, training__steps=2), tmp_path / "run", progress=False)
    assert found["error"] > 0
    assert found["mean"] > 0
    told = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert len(told["examples"]["model"]) == 5
    assert len(told["iterations"]["error"]) == 12
    assert set(told["shifts"]) == ({"noise"} if task == "ar" else {"scale", "skew", "noise"})


@pytest.mark.parametrize("tokens", ["pairs", "interleaved"])
def test_errors_by_examples_are_those_of_shorter_prompts(tokens, tmp_path, undrawn):
    train_incontext(asked(model__tokens=tokens, training__steps=2), tmp_path / "run", progress=False)
    trained = load_incontext(tmp_path / "run", "cpu")
    told = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    batch = trained.task.draw(torch.Generator().manual_seed(2**40), 12)
    with torch.no_grad():
        x, y = batch["x"][:, :3], batch["y"][:, :3] / 3**0.5
        error = (trained.model(x, y)[:, -1] * 3**0.5 - batch["target"][:, 2, 0]).square().mean() / 3
    assert told["examples"]["model"][2] == pytest.approx(float(error), rel=1e-4)


def test_a_plain_model_has_no_loop(lissome, tmp_path):
    out = tmp_path / "run"
    lissome("icl", "train", "--model", "plain", *TINY, "--out", out)
    assert json.loads((out / "evaluation.json").read_text())["settled"] is None
    assert "The model has no loop." in (out / "index.html").read_text()
    sentence = lissome.complaint("icl", "evaluate", out, "--loops", "1,4")
    assert sentence.endswith("is a plain model without a loop; legal for loops is 1")


@pytest.mark.parametrize("at", [3, 8])
def test_a_run_that_was_stopped_in_mid_curriculum_ends_with_the_same_bits(at, tmp_path, undrawn):
    grows = {"curriculum": {name: {"first": 2, "every": 3} for name in ("dimension", "pairs", "loops")}}
    more = {"training__evaluate": 2, "training__schedule": "constant", **grows}  # a cosine would know of the end
    whole = train_incontext(asked(**more), tmp_path / "whole", progress=False)
    train_incontext(asked(**more, training__steps=at), tmp_path / "cut", progress=False)
    settings = load(IncontextSettings, file=tmp_path / "cut" / "settings.yaml", given={"training.steps": 12})
    found = train_incontext(settings, tmp_path / "cut", resume=True, progress=False)
    assert (tmp_path / "cut" / "checkpoint" / "model.safetensors").read_bytes() == (
        tmp_path / "whole" / "checkpoint" / "model.safetensors"
    ).read_bytes()
    assert {key: found[key] for key in ("error", "mean", "loss")} == {
        key: whole[key] for key in ("error", "mean", "loss")
    }
    if at == 8:  # evaluations fall on the same steps
        assert same(tmp_path / "whole", tmp_path / "cut")


def test_resume_takes_the_settings_of_the_run(lissome, run, trained, undrawn):
    lissome("icl", "train", "--resume", "--out", run, "--steps", "14")
    assert json.loads((run / "summary.json").read_text())["steps"] == 14
    sentence = lissome.complaint("icl", "train", "--resume", "--out", run, "--set", "pairs=6")
    assert "was started with other settings: 'pairs' was 5 and is 6 now" in sentence


def test_evaluate_tells_what_is_asked(lissome, run, undrawn):
    said = lissome("icl", "evaluate", run, "--loops", "1,3,20", "--shift", "scale", "--prompts", "8")
    assert "as trained" in said
    assert "shift: scale" in said
    assert "shift: skew" not in said
    found = json.loads(lissome("icl", "evaluate", run, "--loops", "1,20", "--shift", "noise,skew", "--json"))
    assert found["iterations"]["asked"] == [1, 20]
    assert len(found["iterations"]["error"]) == 20
    kept = json.loads((run / "evaluation.json").read_text())
    assert set(kept["shifts"]) == {"scale", "skew", "noise"}
    same_strength = kept["shifts"]["scale"]["strength"].index(1.0)
    assert kept["shifts"]["scale"]["model"][same_strength] > 0


def test_what_overflows_is_said_and_drawn(lissome, run):
    trained = load_incontext(run, "cpu")
    with torch.no_grad():
        for p in trained.model.parameters():
            p.mul_(40)
    write_tensors(run / "checkpoint" / "model.safetensors", trained.model.state_dict())
    found = evaluate_incontext(run, prompts=8)
    assert found["iterations"]["broken"] is not None
    assert found["iterations"]["error"][-1] is None
    assert found["last"]["lost"] > 0
    assert None in found["shifts"]["scale"]["model"]
    page = (run / "index.html").read_text()
    assert "no longer finite" in page
    assert "the model&#x27;s error is not finite at scale" in page
    assert "model, not finite" in (run / "figures" / "error-shifts.svg").read_text()


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["linaer"], r"unknown task 'linaer'; legal are: linear, sparse"),
        (["--model", "algoforme"], "unknown model 'algoforme'; legal are: algoformer, looped, plain"),
        (
            ["--set", "model.iterations=0"],
            "setting 'model.iterations' is 0: input should be greater than or equal to 1",
        ),
        (["--set", "model.iterations=-3"], "setting 'model.iterations' is -3"),
        (["--set", "pairs=4", "--set", "curriculum.pairs.first=6"], "curriculum.pairs.first is 6, more than the 4"),
        (["--set", "training.window=9"], "window is 9, and the iterations of the model are 8; legal are 1 to 8"),
        (["--set", "details.weights=x"], "seed of the weights of a representation is 'x'; legal are whole numbers, 0"),
        (["--set", "details.pairs=4"], "setting 'details.pairs' is said outside of details; legal is 'pairs'"),
        (["--set", "details.slop=1"], "unknown setting of the task 'representation': 'slop'"),
        (["--set", "model.heads=5"], "heads"),
        (["ar", "--set", "curriculum.dimension.first=2"], "the task 'ar' fills all its dimensions"),
        (["--set", "model.tokens=pair"], "unknown tokens 'pair'; legal are: pairs, interleaved"),
    ],
)
def test_what_is_asked_wrongly_is_told_and_nothing_is_left(words, text, lissome, tmp_path):
    assert text in lissome.complaint("icl", "train", *words, "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--loops", "0"], "--loops takes whole numbers from 1 to 10,000, such as 1,5,10; '0' is none"),
        (["--loops", "1,-2"], "'-2' is none"),
        (["--loops", "1,,2"], "'' is none"),
        (["--shift", "scal"], "'scal'; legal are: scale, skew, noise (did you mean 'scale'?)"),
        (["--most", "4"], "iterations; legal are 1 to 3"),
        (["--prompts", "9000000"], "prompts is 9000000; legal are whole numbers, 1 to 1000000"),
        (["--most", "0"], "most is 0; legal are whole numbers, 1 and more"),
    ],
)
def test_an_evaluation_asked_wrongly_is_told(words, text, lissome, run):
    before = (run / "evaluation.json").read_bytes()
    assert text in lissome.complaint("icl", "evaluate", run, *words)
    assert (run / "evaluation.json").read_bytes() == before


def test_runs_of_other_kinds_are_refused(lissome, run, tmp_path):
    (tmp_path / "settings.yaml").write_text("family: heat\n")
    assert "is no run of `lissome icl train`" in lissome.complaint("icl", "evaluate", tmp_path)
    assert "there is no run directory" in lissome.complaint("icl", "evaluate", tmp_path / "nowhere")
    assert "lm train" in lissome.complaint("lm", "evaluate", run)
    shutil.rmtree(run / "checkpoint")
    assert "holds no checkpoint" in lissome.complaint("icl", "evaluate", run)
    (run / "evaluation.json").write_text("{}x")
    assert "not legal JSON" in lissome.complaint("show", run)
