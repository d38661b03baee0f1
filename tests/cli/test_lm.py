"""Ranks of a LoRA from the command line: written, loaded again, gone on with, refused in a sentence."""

import json
import shutil
from copy import deepcopy

import pytest
import torch
import yaml
from peft import IA3Config, LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    T5Config,
    T5ForConditionalGeneration,
)

from lissome._errors import Interrupted
from lissome.adapt import RULES
from lissome.adapt.basis import BASES
from lissome.bridges.text import load, read
from lissome.recipes import ranks, ranks_kept, ranks_settings

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")

SMALL = ["--set", "batches=2", "--set", "size=2", "--set", "length=16"]
TEXT = "the cat sat on the mat and the dog ran off; " * 40
LLAMA = dict(
    vocab_size=256,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    max_position_embeddings=64,
)
BERT = dict(vocab_size=300, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2)
MODELS = {
    "causal": (
        lambda: LlamaForCausalLM(LlamaConfig(**LLAMA)),
        dict(target_modules=["q_proj", "up_proj"], task_type="CAUSAL_LM"),
    ),
    "masked": (lambda: BertForMaskedLM(BertConfig(**BERT)), dict(target_modules=["query", "value"])),
    "classes": (
        lambda: BertForSequenceClassification(BertConfig(**BERT, num_labels=2)),
        dict(target_modules=["query", "value"], task_type="SEQ_CLS"),
    ),
}


def moved(model, lora, seed=0, r=3):
    """Return a LoRA on the model whose factors are as after some training."""
    torch.manual_seed(seed)
    adapted = get_peft_model(model, LoraConfig(r=r, lora_alpha=6, **lora))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.1)
    return adapted.eval()


@pytest.fixture(scope="session", params=list(MODELS))
def folders(request, tmp_path_factory):
    """Return a kind, and folders of a model and its adapter, and a file of data."""
    place = tmp_path_factory.mktemp(request.param)
    return (request.param, *made(request.param, place))


@pytest.fixture(scope="session")
def causal(tmp_path_factory):
    return made("causal", tmp_path_factory.mktemp("causal"))


def made(kind, place):
    make, lora = MODELS[kind]
    torch.manual_seed(1)
    base = make()
    base.save_pretrained(place / "base")
    moved(base, lora).save_pretrained(place / "adapter")
    if kind == "classes":
        rows = [{"text": TEXT[i : i + 20], "label": i % 2} for i in range(30)]
        (place / "data.jsonl").write_text("\n".join(map(json.dumps, rows)))
        return place / "base", place / "adapter", place / "data.jsonl"
    (place / "data.txt").write_text(TEXT)
    return place / "base", place / "adapter", place / "data.txt"


def ask(model, adapter, data, *more):
    return ["lm", "ranks", model, "--adapter", adapter, "--data", data, *SMALL, *more]


def test_ranks_are_written_for_every_kind_of_model(lissome, folders, tmp_path):
    _, *places = folders
    found = json.loads(lissome(*ask(*places, "--budget", "5", "--out", tmp_path / "run", "--json")))
    assert found == json.loads((tmp_path / "run" / "ranks.json").read_text())
    assert sum(each["rank"] for each in found["layers"].values()) == found["budget"] == 5
    assert sum(found["config"]["rank_pattern"].values()) == 5
    loaded = load(places[0], tmp_path / "run" / "adapter")
    rows = read(loaded, places[2], batches=4, size=2, length=16, seed=0)
    for part, told in ((rows[::2], "after"), (rows[1::2], "held_after")):
        with torch.no_grad():
            losses = [loaded.model(**batch).loss.item() for batch in part]
        assert sum(losses) / 2 == pytest.approx(found[told], rel=1e-5)


def test_the_settings_build_a_lora_of_these_ranks(lissome, causal, tmp_path):
    found = json.loads(lissome(*ask(*causal, "--budget", "4", "--out", tmp_path / "run", "--json")))
    fresh = AutoModelForCausalLM.from_pretrained(causal[0])
    new = get_peft_model(deepcopy(fresh), LoraConfig(target_modules=["q_proj", "up_proj"], **found["config"]))
    ranks = {
        path.removeprefix("base_model.model."): layer.r["default"]
        for path, layer in new.named_modules()
        if getattr(layer, "r", None)
    }
    assert ranks == {name: each["rank"] for name, each in found["layers"].items() if each["rank"]}
    again = PeftModel.from_pretrained(fresh, tmp_path / "run" / "adapter")
    assert sum(layer.r["default"] for layer in again.modules() if getattr(layer, "r", None)) == 4


def test_a_page_maps_the_layers_and_draws_the_budget(lissome, causal, tmp_path):
    out = lissome(*ask(*causal, "--out", tmp_path / "run"))
    assert "6 of 12 terms stay" in out.replace("\n", " ")
    page = (tmp_path / "run" / "index.html").read_text()
    assert page.count("<figure") == 2
    assert "rank_pattern" not in page
    assert "model.layers.self_attn.q_proj" in page
    assert "http" not in page.replace("http://www.w3.org", "")
    assert yaml.safe_load((tmp_path / "run" / "settings.yaml").read_text())["rule"] == "sublora"


def test_show_says_where_the_page_is(lissome, causal, tmp_path):
    lissome(*ask(*causal, "--out", tmp_path / "run"))
    assert "is a choice of ranks: its page is" in lissome.complaint("show", tmp_path / "run")
    assert "is a choice of ranks" in lissome.complaint("compare", tmp_path / "run", "--out", tmp_path / "both")
    (tmp_path / "run" / "ranks.json").unlink()
    assert "lm ranks --resume --out" in lissome.complaint("show", tmp_path / "run")


def test_a_stopped_run_goes_on_from_the_batches_that_are_kept(lissome, causal, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    lissome(*ask(*causal, "--out", whole))
    shutil.copytree(whole, cut)
    for gone in ("ranks.json", "index.html", "weighed/batch-1.safetensors"):
        (cut / gone).unlink()
    lissome("lm", "ranks", "--resume", "--out", cut)
    one, other = (json.loads((place / "ranks.json").read_text()) for place in (whole, cut))
    assert one | {"seconds": 0} == other | {"seconds": 0}


def test_terms_may_be_taken_as_they_were_trained(lissome, causal, tmp_path):
    found = json.loads(lissome(*ask(*causal, "--basis", "trained", "--out", tmp_path / "run", "--json")))
    assert found["basis"] == "trained"
    (tmp_path / "run" / "ranks.json").unlink()
    lissome("lm", "ranks", "--resume", "--out", tmp_path / "run")


def test_another_tokenizer_is_not_gone_on_with(lissome, causal, tmp_path):
    lissome(*ask(*causal, "--out", tmp_path / "run"))
    said = yaml.safe_load((tmp_path / "run" / "settings.yaml").read_text()) | {"tokenizer": str(causal[0])}
    (tmp_path / "run" / "settings.yaml").write_text(yaml.safe_dump(said))
    assert "tokenizer" in lissome.complaint("lm", "ranks", "--resume", "--out", tmp_path / "run")


@pytest.mark.parametrize("which", [0, 1, 2], ids=["model", "adapter", "data"])
def test_files_that_have_changed_are_not_gone_on_with(lissome, tmp_path, which):
    places = made("causal", tmp_path)
    lissome(*ask(*places, "--out", tmp_path / "run"))
    before = (tmp_path / "run" / "ranks.json").read_bytes()
    changed = (places[0] / "config.json", places[1] / "adapter_model.safetensors", places[2])[which]
    if which == 1:
        save_file({name: 2 * tensor for name, tensor in load_file(changed).items()}, changed)
    else:
        changed.write_bytes(changed.read_bytes() + b" ")
    assert "has changed since its terms were weighed" in lissome.complaint(
        "lm", "ranks", "--resume", "--out", tmp_path / "run"
    )
    assert (tmp_path / "run" / "ranks.json").read_bytes() == before


def test_a_damaged_measurement_and_an_adapter_in_the_way(lissome, causal, tmp_path):
    run = tmp_path / "run"
    lissome(*ask(*causal, "--out", run))
    whole = json.loads((run / "ranks.json").read_text())
    (run / "weighed" / "batch-1.safetensors").write_bytes(b"{")
    assert "batch-1.safetensors' is damaged" in lissome.complaint("lm", "ranks", "--resume", "--out", run)
    (run / "weighed" / "batch-1.safetensors").unlink()
    shutil.rmtree(run / "adapter")
    (run / "adapter").write_text("in the way")
    assert "cannot be written" in lissome.complaint("lm", "ranks", "--resume", "--out", run, code=1)
    (run / "adapter").unlink()
    lissome("lm", "ranks", "--resume", "--out", run)
    assert json.loads((run / "ranks.json").read_text()) | {"seconds": 0} == whole | {"seconds": 0}
    assert (run / "adapter" / "adapter_model.safetensors").is_file()


def test_rows_of_json_may_hold_what_else_ends_a_line(lissome, tmp_path):
    base, adapter, data = made("classes", tmp_path)
    rows = [json.dumps({"text": f"one\u2028two {i}", "label": i % 2}, ensure_ascii=False) for i in range(30)]
    data.write_text("\n".join(rows), encoding="utf-8")
    lissome(*ask(base, adapter, data, "--out", tmp_path / "run"))


def test_ctrl_c_keeps_the_batches_that_were_weighed(causal, tmp_path, monkeypatch):
    asked = ranks_settings.RanksSettings(
        **dict(zip(("model", "adapter", "data"), map(str, causal), strict=True)), batches=3, size=2, length=16
    )
    whole, weighed, calls = ranks.rank(asked, tmp_path / "whole", progress=False), ranks_kept.quadratic, []

    def stopped(*given, **options):
        calls.append(0)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return weighed(*given, **options)

    monkeypatch.setattr(ranks_kept, "quadratic", stopped)
    with pytest.raises(Interrupted, match=r"^stopped; 1 of 3 batches are kept in .*: `--resume --out .*cut` goes on$"):
        ranks.rank(asked, tmp_path / "cut", progress=False)
    found = ranks.rank(asked, tmp_path / "cut", resume=True, progress=False)
    assert len(calls) == 4
    assert found | {"seconds": 0} == whole | {"seconds": 0}


def test_the_same_seed_gives_the_same_ranks(lissome, causal, tmp_path):
    found = [
        json.loads(lissome(*ask(*causal, "--rule", "random", "--seed", "3", "--out", tmp_path / name, "--json")))
        for name in ("a", "b")
    ]
    assert found[0] | {"seconds": 0} == found[1] | {"seconds": 0}


def test_the_words_of_settings_are_those_of_the_library():
    assert set(ranks_settings.RULES) == set(RULES)
    assert set(ranks_settings.BASES) == set(BASES)


def other(kind, place):
    """Make folders and files that the verb cannot use."""
    base, adapter, data = made("classes" if "label" in kind else "causal", place)
    if kind == "labels of two kinds":
        data.write_text("\n".join(json.dumps({"text": TEXT[:20], "label": label}) for label in [True, 1] * 10))
    if kind == "a label missing":
        rows = [{"text": TEXT[:20]} | ({"label": 1} if i != 3 else {}) for i in range(20)]
        data.write_text("\n".join(map(json.dumps, rows)))
    if kind == "no padding label":
        model = LlamaForSequenceClassification(LlamaConfig(**LLAMA, num_labels=2))
        model.save_pretrained(base)
        moved(model, dict(target_modules=["q_proj"], task_type="SEQ_CLS")).save_pretrained(adapter)
    if kind == "one label":
        model = BertForSequenceClassification(BertConfig(**BERT, num_labels=1))
        model.save_pretrained(base)
        moved(model, MODELS["classes"][1]).save_pretrained(adapter)
    if kind == "no such label":
        data.write_text("\n".join(json.dumps({"text": TEXT[:20], "label": "good"}) for _ in range(20)))
    if kind == "another":
        config = AutoModelForCausalLM.from_pretrained(base).config
        config.num_hidden_layers = 3
        LlamaForCausalLM(config).save_pretrained(base)
    if kind == "scaling":
        model = AutoModelForCausalLM.from_pretrained(base)
        shutil.rmtree(adapter)
        modules = dict(target_modules=["k_proj"], feedforward_modules=[], task_type="CAUSAL_LM")
        get_peft_model(model, IA3Config(**modules)).save_pretrained(adapter)
    if kind == "holes":
        weights = load_file(base / "model.safetensors")
        del weights["model.norm.weight"]
        save_file(weights, base / "model.safetensors", {"format": "pt"})
    if kind == "many":
        moved(AutoModelForCausalLM.from_pretrained(base), MODELS["causal"][1], r=6).save_pretrained(adapter)
    if kind == "broken":
        weights = load_file(adapter / "adapter_model.safetensors")
        next(iter(weights.values()))[0, 0] = float("nan")
        save_file(weights, adapter / "adapter_model.safetensors")
    if kind == "untrained":
        model = AutoModelForCausalLM.from_pretrained(base)
        get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")).save_pretrained(
            adapter
        )
    if kind == "damaged":
        (adapter / "adapter_model.safetensors").write_bytes(b"{}")
    if kind == "pickled":
        (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    if kind == "binary":
        data.write_bytes(b"\xff\xfe\x00")
    if kind == "short":
        data.write_text("short")
    if kind == "lines":
        data = data.rename(data.with_suffix(".jsonl"))
    if kind == "translation":
        torch.manual_seed(0)
        sizes = dict(d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
        model = T5ForConditionalGeneration(T5Config(vocab_size=300, decoder_start_token_id=0, **sizes))
        model.save_pretrained(base)
        moved(model, dict(target_modules=["q"], task_type="SEQ_2_SEQ_LM")).save_pretrained(adapter)
    return base, adapter, data


@pytest.mark.parametrize(
    ("kind", "more", "says"),
    [
        ("plain", ["--budget", "13"], "budget is 13"),
        ("plain", ["--budget", "0"], "budget"),
        ("plain", ["--budget", "2", "--set", "least=1"], "budget is 2"),
        ("plain", ["--rule", "sublra"], "sublora"),
        ("plain", ["--basis", "svg"], "svd"),
        ("plain", ["--set", "length=65"], "length is 65; legal are 2 to 64"),
        ("plain", ["--device", "tpu"], "tpu"),
        ("plain", ["--tokenizer", "nowhere"], "'nowhere' holds no tokenizer"),
        ("untrained", [], "train first"),
        ("damaged", [], "cannot be loaded"),
        ("pickled", [], "holds no adapter_model.safetensors"),
        ("binary", [], "is no text in UTF-8"),
        ("short", [], "has 5 tokens, too few"),
        ("lines", [], "line 1 of"),
        ("broken", ["--basis", "svd"], "the loss of batch 0 is nan; legal is a finite number"),
        ("many", ["--rule", "exhaustive"], "looks at all sets of 24 terms; legal are up to 20"),
        ("another", [], "was trained on another model than"),
        ("scaling", [], "holds an adapter of type IA3; legal is LORA"),
        ("holes", [], "lacks weights of its model, 1 of them, such as model.norm.weight"),
        ("labels of two kinds", [], "has the label True; legal are 0 to 1"),
        ("a label missing", [], "text 4 of"),
        ("no padding label", [], "has no pad_token_id"),
        ("one label", [], "has one label, as for regression"),
        (
            "no such label",
            [],
            "has the label 'good'; legal are 0 to 1, or the model's names for them: LABEL_0, LABEL_1",
        ),
        ("translation", [], "legal here are causal and masked language models"),
    ],
)
def test_what_cannot_be_asked_is_told_in_a_sentence(lissome, tmp_path, kind, more, says):
    places = other(kind, tmp_path)
    assert says in lissome.complaint(*ask(*places, *more, "--out", tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("which", "says"),
    [(0, "holds no config.json"), (1, "holds no adapter_config.json"), (2, "cannot be read")],
)
def test_what_is_not_there_is_named(lissome, causal, tmp_path, which, says):
    places = list(causal)
    places[which] = tmp_path / "nowhere"
    complaint = lissome.complaint(*ask(*places, "--out", tmp_path / "run"))
    assert says in complaint
    assert "nowhere" in complaint
