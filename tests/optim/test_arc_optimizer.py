"""The cubic family as a torch optimizer."""

import math

import pytest
import torch

from lissome._errors import RunError, UsageError
from lissome.optim.arc import ARC, Outcome, minimize
from tests.optim.problems import network
from tests.optim.starts import oracle_of, rosenbrock, start


class TestOptimizer:
    x = torch.linspace(-1, 1, 20, dtype=torch.float64)[:, None]

    def closure(self, model):
        return lambda: (model(self.x) - torch.sin(3 * self.x)).square().mean()

    @pytest.mark.parametrize("subproblem", ["auto", "exact", "krylov"])
    def test_a_network_is_fitted(self, subproblem):
        model = network()
        optimizer = ARC(model.parameters(), subproblem=subproblem)
        losses = [float(optimizer.step(self.closure(model))) for _ in range(30)]
        assert losses[-1] < 1e-6
        assert losses == sorted(losses, reverse=True)
        assert report(optimizer).accepted
        assert report(optimizer).before == losses[-1]
        assert (report(optimizer).products > 0) == (subproblem == "krylov")
        assert all(p.grad is None for p in model.parameters())

    def test_the_optimizer_and_the_function_agree(self):
        p = torch.nn.Parameter(start(-1.2, 1.0))
        optimizer = ARC([p])
        for _ in range(5):
            optimizer.step(lambda: rosenbrock(p))
        found = minimize(oracle_of(rosenbrock), start(-1.2, 1.0), iterations=5)
        assert torch.equal(p, found.x)

    def test_a_step_that_cannot_improve_says_so(self):
        p = torch.nn.Parameter(torch.ones(2).double())
        optimizer = ARC([p])
        optimizer.step(lambda: rosenbrock(p))
        assert not report(optimizer).accepted
        assert report(optimizer).outcome is Outcome.CONVERGED
        assert p.tolist() == [1, 1]

    def test_the_function_may_change_between_steps(self):
        p = torch.nn.Parameter(torch.zeros(2).double())
        optimizer = ARC([p])
        for target in (1.0, 5.0):
            for _ in range(8):
                optimizer.step(lambda t=target: (p - t).square().sum() + 1)
            torch.testing.assert_close(p.detach(), torch.full((2,), target).double())

    @pytest.mark.parametrize("form", [lambda B: B, lambda B: Operator(B)])
    def test_a_hessian_of_ones_own_is_used(self, form):
        p, calls = torch.nn.Parameter(start(3.0, -2.0)), []

        def hessian():
            calls.append(p.detach().clone())
            return form(torch.diag(12 * p.detach() ** 2))

        optimizer = ARC([p], hessian=hessian)
        before = p.detach().clone()
        optimizer.step(lambda: p.pow(4).sum())
        assert len(calls) == 1
        assert torch.equal(calls[0], before)
        twin = torch.nn.Parameter(before)
        ARC([twin], subproblem="exact").step(lambda: twin.pow(4).sum())
        torch.testing.assert_close(p, twin)

    def test_an_operator_without_a_matrix_cannot_be_solved_exactly(self):
        p = torch.nn.Parameter(start(3.0, -2.0))
        optimizer = ARC([p], hessian=lambda: Operator(torch.eye(2).double()), subproblem="exact")
        with pytest.raises(
            UsageError, match=r"^a Hessian of type Operator has no dense\(\), .* take 'krylov' or 'auto'$"
        ):
            optimizer.step(lambda: p.pow(4).sum())
        assert p.tolist() == [3, -2]

    def test_groups_are_one_vector_and_lr_is_not_read(self):
        a, b = (torch.nn.Parameter(start(v)) for v in (-1.2, 1.0))
        optimizer = ARC([{"params": [a]}, {"params": [b], "lr": 1e-9}], lr=1e-9)
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
        for _ in range(5):
            optimizer.step(lambda: rosenbrock(torch.cat([a, b])))
            scheduler.step()
        expected = minimize(oracle_of(rosenbrock), start(-1.2, 1.0), iterations=5).x
        assert torch.equal(torch.cat([a, b]).detach(), expected)

    def test_a_loss_that_leaves_parameters_out_is_fine(self):
        a, b = torch.nn.Parameter(torch.ones(2).double()), torch.nn.Parameter(torch.ones(3).double())
        for subproblem in ("exact", "krylov"):
            ARC([a, b], subproblem=subproblem).step(lambda: a.pow(4).sum())
        assert b.tolist() == [1, 1, 1]
        assert float(a.detach().abs().max()) < 1

    @pytest.mark.parametrize(
        ("closure", "words"),
        [
            (lambda p: 1.0, "^the closure returns a float; legal is the loss"),
            (lambda p: p * 2, r"^the closure returns a tensor of shape \(2,\); legal is a scalar"),
            (lambda p: p.detach().sum(), "^the closure returns a loss without a graph"),
            (lambda p: spent(p), "^the closure has freed its graph; return the loss without calling backward"),
        ],
    )
    def test_a_wrong_closure_is_a_sentence_and_moves_nothing(self, closure, words):
        p = torch.nn.Parameter(torch.ones(2).double())
        with pytest.raises(UsageError, match=words):
            ARC([p]).step(lambda: closure(p))
        assert p.tolist() == [1, 1]

    def test_no_closure_is_a_sentence(self):
        with pytest.raises(UsageError, match=r"^ARC\.step needs a closure"):
            ARC([torch.nn.Parameter(torch.ones(2))]).step()

    @pytest.mark.parametrize("factor", [math.nan, math.inf])
    def test_a_loss_that_is_not_finite_moves_nothing(self, factor):
        p = torch.nn.Parameter(torch.ones(2).double())
        with pytest.raises(RunError, match="^the loss is (nan|inf) .* the parameters are as they were"):
            ARC([p]).step(lambda: p.sum() * factor)
        assert p.tolist() == [1, 1]

    def test_a_trial_that_is_not_finite_is_rejected(self):
        p = torch.nn.Parameter(start(5.0, 1e-3))
        optimizer = ARC([p], sigma=1e-9)
        optimizer.step(lambda: (p - p.log()).sum())
        assert report(optimizer).rejected > 0
        assert report(optimizer).accepted

    @pytest.mark.parametrize(
        ("p", "words"),
        [
            (torch.eye(2).to_sparse().requires_grad_(), "^parameter 0 is sparse"),
            (torch.ones(2, dtype=torch.complex64, requires_grad=True), "^parameter 0 has dtype torch.complex64"),
            (torch.ones(2), "^parameter 0 does not require gradients"),
        ],
    )
    def test_parameters_of_the_wrong_kind_are_refused(self, p, words):
        with pytest.raises(UsageError, match=words):
            ARC([p])

    def test_too_many_numbers_for_the_exact_path_name_the_other(self):
        p = torch.nn.Parameter(torch.ones(6000))
        with pytest.raises(UsageError, match="there are 6000; take 'krylov'$"):
            ARC([p], subproblem="exact")
        optimizer = ARC([p])
        optimizer.step(lambda: p.pow(4).sum())
        assert report(optimizer).hessians == 0
        assert report(optimizer).products > 0

    def test_the_measured_choice_is_made_once_and_survives(self):
        p = torch.nn.Parameter(torch.ones(200).double())
        optimizer = ARC([p])
        optimizer.step(lambda: p.pow(4).sum())
        chosen = optimizer.param_groups[0]["dense"]
        assert chosen in (True, False)
        saved = optimizer.state_dict()
        saved["param_groups"][0]["dense"] = not chosen
        twin = ARC([p])
        twin.load_state_dict(saved)
        twin.state.clear()
        twin.step(lambda: p.pow(4).sum())
        assert bool(report(twin).hessians) is (not chosen)


class Operator:
    """A matrix known by its products only."""

    def __init__(self, B):
        self.B, self.shape = B, B.shape

    def __matmul__(self, other):
        return self.B @ other


def report(optimizer):
    assert optimizer.report is not None
    return optimizer.report


def spent(p):
    loss = p.pow(4).sum()
    loss.backward()
    p.grad = None
    return loss
