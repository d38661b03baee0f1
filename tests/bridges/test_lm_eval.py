"""Tasks of lm-evaluation-harness, from files written here, through a cache that drops and through one that does not."""

import functools
import json
import logging

import pytest
import torch
from tokenizers import Tokenizer
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from lissome._errors import UsageError
from lissome.bridges.tokenizer import of_bytes

pytest.importorskip("lm_eval")
pytestmark = pytest.mark.filterwarnings("ignore")  # the harness and what it loads warn of themselves

from lm_eval import simple_evaluate  # noqa: E402
from lm_eval.api.instance import Instance  # noqa: E402
from lm_eval.models.huggingface import HFLM  # noqa: E402
from lm_eval.tasks import TaskManager  # noqa: E402

from lissome.bridges import lm_eval  # noqa: E402
from lissome.bridges.lm_eval import SepCacheLM  # noqa: E402
from lissome.bridges.separators import separator_ids  # noqa: E402
from lissome.bridges.sepcache import SepCache  # noqa: E402

SMALL = {"initial": 2, "separators_kept": 4, "local": 8, "capacity": 24, "chunk": 8}
TEXT = "The sea, which had been calm, rose. It was late; no boat was out: the men, tired, slept. "
DOCS = [
    {
        "context": (TEXT[start:] + TEXT[:start]).strip(),
        "endings": [" The sea rose.", " No boat", " b", " c"],
        "label": start % 4,
    }
    for start in (0, 9, 30)
]
CHOICES = """
task: choices
dataset_path: json
output_type: multiple_choice
test_split: test
doc_to_text: "{{context}}"
doc_to_choice: "{{endings}}"
doc_to_target: label
target_delimiter: ""
metric_list:
  - metric: acc
  - metric: acc_norm
"""
WRITES = """
task: writes
dataset_path: json
output_type: generate_until
test_split: test
doc_to_text: "{{context}}"
doc_to_target: "{{endings[0]}}"
generation_kwargs:
  until: ["zzz"]
  max_gen_toks: 12
metric_list:
  - metric: exact_match
"""


@pytest.fixture(scope="module", autouse=True)
def unasked():
    """Let the harness not list all packages of this machine, which takes longer than a task."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lm_eval.evaluator.add_env_info", lambda results: None)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model of bytes and an end, as `save_pretrained` writes it."""
    place = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=257,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        bos_token_id=256,
        eos_token_id=256,
        initializer_range=0.3,
    )
    LlamaForCausalLM(config).save_pretrained(place)
    words = Tokenizer.from_str(json.dumps(of_bytes()))
    PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<|end|>", eos_token="<|end|>").save_pretrained(place)
    return str(place)


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    place = tmp_path_factory.mktemp("tasks")
    (place / "docs.jsonl").write_text("".join(json.dumps(doc) + "\n" for doc in DOCS))
    files = f"dataset_kwargs:\n  data_files: {{test: {place / 'docs.jsonl'}}}\n  cache_dir: {place / 'cache'}\n"
    for name, text in (("choices", CHOICES), ("writes", WRITES)):
        (place / f"{name}.yaml").write_text(text + files)
    return str(place)


def evaluated(model, folder, tasks, **further):
    manager = TaskManager(include_path=tasks, include_defaults=False)
    told = simple_evaluate(
        model=model,
        model_args={"pretrained": folder, "device": "cpu", **further},
        tasks=["choices", "writes"],
        task_manager=manager,
        batch_size=2,
        bootstrap_iters=0,
        log_samples=True,
    )
    assert told is not None
    return told


@pytest.fixture(scope="module")
def truth(folder, tasks):
    """What the harness's own model gives."""
    return evaluated("hf", folder, tasks)


def answers(told, task):
    return [doc["filtered_resps"] for doc in sorted(told["samples"][task], key=lambda doc: doc["doc_id"])]


def scores(model, pairs):
    asked = [Instance("loglikelihood", {}, pair, number) for number, pair in enumerate(pairs)]
    return model.loglikelihood(asked, disable_tqdm=True)


PAIRS = [(doc["context"], ending) for doc in DOCS for ending in doc["endings"]]


@pytest.mark.parametrize("cache", ["separators", "full", "fixed(3)"])
def test_a_cache_that_drops_nothing_gives_what_the_harness_gives(folder, tasks, truth, cache):
    told = evaluated("lissome", folder, tasks, cache=cache)
    for own, other in zip(answers(told, "choices"), answers(truth, "choices"), strict=True):
        for (score, greedy), (wanted, likeliest) in zip(own, other, strict=True):
            assert score == pytest.approx(wanted, abs=1e-4)
            assert greedy == likeliest
    assert answers(told, "writes") == answers(truth, "writes")
    for task in ("choices", "writes"):
        metrics = [{k: v for k, v in each["results"][task].items() if "," in k} for each in (told, truth)]
        assert metrics[0] == metrics[1]
    assert told["config"]["cache_most_stored"] > 100


def test_a_small_cache_is_held_to_its_capacity_and_changes_the_scores(folder, tasks, truth):
    told = evaluated("lissome", folder, tasks, **SMALL)
    assert told["config"]["cache_most_stored"] <= SMALL["capacity"] + SMALL["chunk"]  # rows drop one by one
    assert told["config"]["cache"] == {"kind": "separators", **SMALL, "positions": "text", "sees": "stored"}
    own, other = (torch.tensor([score for doc in answers(t, "choices") for score, _ in doc]) for t in (told, truth))
    assert (own - other).abs().max() > 1e-3


@pytest.mark.parametrize("positions", ["text", "cache"])
def test_scores_are_those_of_a_text_that_is_read_alone(folder, positions):
    """The harness's batches against one text after another, through `SepCache` by hand."""
    model = SepCacheLM(folder, batch_size=5, positions=positions, **SMALL)
    words, alone = model.tokenizer, []
    for context, ending in PAIRS:
        before, asked = words.encode(context), words.encode(ending)
        cache = SepCache(model.config, separator_ids(words), positions=positions, **SMALL)
        ids = torch.tensor([before + asked])[:, :-1]
        with torch.no_grad(), cache.attach(model.model):
            parts = [model.model(part, past_key_values=cache).logits for part in ids.split(SMALL["chunk"], 1)]
        logits = torch.cat(parts, 1)[0, -len(asked) :].log_softmax(-1)
        alone.append(
            (float(sum(row[i] for row, i in zip(logits, asked, strict=True))), logits.argmax(-1).tolist() == asked)
        )
    for (score, greedy), (wanted, likeliest) in zip(scores(model, PAIRS), alone, strict=True):
        assert score == pytest.approx(wanted, abs=1e-4)
        assert greedy == likeliest


@pytest.mark.parametrize("cache", ["separators", "sinks", "fixed(3)"])
def test_scores_do_not_depend_on_the_batch(folder, cache):
    alone, *others = (scores(SepCacheLM(folder, cache, batch_size=size, **SMALL), PAIRS) for size in (1, 4, 12))
    for other in others:
        assert [score for score, _ in other] == pytest.approx([score for score, _ in alone], abs=1e-4)


def test_the_harness_finds_a_size_of_batches(folder):
    tried = SepCacheLM(folder, batch_size="auto", max_batch_size=4, max_length=60, **SMALL)
    assert scores(tried, PAIRS[:4]) == scores(SepCacheLM(folder, batch_size=4, max_length=60, **SMALL), PAIRS[:4])


def test_a_long_text_is_scored_in_parts_of_the_length(folder):
    asked = [Instance("loglikelihood_rolling", {}, (TEXT * 5,), 0)]
    truth = HFLM(folder, device="cpu").loglikelihood_rolling(asked, disable_tqdm=True)
    assert SepCacheLM(folder).loglikelihood_rolling(asked, disable_tqdm=True) == pytest.approx(truth, abs=1e-3)
    streamed = SepCacheLM(folder, positions="cache", max_length=1000, **SMALL)
    (score,) = streamed.loglikelihood_rolling(asked, disable_tqdm=True)
    assert score < 0
    assert score != pytest.approx(truth[0], abs=1e-2)


def test_generation_through_a_small_cache_is_that_of_generate(folder):
    model = SepCacheLM(folder, **SMALL)
    asked = [Instance("generate_until", {}, (TEXT, {"until": ["zzz"], "max_gen_toks": 20}), 0)]
    (text,) = model.generate_until(asked, disable_tqdm=True)
    cache = SepCache(model.config, separator_ids(model.tokenizer), **SMALL)
    ids = torch.tensor([model.tokenizer.encode(TEXT)])
    with cache.attach(model.model):
        out = model.model.generate(ids, past_key_values=cache, prefill_chunk_size=8, max_new_tokens=20, do_sample=False)
    assert text == model.tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)
    assert cache.most_stored <= SMALL["capacity"]


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"cache": "separatrs"}, r"unknown cache 'separatrs'; legal are: separators, .*did you mean 'separators'"),
        ({"cache": "fixed(0)"}, "k of Every is 0"),
        ({"cache": "sinks(4)"}, r"the cache 'sinks\(4\)' is given wrongly; sinks takes no values"),
        (
            {"capacity": 300},
            r"initial 4 \+ separators_kept 64 \+ local 256 \+ 128 to come \(chunk\) are 452, above the",
        ),
        ({"separators": "paper:llama-4"}, "unknown list of separators 'llama-4'; legal are: llama-3, gpt-neox"),
        ({"separators": "paper:llama-3"}, "separator 662 is no id of the model's vocabulary"),
        (
            {"separators": "dots"},
            "separators is 'dots'; legal are auto, paper:llama-3, paper:gpt-neox, and ids such as",
        ),
        ({"chunk": 0}, "chunk is 0; legal are whole numbers, 1 and more"),
        ({"positions": "txt"}, "unknown positions 'txt'"),
    ],
)
def test_what_cannot_be_is_said_in_a_sentence(folder, given, sentence):
    with pytest.raises(UsageError, match=sentence) as caught:
        SepCacheLM(folder, **given)
    assert "\n" not in str(caught.value)


def test_ids_are_given_as_text_and_as_a_list(folder):
    found = [scores(SepCacheLM(folder, separators=ids, **SMALL), PAIRS) for ids in ("[46, 44]", "46 44", [44, 46])]
    assert found[0] == found[1] == found[2] != scores(SepCacheLM(folder, separators=101, **SMALL), PAIRS)


def test_a_folder_without_a_tokenizer_and_none_at_all(folder, tmp_path):
    LlamaForCausalLM.from_pretrained(folder).save_pretrained(tmp_path / "bare")
    with pytest.raises(UsageError, match="bare' holds no tokenizer that transformers can read; save it there"):
        SepCacheLM(str(tmp_path / "bare"))
    with pytest.raises(UsageError, match="pretrained is 'gone', which is no folder; legal is one as save_pretrained"):
        SepCacheLM("gone")


def test_the_command_line_of_the_harness_knows_the_name(folder, tasks, monkeypatch, capsys):
    args = f"pretrained={folder},separators=[46,44],capacity=500"
    asked = ["lm_eval", "--model", "lissome", "--model_args", args, "--include_path", tasks, "--tasks", "choices"]
    monkeypatch.setattr("sys.argv", [*asked, "--device", "cpu"])
    monkeypatch.setattr("lm_eval.tasks.TaskManager", functools.partial(TaskManager, include_defaults=False))
    logging.disable(logging.CRITICAL)
    try:
        lm_eval.main()
        assert "|choices|" in capsys.readouterr().out
        monkeypatch.setattr("sys.argv", [*asked, "--model_args", args.replace("capacity=500", "capacity=5")])
        with pytest.raises(SystemExit) as stop:
            lm_eval.main()
    finally:
        logging.disable(logging.NOTSET)
    assert stop.value.code == 2
    assert "above the capacity of 5" in capsys.readouterr().err
