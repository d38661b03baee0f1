"""Every setting of every verb, wrong in every way that its type has: on the command line and in a file."""

import random
from pathlib import Path

import pytest
import yaml

from lissome._errors import UsageError
from lissome.recipes.bench_settings import BenchSettings
from lissome.recipes.diagnosis_settings import DiagnoseSettings
from lissome.recipes.incontext.settings import IncontextSettings
from lissome.recipes.language.settings import LanguageSettings
from lissome.recipes.language.stream_settings import StreamSettings
from lissome.recipes.ranks_settings import RanksSettings
from lissome.recipes.settings import AdaptSettings, SolveSettings, load
from lissome.recipes.table.settings import TableSettings
from tests.reliability.generated import YAMLS, Wrong, settings

SEED = 20261128
# the model of a verb, and settings with which it would train
VERBS = {
    "pde solve": (SolveSettings, {"family": "poisson"}),
    "pde adapt": (AdaptSettings, {"run": "{ground}/solved", "targets": [{"c": 1.0}]}),
    "pde bench": (BenchSettings, {"families": ["heat"], "quick": True}),
    "pde diagnose": (DiagnoseSettings, {"run": "{ground}/solved"}),
    "lm train": (LanguageSettings, {"data": "{ground}/text.txt"}),
    "lm ranks": (RanksSettings, {"model": "{ground}/exported", "adapter": "nowhere", "data": "{ground}/text.txt"}),
    "lm stream": (StreamSettings, {"model": "{ground}/lm", "text": "{ground}/text.txt"}),
    "icl train": (IncontextSettings, {"task": "linear"}),
    "fit": (TableSettings, {"data": "{ground}/table.csv"}),
}


def placed(tree, ground):
    """Put the place of the runs into settings."""
    return {key: value.format(ground=ground) if isinstance(value, str) else value for key, value in tree.items()}


def over(tree, more):
    """Lay settings over settings."""
    merged = dict(tree)
    for key, value in more.items():
        inner = merged.get(key)
        merged[key] = over(inner, value) if isinstance(inner, dict) and isinstance(value, dict) else value
    return merged


def refused(kind, data):
    """Say whether the model refuses settings; what it lets through is another test's."""
    try:
        kind.model_validate(data)
    except ValueError:
        return True
    except Exception:  # the verb has to say it in a sentence all the same
        return True
    return False


@pytest.mark.parametrize("verb", VERBS)
def test_a_wrong_setting_is_one_sentence(judge, ground, verb):
    kind, base = VERBS[verb]
    base, chance = placed(base, ground), random.Random(f"{SEED} {verb}")
    file = Path("given.yaml")
    for wrong in settings(kind, chance):
        by_file = chance.random() < 0.3
        if by_file:
            data = over(base, wrong.tree())
            file.write_text(yaml.safe_dump(data))
            words = ["--settings", file]
        else:
            file.write_text(yaml.safe_dump(base))
            words = ["--settings", file, "--set", wrong.change()]
            try:
                data = over(base, {})
                load(kind, file=file, given={}, changes=[wrong.change()])
            except UsageError:
                pass
            except Exception:
                pass
            else:
                continue
        if by_file and not refused(kind, data):
            continue
        judge([*verb.split(), *words, "--out", "new/run"], verb, note=wrong.key)


@pytest.mark.parametrize("verb", VERBS)
def test_a_file_of_settings_that_is_broken_is_one_sentence(judge, ground, verb):
    for name, content in YAMLS.items():
        Path("given.yaml").write_bytes(content)
        judge([*verb.split(), "--settings", "given.yaml", "--out", "new/run"], verb, note=name)


# settings of any text, by verb: what they are made of is read when the verb runs
TEXTS = {
    "pde solve": ["family", "device", "training.optimizer", "points.draw"],
    "pde adapt": ["run", "device", "training.optimizer", "points.draw", "methods.0", "optimizers"],
    "pde bench": ["families"],
    "pde diagnose": ["run", "device", "solve.family"],
    "lm train": [
        *["data", "vocabulary", "start", "device", "precision", "model.preset", "model.feed", "model.position"],
        *["model.refine", "model.normalize", "model.body", "model.validity", "model.visible"],
    ],
    "lm ranks": ["model", "adapter", "data", "tokenizer", "device"],
    "lm stream": ["model", "text", "tokenizer", "cache", "positions", "protocol", "device"],
    "icl train": [
        *["task", "device", "model.kind", "model.inject", "model.norm", "model.feed", "model.position"],
        *["model.normalize", "details.nosuch", "details.slope"],
    ],
    "fit": ["data", "target", "device", "training.optimizer", "leave"],
}
NAMES = [
    "nosuch",
    "(",
    "a(b",
    "x" * 300,
    "\u2603",
    "../nowhere",
    "a\tb",
    "self_adjust(99)",
    "dape(-1)",
    "dape(2",
    "9",
    "\\",
]
NAMES += [
    "window(0)",
    "separators(near=-1)",
    "looped(0)",
    "algoformer(999999999)",
    "kerple(rotary)",
    "__import__('os')",
]
NAMES += [
    "causal & ",
    "causal | | window(2)",
    "window(10**9)",
    "fixed(0)",
    "ht(ht(all))",
    "linear(mean=3)",
]


@pytest.mark.parametrize("verb", VERBS)
def test_a_name_that_is_none_is_one_sentence(judge, ground, verb):
    kind, base = VERBS[verb]
    file, quick = (
        Path("given.yaml"),
        ["--quick"] if kind in (LanguageSettings, IncontextSettings, TableSettings) else [],
    )
    file.write_text(yaml.safe_dump(placed(base, ground)))
    for key in TEXTS[verb]:
        for name in NAMES:
            words = [*verb.split(), "--settings", file, "--set", Wrong(key, name).change(), "--out", "new/run"]
            judge([*words, *quick], verb, note=key)
