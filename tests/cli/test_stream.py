"""`lissome lm stream`: what it prints, leaves behind, refuses, and loses to nothing."""

import json
import math
import os
import shutil
import signal

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from lissome import report
from lissome.language.stream import Progress
from lissome.recipes import train_language
from lissome.recipes.language import stream as recipe
from lissome.recipes.language.archive import load_trained
from lissome.recipes.language.settings import LanguageSettings
from lissome.recipes.settings import load
from tests.cli.command import one_sentence, start, wait_for

SIZES = ["--initial", "2", "--separators-kept", "6", "--local", "20", "--capacity", "64", "--chunk", "16"]
CLOCKS = ("tokens_per_second", "tokens_per_processor_second", "seconds", "resident_mb")
SMALL = {"model.layers": 1, "model.width": 16, "model.heads": 2, "scored": 64, "length": 16, "batch": 4}


@pytest.fixture(scope="session")
def text(tmp_path_factory):
    place = tmp_path_factory.mktemp("text") / "text.txt"
    place.write_text("".join(f"line {i}: the sum of {i} and {i + 1} is {2 * i + 1}.\n\n" for i in range(60)))
    return place


@pytest.fixture(scope="session")
def model(text, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "model"
    train_language(load(LanguageSettings, given=SMALL | {"training.steps": 6, "data": str(text)}), out, progress=False)
    return out


def ask(model, text, out, *more):
    return ["lm", "stream", model, "--text", text, *SIZES, "--out", out, *more]


def rows(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in CLOCKS} for line in lines]


def same(one, other):
    names = ("state.safetensors",)
    parts = [[(run / "checkpoint" / name).read_bytes() for name in names] for run in (one, other)]
    return rows(one) == rows(other) and parts[0] == parts[1]


def test_a_stream_is_measured_told_and_drawn(lissome, model, text, tmp_path):
    out = tmp_path / "out"
    said = lissome(*ask(model, text, out))
    found = json.loads((out / "summary.json").read_text())
    size = len(text.read_bytes())
    assert f"over {size - 1:,} tokens of 'text.txt'" in " ".join(said.split())
    assert found["tokens"] == size - 1
    assert 42 <= found["cache_mean"] < found["cache_most"] <= 64
    ends = sum(text.read_bytes()[:-1].count(byte) for byte in b"\t\n!,.:;?")
    assert found["separator_share"] == ends / (size - 1)
    assert found["reach"] == pytest.approx(6 * (size - 1) / ends)
    kept = rows(out)
    assert len(kept) == 40
    assert sum(row["interval"] for row in kept) == size - 1
    nats = sum(row["nats"] * row["interval"] for row in kept) / (size - 1)
    assert math.log(found["perplexity"]) == pytest.approx(nats)
    page = (out / "index.html").read_text()
    assert f"perplexity over {size - 1:,} tokens is not recall over {size - 1:,} tokens" in page
    assert all(told in page for told in ("in the cache", "resident", "tokens a second"))
    assert "http" not in page.replace("http://www.w3.org", "")
    assert "Perplexity" in lissome("show", out)
    assert "is a stream, which has a page of its own kind" in lissome.complaint("compare", out, "--out", tmp_path / "c")


def test_a_cache_that_keeps_all_costs_what_one_pass_costs(lissome, model, text, tmp_path, undrawn):
    found = json.loads(lissome(*ask(model, text, tmp_path / "out", "--cache", "full", "--tokens", "300", "--json")))
    ids = torch.tensor([list(text.read_bytes()[:301])])
    with torch.no_grad():
        logits = load_trained(model).model.eval()(ids[:, :-1])
    want = torch.nn.functional.cross_entropy(logits[0].double(), ids[0, 1:])
    assert found["tokens"] == 300
    assert found["nats"] == pytest.approx(float(want), rel=1e-5)
    assert found["cache_most"] == 300


def test_a_folder_of_transformers_costs_what_its_run_costs(lissome, model, text, tmp_path, undrawn):
    folder = tmp_path / "folder"
    lissome("lm", "export", model, "--out", folder)
    for number, more in enumerate((["--cache", "separators"], ["--cache", "fixed"], ["--cache", "full"])):
        more = [*more, "--tokens", "400", "--json"]
        ours, theirs = (
            json.loads(lissome(*ask(each, text, tmp_path / f"{name}{number}", *more)))
            for name, each in (("ours", model), ("theirs", folder))
        )
        assert theirs["nats"] == pytest.approx(ours["nats"], rel=1e-5)
        for key in ("cache_mean", "cache_most", "separator_share", "reach"):
            assert theirs[key] == ours[key]


@pytest.mark.parametrize("cache", ["separators", "full"])
@pytest.mark.parametrize("kind", ["run", "folder"])
def test_a_stream_that_was_stopped_goes_on_to_the_last_bit(
    lissome, model, text, tmp_path, undrawn, monkeypatch, kind, cache
):
    if kind == "folder":
        lissome("lm", "export", model, "--out", tmp_path / "folder")
        model = tmp_path / "folder"
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    more = ["--cache", cache, "--tokens", "600"]
    lissome(*ask(model, text, whole, *more))
    honest, left = recipe.stream, iter(range(13))

    def killed(*words, on_part, **named):
        def note(progress):
            if next(left, None) is None:
                os.kill(os.getpid(), signal.SIGINT)
            return on_part(progress)

        return honest(*words, on_part=note, **named)

    with monkeypatch.context() as patch:
        patch.setattr(recipe, "stream", killed)
        said = lissome.complaint(*ask(model, text, broken, *more), code=130)
    assert f"stopped by Ctrl-C after 224 of 600 tokens: `lissome lm stream --resume --out {broken}`" in said
    assert not (broken / "summary.json").exists()
    lissome("lm", "stream", "--resume", "--out", broken)
    assert same(whole, broken)
    lissome("lm", "stream", "--resume", "--out", broken)  # of what is over nothing is read again
    assert same(whole, broken)


def test_ctrl_c_and_sigkill_lose_nothing(lissome, model, text, tmp_path, undrawn):
    whole, broken, kept = tmp_path / "whole", tmp_path / "broken", "checkpoint/state.json"
    more = ["--chunk", "1", "--set", "checkpoint=0.05"]
    process = start(*ask(model, text, broken, *more))
    wait_for((broken / kept).exists, process)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert one_sentence(err).endswith(f"`lissome lm stream --resume --out {broken}`")

    then = (broken / kept).stat().st_mtime_ns
    process = start("lm", "stream", "--resume", "--out", broken)
    wait_for(lambda: (broken / kept).exists() and (broken / kept).stat().st_mtime_ns > then, process)
    process.kill()
    process.communicate(timeout=60)

    lissome("lm", "stream", "--resume", "--out", broken)
    lissome(*ask(model, text, whole, *more))
    assert same(whole, broken)


def test_lines_begin_anew_and_hold_no_end_of_a_line(lissome, model, text, tmp_path, undrawn):
    out = tmp_path / "out"
    found = json.loads(lissome(*ask(model, text, out, "--protocol", "lines", "--json")))
    lines = [line for line in text.read_bytes().split(b"\n") if line]
    assert (out / "tokens.bin").read_bytes() == b"\n" + b"".join(line + b"\n" for line in lines)
    assert found["tokens"] == sum(map(len, lines))
    assert found["begin"] == 10


def test_a_text_that_is_shorter_than_was_asked_is_read_to_its_end(lissome, model, text, tmp_path, undrawn):
    said = lissome(*ask(model, text, tmp_path / "out", "--tokens", "999999"))
    assert "where the text ends, fewer than were asked for" in " ".join(said.split())


def test_of_a_long_text_no_more_is_encoded_than_is_asked(lissome, model, tmp_path, undrawn):
    for number in range(3):
        (tmp_path / f"{number}.txt").write_text("a line of text.\n" * 80_000)  # 1.3 MB each
    lissome(*ask(model, tmp_path, tmp_path / "out", "--tokens", "50"))
    assert (tmp_path / "out" / "tokens.bin").stat().st_size < 2_000_000


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (
            ["--cache", "separator"],
            "unknown cache 'separator'; legal are: separators, sinks, fixed, full (did",
        ),
        (["--capacity", "40"], "initial 2 + separators_kept 6 + local 20 + chunk 16 are 44, above the capacity of 40"),
        (["--cache", "full", "--positions", "cache"], "legal with cache full is text"),
        (["--positions", "words"], "unknown positions 'words'; legal are: text, cache"),
        (["--protocol", "line"], "unknown protocol 'line'; legal are: text, lines (did you mean 'lines'?)"),
        (["--set", "separators=[256]"], "separator 256 is no id of the model's vocabulary; legal are 0 to 255"),
        (["--set", "separators=[]"], "there are no ids in separators; legal is cache sinks, or at least one id"),
        (["--tokens", "0"], "setting 'tokens' is 0"),
        (["--tokens", "many"], "Invalid value for '--tokens': 'many': "),
        (["--every", "8"], "every 8 is of no use with cache 'separators'"),
        (["--tokenizer", "bytes"], "is a run with a vocabulary of its own, and tokenizer 'bytes' is asked for"),
    ],
)
def test_what_is_asked_wrongly_is_told_and_leaves_nothing(lissome, model, text, tmp_path, more, said):
    told = lissome.complaint(*ask(model, text, tmp_path / "out", *more))
    assert said in told
    assert "setting ''" not in told
    assert not (tmp_path / "out").exists()


def test_models_and_texts_that_cannot_be_read_are_told(lissome, model, text, tmp_path):
    out, empty = tmp_path / "out", tmp_path / "empty.txt"
    empty.write_text("")
    (tmp_path / "one.txt").write_text("a")
    (tmp_path / "folder").mkdir()
    complain = lissome.complaint
    assert "there is no text" in complain(*ask(model, tmp_path / "none.txt", out))
    assert "is empty; legal is a file of UTF-8 text" in complain(*ask(model, empty, out))
    assert "has 1 token, and one has to follow another" in complain(*ask(model, tmp_path / "one.txt", out))
    assert "there is no folder" in complain(*ask(tmp_path / "nowhere", text, out))
    assert "holds no model; legal is the directory of a run" in complain(*ask(tmp_path / "folder", text, out))
    (tmp_path / "folder" / "config.json").write_text("{}")
    assert "cannot be loaded" in complain(*ask(tmp_path / "folder", text, out))
    assert "setting 'text' is missing" in complain("lm", "stream", model, "--out", out)
    assert not out.exists()


def test_a_cache_that_keeps_all_has_to_fit_into_memory(lissome, model, text, tmp_path, monkeypatch):
    monkeypatch.setattr(recipe, "available_memory", lambda device: 2 * 128 * 1000)  # 2 x 16 numbers of 4 bytes an entry
    said = lissome.complaint(*ask(model, text, tmp_path / "out", "--cache", "full"))
    assert "legal are --tokens up to 1,000, or a cache that drops some" in said
    said = lissome.complaint(*ask(model, text, tmp_path / "out", "--capacity", str(10**12)))
    assert "capacity 1,000,000,000,000 holds up to" in said
    assert "legal are a capacity up to 1,000" in said
    assert not (tmp_path / "out").exists()


def test_a_capacity_above_the_text_takes_what_the_text_takes(lissome, model, text, tmp_path, undrawn):
    more = ["--tokens", "200", "--capacity", str(10**25), "--json"]
    found = json.loads(lissome(*ask(model, text, tmp_path / "out", *more)))
    assert found["cache_most"] == 200


def test_a_vocabulary_that_is_not_over_bytes_is_read_whole(lissome, model, text, tmp_path, undrawn):
    folder = tmp_path / "folder"
    lissome("lm", "export", model, "--out", folder)
    words = Tokenizer(WordLevel({"[UNK]": 0, "sum": 1, "of": 2}, unk_token="[UNK]"))
    words.pre_tokenizer = Whitespace()
    words.save(str(folder / "tokenizer.json"))
    found = json.loads(lissome(*ask(folder, text, tmp_path / "out", "--cache", "sinks", "--json")))
    assert found["tokens"] == len(words.encode(text.read_text()).ids) - 1


def test_a_model_that_counts_positions_keeps_those_of_the_text(lissome, text, tmp_path, undrawn, monkeypatch):
    monkeypatch.setattr(report, "language_page", lambda out: None)
    given = SMALL | {"training.steps": 1, "data": str(text), "model.visible": "fixed(4, near=8)"}
    train_language(load(LanguageSettings, given=given), tmp_path / "fixed", progress=False)
    asked = ask(tmp_path / "fixed", text, tmp_path / "out", "--tokens", "100")
    assert "legal for it is --positions text" in lissome.complaint(*asked)
    lissome(*asked, "--positions", "text")


def test_a_run_of_another_kind_is_no_stream(lissome, model, tmp_path):
    assert "is no run of `lissome lm stream`: its settings have" in lissome.complaint(
        "lm", "stream", "--resume", "--out", model
    )
    (tmp_path / "settings.yaml").write_text("")
    assert "is damaged: it is empty" in lissome.complaint("lm", "stream", "--resume", "--out", tmp_path)


def test_what_does_not_fit_to_a_checkpoint_is_told_and_loses_nothing(
    lissome, model, text, tmp_path, undrawn, monkeypatch
):
    own, out = shutil.copytree(model, tmp_path / "model"), tmp_path / "out"
    lissome(*ask(own, text, out, "--tokens", "100"))
    kept = (out / "summary.json").read_text()
    weights, state = own / "checkpoint" / "model.safetensors", out / "checkpoint" / "state.safetensors"
    resume = ("lm", "stream", "--resume", "--out", out)

    honest = state.read_bytes()
    state.write_bytes(honest[:-9])
    assert "is damaged or cut off" in lissome.complaint(*resume)
    state.write_bytes(honest)
    with monkeypatch.context() as patch:
        patch.setattr(Progress, "of", lambda state: state["nothing"])
        assert "is damaged ('nothing'); put it back" in lissome.complaint(*resume)
    assert "'capacity' was 64 and is 65 now" in lissome.complaint(*resume, "--capacity", "65")

    numbers = load_file(weights)
    save_file(numbers | {"embedding.weight": -numbers["embedding.weight"]}, weights)
    assert f"the model has changed since '{out}' was begun" in lissome.complaint(*resume)
    assert (out / "summary.json").read_text() == kept
    save_file(numbers, weights)
    lissome(*resume)
