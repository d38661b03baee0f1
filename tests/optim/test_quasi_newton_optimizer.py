"""Quasi-Newton methods as a torch optimizer: what is kept, resumed, put back and refused."""

import copy
import math

import pytest
import torch
from torch import nn

from lissome._errors import RunError, UsageError
from lissome.optim import checkpoint
from lissome.optim.quasi_newton import LARGEST, Ending, QuasiNewton
from tests.optim.closures import closure_of, every_rule, gradient_norm, rosenbrock, seeded
from tests.optim.problems import Sine, network


def said(optimizer):
    assert optimizer.report is not None
    return optimizer.report


def least_squares(seed=0, dtype=torch.float64):
    task, model = Sine(), network(seed=seed, dtype=dtype)
    task.dtype = dtype
    batch = task.sample(seeded(1), 40)
    return model, lambda: task.loss(model, batch)


@pytest.mark.parametrize("seed", range(3))
def test_ssbroyden_fits_a_small_network_below_one_in_a_hundred_million(seed):
    model, loss = least_squares(seed)
    optimizer = QuasiNewton(model.parameters(), max_iter=200)
    optimizer.step(closure_of(optimizer, loss))
    assert float(loss().detach()) < 1e-8


@every_rule
def test_float32_falls_as_far_as_it_can(rule):
    model, loss = least_squares(dtype=torch.float32)
    optimizer = QuasiNewton(model.parameters(), rule=rule, max_iter=150)
    start = optimizer.step(closure_of(optimizer, loss))
    assert all(p.dtype == torch.float32 for p in model.parameters())
    assert optimizer.state[next(model.parameters())]["H"].dtype == torch.float32
    assert float(loss().detach()) < 1e-5 * float(start)


def test_a_step_does_one_iteration_and_returns_the_loss_it_began_with():
    model, loss = least_squares()
    optimizer = QuasiNewton(model.parameters())
    closure = closure_of(optimizer, loss)
    before = float(loss().detach())
    assert float(optimizer.step(closure)) == before
    report = said(optimizer)
    assert (report.iterations, report.evaluations, report.ending) == (1, closure.calls, Ending.MOVED)
    assert report.f == float(loss().detach()) < before
    assert report.gradient_norm == pytest.approx(gradient_norm(model.parameters(), loss), rel=1e-12)
    assert report.step_length > 0


def test_several_iterations_are_several_steps():
    (one, loss), (other, other_loss) = least_squares(), least_squares()
    single, many = QuasiNewton(one.parameters(), fresh=False), QuasiNewton(other.parameters(), max_iter=7)
    closures = closure_of(single, loss), closure_of(many, other_loss)
    for _ in range(7):
        single.step(closures[0])
    many.step(closures[1])
    assert all(torch.equal(p, q) for p, q in zip(one.parameters(), other.parameters(), strict=True))
    assert said(many).iterations == 7
    assert said(many).evaluations == closures[1].calls == closures[0].calls


def test_the_same_closure_need_not_be_evaluated_again():
    (one, loss), (other, other_loss) = least_squares(), least_squares()
    again, kept = QuasiNewton(one.parameters()), QuasiNewton(other.parameters(), fresh=False)
    closures = closure_of(again, loss), closure_of(kept, other_loss)
    for _ in range(5):
        assert float(again.step(closures[0])) == float(kept.step(closures[1]))
    assert all(torch.equal(p, q) for p, q in zip(one.parameters(), other.parameters(), strict=True))
    assert closures[0].calls == closures[1].calls + 4


def test_parameters_moved_by_others_are_evaluated_again():
    model, loss = least_squares()
    optimizer = QuasiNewton(model.parameters(), fresh=False)
    closure = closure_of(optimizer, loss)
    optimizer.step(closure)
    with torch.no_grad():
        next(model.parameters()).add_(0.1)
    now = float(loss().detach())
    assert float(optimizer.step(closure)) == now


def test_new_points_keep_the_matrix_and_not_the_loss():
    task, model = Sine(), network()
    optimizer, points = QuasiNewton(model.parameters(), max_iter=10), [task.sample(seeded(1), 40)]
    closure = closure_of(optimizer, lambda: task.loss(model, points[0]))
    optimizer.step(closure)
    own = optimizer.state[next(model.parameters())]
    H, updates = own["H"], own["updates"]
    points[0] = task.sample(seeded(2), 40)
    now = float(task.loss(model, points[0]).detach())
    assert float(optimizer.step(closure)) == now
    own = optimizer.state[next(model.parameters())]
    assert own["H"] is H
    assert own["updates"] == updates + 10


@every_rule
@pytest.mark.parametrize("fresh", [True, False])
def test_a_resumed_run_has_the_same_bits(rule, fresh, tmp_path):
    def straight_on(optimizer, loss, steps):
        closure = closure_of(optimizer, loss)
        return [float(optimizer.step(closure)) for _ in range(steps)]

    model, loss = least_squares()
    optimizer = QuasiNewton(model.parameters(), rule=rule, fresh=fresh)
    straight_on(optimizer, loss, 6)
    checkpoint.write(tmp_path / "c", model.state_dict(), {"optimizer": optimizer.state_dict()})
    expected = straight_on(optimizer, loss, 6)

    twin, twin_loss = least_squares(seed=5)
    loaded = checkpoint.read(tmp_path / "c")
    checkpoint.load_weights(twin, loaded.model)
    other = QuasiNewton(twin.parameters(), rule=rule, fresh=fresh)
    other.load_state_dict(loaded.state["optimizer"])
    assert straight_on(other, twin_loss, 6) == expected
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), twin.parameters(), strict=True))


def test_a_loaded_state_is_a_copy():
    model, loss = least_squares()
    optimizer = QuasiNewton(model.parameters())
    optimizer.step(closure_of(optimizer, loss))
    twin, twin_loss = least_squares()
    other = QuasiNewton(twin.parameters())
    other.load_state_dict(optimizer.state_dict())
    H = optimizer.state[next(model.parameters())]["H"]
    before = H.clone()
    other.step(closure_of(other, twin_loss))
    assert torch.equal(H, before)
    assert not torch.equal(other.state[next(twin.parameters())]["H"], before)


def test_a_deep_copy_goes_on_by_itself():
    model, loss = least_squares()
    optimizer = QuasiNewton(model.parameters())
    optimizer.step(closure_of(optimizer, loss))
    before = [p.detach().clone() for p in model.parameters()]
    copied_model, copied = copy.deepcopy((model, optimizer))
    batch = Sine().sample(seeded(1), 40)
    copied.step(closure_of(copied, lambda: Sine().loss(copied_model, batch)))
    assert said(copied).ending is Ending.MOVED
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))


def test_a_parameter_that_the_loss_does_not_see_stays():
    model, loss = least_squares()
    idle = nn.Parameter(torch.ones(2, dtype=torch.float64))
    optimizer = QuasiNewton([*model.parameters(), idle], max_iter=5)
    optimizer.step(closure_of(optimizer, loss))
    assert said(optimizer).ending is Ending.MOVED
    assert torch.equal(idle.detach(), torch.ones(2, dtype=torch.float64))


def test_a_cliff_on_the_way_is_gone_round():
    x = nn.Parameter(torch.tensor([1e-3], dtype=torch.float64))  # the logarithm is NaN below 0
    optimizer = QuasiNewton([x], max_iter=40)
    optimizer.step(closure_of(optimizer, lambda: (x.log() ** 2).sum()))
    torch.testing.assert_close(x.detach(), torch.ones(1, dtype=torch.float64))


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_at_the_start_moves_nothing(broken):
    x = nn.Parameter(torch.ones(3, dtype=torch.float64))
    optimizer = QuasiNewton([x])
    with pytest.raises(RunError, match=f"the loss at the start of the step is {broken} and its gradient has norm"):
        optimizer.step(closure_of(optimizer, lambda: x.sum() * broken))
    assert torch.equal(x.detach(), torch.ones(3, dtype=torch.float64))
    assert not optimizer.state


def test_an_error_in_the_closure_puts_the_parameters_back():
    x, loss = rosenbrock(4)
    before = x.detach().clone()
    optimizer = QuasiNewton([x])
    closure = closure_of(optimizer, loss)

    def breaks():
        if closure.calls == 1:
            raise KeyError("out of paper")
        return closure()

    with pytest.raises(KeyError, match="out of paper"):
        optimizer.step(breaks)
    assert torch.equal(x.detach(), before)


def test_a_step_that_finds_nothing_leaves_the_parameters_and_says_so():
    x = nn.Parameter(torch.ones(2, dtype=torch.float64))
    optimizer = QuasiNewton([x], max_iter=5, max_eval=6)

    def closure():
        x.grad = torch.ones_like(x)  # against the truth: the loss rises along it
        return -x.detach().sum()

    assert float(optimizer.step(closure)) == -2.0
    assert torch.equal(x.detach(), torch.ones(2, dtype=torch.float64))
    report = said(optimizer)
    assert (report.ending, report.iterations, report.evaluations) == (Ending.STUCK, 1, 7)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rule": "sbfgs"}, "unknown rule 'sbfgs'; legal are: bfgs, ssbfgs, ssbroyden .did you mean 'ssbfgs'"),
        ({"lr": 0.0}, "lr is 0.0; legal is a number above 0"),
        ({"lr": math.nan}, "lr is nan"),
        ({"max_iter": 0}, "max_iter is 0; legal is a whole number of at least 1"),
        ({"max_eval": 0}, "evaluations is 0"),
        ({"c1": 0.95}, "c1 is 0.95 and c2 is 0.9; legal is 0 < c1 < c2 < 1"),
    ],
)
def test_bad_options_are_sentences(options, words):
    with pytest.raises(UsageError, match=words):
        QuasiNewton([nn.Parameter(torch.zeros(2))], **options)


def test_several_groups_are_refused():
    groups = [{"params": [nn.Parameter(torch.zeros(2))]}, {"params": [nn.Parameter(torch.zeros(2))]}]
    with pytest.raises(UsageError, match="there are 2 groups of parameters; legal is one"):
        QuasiNewton(groups)


def test_more_parameters_than_a_matrix_can_serve_are_refused_with_its_bytes():
    p = nn.Parameter(torch.zeros(LARGEST + 1, dtype=torch.float64))
    with pytest.raises(UsageError, match="20,001 parameters need a matrix of 3,200,320,008 bytes; .*: take lbfgs"):
        QuasiNewton([p])
    QuasiNewton([nn.Parameter(torch.zeros(LARGEST))])  # no matrix yet


def test_the_endings_are_sentences():
    assert all(ending.value[0].isupper() and ending.value.endswith(".") for ending in Ending)


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda loss: torch.stack([loss, loss]), r"the closure returned shape \(2,\); legal is the loss"),
        (lambda loss: None, "the closure returned NoneType; legal is the loss"),
    ],
)
def test_a_closure_that_returns_no_number_is_refused(spoil, sentence):
    w = torch.nn.Parameter(torch.tensor([1.0, 2.0], dtype=torch.float64))

    def closure():
        loss = w.square().sum()
        loss.backward()
        return spoil(loss.detach())

    with pytest.raises(UsageError, match=sentence):
        QuasiNewton([w]).step(closure)
    assert w.tolist() == [1.0, 2.0]


def test_a_closure_without_a_backward_pass_is_refused():
    w = torch.nn.Parameter(torch.tensor([1.0, 2.0], dtype=torch.float64))
    with pytest.raises(UsageError, match="left no gradient in any parameter: call backward"):
        QuasiNewton([w]).step(lambda: w.square().sum())
    assert w.tolist() == [1.0, 2.0]
