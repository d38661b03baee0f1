"""Settings: files, named values and changes come together; what is wrong is one sentence."""

import pytest

from lissome._errors import UsageError
from lissome.adapt import METHODS as ADAPTERS
from lissome.recipes.bench_settings import BenchSettings
from lissome.recipes.settings import METHODS, AdaptSettings, SolveSettings, dump, load, pairs


def test_written_settings_read_back_the_same(tmp_path):
    asked = load(SolveSettings, given={"family": "poisson", "parameters": {"k": 2.0}}, changes=["training.rate=1e-3"])
    file = tmp_path / "settings.yaml"
    file.write_text(dump(asked))
    assert load(SolveSettings, file=file, given={}) == asked
    assert asked.training.rate == 1e-3


def test_what_is_named_wins_over_the_file_and_a_change_over_both(tmp_path):
    file = tmp_path / "settings.yaml"
    file.write_text("family: poisson\nseed: 1\ntraining: {steps: 10, rate: 0.5}\n")
    asked = load(SolveSettings, file=file, given={"seed": 2, "training.steps": 20}, changes=["training.steps=30"])
    assert (asked.seed, asked.training.steps, asked.training.rate) == (2, 30, 0.5)


def test_none_means_not_given(tmp_path):
    assert load(SolveSettings, given={"family": "poisson", "seed": None}).seed == 0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("family: poisson\ntrianing: {}\n", "unknown setting 'trianing'.*did you mean 'training'"),
        ("family: poisson\ntraining: {step: 3}\n", "unknown setting 'training.step'.*'training.steps'"),
        ("family: poisson\ntraining: {steps: many}\n", "'training.steps' is 'many'"),
        ("family: poisson\ntraining: {rate: -1}\n", "'training.rate' is -1: input should be greater than 0"),
        ("family: poisson\ntraining: {rate: .nan}\n", "'training.rate'"),
        (
            "family: poisson\nnetwork: {kind: kan, ranks: [2, 2, 2]}\n",
            r"'network': 'ranks': \[2, 2, 2\] are of a slim-kan, and the network is kan; leave them out",
        ),
        ("seed: 3\n", "'family' is missing"),
        ("- a\n- b\n", "holds a list"),
        ("family: [", "is no YAML"),
        ("family: poisson\nseed: !!python/object/apply:os.system ['true']\n", "is no YAML"),
    ],
)
def test_a_wrong_file_is_one_sentence(tmp_path, text, words):
    file = tmp_path / "settings.yaml"
    file.write_text(text)
    with pytest.raises(UsageError, match=words) as caught:
        load(SolveSettings, file=file, given={})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("change", ["steps", "=3", "seed.deep=1", "training.steps=[1"])
def test_a_wrong_change_is_one_sentence(change):
    with pytest.raises(UsageError):
        load(SolveSettings, given={"family": "poisson", "seed": 1}, changes=[change])


@pytest.mark.parametrize("text", ["c", "c=", "c=x", "=1", "c=nan", "c=inf", "c=1,,d=2"])
def test_wrong_parameters_are_one_sentence(text):
    with pytest.raises(UsageError, match="name=number"):
        pairs(text)


def test_an_unknown_method_is_named_with_the_nearest():
    with pytest.raises(UsageError, match=r"unknown method 'sdv'.*did you mean 'svd'"):
        load(AdaptSettings, given={"run": "x", "targets": [{"c": 1.0}], "methods": ["sdv"]})


def test_the_settings_name_the_methods_that_there_are():
    assert set(METHODS) == set(ADAPTERS)


def test_a_benchmark_of_kans_has_their_adapters_unless_some_are_named():
    kan = load(BenchSettings, given={"network.kind": "kan"})
    assert kan.adapters == ["lotra", "lotra-only", "last", "full", "scratch"]
    assert load(BenchSettings, given={"network.kind": "kan", "adapters": ["full"]}).adapters == ["full"]
    assert "svd" in load(BenchSettings, given={"network.width": 8}).adapters
