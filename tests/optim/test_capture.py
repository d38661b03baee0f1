import json

import pytest
import torch

from lissome.optim import Budget, Group, Method, fit
from lissome.optim import capture as capture_module
from tests.optim.problems import Sine, network

ONE, TWO = FORMS = tuple(capture_module.FORMS)
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


def seconds(monkeypatch, *times):
    """Let the trial read these times: eager (under auto), one graph, two graphs."""
    left = iter(times)
    monkeypatch.setattr(capture_module, "_seconds", lambda *arguments: next(left))


@pytest.mark.parametrize("form", FORMS)
def test_asked_for_is_compiled(monkeypatch, form):
    fake = Fake()
    model, result = train(monkeypatch, fake, form)
    assert result.compiled
    assert result.capture == f"compiled as {form}: asked for"
    assert fake.calls == 11
    plain = network()
    fit(plain, Sine(), METHOD, Budget(steps=10))
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), model.parameters(), strict=True))


@pytest.mark.parametrize(("times", "form"), [((1.0, 2.0), ONE), ((2.0, 1.0), TWO)])
def test_true_takes_the_quicker_form(monkeypatch, times, form):
    seconds(monkeypatch, *times)
    _, result = train(monkeypatch, Fake(), True)
    assert result.compiled
    told = f"{1e3 * times[0]:.2f} ms one graph, {1e3 * times[1]:.2f} ms two graphs"
    assert result.capture == f"compiled as {form}: asked for; {told}"


def test_auto_does_not_compile_when_few_steps_are_left(monkeypatch):
    fake = Fake()
    _, result = train(monkeypatch, fake, "auto")
    assert not result.compiled
    assert fake.calls == 0
    assert "do not repay compiling" in result.capture


@pytest.mark.parametrize(
    ("one", "two", "taken"), [(0.5, 0.6, ONE), (0.6, 0.5, TWO), (2.0, 0.5, TWO), (1.0, 2.0, None), (0.95, 0.95, None)]
)
def test_auto_takes_the_fastest(monkeypatch, one, two, taken):
    seconds(monkeypatch, 1.0, one, two)
    _, result = train(monkeypatch, Fake(), "auto", steps=100)
    assert result.compiled is (taken is not None)
    told = f"{1e3 * one:.2f} ms one graph, {1e3 * two:.2f} ms two graphs, 1000.00 ms eager"
    assert result.capture == (f"compiled as {taken}: {told}" if taken else f"eager: {told}")


@pytest.mark.parametrize(("spent", "tried"), [(10.0, 2), (20.0, 1)])
def test_auto_tries_the_second_form_only_where_the_steps_left_repay_it(monkeypatch, spent, tried):
    clock = iter([0.0, 0.0, spent])
    seconds(monkeypatch, 1.0, 0.5, 0.6)  # 100 steps: 50 s are left once the first is compiled
    model, objective = network(), Sine()
    monkeypatch.setattr(torch, "compile", Fake())
    monkeypatch.setattr(capture_module.time, "perf_counter", lambda: next(clock))
    found = capture_module.capture(
        model,
        lambda batch: objective.loss(model, batch),
        objective.sample(torch.Generator().manual_seed(0), 8),
        list(model.parameters()),
        "auto",
        lambda seconds: 100,
    )
    assert found.form == ONE
    assert found.reason.count("graph") == 1 + tried


def test_a_compiler_that_fails_is_recorded_and_training_goes_on(monkeypatch):
    _, result = train(monkeypatch, Fake(failing), True)
    assert not result.compiled
    why = "the compiler failed with RuntimeError: no such kernel"
    assert result.capture == f"eager: one graph: {why}; two graphs: {why}"
    assert result.steps == 10


@pytest.mark.parametrize("mode", ["auto", True])
def test_a_form_that_fails_leaves_the_other(monkeypatch, mode):
    seconds(monkeypatch, *([1.0] if mode == "auto" else []), 0.5)
    _, result = train(monkeypatch, Fake(lambda call, value: value if call > 1 else failing(call, value)), mode, 100)
    assert result.compiled
    assert result.capture.startswith("compiled as two graphs: ")


def test_a_failure_in_the_middle_goes_on_eagerly(monkeypatch):
    model, result = train(monkeypatch, Fake(lambda call, value: failing(call, value, at=5)), ONE)
    assert not result.compiled
    assert "failure of the compiled loss, RuntimeError: no such kernel" in result.capture
    plain = network()
    fit(plain, Sine(), METHOD, Budget(steps=10))
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), model.parameters(), strict=True))


def test_wrong_numbers_are_refused(monkeypatch):
    _, result = train(monkeypatch, Fake(lambda call, found: (found[0], 1.0001 * found[1])), ONE)
    assert not result.compiled
    assert result.capture == "eager: one graph: the compiled loss differs by more than rounding"
    _, result = train(monkeypatch, Fake(lambda call, loss: loss + 0.001 * (loss - loss.detach())), TWO)
    assert not result.compiled
    assert result.capture == "eager: two graphs: the compiled gradient 0 differs by more than rounding"


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


@pytest.mark.parametrize(("times", "form"), [((1.0, 2.0), ONE), ((2.0, 1.0), TWO)])
def test_the_choice_is_kept_over_a_resume(monkeypatch, tmp_path, times, form):
    seconds(monkeypatch, *times)
    train(monkeypatch, Fake(), True, steps=4, directory=tmp_path)
    state = json.loads((tmp_path / "checkpoint" / "state.json").read_text())
    kept = dict(dict(state["dict"])["capture"]["dict"])
    assert (kept["compiled"], kept["form"]) == (True, form)
    again = Fake()
    _, result = train(monkeypatch, again, False, steps=6, directory=tmp_path, resume=True)
    assert result.capture == f"compiled as {form}: asked for"
    assert again.calls == 3


def test_checkpoints_from_before_there_were_two_forms_resume_as_one_graph(monkeypatch, tmp_path):
    train(monkeypatch, Fake(), TWO, steps=4, directory=tmp_path)
    path = tmp_path / "checkpoint" / "state.json"
    text = path.read_text()
    state = json.loads(text)
    dict(state["dict"])["capture"]["dict"].pop()
    path.write_text(json.dumps(state))
    assert "form" in text
    assert "form" not in dict(dict(state["dict"])["capture"]["dict"])
    _, result = train(monkeypatch, Fake(), False, steps=6, directory=tmp_path, resume=True)
    assert result.capture == "compiled as one graph: asked for"


@pytest.mark.parametrize("form", FORMS)
def test_parameters_that_are_not_asked_for_have_no_gradient(monkeypatch, form):
    monkeypatch.setattr(torch, "compile", Fake())
    model, objective = network(), Sine()
    batch = objective.sample(torch.Generator().manual_seed(0), 8)
    asked = [model.get_parameter(name) for name in ("0.bias", "2.weight")]

    def loss(batch):
        return objective.loss(model, batch)

    check(capture_module.FORMS[form](model, loss), loss, asked, batch)
    assert all(p.grad is None for p in model.parameters())


def check(fast, loss, asked, batch):
    """Compare a form with autograd."""
    truth, gradients = capture_module.eager(loss)(asked, batch)
    value, found = fast(asked, batch)
    assert not value.requires_grad
    torch.testing.assert_close(value, truth)
    for mine, other in zip(found, gradients, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_the_true_compiler_bakes_in_neither_batch_nor_parameters(form):
    model, objective = network(), Sine()
    model.unused = torch.nn.Parameter(torch.ones(2, dtype=torch.float64))
    generator = torch.Generator().manual_seed(0)
    asked = [model.get_parameter("0.bias"), model.unused, model.get_parameter("2.weight")]

    def loss(batch):
        return objective.loss(model, batch)

    fast = capture_module.FORMS[form](model, loss)
    for points in (8, 8, 5, 11):
        check(fast, loss, asked, objective.sample(generator, points))
        with torch.no_grad():
            for p in model.parameters():
                p.mul_(1.5)
    assert not fast(asked, objective.sample(generator, 8))[1][1].any()


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_the_true_compiler_gives_the_same_training(form):
    model, plain = network(), network()
    result = fit(model, Sine(), METHOD, Budget(steps=50), compile=form)
    assert result.compiled, result.capture
    fit(plain, Sine(), METHOD, Budget(steps=50))
    for a, b in zip(plain.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.slow
def test_a_resumed_run_takes_the_same_form_and_gives_the_same_bits(tmp_path):
    model, broken = network(), network()
    whole = fit(model, Sine(), METHOD, Budget(steps=30), compile=True, directory=tmp_path / "whole")
    form = next(form for form in FORMS if whole.capture.startswith(f"compiled as {form}"))
    fit(
        broken,
        Sine(),
        METHOD,
        Budget(steps=30),
        compile=form,
        directory=tmp_path / "broken",
        on_step=lambda n, _: n == 13,
    )
    resumed = fit(broken, Sine(), METHOD, Budget(steps=30), directory=tmp_path / "broken", resume=True)
    assert resumed.resumed_from == 13
    assert resumed.capture.startswith(f"compiled as {form}")
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), broken.parameters(), strict=True))
