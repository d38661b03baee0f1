"""What the package says of itself agrees with what is there; `make wheel` builds it and runs it."""

import ast
import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import lissome
from lissome import cli

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "lissome"
FILE = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT, SETUP = FILE["project"], FILE["tool"]["setuptools"]
CORE = [Requirement(text) for text in PROJECT["dependencies"]]
EXTRAS = {name: list(map(Requirement, texts)) for name, texts in PROJECT["optional-dependencies"].items()}
OURS = {"dev", "docs"}  # for those who work on the package
DISTRIBUTIONS = {"yaml": "pyyaml", "sklearn": "scikit-learn", "lm_eval": "lm-eval"}  # where the module has another name
BROUGHT = {"tqdm": "transformers"}  # what an extra brings without naming it
MODULES = sorted(SOURCE.rglob("*.py"))
EXTRA = re.compile(r"\blissome\[([a-z][a-z-]*)\]")  # lissome["refine"] is no extra


def named(path):
    return set(EXTRA.findall(path.read_text(encoding="utf-8")))


def names(requirements):
    return {canonicalize_name(one.name) for one in requirements}


def test_the_version_stands_in_one_place():
    assert "version" in PROJECT["dynamic"]
    assert "version" not in PROJECT
    assert SETUP["dynamic"]["version"] == {"attr": "lissome._version.__version__"}
    assert str(Version(lissome.__version__)) == lissome.__version__  # as the archives are named
    assert importlib.metadata.version("lissome") == lissome.__version__, "install again: the version has changed"


def test_the_changelog_tells_of_this_version_or_of_what_comes_after_the_last():
    headings = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    coming, released = headings[0] == "Unreleased", headings[headings[0] == "Unreleased" :]
    assert all(re.fullmatch(r"\d+\.\d+\.\d+, \d{4}-\d\d-\d\d", heading) for heading in released), headings
    versions = [Version(heading.partition(",")[0]) for heading in released]
    assert versions == sorted(set(versions), reverse=True)
    newest = max(versions, default=Version("0"))
    assert Version(lissome.__version__) > newest if coming else Version(lissome.__version__) == newest


def test_the_command_is_there():
    (entry,) = importlib.metadata.entry_points(group="console_scripts", name="lissome")
    assert entry.value == PROJECT["scripts"]["lissome"]
    assert entry.load() is cli.main


def test_every_folder_of_modules_is_a_package():
    assert [path.parent for path in MODULES if not (path.parent / "__init__.py").is_file()] == []


def test_all_that_is_no_module_is_packed_and_every_pattern_finds_some():
    found = {pattern: set(SOURCE.glob(pattern)) for pattern in SETUP["package-data"]["lissome"]}
    assert [pattern for pattern, paths in found.items() if not paths] == []
    there = {path for path in SOURCE.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")}
    assert there == set.union(*found.values())
    assert SETUP["packages"]["find"] == {"where": ["src"]}


def test_the_licence_is_packed_and_is_the_one_that_is_told():
    (path,) = PROJECT["license-files"]
    assert PROJECT["license"] == "Apache-2.0"
    text = (ROOT / path).read_text(encoding="utf-8")
    assert "Apache License" in text
    assert "Version 2.0, January 2004" in text


def test_all_say_the_same_oldest_python():
    oldest = PROJECT["requires-python"].removeprefix(">=")
    assert FILE["tool"]["pyright"]["pythonVersion"] == oldest
    assert FILE["tool"]["ruff"]["target-version"] == f"py{oldest.replace('.', '')}"
    told = [line.rpartition(" ")[2] for line in PROJECT["classifiers"] if line.startswith("Programming Language")]
    assert min(told, key=Version) == oldest
    assert f"sys.version_info >= ({oldest.replace('.', ', ')})" in (ROOT / "Makefile").read_text(encoding="utf-8")


@pytest.mark.parametrize("group", ["core", *EXTRAS])
def test_exact_versions_are_within_the_bounds(group):
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {
        canonicalize_name(one.name): str(one.specifier).removeprefix("==")
        for one in map(Requirement, (line for line in lines if line and not line.startswith("#")))
    }
    asked = CORE if group == "core" else EXTRAS[group]
    for one in asked:
        assert one.specifier, f"{one} has no oldest version"
        if (name := canonicalize_name(one.name)) in pinned:
            assert one.specifier.contains(pinned[name], prereleases=True), (str(one), pinned[name])
    if group == "core":
        assert names(asked) <= pinned.keys()


def test_sentences_name_extras_that_are_there_and_every_extra_is_named():
    told = set.union(*map(named, MODULES))
    assert told == EXTRAS.keys() - OURS
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        assert named(page) <= EXTRAS.keys(), page


def imported(nodes):
    """Return the foreign packages that statements import, also deep inside them."""
    found = set()
    for node in nodes:
        for one in ast.walk(node):
            if isinstance(one, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in one.names}
            elif isinstance(one, ast.ImportFrom) and one.module and not one.level:
                found.add(one.module.partition(".")[0])
    return {DISTRIBUTIONS.get(name, name) for name in found - sys.stdlib_module_names - {"lissome"}}


def tries(tree):
    return [
        node for node in ast.walk(tree) if isinstance(node, ast.Try) and "ImportError" in map(ast.unparse, caught(node))
    ]


def caught(node):
    return [handler.type for handler in node.handlers if handler.type]


def test_what_is_imported_is_asked_for_and_what_is_optional_is_told():
    wrong = []
    for path in MODULES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        optional = {"triton"} if "triton" in path.relative_to(SOURCE).parts else set()  # loaded where torch brought it
        for node in tries(tree):
            asked = imported(node.body) - names(CORE)
            told = set(EXTRA.findall(" ".join(map(ast.unparse, node.handlers))))
            enough = all({BROUGHT.get(name, name) for name in asked} <= names(EXTRAS[extra]) for extra in told)
            if asked and not (told and enough):
                wrong.append((path.name, asked, told))
            optional |= asked
        if more := imported([tree]) - names(CORE) - optional:
            wrong.append((path.name, more))
    assert wrong == []


COMPLETION = """
import contextlib, io, json, os, sys
from lissome.cli import main
def printed(**asked):
    os.environ.update(asked)
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
        main([])
    return out.getvalue()
sys.argv = ["lissome"]
scripts = [printed(_LISSOME_COMPLETE=f"source_{shell}") for shell in ("bash", "zsh", "fish")]
lines = json.loads(sys.stdin.read())
words = [printed(_LISSOME_COMPLETE="complete_bash", COMP_WORDS=line, COMP_CWORD="2") for line in lines]
heavy = [name for name in ("torch", "matplotlib", "scipy", "numpy", "transformers") if name in sys.modules]
print(json.dumps([scripts, [word.split() for word in words], heavy]))
"""


def test_shells_complete_verbs_and_options_without_torch():
    lines = ["lissome pde so", "lissome lm tr", "lissome fit --sett"]
    own = {key: value for key, value in os.environ.items() if not key.startswith(("COMP_", "_TYPER", "_LISSOME"))}
    done = subprocess.run(
        [sys.executable, "-c", COMPLETION], input=json.dumps(lines), env=own, capture_output=True, text=True, check=True
    )
    scripts, words, heavy = json.loads(done.stdout)
    assert ["complete -o default -F _lissome_completion lissome" in scripts[0], "compdef" in scripts[1]] == [True, True]
    assert "complete --command lissome" in scripts[2]
    assert words == [["solve"], ["train"], ["--settings"]]
    assert heavy == []
