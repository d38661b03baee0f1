"""`lissome lm separators`: ids and their texts, counts in a text, sentences."""

import json

import pytest

from lissome.bridges.separators import listed
from lissome.language import Bpe

TEXT = "one, two.\tthree!\nfive; six: seven? eight " * 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("tokenizer")
    Bpe.train([TEXT], 275)._tokenizer.save(str(place / "tokenizer.json"))
    (place / "text.txt").write_text(TEXT)
    return place


def test_separators_are_listed_for_people(lissome, folder):
    shown = lissome("lm", "separators", folder, "--text", folder / "text.txt")
    found = listed(folder, folder / "text.txt")
    assert f"{len(found['separators'])} of 275 ids" in shown
    assert f"{100 * found['share']:.1f}% of {found['tokens']:,} tokens" in shown
    lines = [line.split() for line in shown.splitlines()]
    for row in found["separators"]:
        assert any(line[:1] == [str(row["id"])] and line[-1] == f"{row['count']:,}" for line in lines)
    assert r"'\n'" in shown
    assert "tokens" not in lissome("lm", "separators", folder)


def test_separators_are_told_to_scripts(lissome, folder):
    assert json.loads(lissome("lm", "separators", folder, "--json")) == listed(folder)
    told = json.loads(lissome("lm", "separators", folder / "tokenizer.json", "--text", folder / "text.txt", "--json"))
    assert told == listed(folder / "tokenizer.json", folder / "text.txt")


def test_what_is_not_there_is_said_in_a_sentence(lissome, folder, tmp_path):
    assert "there is no tokenizer" in lissome.complaint("lm", "separators", tmp_path)
    assert "cannot be read" in lissome.complaint("lm", "separators", folder, "--text", tmp_path / "none.txt")
    assert "no file of the tokenizers library" in lissome.complaint("lm", "separators", folder / "text.txt")
