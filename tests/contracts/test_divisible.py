"""What an objective promises that can be cut into parts: they are the batch, to rounding."""

import pytest
import torch

from lissome._types import Divisible, Objective
from tests.optim.words import Decoder, Words

# a new member joins by one line: an objective, and a model in float64
MEMBERS = {"words": lambda: (Words(), Decoder())}
every_member = pytest.mark.parametrize("member", MEMBERS)


def begin(member):
    objective, model = MEMBERS[member]()
    return objective, model, objective.sample(torch.Generator().manual_seed(1), 7)


def loss_and_gradient(model, loss):
    trained = [p for p in model.parameters() if p.requires_grad]
    return [loss.detach(), *torch.autograd.grad(loss, trained, allow_unused=True, materialize_grads=True)]


@every_member
def test_it_is_an_objective_that_can_be_divided(member):
    objective, _, _ = begin(member)
    assert isinstance(objective, Objective)
    assert isinstance(objective, Divisible)


@every_member
@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_loss_and_gradient_are_the_weighted_sums_of_the_parts(member, count):
    objective, model, batch = begin(member)
    parts = objective.divide(batch, count)
    assert len(parts) == count
    assert sum(weight for _, weight in parts) == pytest.approx(1.0, rel=1e-12)
    whole = loss_and_gradient(model, objective.loss(model, batch))
    summed = loss_and_gradient(model, sum(weight * objective.loss(model, part) for part, weight in parts))
    torch.testing.assert_close(summed, whole, rtol=1e-9, atol=1e-12)


@every_member
def test_the_same_batch_is_cut_the_same_way_each_time_and_left_as_it_is(member):
    objective, _, batch = begin(member)
    kept = {name: value.clone() for name, value in batch.items()}
    first, second = objective.divide(batch, 3), objective.divide(batch, 3)
    for (one, weight), (other, same) in zip(first, second, strict=True):
        assert weight == same
        assert all(torch.equal(one[name], other[name]) for name in one)
    assert all(torch.equal(batch[name], kept[name]) for name in kept)
