import json

import pytest
import torch

from lissome.optim import Budget, Group, Method, fit
from lissome.optim import capture as capture_module
from tests.optim.problems import Sine, network

METHOD = Method((Group("*", "adam", 0.01),), points=16)


class Fake:
    """A compiler that does nothing, and counts."""

    def __init__(self, spoil=None):
        self.calls = 0
        self.spoil = spoil

    def __call__(self, function):
        def fast(*arguments):
            self.calls += 1
            return self.spoil(self.calls, function(*arguments)) if self.spoil else function(*arguments)

        return fast


def train(monkeypatch, compiler, mode, steps=10, **options):
    monkeypatch.setattr(torch, "compile", compiler)
    model = network()
    return model, fit(model, Sine(), METHOD, Budget(steps=steps), compile=mode, **options)


def failing(call, value, at=1):
    if call >= at:
        raise RuntimeError("no such kernel\nand much more")
    return value


def test_asked_for_is_compiled(monkeypatch):
    fake = Fake()
    model, result = train(monkeypatch, fake, True)
    assert result.compiled
    assert result.capture == "compiled: asked for"
    assert fake.calls == 11
    plain = network()
    fit(plain, Sine(), METHOD, Budget(steps=10))
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), model.parameters(), strict=True))


def test_auto_does_not_compile_when_few_steps_are_left(monkeypatch):
    fake = Fake()
    _, result = train(monkeypatch, fake, "auto")
    assert not result.compiled
    assert fake.calls == 0
    assert "do not repay compiling" in result.capture


@pytest.mark.parametrize(("fast", "expected"), [(0.5, True), (1.0, False)])
def test_auto_takes_the_faster(monkeypatch, fast, expected):
    times = iter([1.0, fast])
    monkeypatch.setattr(capture_module, "_seconds", lambda *arguments: next(times))
    _, result = train(monkeypatch, Fake(), "auto", steps=100)
    assert result.compiled is expected
    assert f"{1e3 * fast:.2f} ms compiled, 1000.00 ms eager" in result.capture


def test_a_compiler_that_fails_is_recorded_and_training_goes_on(monkeypatch):
    _, result = train(monkeypatch, Fake(failing), True)
    assert not result.compiled
    assert result.capture == "eager: the compiler failed with RuntimeError: no such kernel"
    assert result.steps == 10


def test_a_failure_in_the_middle_goes_on_eagerly(monkeypatch):
    model, result = train(monkeypatch, Fake(lambda call, value: failing(call, value, at=5)), True)
    assert not result.compiled
    assert "failure of the compiled loss, RuntimeError: no such kernel" in result.capture
    plain = network()
    fit(plain, Sine(), METHOD, Budget(steps=10))
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), model.parameters(), strict=True))


def test_wrong_numbers_are_refused(monkeypatch):
    _, result = train(monkeypatch, Fake(lambda call, found: (found[0], 1.0001 * found[1])), True)
    assert not result.compiled
    assert result.capture == "eager: the compiled loss differs by more than rounding"


def test_an_error_of_the_objective_itself_is_its_own(monkeypatch):
    monkeypatch.setattr(torch, "compile", Fake())
    objective = Sine()
    calls = []

    def loss(model, batch):
        calls.append(1)
        if len(calls) > 5:
            raise ZeroDivisionError("mine")
        return Sine.loss(objective, model, batch)

    objective.loss = loss
    with pytest.raises(ZeroDivisionError, match="mine"):
        fit(network(), objective, METHOD, Budget(steps=10), compile=True)


def test_the_choice_is_kept_over_a_resume(monkeypatch, tmp_path):
    fake = Fake()
    train(monkeypatch, fake, True, steps=4, directory=tmp_path)
    state = json.loads((tmp_path / "checkpoint" / "state.json").read_text())
    assert ["capture", {"dict": [["compiled", True], ["reason", "compiled: asked for"]]}] in state["dict"]
    again = Fake()
    _, result = train(monkeypatch, again, False, steps=6, directory=tmp_path, resume=True)
    assert result.compiled
    assert again.calls == 3


def test_parameters_that_are_not_asked_for_have_no_gradient():
    model, objective = network(), Sine()
    batch = objective.sample(torch.Generator().manual_seed(0), 8)
    asked = [model.get_parameter(name) for name in ("0.bias", "2.weight")]

    def loss(batch):
        return objective.loss(model, batch)

    truth, gradients = capture_module.eager(loss)(asked, batch)
    value, found = capture_module.compiled(model, loss)(asked, batch)
    assert not value.requires_grad
    torch.testing.assert_close(value, truth)
    for mine, other in zip(found, gradients, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-12)
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.slow
def test_the_true_compiler_gives_the_same_training(tmp_path):
    model, plain = network(), network()
    result = fit(model, Sine(), METHOD, Budget(steps=50), compile=True)
    assert result.compiled, result.capture
    fit(plain, Sine(), METHOD, Budget(steps=50))
    for a, b in zip(plain.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
