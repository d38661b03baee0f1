"""What a table is fitted for, how its rows are parted and scaled, and what a run learns."""

import json
import math
import re

import numpy as np
import pytest
import torch

from lissome._errors import UsageError
from lissome._types import Objective, Residual, Rowwise
from lissome.optim import checkpoint
from lissome.recipes import fit_table, predict, show
from lissome.recipes.settings import TrainingSettings
from lissome.recipes.settings import load as read
from lissome.recipes.table.frame import Frame
from lissome.recipes.table.objective import Classification, Regression, Rows
from lissome.recipes.table.predict import load_model
from lissome.recipes.table.reading import read_table
from lissome.recipes.table.roles import roles
from lissome.recipes.table.scale import scale_from, scale_of
from lissome.recipes.table.settings import TableSettings
from lissome.recipes.table.split import split
from lissome.recipes.table.training import paced
from lissome.recipes.training import ADAM_RATE
from lissome.report.read import read_curves
from tests.recipes.tables import blobs, fitted, images, product, settings, write


def frame_of(*columns, texts=None):
    values = np.array(columns, dtype=float).T
    names = tuple("abcdef"[: values.shape[1]])
    return Frame("t.csv", names, True, values, texts or {}, targets=names[-1:])


def task_of(y, **given):
    return roles(frame_of(np.zeros(len(y)), y), settings("t.csv", **given))[0]


@pytest.mark.parametrize(
    ("y", "task", "why"),
    [
        ([0, 1] * 5, "classification", "2 different whole numbers, on the average each in 5 rows"),
        ([0, 1] * 4, "regression", "2 different whole numbers in 8 rows, too many"),
        (list(range(20)) * 5, "classification", "20 different whole numbers"),
        (list(range(21)) * 9, "regression", "21 different whole numbers in 189 rows"),
        ([0.5, 1.5] * 50, "regression", "not of whole numbers alone"),
    ],
)
def test_a_numeric_target_is_classified_by_the_stated_rule(y, task, why):
    known = task_of(y)
    assert known.task == task
    assert why in known.why
    assert task_of(y, task="regression").why == "as asked for"


def test_text_is_classified_and_several_targets_are_numbers():
    frame = frame_of([1, 2, 3, 4], [math.nan] * 4, texts={"b": ["v", "u", "v", "u"]})
    known, y = roles(frame, settings("t.csv"))
    assert (known.task, known.classes, y.tolist()) == ("classification", ("u", "v"), [1, 0, 1, 0])
    known, y = roles(frame_of([1, 2, 3], [0, 1, 0], [1, 0, 1]), settings("t.csv", target="c, a"))
    assert (known.task, known.inputs, known.targets, y.shape) == ("regression", ("b",), ("c", "a"), (3, 2))


def test_classes_of_numbers_are_in_their_order():
    known, y = roles(frame_of(np.zeros(6), [10, 9, -1, 10, 9, -1]), settings("t.csv", task="classification"))
    assert known.classes == ("-1", "9", "10")
    assert y.tolist() == [2, 1, 0, 2, 1, 0]


TEXT = frame_of([1, 2, 3, 4], [math.nan] * 4, texts={"b": ["v", "u", "v", "u"]})
WHOLE = frame_of([1, 2, 3, 4], [5, 6, 7, 8])


@pytest.mark.parametrize(
    ("frame", "given", "words"),
    [
        (WHOLE, {"target": "bb"}, "unknown column of 't.csv' 'bb'; legal are: a, b .did you mean 'b'"),
        (WHOLE, {"target": "a,b"}, "has no column beside the target 'a', 'b'"),
        (WHOLE, {"target": "b,b"}, "target 'b' is named twice"),
        (WHOLE, {"target": "b", "leave": ["b"]}, "target 'b' is left out too"),
        (WHOLE, {"leave": ["z"]}, "unknown column of 't.csv' 'z'"),
        (WHOLE, {"task": "classification"}, "4 different values in 4 rows, such as '5', too many to be"),
        (frame_of([1, 2, 3], [2, 2, 2]), {"task": "classification"}, "has one class alone, '2'"),
        (frame_of([1, 2, 3], [1, 0, 1], [1, 0, 1]), {"target": "a,b", "task": "classification"}, "2 targets cannot"),
        (TEXT, {"task": "regression"}, "holds text, such as 'v', and regression needs numbers"),
        (TEXT, {"target": "a"}, "column 'b' of 't.csv' holds text"),
        (frame_of([1, 2, 3]), {}, "has no column beside the target 'a'"),
        (frame_of([1, 2], [3, 4]), {}, "has 2 rows; legal are 3 and more"),
        (frame_of([1, math.nan, 3], [3, 4, 5]), {}, "row 2, column 'a': the value is missing"),
        (frame_of([1, 2, 3], [3, 4, math.nan]), {}, "row 3, column 'b': the value is missing"),
    ],
)
def test_what_cannot_be_fitted_is_told(frame, given, words):
    def read():
        known, _ = roles(frame, settings("t.csv", **given))
        return frame.numbers(known.inputs)

    with pytest.raises(UsageError, match=words):
        read()


def test_each_class_is_parted_alike_and_keeps_a_row_to_learn_from():
    y = np.array([0] * 50 + [1] * 10 + [2])
    learn, test = split(len(y), 0.2, 3, y)
    assert sorted([*learn.tolist(), *test.tolist()]) == list(range(len(y)))
    assert np.bincount(y[test], minlength=3).tolist() == [10, 2, 0]
    assert torch.equal(split(len(y), 0.2, 3, y)[1], test)
    assert not torch.equal(split(len(y), 0.2, 4, y)[1], test)
    assert len(split(9, 0.0, 0)[1]) == 0
    assert [len(part) for part in split(3, 0.01, 0)] == [2, 1]
    assert [len(part) for part in split(4, 0.1, 0, np.array([0, 0, 1, 1]))] == [3, 1]


def test_scales_are_of_the_rows_of_training_and_survive_json():
    X, y = np.array([[0.0, 5], [4, 5], [1, 5]]), np.array([[1.0], [3], [5]])
    scale = scale_from(json.loads(json.dumps(scale_of(X, y).plain())))
    assert scale.inside(X, torch.float64).tolist() == [[-1, 0], [1, 0], [-0.5, 0]]
    assert scale.inside(np.array([[6.0, 7]]), torch.float64).tolist() == [[2, 0]]
    assert scale.outside(np.array([[6.0, 5], [4, 5], [2, 7]])).tolist() == [True, False, True]
    down = scale.down(y, torch.float64)
    assert (float(down.mean()), float(down.square().mean())) == (pytest.approx(0), pytest.approx(1))
    torch.testing.assert_close(scale.up(down), torch.from_numpy(y))
    assert scale_of(X, np.ones((3, 1))).deviation.tolist() == [1]
    huge = np.array([[-1.5e308], [1.5e308]])
    assert scale_of(huge, None).inside(huge, torch.float64)[:, 0].tolist() == pytest.approx([-1, 1])


def test_objectives_are_what_their_protocols_promise():
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(30, 2, generator=generator, dtype=torch.float64)
    y = torch.rand(30, 2, generator=generator, dtype=torch.float64)
    model = torch.nn.Linear(2, 2).double()
    problem = Regression(Rows(x, y), Rows(x, y), torch.tensor([2.0, 1.0]))
    assert isinstance(problem, Objective)
    assert isinstance(problem, Residual)
    assert isinstance(problem, Rowwise)
    batch = problem.sample(generator, 7)
    assert len({tuple(row) for row in batch["x"].tolist()}) == 7
    assert problem.sample(generator, 99)["x"] is x
    torch.testing.assert_close(problem.residual(model, batch).square().mean(), problem.loss(model, batch))
    torch.testing.assert_close(problem.loss(model, batch), torch.nn.functional.mse_loss(model(batch["x"]), batch["y"]))
    figures = problem.evaluate(model)
    told = model(x).detach()
    r2 = 1 - (told - y).square().sum(0) / (y - y.mean(0)).square().sum(0)
    assert figures["r2"] == pytest.approx(float(r2.mean()))
    assert figures["error"] ** 2 == pytest.approx(figures["fresh"])
    classes = Classification(Rows(x, y.argmax(1)), Rows(x, y.argmax(1)))
    assert isinstance(classes, Objective)
    assert not isinstance(classes, Residual)
    told = classes.evaluate(model)
    assert told["accuracy"] == pytest.approx(float((model(x).argmax(1) == y.argmax(1)).double().mean()))
    assert told["error"] == pytest.approx(1 - told["accuracy"])
    log = model(x).log_softmax(1)[torch.arange(30), y.argmax(1)]
    torch.testing.assert_close(classes.loss(model, {"x": x, "y": y.argmax(1)}), -log.mean())


@pytest.fixture(scope="module")
def waves(tmp_path_factory):
    """A KAN on y = sin(3 x1) x2, after some hundred steps."""
    place = tmp_path_factory.mktemp("waves")
    given = {"training__steps": 300, "training__evaluate": 100, "network__width": 16}
    return place / "run", fitted(product(place / "t.csv", rows=400), place / "run", **given)


def test_a_kan_learns_a_product(waves):
    _, row = waves
    assert row["error"] < 0.05
    assert row["r2"] > 0.997
    assert (row["train"], row["test"], row["task"], row["method"]) == (320, 80, "regression", "kan")


def test_predictions_of_a_kept_run_are_those_that_were_measured(waves, tmp_path):
    run, row = waves
    found = predict(run, run.parent / "t.csv", tmp_path / "p.csv")
    frame = read_table(run.parent / "t.csv")
    _, test = split(400, 0.2, 0)
    held = predict(run, frame.numbers(["x1", "x2"])[test]).values
    assert np.array_equal(held[:, 0], read_curves(run / "curves.safetensors")["told/0"])  # before it was kept
    apart = held - frame.numbers(["y"])[test]
    assert float(np.sqrt(np.square(apart).mean())) == pytest.approx(row["rmse"]["y"], rel=1e-12)
    read = read_table(tmp_path / "p.csv")
    assert read.columns == ("y",)
    assert np.array_equal(read.numbers(["y"]), found.values)


def test_a_run_holds_no_pickle_and_all_that_predictions_need(waves):
    run, _ = waves
    assert {path.name for path in run.iterdir()} == {
        "checkpoint", "curves.safetensors", "environment.json", "figures", "index.html", "metrics.jsonl",
        "settings.yaml", "summary.json", "table.json",
    }  # fmt: skip
    (run.parent / "t.csv").rename(run.parent / "away.csv")
    model = load_model(run)
    (run.parent / "away.csv").rename(run.parent / "t.csv")
    kept = checkpoint.read(run / "checkpoint").model
    assert all(torch.equal(kept[name], value) for name, value in model.network.state_dict().items())


def test_columns_are_matched_by_name_and_by_place_where_there_are_none(waves, tmp_path):
    run, _ = waves
    X = np.random.default_rng(1).uniform(-0.9, 0.9, (6, 2))
    plain = predict(run, X).values
    lines = [f"{b!r},{a!r}" for a, b in X.tolist()]
    named = write(tmp_path / "n.csv", "\n".join(["x2,x1", *lines]))
    np.save(tmp_path / "a.npy", np.column_stack([X, np.zeros(6)]))
    np.savez(tmp_path / "a.npz", X=X)
    for data in (named, tmp_path / "a.npy", tmp_path / "a.npz"):
        assert np.array_equal(predict(run, data).values, plain), data


def test_rows_outside_the_range_of_training_are_counted(waves):
    found = predict(waves[0], np.array([[0.0, 0.0], [0.0, 3.0], [-4.0, 9.0]]))
    assert found.outside == 2
    assert found.remark().startswith("2 of 3 rows lie outside the range of training")
    assert predict(waves[0], np.zeros((1, 2))).remark() == ""


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ("x1,x3", "unknown column of '.*' 'x3'; legal are: x1, x2, y"),
        ("x1,y", "lacks the column 'x2'"),
    ],
)
def test_columns_that_the_run_does_not_know_are_told(waves, tmp_path, columns, words):
    with pytest.raises(UsageError, match=words):
        predict(waves[0], write(tmp_path / "n.csv", f"{columns}\n1,2\n"))


def test_another_number_of_columns_is_told(waves, tmp_path):
    words = r"has 5 columns; legal are 2, the inputs of the run \(x1, x2\), or 3 with all"
    with pytest.raises(UsageError, match=words):
        predict(waves[0], np.zeros((2, 5)))
    np.savez(tmp_path / "a.npz", X=np.zeros((2, 3)), y=np.zeros(2))
    with pytest.raises(UsageError, match=r"has 3 columns; legal are 2, the inputs of the run \(x1, x2\)$"):
        predict(waves[0], tmp_path / "a.npz")


@pytest.mark.parametrize("network", ["kan", "slim-kan", "mlp"])
def test_classes_of_text_have_names_and_probabilities(tmp_path, network):
    data = blobs(tmp_path / "t.csv")
    row = fitted(data, tmp_path / "run", network__kind=network, network__width=8, training__steps=80)
    assert row["accuracy"] > 0.8
    assert row["right"].keys() == {"blue", "green", "red"}
    found = predict(tmp_path / "run", np.array([[0.0, 0.0], [4.0, 0.0], [0.0, 4.0]]))
    assert found.labels() == ["red", "green", "blue"]
    assert found.values.sum(1) == pytest.approx(1)
    names, rows = found.table()
    assert names == ["colour", "probability of blue", "probability of green", "probability of red"]
    assert [each[0] for each in rows] == found.labels()


def test_a_class_without_a_row_held_out_has_no_share_of_right_ones(tmp_path):
    data = blobs(tmp_path / "t.csv")
    write(data, data.read_text() + "2,2,lonely\n")
    row = fitted(data, tmp_path / "run")
    assert row["right"]["lonely"] is None
    assert None not in [row["right"][name] for name in ("red", "green", "blue")]
    assert re.search(r"lonely</\w+>\s*<\w+[^>]*>–<", (tmp_path / "run" / "index.html").read_text())


def test_numbers_near_the_end_of_float64_are_refused_before_anything_is_written(tmp_path):
    lines = [f"{1e308 * (-1) ** row!r},{4e301 * row!r}" for row in range(20)]
    data = write(tmp_path / "t.csv", "\n".join(["x,y", *lines]))
    with pytest.raises(UsageError, match=r"row 2, column 'y': the value is 4e301; legal are numbers up to 1e100"):
        fitted(data, tmp_path / "run", task="regression")
    data = write(data, "\n".join(["x,y", *(f"{row},{1e100 * (row - 10) / 10!r}" for row in range(20))]))
    assert fitted(data, tmp_path / "run", task="regression")["error"] > 0
    assert (tmp_path / "run" / "index.html").is_file()
    with pytest.raises(UsageError, match=r"row 2, column '1': the value is -2e200"):
        predict(tmp_path / "run", np.array([[1.0], [-2e200]]))


def test_adam_goes_slower_where_a_kan_has_many_inputs_unless_a_rate_is_given():
    usual = TrainingSettings(optimizer="adam+lbfgs")
    found = paced(usual, "slim-kan", 256)
    assert (found.rate, found.then[0].rate) == (ADAM_RATE / 2, None)
    given = TrainingSettings(optimizer="adam", rate=0.1)
    for training, kind, inputs in ((usual, "kan", 64), (usual, "mlp", 784), (given, "kan", 784)):
        assert paced(training, kind, inputs) == training


def test_gauss_newton_fits_in_few_steps_and_in_float64(tmp_path):
    given = {"training__optimizer": "gauss-newton", "training__steps": 12, "network__width": 4}
    row = fitted(product(tmp_path / "t.csv"), tmp_path / "run", **given)
    assert row["error"] < 0.03
    assert load_model(tmp_path / "run").network.layers[0].weight.dtype == torch.float64


def test_gauss_newton_does_not_classify_and_leaves_nothing(tmp_path):
    with pytest.raises(UsageError, match="gauss-newton needs an objective with residual"):
        fitted(blobs(tmp_path / "t.csv"), tmp_path / "run", training__optimizer="gauss-newton")
    assert not (tmp_path / "run").exists()


def test_several_targets_are_learnt_at_once(tmp_path):
    x = np.linspace(0, 5, 120)
    np.save(tmp_path / "t.npy", np.column_stack([100 * x, x, 7 - 3 * x]))
    row = fitted(tmp_path / "t.npy", tmp_path / "run", target="2,3", training__steps=200, network__width=8)
    assert row["targets"] == ["2", "3"]
    assert row["error"] < 0.1
    assert row["rmse"]["3"] == pytest.approx(3 * row["rmse"]["2"], rel=2)
    values = predict(tmp_path / "run", np.array([[250.0]])).values
    assert values[0] == pytest.approx([2.5, -0.5], abs=0.6)
    assert (tmp_path / "run" / "figures" / "curve.svg").is_file()


def test_images_are_tested_on_the_files_made_for_it(tmp_path):
    row = fitted(images(tmp_path / "m", rows=40, test=10), tmp_path / "run", training__steps=40)
    assert (row["train"], row["test"], row["inputs"], row["task"]) == (40, 10, 12, "classification")
    assert row["accuracy"] == 1
    found = predict(tmp_path / "run", tmp_path / "m" / "t10k-images-idx3-ubyte")
    assert found.labels() == ["0", "1"] * 5


def test_all_rows_can_be_learnt_from_and_few_can_be_drawn(tmp_path):
    row = fitted(product(tmp_path / "t.csv"), tmp_path / "run", test=0, rows=50)
    assert (row["train"], row["test"]) == (50, 0)
    assert "of the 50 rows of training" in (tmp_path / "run" / "index.html").read_text().replace("on the", "of the")


def test_a_run_that_is_gone_on_with_after_its_data_changed_is_told(tmp_path):
    data = product(tmp_path / "t.csv")
    fitted(data, tmp_path / "run")
    product(data, seed=1)
    with pytest.raises(UsageError, match="the data has changed since the run was begun"):
        fit_table(settings(data, training__steps=20), tmp_path / "run", resume=True, progress=False)
    assert (tmp_path / "run" / "summary.json").is_file()


def test_a_run_in_progress_and_one_that_is_done_are_drawn_again(tmp_path):
    run = tmp_path / "run"
    row = fitted(blobs(tmp_path / "t.csv"), run)
    (run / "index.html").unlink()
    (shown,) = show(run)
    assert shown["accuracy"] == row["accuracy"]
    assert "Rows by true and predicted class" in (run / "index.html").read_text()
    (run / "summary.json").unlink()
    (run / "curves.safetensors").unlink()
    (shown,) = show(run)
    assert (shown["steps"], shown["task"], shown["finished"]) == (10, "classification", False)
    assert "This run has not finished" in (run / "index.html").read_text()
    with pytest.raises(UsageError, match="has not finished; `lissome fit --resume --out"):
        predict(run, tmp_path / "t.csv")


@pytest.mark.slow
def test_handwritten_digits_are_told_apart(tmp_path):
    pytest.importorskip("sklearn")
    row = fitted("digits", tmp_path / "run", training__steps=500, network__width=16)
    assert row["accuracy"] > 0.9
    assert (row["inputs"], row["classes"]) == (64, 10)


def test_with_one_input_and_nothing_held_out_the_run_is_whole(tmp_path):
    X = np.linspace(-1, 1, 30)[:, None]
    np.savez(tmp_path / "line.npz", X=X, y=X[:, 0] ** 2)
    asked = {"data": str(tmp_path / "line.npz"), "test": 0, "network.width": 3, "training.steps": 3}
    fit_table(read(TableSettings, given=asked), tmp_path / "run", progress=False)
    page = (tmp_path / "run" / "index.html").read_text()
    assert "The fitted curve" in page
    assert "The learned functions, from the inputs below to the output above" in page


def test_learned_functions_are_drawn_over_the_columns_own_range(tmp_path):
    X = np.random.default_rng(0).uniform(100, 300, (60, 2))
    np.savez(tmp_path / "far.npz", X=X, y=X[:, 0])
    asked = {"data": str(tmp_path / "far.npz"), "network.width": 3, "training.steps": 3}
    fit_table(read(TableSettings, given=asked), tmp_path / "run", progress=False)
    curves = read_curves(tmp_path / "run" / "curves.safetensors")
    assert float(curves["edges/0/x"].min()) >= 100 - 1e-3
    assert float(curves["edges/0/x"].max()) <= 300 + 1e-3
    assert float(curves["edges/0/ends"].min()) < 110
