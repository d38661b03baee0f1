"""SubLoRA's replication: its cells, its data, and a quick look from end to end."""

import importlib
import json

import pytest

from lissome._errors import UsageError
from lissome.adapt import RULES
from lissome.recipes import replicate, replication, sublora
from lissome.recipes.paper import ReplicateSettings
from lissome.recipes.sublora_claims import claims

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")


def test_cells_have_names_of_their_own_and_follow_one_that_is_there():
    found = sublora.cells(ReplicateSettings(paper="sublora"))
    names = [cell.name for cell in found]
    assert len(set(names)) == len(names)
    assert {cell.after for cell in found} - {""} <= set(names)
    assert {"seed 0", "seed 4"} <= {part for name in names for part in name.split(", ")}


def test_a_quick_look_runs_every_part_measures_every_rule_and_claims_nothing(tmp_path):
    out = tmp_path / "run"
    told = replicate("sublora", out, quick=True, progress=False, jobs=1)
    rows = [json.loads(line) for line in (out / "cells.jsonl").read_text().splitlines()]
    assert {row["part"].split()[0] for row in rows} == {"pinn", "language"}
    assert {claim["verdict"] for claim in told} == {"not measured"}
    assert "http" not in (out / "index.html").read_text().replace("http://www.w3.org", "")
    text = (out / "tables.md").read_text()
    assert "loss after the cut over that of the best set" in text
    assert all(f"| {rule} |" in text for rule in RULES)


def test_cells_that_are_no_longer_asked_for_count_for_nothing(tmp_path, monkeypatch):
    whole = sublora.cells
    few = [cell for cell in whole(ReplicateSettings(paper="sublora", quick=True)) if "language" not in cell.name][:2]
    monkeypatch.setitem(vars(replication.PAPERS["sublora"]), "cells", lambda settings: few)
    replicate("sublora", tmp_path / "run", quick=True, progress=False, jobs=1)
    journal = tmp_path / "run" / "cells.jsonl"
    last = json.loads(journal.read_text().splitlines()[-1])
    journal.write_text(journal.read_text() + json.dumps(last | {"cell": "of an earlier version"}) + "\n")
    replicate("sublora", tmp_path / "run", resume=True, progress=False, jobs=1)
    found = json.loads((tmp_path / "run" / "results.json").read_text())
    assert (found["cells"], found["done"]) == (2, 2)
    assert "not done yet" not in (tmp_path / "run" / "index.html").read_text()


def test_claims_without_cells_are_not_measured():
    assert {claim.verdict for claim in claims([])} == {"not measured"}


def test_the_language_part_is_loaded_by_name_alone():
    assert "peft" not in vars(sublora)
    assert importlib.import_module(sublora.PARTS["language"]).run


@pytest.mark.parametrize("count", [1, 3])
def test_data_are_two_texts(tmp_path, count):
    files = [str(tmp_path / f"{number}.txt") for number in range(count)]
    for file in files:
        with open(file, "w") as text:
            text.write("a text " * 1000)
    with pytest.raises(UsageError, match="two"):
        sublora.cells(ReplicateSettings(paper="sublora", data=files))
