"""What is read and predicted in context: nothing of what has to be predicted is seen, and still predictions stop."""

import math

import pytest
import torch

from lissome._errors import UsageError
from lissome.models import (
    Continuation,
    Looped,
    LoopedShape,
    Regressor,
    gradient_descent,
    read_reader,
    save_reader,
)
from lissome.models.stored import SHAPE, WEIGHTS
from tests.models.test_looped import drawn

SMALL = {"width": 8, "heads": 2, "iterations": 4}
SETS = {"validity": "but_last", "position": "none", "normalize": "linear"}


def regressor(tokens="interleaved", **values):
    torch.manual_seed(0)
    values = {**SMALL, **(SETS if tokens == "pairs" else {}), **values}
    return moved(Regressor(Looped(LoopedShape(**values)), 3, tokens=tokens).double())


def continuation(**values):
    torch.manual_seed(0)
    return moved(Continuation(Looped(LoopedShape(**{**SMALL, **values})), 3).double())


def moved(model):
    """Return a model whose every number counts: a new body is the identity."""
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.1 * torch.randn_like(weight)
    return model


def near(found, truth):
    torch.testing.assert_close(found, truth, rtol=0, atol=1e-12)


def test_tokens_of_an_interleaved_prompt():
    x, y = torch.tensor([[[1.0, 2, 3], [4, 5, 6]]]).double(), torch.tensor([[7.0, 8]]).double()
    assert regressor().lay(x, y).tolist() == [[[1, 2, 3, 0], [0, 0, 0, 7], [4, 5, 6, 0]]]
    assert regressor("pairs").lay(x, y).tolist() == [[[1, 2, 3, 7], [4, 5, 6, 0]]]


def test_no_prediction_depends_on_its_own_y_or_what_follows():
    model, x, y = regressor(), drawn(2, 5, 3), drawn(2, 5, seed=2)
    truth = model(x, y)
    assert truth.shape == (2, 5)
    for i in range(5):
        other_x, other_y = x.clone(), y.clone()
        other_y[:, i:] += 1
        other_x[:, i + 1 :] += 1
        assert torch.equal(model(other_x, other_y)[:, : i + 1], truth[:, : i + 1])
    earlier = y.clone()
    earlier[:, 0] += 1
    assert ((model(x, earlier) - truth)[:, 1:].abs() > 1e-9).all()


def test_pairs_predict_the_last_y_and_know_no_order():
    model, x, y = regressor("pairs"), drawn(2, 5, 3), drawn(2, 5, seed=2)
    truth = model(x, y)
    assert truth.shape == (2, 1)
    unseen = y.clone()
    unseen[:, -1] += 1
    assert torch.equal(model(x, unseen), truth)
    order = [2, 0, 3, 1, 4]
    near(model(x[:, order], y[:, order]), truth)


def test_a_sequence_is_continued_from_what_stands_before():
    model, s = continuation(), drawn(2, 6, 3)
    truth = model(s)
    assert truth.shape == (2, 6, 3)
    for t in range(6):
        other = s.clone()
        other[:, t + 1 :] += 1
        assert torch.equal(model(other)[:, : t + 1], truth[:, : t + 1])


@pytest.mark.parametrize("make", [regressor, lambda: regressor("pairs"), continuation])
def test_windows_and_iterates_are_shorter_runs(make):
    model = make()
    given = (drawn(2, 5, 3),) if isinstance(model, Continuation) else (drawn(2, 5, 3), drawn(2, 5, seed=2))
    found = model.outputs(*given, window=3)
    for t, one in enumerate(model.iterates(*given, iterations=6), 1):
        near(one, model(*given, iterations=t))
        if 2 <= t <= 4:
            near(found[t - 2], one)


@torch.no_grad()
def by_hand(model, given, tolerance, most):
    """Stop each prompt alone."""
    found = []
    for b in range(len(given[0])):
        last = None
        for t, now in enumerate(model.iterates(*(one[b : b + 1] for one in given), iterations=most), 1):
            moved = (
                math.inf if last is None else (now - last).square().mean().sqrt().item() / math.sqrt(model.dimension)
            )
            if moved < tolerance:
                found.append((now[0], t, True))
                break
            last = now
        else:
            found.append((last[0], most, False))
    predictions, taken, settled = zip(*found, strict=True)
    return torch.stack(predictions), list(taken), list(settled)


@pytest.mark.parametrize("tokens", ["interleaved", "pairs"])
@pytest.mark.parametrize(("tolerance", "most"), [(0.1, 20), (0.02, 20), (1e-9, 7), (0.1, 1)])
def test_prompts_stop_by_themselves(tokens, tolerance, most):
    model = gradient_descent(3, rate=0.1, tokens=tokens, dtype=torch.float64)
    given = drawn(6, 7, 3), drawn(6, 7, seed=2)
    found = model.settle(*given, tolerance=tolerance, most=most)
    predictions, taken, settled = by_hand(model, given, tolerance, most)
    near(found.predictions, predictions)
    assert found.iterations.tolist() == taken
    assert found.settled.tolist() == settled
    assert not found.predictions.requires_grad


def test_nan_never_settles():
    model, x, y = gradient_descent(3, rate=0.1, dtype=torch.float64), drawn(2, 4, 3), drawn(2, 4, seed=2)
    y[0, 0] = math.nan
    found = model.settle(x, y)
    assert found.settled.tolist() == [False, True]
    assert found.iterations[0] == 20
    assert found.predictions[0].isnan().any()
    assert found.predictions[1].isfinite().all()


@pytest.mark.parametrize("make", [regressor, lambda: regressor("pairs"), lambda: continuation(inject="add")])
def test_what_is_read_is_what_was_saved(make, tmp_path):
    model = make()
    save_reader(model, tmp_path / "kept")
    again = read_reader(tmp_path / "kept")
    assert type(again) is type(model)
    assert again.told() == model.told()
    given = (drawn(2, 5, 3),) if isinstance(model, Continuation) else (drawn(2, 5, 3), drawn(2, 5, seed=2))
    assert torch.equal(again(*given), model(*given))
    assert not again.training


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[]", r"shape.json is \[\]; legal is an object with dimension, body, tokens"),
        ('{"dimension": 3}', "shape.json lacks body"),
        ('{"dimension": 3, "body": {}, "token": 1}', "unknown size 'token'; .*did you mean 'tokens'"),
        ('{"dimension": 3, "body": {"widht": 8}}', "unknown size 'widht'; .*did you mean 'width'"),
        ('{"dimension": 3, "body": {"width": 8, "heads": 3}}', "3 heads do not divide the width 8"),
    ],
)
def test_damaged_files_are_told(text, sentence, tmp_path):
    save_reader(regressor(), tmp_path)
    (tmp_path / SHAPE).write_text(text)
    with pytest.raises(UsageError, match=f"the reader in '.*' is damaged: {sentence}"):
        read_reader(tmp_path)
    (tmp_path / WEIGHTS).unlink()
    save_reader(continuation(), tmp_path / "other")
    (tmp_path / "other" / SHAPE).unlink()
    with pytest.raises(UsageError, match="is missing; a reader is shape.json and model.safetensors in a directory"):
        read_reader(tmp_path / "other")


X, Y = drawn(2, 5, 3), drawn(2, 5)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda m: m(X), "1 tensors came; legal are x (B, k, 3) and y (B, k)"),
        (
            lambda m: m(X[..., :2], Y),
            "x has shape (2, 5, 2) and dtype torch.float64; legal is (B, k, 3) of torch.float64, k at least 1",
        ),
        (
            lambda m: m(X.float(), Y),
            "x has shape (2, 5, 3) and dtype torch.float32; legal is (B, k, 3) of torch.float64, k at least 1",
        ),
        (
            lambda m: m(X[:, :0], Y[:, :0]),
            "x has shape (2, 0, 3) and dtype torch.float64; legal is (B, k, 3) of torch.float64, k at least 1",
        ),
        (
            lambda m: m(X, Y[:, :4]),
            "y has shape (2, 4) and dtype torch.float64; legal beside this x is (2, 5) of torch.float64",
        ),
        (lambda m: m(X, 5), "y is 5; legal is a tensor (B, k) of torch.float64"),
        (lambda m: m.settle(X, Y, most=5), "most is 5, and the shape says 4 iterations; legal are 1 to 4"),
        (lambda m: m.settle(X, Y, most=0), "most is 0; legal are whole numbers, 1 and more"),
        (lambda m: m.settle(X, Y, tolerance=0), "tolerance is 0; legal are numbers above 0"),
        (lambda m: m.outputs(X, Y, window=5), "window is 5; legal are whole numbers, 1 to 4"),
        (lambda m: m(X, Y, iterations=0), "iterations is 0; legal are whole numbers, 1 and more"),
        (lambda m: Regressor(m.body, 0), "dimension is 0; legal are whole numbers, 1 and more"),
        (lambda m: Regressor(m, 3), None),
        (
            lambda m: Regressor(m.body, 3, tokens="pair"),
            "unknown tokens 'pair'; legal are: interleaved, pairs (did you mean 'pairs'?)",
        ),
        (
            lambda _: regressor(validity="everything"),
            "validity 'everything' lets a token see later ones, which interleaved tokens would have to predict; "
            "legal is such as 'causal'",
        ),
        (lambda _: continuation(validity="but_last"), None),
        (lambda _: continuation()(X, Y), "2 tensors came; legal is s (B, T, 3)"),
        (
            lambda _: continuation()(Y),
            "s has shape (2, 5) and dtype torch.float64; legal is (B, k, 3) of torch.float64, k at least 1",
        ),
        (lambda m: save_reader(m.body, "."), None),
    ],
)
def test_wrong_calls_are_told(call, sentence):
    model = regressor()
    with pytest.raises(UsageError) as error:
        call(model)
    assert sentence is None or str(error.value) == sentence
