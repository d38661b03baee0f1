"""Holds what `python -m build` wrote to what it promises: `python .ci/wheel.py dist`.

The wheel goes into a fresh environment that sees only what the core requirements bring, and there its verbs run, what
needs an extra says so in a sentence, and each extra works alone. Nothing is downloaded: the dependencies are links to
those of the environment that runs this file, which lissome itself is never taken from.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import time
import tomllib
import venv
import zipfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from email.parser import BytesParser
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
SITE = Path(sysconfig.get_path("purelib"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = {name: asked for name, asked in PROJECT["optional-dependencies"].items() if name not in ("dev", "docs")}
OURS = """
import importlib.metadata, pathlib, sys
import lissome
found = importlib.metadata.distribution("lissome")
here = pathlib.Path(lissome.__file__).parent
assert here.is_relative_to(sys.prefix) and here == pathlib.Path(found.locate_file("lissome")), here
assert found.version == lissome.__version__ == sys.argv[1], found.version
assert not any(path.startswith(part) for path in sys.path for part in sys.argv[2:]), sys.path
assert (here / "py.typed").is_file() and [path.name for path in found.files if path.name == "LICENSE"]
"""
# every module loads, or says in a sentence which extra it wants; kernels of a GPU are only loaded where there is one
MODULES = """
import importlib, pkgutil, sys
import lissome
from lissome._errors import UsageError
wanted = set()
for found in pkgutil.walk_packages(lissome.__path__, "lissome."):
    if ".triton." in found.name or found.name.endswith("__main__"):
        continue
    try:
        importlib.import_module(found.name)
    except UsageError as error:
        wanted.add(str(error).partition("pip install 'lissome[")[2].partition("]'")[0])
assert {"language", "peft", "sklearn", "lm-eval"} <= wanted <= set(sys.argv[1:]), wanted
"""
ATTACHED = """
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from lissome.bridges.transformers import attach
sizes = dict(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2, vocab_size=9)
model = attach(LlamaForCausalLM(LlamaConfig(**sizes)), refine="dape")
assert model(torch.arange(5)[None]).logits.shape == (1, 5, 9)
"""
RANKS = "import lissome.bridges.peft, lissome.bridges.text, lissome.bridges.trainer, lissome.recipes.ranks"
CLUSTER = """
from lissome.recipes.cluster import cluster
with cluster(1) as crew:
    assert crew.submit(lambda tick, **given: given, {"a": 1}).result() == {"a": 1}
"""
HEAT = ("lissome", "pde", "solve", "heat", "--quick")
WITHOUT = {  # verbs that want an extra
    "ray": ("lissome", "pde", "bench", "--quick", "--engine", "ray"),
    "sklearn": ("lissome", "fit", "digits", "--quick"),
    "tensorboard": (*HEAT, "--set", "training.tensorboard=true"),
}
WITH = {
    "language": ("python", "-c", ATTACHED),
    "lm-eval": ("python", "-c", "import lissome.bridges.lm_eval"),
    "peft": ("python", "-c", RANKS),
    "ray": ("python", "-c", CLUSTER),
    "sklearn": WITHOUT["sklearn"],
    "tensorboard": WITHOUT["tensorboard"],
}


def check_files(wheel: Path, sdist: Path) -> str:
    """Compare both archives with the tree; return the version they are of."""
    tree = {path.relative_to(ROOT / "src").as_posix() for path in (ROOT / "src" / "lissome").rglob("*.*")}
    tree = {name for name in tree if "__pycache__" not in name}
    with zipfile.ZipFile(wheel) as packed:
        names = set(packed.namelist())
        (metadata,) = [name for name in names if name.endswith(".dist-info/METADATA")]
        told = BytesParser().parsebytes(packed.read(metadata))
    record = Path(metadata).parts[0]
    modules = {name for name in names if not name.startswith(f"{record}/")}
    assert modules == tree, f"the wheel has, or lacks, {sorted(modules ^ tree)}"
    assert f"{record}/licenses/LICENSE" in names, "the wheel lacks its licence"
    assert set(told.get_all("Provides-Extra", [])) == set(PROJECT["optional-dependencies"])
    with tarfile.open(sdist) as packed:
        source = {name.partition("/")[2] for name in packed.getnames()}
    there = {f"src/{name}" for name in tree} | {"LICENSE", "CHANGELOG.md", "Makefile", "tests/test_package.py"}
    assert there <= source, f"the sdist lacks {sorted(there - source)}"
    return told["Version"]


def brought(requirements: Iterable[str]) -> set[str]:
    """Return the distributions that requirements bring, theirs included.

    Raises:
        PackageNotFoundError: one of them is not installed here.
    """
    left, seen = list(map(Requirement, requirements)), dict[str, set[str]]()
    while left:
        asked = left.pop()
        name, extras = canonicalize_name(asked.name), {"", *asked.extras}
        new = extras - seen.setdefault(name, set())
        seen[name] |= new
        for further in map(Requirement, distribution(name).requires or []) if new else ():
            if further.marker is None or any(further.marker.evaluate({"extra": extra}) for extra in new):
                left.append(further)
    return set(seen)


def link(place: Path, names: Iterable[str]) -> str:
    """Make a folder of links to what distributions installed; return its path."""
    place.mkdir()
    parts = {file.parts[0] for name in names for file in distribution(name).files or ()}
    for part in parts - {"..", "__pycache__"}:
        (place / part).symlink_to(SITE / part)
    return str(place)


def ran(place: Path, name: str, words: tuple[str, ...], code: int = 0, says: str = "", path: str = "") -> None:
    """Run a command of the fresh environment; end with what it printed where that is not what it should.

    Raises:
        SystemExit: another exit code, or not a word of what it should say.
    """
    own = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL_ENV"))}
    own |= {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    since = time.monotonic()
    command = [str(place / "environment" / "bin" / words[0]), *words[1:]]
    done = subprocess.run(command, cwd=place, env=own, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode != code or says not in done.stdout + done.stderr:
        raise SystemExit(f"FAILED: {name}: {words}\nexit code {done.returncode}\n{done.stdout}\n{done.stderr}")
    print(f"{time.monotonic() - since:5.1f} s  {name}", flush=True)


def main(folder: Path) -> None:
    """Check the one wheel and the one sdist of a folder.

    Raises:
        SystemExit: something is not as promised.
    """
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    version = check_files(wheel, sdist)
    with tempfile.TemporaryDirectory() as made, ThreadPoolExecutor(2) as both:
        place = Path(made)
        core = brought(PROJECT["dependencies"])
        venv.create(place / "environment", with_pip=False)
        python = str(place / "environment" / "bin" / "python")
        install = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index"]
        subprocess.run([*install, "--disable-pip-version-check", str(wheel)], check=True)
        (site,) = (place / "environment" / "lib").glob("python*/site-packages")
        (site / "core.pth").write_text(link(place / "core", core) + "\n")
        jobs = [
            ("it is the wheel that runs", ("python", "-c", OURS, version, str(SITE), str(ROOT)), 0, ""),
            ("lissome --help", ("lissome", "--help"), 0, "Usage"),
            ("lissome --version", ("lissome", "--version"), 0, version),
            (" ".join(HEAT), (*HEAT, "--out", "heat"), 0, "heat/index.html"),
            ("lissome lm train --quick", ("lissome", "lm", "train", "--quick", "--out", "lm"), 0, "lm/index.html"),
            (
                "lissome icl train representation --quick",
                ("lissome", "icl", "train", "representation", "--quick", "--out", "icl"),
                0,
                "icl/index.html",
            ),
            ("every module", ("python", "-c", MODULES, *EXTRAS), 0, ""),
        ]
        jobs += [
            (f"without {extra}", (*words, "--out", f"without-{extra}"), 2, f"lissome[{extra}]")
            for extra, words in WITHOUT.items()
        ]
        todo = [both.submit(ran, place, *job) for job in jobs]
        for extra, asked in EXTRAS.items():
            try:
                more = link(place / f"with-{extra}", brought(asked) - core)
            except PackageNotFoundError as error:
                print(f"not tried: {extra}, as {error} is not installed here")
                continue
            out = ("--out", f"out-{extra}") if WITH[extra][0] == "lissome" else ()
            todo.append(both.submit(ran, place, f"with {extra} alone", (*WITH[extra], *out), 0, "", more))
        for job in todo:
            job.result()
        ran(place, "lissome show", ("lissome", "show", "heat"), 0, "heat/index.html")
    print(f"{wheel.name} and {sdist.name} are as promised")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
