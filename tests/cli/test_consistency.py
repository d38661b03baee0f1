"""The same words in all verbs: names, help, types, order, JSON, exit codes."""

import inspect
import json
from collections import defaultdict
from typing import get_args

import pytest
import typer

from lissome import cli

COMMON = ["steps", "seconds", "seeds", "seed", "device", "dtype", "settings", "set", "jobs", "resume", "quick", "json"]
TRAINS = ["pde solve", "pde adapt", "fit", "lm train", "icl train"]
BEGINS = [*TRAINS, "pde bench", "pde diagnose", "lm ranks", "lm stream", "replicate"]  # what --resume goes on with
DRAWS = [*TRAINS, "pde diagnose", "lm ranks", "lm generate", "icl evaluate", "demo"]
COMPUTES = [*DRAWS, "lm evaluate", "lm stream", "predict"]
HOMONYMS = {  # a column of a table and a member of a family; a folder of peft and a way to adapt
    "--target": {"fit", "pde bench"},
    "--adapter": {"pde bench", "lm ranks"},
}


def verbs(command=None, path=()):
    command = command or typer.main.get_command(cli.app)
    if not hasattr(command, "commands"):
        return {" ".join(path): command}
    return {key: own for name, each in command.commands.items() for key, own in verbs(each, (*path, name)).items()}


VERBS = verbs()


def options(verb):
    """Return the options of a verb by their long names."""
    return {
        next(name for name in each.opts if name.startswith("--")): each
        for each in VERBS[verb].params
        if any(name.startswith("--") for name in each.opts)
    }


def kind(verb, option):
    """Return what a verb takes an option to be: its type and short forms."""
    told = inspect.signature(VERBS[verb].callback, eval_str=True).parameters[option.name].annotation
    return str(get_args(told)[0]), tuple(name for name in option.opts if not name.startswith("--"))


def test_there_are_verbs_to_look_at():
    assert set(COMPUTES) | set(BEGINS) | {"show", "compare", "papers"} <= VERBS.keys()
    assert len(VERBS) > 20


def test_an_option_has_one_help_one_type_and_one_short_form_in_all_verbs():
    found = defaultdict(lambda: defaultdict(set))
    for verb in VERBS:
        for name, option in options(verb).items():
            found[name][(option.help, *kind(verb, option))].add(verb)
    assert len(found) > 40
    several = {name: dict(told) for name, told in found.items() if len(told) > 1}
    assert {name: set().union(*told.values()) for name, told in several.items()} == HOMONYMS, several


def test_every_option_and_verb_has_a_sentence_of_help():
    for verb, command in VERBS.items():
        assert command.help.split("\n\n")[0].endswith("."), verb
        for each in command.params:
            assert each.help, (verb, each.name)
            assert each.help.endswith("."), (verb, each.name, each.help)


@pytest.mark.parametrize("verb", VERBS)
def test_common_options_stand_in_one_order(verb):
    names = [name.removeprefix("--") for name in options(verb)]
    assert [name for name in names if name in COMMON] == [name for name in COMMON if name in names]
    assert "out" not in names or names[0] == "out"


def test_verbs_have_the_options_that_make_sense():
    having = {name: {verb for verb in VERBS if f"--{name}" in options(verb)} for name in ("out", *COMMON)}
    for name in ("out", "steps", "seconds", "seed", "device", "settings", "set", "resume", "quick", "json"):
        assert having[name] >= set(TRAINS), name
    for name in ("out", "resume", "quick", "json"):
        assert having[name] >= set(BEGINS), name
    assert having["settings"] == having["set"] == having["resume"] - {"replicate"}
    assert having["seed"] == set(DRAWS)
    assert having["device"] == set(COMPUTES)
    assert having["json"] == set(VERBS)


def test_a_verb_that_prints_a_list_prints_json_alone(lissome, tmp_path):
    for words, keys in (
        (["papers"], {"paper", "arxiv", "title", "replicate"}),
        (["pde", "families"], {"family", "equation", "dimension", "parameters", "near", "middle", "far"}),
    ):
        rows = json.loads(lissome(*words, "--json"), parse_constant=pytest.fail)
        assert {frozenset(row) for row in rows} == {frozenset(keys)}, words


@pytest.mark.parametrize("verb", VERBS)
def test_help_is_a_success_and_a_wrong_option_is_asked_wrongly(lissome, verb):
    assert "Usage: " in lissome(*verb.split(), "--help")
    assert "No such option: --nosuch" in lissome.complaint(*verb.split(), "--nosuch", code=2)


FIRST = {"lm ranks", "lm stream", "lm export", "lm import", "predict"}  # these look at what they read before


@pytest.mark.parametrize("verb", [verb for verb in VERBS if "--out" in options(verb) and verb not in FIRST])
def test_a_place_below_a_file_is_asked_wrongly(lissome, verb, tmp_path, monkeypatch, solved):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("mine")
    given = {"pde adapt": [solved, "--parameter", "c=1"], "pde solve": ["poisson"], "compare": [solved]}
    given |= {"pde diagnose": ["poisson"], "replicate": ["svd-pinns", "--quick"], "demo": ["--quick"]}
    (tmp_path / "table.csv").write_text("x,y\n" + "1,2\n2,3\n3,5\n" * 5)
    given |= {"fit": ["table.csv"], "pde bench": ["--quick"]}
    said = lissome.complaint(*verb.split(), *given.get(verb, []), "--out", "file/below", code=2)
    assert "'file' is a file, so 'file/below" in said
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("verb", ["pde solve", "fit"])
def test_several_optimizers_where_none_are_compared_are_asked_wrongly(lissome, verb, tmp_path):
    for words in (["adam,lbfgs"], ["adam", "--optimizer", "lbfgs"]):
        said = lissome.complaint(*verb.split(), "poisson", "--optimizer", *words, "--out", tmp_path / "run")
        assert "--optimizer names adam, lbfgs; legal here is one, or one after another: adam+lbfgs" in said
    assert not (tmp_path / "run").exists()


def test_several_texts_where_one_is_read_are_asked_wrongly(lissome, tmp_path):
    for verb in (["lm", "evaluate", "run"], ["lm", "ranks", "model", "--adapter", "a", "--out", tmp_path / "run"]):
        said = lissome.complaint(*verb, "--data", "a.txt", "--data", "b.txt")
        assert said == "lissome: --data names a.txt, b.txt; legal here is one"


def test_options_that_may_repeat_say_so():
    for verb in VERBS:
        for name, option in options(verb).items():
            assert option.multiple == option.help.endswith("may repeat."), (verb, name)


@pytest.mark.parametrize(
    ("words", "key"),
    [
        (["icl", "train", "--set", "model.iterations=true"], "model.iterations"),
        (["pde", "solve", "poisson", "--set", "network.ranks=[8, true, 8]"], "network.ranks"),
        (["pde", "solve", "poisson", "--set", "training.rate=true"], "training.rate"),
        (["lm", "train", "--set", "model.width=false"], "model.width"),
        (["pde", "solve", "poisson", "--set", "parameters={c: true}"], "parameters"),
    ],
)
def test_true_is_no_number(lissome, words, key, tmp_path):
    said = lissome.complaint(*words, "--out", tmp_path / "run")
    assert f"setting '{key}': " in said
    assert "rue" in said or "alse" in said
