"""Steps that are not finite are left out and counted, if the method says so."""

import pytest
import torch
from torch import nn

from lissome._errors import RunError, UsageError
from lissome.optim import Budget, Group, Method, fit


class Sometimes:
    """A parabola whose loss, or gradient alone, is not finite where a drawn number says so."""

    def __init__(self, often, kind):
        self.often, self.kind = often, kind

    def sample(self, generator, n):
        return {"bad": (torch.rand((), generator=generator) < self.often).float()}

    def loss(self, model, batch):
        w = model.weight
        if not batch["bad"]:
            return (w - 1).square().sum()
        if self.kind == "gradient":  # 0 at slope infinity
            return (w - w.detach()).abs().sqrt().sum()
        return w.sum() * float(self.kind)

    def evaluate(self, model):
        return {"w": model.weight.item()}


def run(often, kind="nan", skip=True, steps=40, clip=None, **more):
    torch.manual_seed(0)
    model = nn.Linear(1, 1, bias=False)
    method = Method((Group("*", "sgd", 0.1),), resample_every=1, points=1, skip=skip, clip=clip)
    return model, fit(model, Sometimes(often, kind), method, Budget(steps=steps), progress=False, **more)


@pytest.mark.parametrize("kind", ["nan", "inf", "gradient"])
@pytest.mark.parametrize("clip", [None, 1.0])
def test_bad_steps_are_left_out_and_counted(kind, clip):
    model, result = run(0.3, kind, clip=clip)
    generator = torch.Generator().manual_seed(0)
    bad = sum(float(torch.rand((), generator=generator)) < 0.3 for _ in range(40))
    assert 5 < bad == result.metrics["skipped"]
    assert result.steps == 40
    assert abs(model.weight.item() - 1) < 0.05


def test_without_it_such_a_step_ends_the_run_and_nothing_is_counted():
    with pytest.raises(RunError, match="not finite"):
        run(0.3, skip=False)
    assert "skipped" not in run(0.0, skip=False)[1].metrics


def test_steps_that_are_fine_are_the_same_with_and_without_it():
    (one, _), (two, found) = run(0.0, skip=False), run(0.0)
    assert torch.equal(one.weight, two.weight)
    assert found.metrics["skipped"] == 0


def test_a_hundred_in_a_row_end_the_run():
    with pytest.raises(RunError, match="the loss is not finite after 99 steps"):
        run(1.0, steps=500)


def test_the_count_goes_on_after_a_resume(tmp_path):
    whole, told = run(0.3, directory=tmp_path / "whole")
    run(0.3, directory=tmp_path / "cut", steps=17)
    rest, found = run(0.3, directory=tmp_path / "cut", resume=True)
    assert found.resumed_from == 17
    assert found.metrics["skipped"] == told.metrics["skipped"]
    assert torch.equal(rest.weight, whole.weight)


@pytest.mark.parametrize("skip", [1, "yes", None])
def test_what_is_neither_true_nor_false_is_refused(skip):
    with pytest.raises(UsageError, match="legal are True and False"):
        Method(skip=skip)


def test_line_searches_are_refused():
    with pytest.raises(UsageError, match="skip=True does not go with lbfgs"):
        fit(nn.Linear(1, 1), Sometimes(0, "nan"), Method((Group("*", "lbfgs"),), skip=True), Budget(steps=1))
