"""Every example in a docstring runs."""

import doctest
import importlib
import pkgutil

import pytest

import lissome

MODULES = [found.name for found in pkgutil.walk_packages(lissome.__path__, "lissome.")]


def examples(name):
    return [test for test in doctest.DocTestFinder().find(importlib.import_module(name), name) if test.examples]


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for test in examples(name):
        assert doctest.DocTestRunner().run(test).failed == 0, test.name


def test_there_are_examples():
    assert len([test for name in MODULES for test in examples(name)]) > 20
