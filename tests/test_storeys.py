"""Imports go down only, also inside functions; files stay short."""

import ast
from pathlib import Path

import pytest

HOME = Path(__file__).parents[1]
ROOT = HOME / "src" / "lissome"
OWN = ("lissome", "tests", "benchmarks", "docs")
UNDERSCORE = {"_checks", "_door", "_files", "_parsed", "_types", "_errors", "_vector", "_version", "_weights"}
BELOW = {
    "_checks": {"_errors"},
    "_door": set(),
    "_version": set(),
    "_errors": set(),
    "_files": {"_errors"},
    "_parsed": set(),
    "_types": set(),
    "_vector": {"_errors"},
    "_weights": {"_errors"},
    "adapt": UNDERSCORE,
    "attention": UNDERSCORE,
    "calculus": UNDERSCORE,
    "models": UNDERSCORE | {"adapt", "attention"},
    "allocation": UNDERSCORE | {"adapt", "calculus"},
    "optim": UNDERSCORE | {"calculus"},
    "pde": UNDERSCORE | {"calculus"},
    "language": UNDERSCORE | {"attention"},
    "bridges": UNDERSCORE | {"adapt", "allocation", "attention", "calculus"},
    "report": UNDERSCORE,
}
BELOW["recipes"] = set(BELOW)
BELOW["cli"] = BELOW["recipes"] | {"recipes"}
BELOW["testing"] = UNDERSCORE | {"attention"}  # for people's own tests; nothing of ours stands on it
FILES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")
ALL = sorted(path for place in ("src", "tests", "benchmarks", "docs") for path in (HOME / place).rglob("*.py"))


def room(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def own_imports(tree: ast.AST):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: write imports in full"
            names = (
                [f"{node.module}.{alias.name}" for alias in node.names] if node.module == "lissome" else [node.module]
            )
        else:
            continue
        for name in names:
            if name.partition(".")[0] in OWN:
                yield node.lineno, name


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_down_only(path):
    here = room(path)
    assert here in BELOW, f"{here} is no room of the house"
    for line, name in own_imports(ast.parse(path.read_text())):
        parts = name.split(".")
        if len(parts) == 1:
            assert here == "cli", f"{path}:{line} takes the public door from inside"
        else:
            assert parts[1] in BELOW[here] | {here}, f"{path}:{line} imports {name}, which is not below {here}"


@pytest.mark.parametrize("path", ALL, ids=lambda path: str(path.relative_to(HOME)))
def test_own_modules_are_imported_at_the_top(path):
    tree = ast.parse(path.read_text())
    top = {
        line
        for node in tree.body
        for line, _ in own_imports(ast.Module([node], []))
        if not isinstance(node, ast.FunctionDef | ast.ClassDef)
    }
    for line, name in own_imports(tree):
        assert line in top, f"{path}:{line} hides the import of {name} in a function"


@pytest.mark.parametrize("path", ALL, ids=lambda path: str(path.relative_to(HOME)))
def test_files_stay_under_400_lines(path):
    assert len(path.read_text().splitlines()) <= 400
