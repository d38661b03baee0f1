"""Every option and argument of every verb, written wrongly."""

import random
from pathlib import Path

import pytest

from tests.reliability.conftest import MODEL, POINTS, SOLVE, STREAM
from tests.reliability.generated import LONG, arguments, near, options, verbs

SEED = 20261128
SMALL = ["--set", "network.width=4", *POINTS, "--set", "training.compile=false", "--steps", "4"]
# words with which a verb ends well and soon; what is wrong comes behind them
WELL = {
    "pde solve": [*SOLVE[2:], "--steps", "4"],
    "pde adapt": ["{ground}/solved", "--parameter", "c=1", *SMALL[2:], "--jobs", "1"],
    "pde bench": ["--family", "heat", "--quick", "--seconds", "0.1", "--jobs", "1"],
    "pde diagnose": ["{ground}/solved", "--quick"],
    "pde families": [],
    "lm train": ["{ground}/text.txt", *MODEL, "--steps", "2"],
    "lm ranks": ["{ground}/exported", "--adapter", "{ground}/exported", "--data", "{ground}/text.txt"],
    "lm stream": ["{ground}/lm", "--text", "{ground}/text.txt", *STREAM],
    "lm evaluate": ["{ground}/lm", "--windows", "1"],
    "lm generate": ["{ground}/lm", "--tokens", "2"],
    "lm export": ["{ground}/lm"],
    "lm import": ["{ground}/exported"],
    "lm separators": ["{ground}/lm"],
    "icl train": ["linear", "--quick", "--steps", "2"],
    "icl evaluate": ["{ground}/icl", "--prompts", "4"],
    "fit": ["{ground}/table.csv", "--quick", "--steps", "2"],
    "predict": ["{ground}/fitted", "{ground}/table.csv"],
    "show": ["{ground}/solved"],
    "compare": ["{ground}/solved"],
    "demo": ["--quick", "--jobs", "1"],
    "papers": [],
    "replicate": ["arcm", "--quick", "--jobs", "1"],
}
# options for which any text will do, or a file that is to be written
FREE = {"--prompt", "--out"}
WRITES = {"lm export": "new/folder", "predict": "new.csv"}


def test_every_verb_is_here():
    assert {" ".join(words) for words in verbs()} == WELL.keys()


def begun(verb, ground):
    """Return the words of a verb that ends well."""
    words = [*verb.split(), *(word.format(ground=ground) for word in WELL[verb])]
    names = {option.name for option in options(tuple(verb.split()))}
    return [*words, "--out", WRITES.get(verb, "new/run")] if "--out" in names else words


@pytest.mark.parametrize("verb", WELL)
def test_a_wrong_option_is_one_sentence(judge, ground, verb):
    chance, words = random.Random(f"{SEED} {verb}"), begun(verb, ground)
    for option in options(tuple(verb.split())):
        for wrong in arguments(option, chance):
            if not {wrong[0]} & FREE:
                judge([*words, *wrong], verb)
    for wrong in (
        ["--nosuch"],
        ["-z"],
        ["--out"],
        ["--json=1"],
        ["--resume", "--resume=x"],
        ["one", "two", "three", "four"],
    ):
        if verb != "compare" or wrong[0] != "one":
            judge([*words, *wrong], verb)


@pytest.mark.parametrize("verb", [verb for verb, words in WELL.items() if words and not words[0].startswith("--")])
def test_a_wrong_argument_is_one_sentence(judge, ground, verb):
    chance, words, place = random.Random(f"{SEED} {verb}"), begun(verb, ground), len(verb.split())
    Path("file").write_bytes(b"\x89PNG\r\n\0\xff")
    Path("empty").mkdir()
    Path("text").write_text("of no kind\n")
    name = words[place].rpartition("/")[2]
    wrong = ["nowhere", "", " ", LONG, "\u2603", "..", ".", "file", "empty", "text", near(name, chance), "/dev/null"]
    for each in [*wrong, "/proc/self/mem", "--", "nowhere/nor/here", "file/below"]:
        judge([*words[:place], each, *words[place + 1 :]], verb)
