"""`lissome lm export` and `import`: folders that transformers loads, runs that write as the model did, sentences."""

import json
import shutil

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from lissome import report
from lissome.language import Bpe
from lissome.recipes import train_language
from lissome.recipes.language import convert
from lissome.recipes.language.archive import load_trained
from lissome.recipes.language.settings import LanguageSettings
from lissome.recipes.settings import load

SMALL = {"model.layers": 2, "model.width": 16, "model.heads": 4, "model.key_heads": 2, "scored": 64, "length": 16}
SMALL |= {"batch": 4, "training.steps": 6, "training.compile": False}
RUNS = {
    "bytes": {},
    "bpe": {"vocabulary": "bpe", "vocabulary_size": 290, "model.validity": "causal & window(4)", "model.tied": False},
    "gelu": {"model.feed": "gelu"},
    "kerple": {"model.position": "kerple", "model.refine": "dape"},
    "by layer": {"model.validity": "h(causal & window(4))"},
}
TEXT = "line 7: é€😀  the <|endoftext|> sum's  \n\n ."
LLAMA = dict(hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2)
CLASSES = {"bytes": "LlamaForCausalLM", "bpe": "MistralForCausalLM", "gelu": "ArceeForCausalLM"}


@pytest.fixture(scope="session")
def runs(text, tmp_path_factory):
    """Tiny runs that tests read and never change."""
    place = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "language_page", lambda out: None)
        for name, more in RUNS.items():
            asked = load(LanguageSettings, given=SMALL | more | {"data": str(text)})
            train_language(asked, place / name, progress=False)
    return place


@pytest.fixture(scope="session")
def saved(tmp_path_factory):
    """A folder as people have it: a Llama with more tokens than its tokenizer, in bfloat16, in several files."""
    place = tmp_path_factory.mktemp("saved") / "llama"
    bpe = Bpe.train(["low lower lowest, the sum of 7 and 8 " * 9], 275)
    fast = PreTrainedTokenizerFast(tokenizer_object=bpe._tokenizer, eos_token="<|endoftext|>")
    torch.manual_seed(0)
    sizes = dict(vocab_size=288, max_position_embeddings=64, initializer_range=0.1, eos_token_id=bpe.end)
    LlamaForCausalLM(LlamaConfig(**LLAMA | sizes)).bfloat16().save_pretrained(place, max_shard_size="8KB")
    fast.save_pretrained(place)
    assert len(list(place.glob("model-*.safetensors"))) > 1
    return place


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "folder")


def logits(model, tokens):
    with torch.no_grad():
        found = model(tokens)
    return getattr(found, "logits", found)


@pytest.mark.parametrize("name", CLASSES)
def test_a_run_goes_out_and_comes_back(lissome, undrawn, runs, tmp_path, name):
    out, back = tmp_path / "made" / "folder", tmp_path / "back"
    told = json.loads(lissome("lm", "export", runs / name, "--out", out, "--json"))
    assert (told["class"], told["steps"]) == (CLASSES[name], 6)
    assert {path.name for path in out.parent.iterdir()} == {"folder"}
    trained, theirs = load_trained(runs / name), AutoModelForCausalLM.from_pretrained(out)
    assert type(theirs).__name__ == told["class"]
    assert told["numbers"] == sum(p.numel() for p in theirs.parameters())
    tokens = torch.randint(0, trained.vocabulary.size, (2, 30))
    torch.testing.assert_close(logits(trained.model, tokens), logits(theirs, tokens), atol=1e-5, rtol=0)

    read = AutoTokenizer.from_pretrained(out)
    assert len(read) == trained.vocabulary.size
    assert read(TEXT)["input_ids"] == trained.vocabulary.encode(TEXT).tolist()
    assert read.decode(read(TEXT)["input_ids"]) == TEXT
    assert read.eos_token_id == theirs.config.eos_token_id == trained.vocabulary.end

    theirs.save_pretrained(tmp_path / "again")  # as transformers writes it itself
    read.save_pretrained(tmp_path / "again")
    lissome("lm", "import", tmp_path / "again", "--out", back)
    returned = load_trained(back)
    assert returned.vocabulary.digest == trained.vocabulary.digest
    for key, value in trained.model.state_dict().items():
        assert torch.equal(returned.model.state_dict()[key], value)
    ask = ["--prompt", "line 7", "--tokens", "8", "--temperature", "0", "--json"]
    one, other = (json.loads(lissome("lm", "generate", run, *ask)) for run in (runs / name, back))
    assert one | {"seconds": 0} == other | {"seconds": 0}


def test_a_model_of_others_is_evaluated_writes_and_is_shown(lissome, saved, text, tmp_path):
    run = tmp_path / "run"
    said = lissome("lm", "import", saved, "--out", run)
    assert "causal; rotary; softmax" in said
    assert (run / "index.html").is_file()
    theirs, read = LlamaForCausalLM.from_pretrained(saved, dtype=torch.float32), AutoTokenizer.from_pretrained(saved)
    ids = torch.tensor([read("the sum of 7 and 8 ")["input_ids"]])
    torch.testing.assert_close(logits(load_trained(run).model, ids), logits(theirs, ids), atol=1e-5, rtol=0)

    written = theirs.generate(ids, max_new_tokens=12, do_sample=False, pad_token_id=0)[0, ids.shape[1] :]
    ask = ["--prompt", "the sum of 7 and 8 ", "--tokens", "12", "--temperature", "0", "--json"]
    found = json.loads(lissome("lm", "generate", run, *ask))
    assert found["tokens"] == len(written) - (int(written[-1]) == theirs.config.eos_token_id)
    written = [token for token in written.tolist() if token != theirs.config.eos_token_id]
    assert found["text"] == load_trained(run).vocabulary.decode(written)

    rows = json.loads(lissome("lm", "evaluate", run, "--data", text, "--lengths", "8,32", "--windows", "2", "--json"))[
        "rows"
    ]
    assert [row["length"] for row in rows] == [8, 32]
    assert "Language model" in lissome("show", run)
    assert "imported" in (run / "index.html").read_text()
    assert "--data names another text" in lissome.complaint("lm", "evaluate", run)


def test_an_imported_model_is_not_gone_on_with_as_if_its_text_were_known(lissome, undrawn, saved, tmp_path):
    run = tmp_path / "run"
    lissome("lm", "import", saved, "--out", run)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    said = lissome.complaint("lm", "train", "--resume", "--out", run)
    assert "was imported, and holds no training to go on with" in said
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name[0] != "."} == before


def test_an_imported_model_goes_out_again(lissome, undrawn, saved, tmp_path):
    lissome("lm", "import", saved, "--out", tmp_path / "run")
    said = lissome("lm", "export", tmp_path / "run", "--out", tmp_path / "folder")
    assert "LlamaForCausalLM" in said
    theirs, again = (
        AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32) for place in (saved, tmp_path / "folder")
    )
    tokens = torch.randint(0, 288, (2, 20))
    torch.testing.assert_close(logits(theirs, tokens), logits(again, tokens), atol=1e-5, rtol=0)
    assert again.config.rms_norm_eps != theirs.config.rms_norm_eps


@pytest.mark.parametrize(
    ("run", "says"),
    [
        ("kerple", "position is 'kerple', which no class of transformers has; legal is rotary"),
        (
            "by layer",
            "layers differ in their attention, 'causal; rotary; softmax' and 'causal & window(4); rotary; softmax'",
        ),
        ("nowhere", "there is no run directory"),
        (".", "is no run of `lissome lm train`"),
    ],
)
def test_what_cannot_go_out_is_told_in_a_sentence(lissome, runs, tmp_path, run, says):
    assert says in lissome.complaint("lm", "export", runs / run, "--out", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def changed(folder, **more):
    told = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(told | more))


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda f: (f / "config.json").unlink(), "holds no config.json; legal is a local folder of a model"),
        (lambda f: (f / "config.json").write_text("{"), "config.json' is no JSON"),
        (lambda f: (f / "config.json").write_text("[]"), "holds a list; legal is an object"),
        (lambda f: changed(f, model_type="qwen2"), "adds biases to q, k and v"),
        (lambda f: changed(f, intermediate_size=25), "is of another network: 'model.layers.0.mlp.up_proj.weight'"),
        (lambda f: changed(f, vocab_size=200), "has 275 tokens and the model 200"),
        (lambda f: (f / "tokenizer.json").unlink(), "name the folder or file of a tokenizer by --tokenizer"),
        (lambda f: (f / "tokenizer.json").write_text("{}"), "cannot be read"),
        (lambda f: next(f.glob("model-*")).unlink(), "3.safetensors' are missing; copy the whole folder"),
        (lambda f: next(f.glob("model-*")).write_bytes(b"{}"), "are damaged"),
        (lambda f: (f / "model.safetensors.index.json").unlink(), "holds no model.safetensors; save the model"),
        (
            lambda f: (f / "model.safetensors.index.json").rename(f / "pytorch_model.bin"),
            "holds no model.safetensors but pytorch_model.bin, which could run code",
        ),
        (
            lambda f: (f / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../a.safetensors"}}'),
            "names no files of weights beside it",
        ),
    ],
)
def test_what_cannot_come_in_is_told_in_a_sentence(lissome, folder, tmp_path, spoil, says):
    spoil(folder)
    assert says in lissome.complaint("lm", "import", folder, "--out", tmp_path / "run")
    assert list(tmp_path.iterdir()) == [folder]


def test_other_places_and_tokenizers(lissome, undrawn, runs, folder, tmp_path):
    assert "is no folder" in lissome.complaint("lm", "import", tmp_path / "nowhere", "--out", tmp_path / "run")
    assert "is a run already" in lissome.complaint("lm", "import", runs / "bytes", "--out", tmp_path / "run")
    (folder / "tokenizer.json").rename(tmp_path / "apart.json")
    lissome("lm", "import", folder, "--tokenizer", tmp_path / "apart.json", "--out", tmp_path / "run")
    lissome("lm", "import", folder, "--tokenizer", "bytes", "--out", tmp_path / "bytes")
    assert load_trained(tmp_path / "bytes").vocabulary.encode("é").tolist() == [195, 169]
    for words in (["export", runs / "bytes"], ["import", folder, "--tokenizer", "bytes"]):
        said = lissome.complaint("lm", *words, "--out", tmp_path / "run")
        assert "exists and holds something; name another directory by --out" in said
        assert "--out" in lissome.complaint("lm", *words)
    (tmp_path / "empty").mkdir()
    lissome("lm", "export", runs / "bytes", "--out", tmp_path / "empty")


def test_nothing_is_left_where_writing_fails(lissome, runs, saved, tmp_path, monkeypatch):
    def refused(*given):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(convert.os, "replace", refused)
    for words in (["export", runs / "bytes"], ["import", saved]):
        complaint = lissome.complaint("lm", *words, "--out", tmp_path / "out", code=1)
        assert "cannot be written" in complaint
        assert "No space left on device" in complaint
    assert list(tmp_path.iterdir()) == []
