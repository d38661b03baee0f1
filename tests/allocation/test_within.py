"""Adapted networks within another module, such as a hard constraint: terms are weighed by what the whole computes."""

import pytest
import torch
from torch import nn

from lissome._errors import UsageError
from lissome.adapt import adapt
from lissome.allocation import AdaptedTerms, JointRanks, Schedule, choose
from lissome.models import MLP
from lissome.optim import Budget, Group, Method, fit
from lissome.pde import Problem, load_family
from tests.allocation.trained import landed, seeded

ADAM = Method((Group(lr=3e-3),), resample_every=1)


def constrained(method="lora"):
    """Return a problem, an adapted network, and that under the values of the boundary."""
    problem = Problem(load_family("heat")(), constraint="boundary", points={"interior": 24, "initial": 8})
    network = MLP(problem.inputs, width=8, depth=3, offset=problem.offset, generator=seeded()).to(problem.dtype)
    adapted = adapt(network, method, rank=2, generator=seeded(1))
    return problem, adapted, problem.wrap(adapted)


def test_the_cut_model_wrapped_again_has_the_loss_that_was_measured():
    problem, _, wrapped = constrained()
    fit(wrapped, problem, ADAM, Budget(steps=30), progress=False)
    data = [problem.sample(seeded(seed)) for seed in range(2)]
    terms = AdaptedTerms(wrapped)
    found = choose(terms, problem.loss, data, 2, residual=problem.residual)
    kept = {layer: torch.tensor(indices, dtype=torch.long) for layer, indices in found.choice.kept.items()}
    cut = problem.wrap(terms.cut(found.rotations, kept, found.choice.values))
    after = sum(float(problem.loss(cut, batch).detach()) for batch in data) / len(data)
    assert after == pytest.approx(landed(found.choice), rel=1e-9)
    whole = sum(float(problem.loss(wrapped, batch).detach()) for batch in data) / len(data)
    assert found.choice.before == pytest.approx(whole, rel=1e-9)


def test_ranks_are_chosen_in_training_by_what_the_whole_computes():
    problem, adapted, wrapped = constrained()
    ranks = JointRanks(wrapped, problem, Schedule(2, steps=30), points=24)
    fit(wrapped, problem, ADAM, Budget(steps=30), on_step=ranks, progress=False)
    assert sum(int(form.gates.sum()) for form in adapted.forms().values()) == 2
    batch = problem.sample(seeded(5))
    torch.testing.assert_close(
        problem.loss(problem.wrap(ranks.gated.finished()), batch), problem.loss(wrapped, batch), rtol=1e-9, atol=0
    )


def test_what_is_not_there_or_there_twice_is_told():
    _, adapted, _ = constrained()
    with pytest.raises(UsageError, match="^the Linear holds 0 adapted networks; legal is one"):
        AdaptedTerms(nn.Linear(2, 2))
    with pytest.raises(UsageError, match="^the Sequential holds 2 adapted networks"):
        AdaptedTerms(nn.Sequential(adapted, constrained()[1]))


def test_forms_that_subtract_their_start_are_written_anew_before_they_are_wrapped():
    problem, adapted, wrapped = constrained("pissa")
    with pytest.raises(UsageError, match=r"^forms of kind 'pissa' subtract their start; wrap AdaptedTerms"):
        AdaptedTerms(wrapped)
    again = problem.wrap(AdaptedTerms(adapted).model)
    batch = problem.sample(seeded(5))
    torch.testing.assert_close(problem.loss(again, batch), problem.loss(wrapped, batch), rtol=1e-9, atol=1e-12)
    assert AdaptedTerms(again).model is again
