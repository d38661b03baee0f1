"""Every file of every kind of run, damaged in every way or gone: what reads it says so, or does without it."""

import random
import shutil

import pytest

from tests.reliability.conftest import STREAM
from tests.reliability.generated import broken

SEED = 20261128
FEW, MANY = 1, 6  # damages of each file in the quick suite, and in the slow one
# kinds of runs, and the verbs that read them; the copy of the run is `run`
READERS = {
    "solved": [
        ["show", "run"],
        ["compare", "run", "{ground}/solved", "--out", "new"],
        ["pde", "diagnose", "run", "--quick", "--out", "new"],
        ["pde", "solve", "--resume", "--out", "run"],
    ],
    "lm": [
        ["show", "run"],
        ["lm", "evaluate", "run", "--windows", "1", "--lengths", "8"],
        ["lm", "generate", "run", "--tokens", "1"],
        ["lm", "export", "run", "--out", "new"],
        ["lm", "separators", "run"],
        ["lm", "stream", "run", "--text", "{ground}/text.txt", *STREAM, "--out", "new"],
        ["lm", "train", "--resume", "--out", "run"],
    ],
    "icl": [
        ["show", "run"],
        ["icl", "evaluate", "run", "--prompts", "2"],
        ["icl", "train", "--resume", "--out", "run"],
    ],
    "fitted": [["show", "run"], ["predict", "run", "{ground}/table.csv"], ["fit", "--resume", "--out", "run"]],
    "streamed": [["show", "run"], ["lm", "stream", "--resume", "--out", "run"]],
    "diagnosed": [["show", "run"], ["pde", "diagnose", "--resume", "--out", "run"]],
    "compared": [["show", "run"]],
    "exported": [["lm", "import", "run", "--out", "new"], ["lm", "separators", "run"]],
}
# what a verb cannot do without, of some files
NEEDED = {
    ("solved", "pde diagnose", "checkpoint/model.safetensors"),
    ("solved", "pde solve", "settings.yaml"),
    ("lm", "lm generate", "checkpoint/model.safetensors"),
    ("lm", "lm evaluate", "shape.json"),
    ("lm", "lm export", "vocabulary.json"),
    ("icl", "icl evaluate", "checkpoint/model.safetensors"),
    ("fitted", "predict", "table.json"),
    ("fitted", "predict", "checkpoint/model.safetensors"),
    ("compared", "show", "comparison.json"),
    ("exported", "lm import", "model.safetensors"),
    ("exported", "lm import", "config.json"),
}


def files(run):
    """Return the files of a run that are read again."""
    found = sorted(path.relative_to(run) for path in run.rglob("*") if path.is_file())
    return [path for path in found if path.parts[0] != "figures" and path.suffix != ".html" and path.name != ".lock"]


def cases(kind, ground, chance):
    """Return reader, file, name of the damage and what is left of the file: None for nothing."""
    for file in files(ground / kind):
        left = {"gone": None} | broken((ground / kind / file).read_bytes(), chance)
        for name, content in left.items():
            for reader in READERS[kind]:
                yield reader, file, name, content


def judged(judge, ground, tmp_path, kind, found):
    place = tmp_path / "here" / "run"
    for reader, file, name, content in found:
        for written in ("run", "new", "predictions.csv"):
            path = place.with_name(written)
            path.unlink() if path.is_file() else shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(ground / kind, place)
        if content is None:
            (place / file).unlink()
        else:
            (place / file).write_bytes(content)
        words = [word.format(ground=ground) for word in reader]
        verb = " ".join(word for word in words[:2] if word not in ("run", "--resume"))
        needed = (kind, verb, str(file)) in NEEDED and name != "flipped"
        # a bit of a weight or a number may be another without being wrong, and a training may fail by it
        codes = (2,) if needed else (0, 1, 2) if name == "flipped" else (0, 2)
        judge(words, kind, codes=codes, kept=1 not in codes, note=f"{file} {name}:")


@pytest.mark.parametrize("kind", READERS)
@pytest.mark.parametrize("each", [FEW, pytest.param(MANY, marks=pytest.mark.slow)])
def test_a_damaged_file_is_one_sentence_or_no_matter(judge, ground, tmp_path, kind, each):
    chance = random.Random(f"{SEED} {each} {kind}")
    found = list(cases(kind, ground, chance))
    drawn = [
        chance.choice([case for case in found if case[1] == file]) for file in files(ground / kind) for _ in range(each)
    ]
    judged(judge, ground, tmp_path, kind, drawn)
