import io
import json
import math

import pytest
import torch
from rich.console import Console

from lissome._errors import RunError, UsageError
from lissome.optim import Budget, Group, Method, Outcome, fit
from lissome.optim.bar import Bar
from lissome.optim.optimizers import OPTIMIZERS, build
from tests.optim.problems import Bowl, Quadratic, Sine, Spoilt, network

RATES = {"adam": 0.1, "adamw": 0.1, "nadam": 0.1, "radam": 0.1, "rmsprop": 0.05, "adagrad": 1.0, "sgd": 0.05}


@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_every_optimizer_reaches_the_known_minimum(name):
    model = Quadratic()
    options = {"weight_decay": 0.0} if name == "adamw" else {}
    steps = 20 if name == "lbfgs" else 600
    method = Method((Group("*", name, RATES.get(name), options),), schedule="cosine", final=0.0, points=1)
    result = fit(model, Bowl(), method, Budget(steps=steps))
    assert result.loss == pytest.approx(0.5, abs=1e-6)
    assert torch.allclose(model.a, Bowl.target, atol=1e-3)
    assert result.metrics["error"] < 3e-3
    assert result.outcome in (Outcome.STEPS, Outcome.STALLED)


def test_lbfgs_says_that_it_stalled_and_spends_no_more_steps():
    result = fit(Quadratic(), Bowl(), Method((Group("*", "lbfgs"),), points=1), Budget(steps=10_000))
    assert result.outcome is Outcome.STALLED
    assert result.steps < 20
    assert result.loss == pytest.approx(0.5, abs=1e-14)
    assert "resample" in result.outcome.value


def test_rows_are_at_the_start_every_so_many_steps_and_at_the_end(tmp_path):
    result = fit(network(), Sine(), Method(points=16), Budget(steps=25), directory=tmp_path, evaluate_every=10)
    assert [row["step"] for row in result.history] == [0, 10, 20, 25]
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert tuple(lines) == result.history
    assert set(lines[0]) == {"step", "seconds", "loss", "lr", "error"}
    assert lines[-1] == result.metrics
    assert sorted(path.name for path in (tmp_path / "checkpoint").iterdir()) == [
        "model.safetensors",
        "state.json",
        "state.safetensors",
    ]


def test_the_loss_of_a_row_is_that_of_the_weights_of_the_row():
    model = network()
    objective = Sine()
    batches = []
    objective.sample = lambda generator, n: batches.append(Sine().sample(generator, n)) or batches[-1]
    result = fit(model, objective, Method(points=16), Budget(steps=7))
    assert len(batches) == 1
    assert result.loss == objective.loss(model, batches[0]).item()


def test_nothing_is_written_without_a_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fit(network(), Sine(), Method(points=16), Budget(steps=5))
    assert list(tmp_path.iterdir()) == []


def test_the_same_call_gives_the_same_bits_and_leaves_the_global_generator_alone():
    ends = []
    for _ in range(2):
        model = network()
        torch.manual_seed(len(ends))
        before = torch.get_rng_state()
        fit(model, Sine(), Method(points=16, resample_every=3), Budget(steps=30), seed=5)
        assert torch.equal(before, torch.get_rng_state())
        ends.append(model.state_dict())
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


@pytest.mark.parametrize("every", [1, 3])
def test_how_often_one_looks_changes_nothing(every):
    models = []
    for evaluate_every in (every, 1000):
        model = torch.nn.Sequential(network(), torch.nn.Dropout(0.5))
        fit(model, Sine(), Method(points=16), Budget(steps=12), evaluate_every=evaluate_every)
        assert model.training
        models.append(model)
    for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(a, b)


def test_groups_act_at_the_same_time_and_none_stays():
    model = Quadratic()
    start = model.b.detach().clone()
    fit(model, Bowl(), Method((Group("b", "none"), Group("*", "lbfgs")), points=1), Budget(steps=20))
    assert torch.equal(model.b, start)
    assert torch.allclose(model.a, Bowl.target)
    model = Quadratic()
    fit(model, Bowl(), Method((Group("b", "adam", 0.1), Group("*", "lbfgs")), points=1), Budget(steps=400))
    assert torch.allclose(model.a, Bowl.target)
    assert torch.allclose(model.b, -torch.ones(2, dtype=torch.float64), atol=1e-4)


@pytest.mark.parametrize("name", ["adam", "adamw", "adagrad", "sgd"])
@pytest.mark.parametrize(
    "bend", [lambda w: w.mT.contiguous() ** 2, lambda w: w.expand(2, 3, 4)], ids=["turned", "spread"]
)
def test_gradients_that_lie_otherwise_in_memory_than_their_parameter_are_read_right(name, bend):
    class Bent(Bowl):
        def loss(self, model, batch):
            values = bend(model.weight)
            return (values * torch.arange(values.numel(), dtype=values.dtype).view_as(values)).sum()

        def evaluate(self, model):
            return {}

    def trained(options):
        model = torch.nn.Linear(4, 3, bias=False).double()
        with torch.no_grad():
            model.weight.copy_(torch.arange(-5.0, 7.0).view(3, 4))
        method = Method((Group(optimizer=name, lr=1e-2, options=options),))
        fit(model, Bent(), method, Budget(steps=5), progress=False)
        return model.weight

    torch.testing.assert_close(trained({}), trained({"fused": False}), rtol=1e-12, atol=1e-12)


def test_a_run_ends_where_the_callback_has_had_enough():
    two = (Method(points=4), Method(points=4))
    result = fit(Quadratic(), Bowl(), two, Budget(steps=40), on_step=lambda step, model: step == 3, progress=False)
    assert (result.steps, result.outcome, result.metrics["step"]) == (3, Outcome.ENOUGH, 3)


def test_parameters_outside_the_dict_stay_and_get_no_gradient():
    model = Quadratic()
    fit(model, Bowl(), Method((Group("mine", "sgd", 0.01),)), Budget(steps=5), parameters={"mine": model.a})
    assert model.b.grad is None
    assert torch.equal(model.b, torch.zeros_like(model.b))
    assert model.a.abs().sum() > 0


def test_phases_share_the_steps():
    methods = (
        Method((Group("*", "sgd", 0.01),), share=3.0, schedule="exponential", final=0.1),
        Method((Group("*", "adam", 0.5),)),
    )
    result = fit(network(), Sine(), methods, Budget(steps=40), evaluate_every=1)
    rates = [row["lr"] for row in result.history]
    assert [row["phase"] for row in result.history] == [0] * 31 + [1] * 10
    assert rates[1] == 0.01
    assert rates[16] == pytest.approx(0.01 * 0.1**0.5)
    assert rates[30] > 0.001
    assert rates[31:] == [0.5] * 10


def test_schedules_begin_at_one_and_end_at_the_final_factor():
    cosine = Method(schedule="cosine", final=0.2)
    assert cosine.factor(0) == 1.0
    assert cosine.factor(0.5) == pytest.approx(0.6)
    assert cosine.factor(1) == pytest.approx(0.2)
    assert Method(schedule="exponential", final=0.04).factor(0.5) == pytest.approx(0.2)
    assert Method().factor(0.7) == 1.0


def test_new_points_come_every_so_many_steps():
    objective = Sine()
    drawn = []
    objective.sample = lambda generator, n: drawn.append(n) or Sine().sample(generator, n)
    fit(network(), objective, Method(points=7, resample_every=4), Budget(steps=12))
    assert drawn == [7, 7, 7]


def test_a_budget_in_seconds_ends_and_drives_the_schedule():
    result = fit(
        network(), Sine(), Method(points=16, schedule="cosine", final=0.0), Budget(seconds=0.5), evaluate_every=20
    )
    assert result.outcome is Outcome.SECONDS
    assert 0.5 <= result.seconds < 1.5
    assert result.steps > 20
    rates = [row["lr"] for row in result.history]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] < 0.2 * rates[0]
    both = fit(network(), Sine(), Method(points=16), Budget(steps=5, seconds=60))
    assert both.outcome is Outcome.STEPS


@pytest.mark.parametrize("budget", [Budget(steps=40), Budget(seconds=0.2)], ids=["steps", "seconds"])
def test_no_step_of_a_warmup_is_done_at_rate_zero(budget):
    class Rates:
        def begin(self, step, model, optimizers):
            self.optimizer = optimizers[0]

        def __call__(self, step, model):
            rates.append(self.optimizer.param_groups[0]["lr"])

    rates, warm = [], Method((Group(lr=0.1),), points=4, warmup=0.5)
    result = fit(network(), Sine(), (warm, warm), budget, evaluate_every=10, on_step=Rates())
    assert len(rates) == result.steps
    assert 0 < min(rates) <= rates[0] < 0.1
    assert max(rates) == 0.1


def test_the_hook_sees_every_step():
    seen = []
    model = network()
    fit(model, Sine(), Method(points=4), Budget(steps=4), on_step=lambda step, m: seen.append((step, m is model)))
    assert seen == [(1, True), (2, True), (3, True), (4, True)]


def test_nan_is_told_with_its_step_and_the_last_good_checkpoint_is_kept(tmp_path):
    # calls of the loss: one per step and one per evaluation (at 0, 4 and 8)
    objective = Spoilt(call=10 + 3)
    with pytest.raises(RunError, match=r"the loss is not finite after 9 steps .*checkpoint of step 8 is kept") as error:
        fit(
            network(),
            objective,
            Method(points=8),
            Budget(steps=40),
            directory=tmp_path,
            evaluate_every=4,
            checkpoint_every=4,
        )
    assert error.value.exit_code == 1
    state = json.loads((tmp_path / "checkpoint" / "state.json").read_text())
    assert ["step", 8] in state["dict"]
    assert [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [0, 4, 8]


def test_nan_without_a_directory_says_that_nothing_is_kept():
    with pytest.raises(RunError, match="no directory was given"):
        fit(network(), Spoilt(call=3), Method(points=8), Budget(steps=5))


def test_divergence_is_told():
    with pytest.raises(RunError, match=r"not finite after \d+ steps \(SGD, lr 1e\+04\)"):
        fit(Quadratic(), Bowl(), Method((Group("*", "sgd", 1e4),), points=1), Budget(steps=2000))


def test_figures_that_are_not_finite_become_null(tmp_path):
    objective = Sine()
    objective.evaluate = lambda model: {"error": math.inf}
    result = fit(network(), objective, Method(points=8), Budget(steps=2), directory=tmp_path)
    assert result.metrics["error"] is None


def test_half_precision_trains_on_the_cpu_and_full_precision_after_it():
    objective = Sine()
    objective.dtype = torch.float32
    for precision in ("bf16", "no"):
        model = network(dtype=torch.float32)
        result = fit(
            model, objective, Method((Group("*", "adam", 0.01),), points=64), Budget(steps=100), precision=precision
        )
        assert result.loss < 0.5 * result.history[0]["loss"]
        assert model[0].weight.dtype == torch.float32


def test_tensorboard_gets_the_curves(tmp_path):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    fit(network(), Sine(), Method(points=8), Budget(steps=6), directory=tmp_path, evaluate_every=2, tensorboard=True)
    curves = events.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.step for event in curves.Scalars("error")] == [0, 2, 4, 6]


def test_tensorboard_missing_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name, package=None: None)
    with pytest.raises(UsageError, match=r"lissome\[tensorboard\]"):
        fit(network(), Sine(), Method(), Budget(steps=1), directory=tmp_path, tensorboard=True)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"method": Method((Group("*", "adamm"),))}, "unknown optimizer 'adamm'.*did you mean 'adam'"),
        ({"method": Method((Group("*", "adam", options={"betaz": 1}),))}, "unknown option of adam 'betaz'.*betas"),
        ({"method": Method((Group("*", "adam", options={"betas": (2.0, 0.9)}),))}, "adam refuses the options"),
        ({"method": Method((Group("layers.*"),))}, "'0.weight' matches none of the patterns"),
        ({"method": Method((Group("*"), Group("x*")))}, "'x\\*' has no trained parameter left"),
        ({"method": Method((Group("*", "none"),))}, "one at least must move"),
        ({"method": ()}, "empty sequence"),
        ({"method": (Method(), Method((Group("*", "lbgfs"),)))}, "did you mean 'lbfgs'"),
        ({"evaluate_every": 0}, "evaluate_every must be None or at least 1, not 0"),
        ({"checkpoint_every": -1}, "checkpoint_every must be None or at least 1, not -1"),
        ({"precision": "fp32"}, "unknown precision 'fp32'"),
        ({"precision": "fp16"}, "fp16 needs a CUDA device"),
        ({"compile": "yes"}, "unknown compile 'yes'; legal are: auto, True, False"),
        ({"resume": True}, "needs the directory"),
        ({"tensorboard": True}, "needs a directory"),
        ({"parameters": {"w": torch.nn.Parameter(torch.zeros(1))}}, "'w' is none of the model's"),
        ({"parameters": {}}, "nothing to train"),
    ],
)
def test_what_was_asked_wrongly_is_a_sentence(change, text):
    arguments = {"method": Method(points=4), "budget": Budget(steps=2)} | change
    with pytest.raises(UsageError, match=text):
        fit(network(), Sine(), arguments.pop("method"), arguments.pop("budget"), **arguments)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Budget(), "give steps, seconds or both"),
        (lambda: Budget(steps=0), "at least 1, not 0"),
        (lambda: Budget(seconds=-1), "positive number, not -1"),
        (lambda: Method(schedule="cosin"), "did you mean 'cosine'"),
        (lambda: Method(schedule="exponential", final=0), "final must lie"),
        (lambda: Method(resample_every=0), "resample_every"),
        (lambda: Method(points=0), "points"),
        (lambda: Method(share=0), "share"),
        (lambda: Method(groups=()), "at least one Group"),
        (lambda: Group(lr=float("nan")), "positive number, not nan"),
    ],
)
def test_values_out_of_range_are_refused(make, text):
    with pytest.raises(UsageError, match=text):
        make()


def test_the_first_matching_group_has_the_parameter():
    movers = build(
        Method((Group("*.bias", "sgd"), Group("0.*", "adam"), Group("*", "lbfgs"))), dict(network().named_parameters())
    )
    assert [len(mover.parameters) for mover in movers] == [2, 1, 1]


def test_the_bar_is_silent_when_nobody_watches(capsys):
    fit(network(), Sine(), Method(points=4), Budget(steps=3), progress=True)
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


def test_the_bar_shows_step_loss_and_error():
    written = io.StringIO()
    bar = Bar(Budget(steps=8), show=True, console=Console(force_terminal=True, width=120, file=written))
    with bar:
        bar.draw(2, 0.1, {"loss": 0.25, "error": None}, now=True)
        bar.draw(4, 0.1, {"loss": 0.125, "error": 0.5}, now=True)
    text = written.getvalue()
    assert "step 4" in text
    assert "loss 2.50e-01" in text
    assert "loss 1.25e-01  error 5.00e-01" in text


def test_a_method_that_meets_numbers_that_are_not_finite_says_what_is_kept(tmp_path):
    class Broken(Sine):
        factor = 1.0

        def residual(self, model, batch):
            return super().residual(model, batch) * self.factor

    def break_it(step, model):
        objective.factor = 1.0 if step < 3 else float("nan")

    objective, method = Broken(), Method((Group("*", "gauss-newton"),), points=16)
    some = {"directory": tmp_path, "checkpoint_every": 1, "on_step": break_it}
    with pytest.raises(RunError, match=r"after 3 steps the residual or its Jacobian is not finite .*; the checkpoint"):
        fit(network(), objective, method, Budget(steps=50), **some)
    assert (tmp_path / "checkpoint" / "model.safetensors").is_file()
