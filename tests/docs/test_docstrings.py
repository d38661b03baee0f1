"""Every example in a docstring runs."""

import doctest
import importlib
import importlib.util
import pkgutil

import pytest

import lissome

# an evaluation harness of 400 MB is not part of the environment of tests
ABSENT = {"lissome.bridges.lm_eval"} if importlib.util.find_spec("lm_eval") is None else set()
MODULES = [found.name for found in pkgutil.walk_packages(lissome.__path__, "lissome.") if found.name not in ABSENT]


def examples(name):
    return [test for test in doctest.DocTestFinder().find(importlib.import_module(name), name) if test.examples]


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for test in examples(name):
        assert doctest.DocTestRunner().run(test).failed == 0, test.name


def test_there_are_examples():
    assert len([test for name in MODULES for test in examples(name)]) > 20
