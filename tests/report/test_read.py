import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from lissome._errors import UsageError
from lissome.report.read import finite, read_run, series, variant


def test_a_finished_run_is_read_whole(tmp_path, made):
    run = read_run(made(tmp_path / "a"))
    assert run.finished
    assert run.row()["error"] == 1.2e-2
    assert len(run.metrics) == 81
    assert run.curves["slice_x"].dtype == np.float64


def test_a_run_in_progress_tells_its_latest_evaluation(tmp_path, made):
    path = made(tmp_path / "a", summary=False)
    (path / "environment.json").unlink()
    with (path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3000, "err')
    row = read_run(path).row()
    assert row["steps"] == 2000
    assert row["method"] == "svd"
    assert row["finished"] is False


def test_a_run_that_has_just_begun_is_legal(tmp_path):
    (tmp_path / "settings.yaml").write_text("method: {name: lora}\n")
    row = read_run(tmp_path).row()
    assert row["method"] == "lora"
    assert row["parameters"] == {}


def cut(name):
    def act(path):
        (path / name).write_bytes((path / name).read_bytes()[:-9])

    return act


def put(name, text):
    return lambda path: (path / name).write_text(text)


def unequal(path):
    save_file({"slice_x": np.zeros(3), "slice_exact": np.zeros(4)}, path / "curves.safetensors")


@pytest.mark.parametrize(
    ("harm", "word"),
    [
        (lambda path: (path / "settings.yaml").unlink(), "no settings.yaml"),
        (lambda path: (path / "metrics.jsonl").unlink(), "missing although"),
        (cut("summary.json"), "summary.json"),
        (cut("metrics.jsonl"), "line 81"),
        (cut("environment.json"), "environment.json"),
        (cut("curves.safetensors"), "safetensors"),
        (unequal, "3 and 4"),
        (put("settings.yaml", "a: [1,"), "not legal YAML in line 1"),
        (put("settings.yaml", "- a"), "holds a list"),
        (put("summary.json", "[1]"), "holds a list"),
        (put("summary.json", '{"error": "small"}'), "error 'small' where a number"),
        (put("summary.json", '{"parameters": 3}'), "parameters 3 where a mapping"),
        (put("metrics.jsonl", '{"step": 1}\n7\n'), "line 2 holds a int"),
        (lambda path: (path / "summary.json").write_bytes(b"\xff\xfe"), "UTF-8"),
    ],
)
def test_every_fault_is_one_sentence(tmp_path, made, harm, word):
    path = made(tmp_path / "a")
    harm(path)
    with pytest.raises(UsageError) as caught:
        read_run(path).row()
    assert word in str(caught.value)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_missing_directory_is_named(tmp_path):
    with pytest.raises(UsageError, match="no run directory"):
        read_run(tmp_path / "nowhere")


def test_nan_counts_as_no_number(tmp_path, made):
    assert finite(read_run(made(tmp_path / "a", error=float("nan"))).row(), "error") is None
    x, y = series(
        [{"s": 0, "e": float("inf")}, {"s": 1, "e": 2.0}, {"s": 2, "e": 0.0}, {"s": 3, "e": 1e300}, {"e": 1.0}],
        "s",
        "e",
    )
    assert (x.tolist(), y.tolist()) == ([1.0], [2.0])
    assert [len(part) for part in series([], "s", "e")] == [0, 0]


def test_variants_ignore_the_seed_and_nothing_of_substance():
    one = {"seed": 1, "optimizer": {"lr": 1e-3}, "out": "a"}
    assert variant(one) == variant(json.loads(json.dumps(one | {"seed": 2, "out": "b"})))
    assert variant(one) != variant(one | {"optimizer": {"lr": 1e-2}})
