"""The cubic family: one iteration, its members, and the torch optimizer on top."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lissome._errors import RunError, UsageError
from lissome.optim.arc import ARC, PRESETS, Outcome, Settings, advance, begin, minimize, preset
from lissome.optim.control import CONTROLS, Trial
from lissome.optim.cubic import Exact
from lissome.optim.momentum import MOMENTA, Place
from lissome.optim.oracle import Oracle, differentiable
from tests.optim.functions import FUNCTIONS
from tests.optim.problems import network

DEFAULT = PRESETS["default"]
every_preset = pytest.mark.parametrize("name", PRESETS)


def rosenbrock(x):
    return 100 * (x[1] - x[0] ** 2) ** 2 + (1 - x[0]) ** 2


def start(*numbers, dtype=torch.float64):
    return torch.tensor(numbers, dtype=dtype)


def oracle_of(f, p=2, dtype=torch.float64, dense=True):
    return differentiable(f, torch.zeros(p, dtype=dtype), dense=dense)


class TestIteration:
    @every_preset
    def test_reports_add_up_to_what_the_oracle_counted(self, name):
        oracle = oracle_of(rosenbrock)
        found = minimize(oracle, start(-1.2, 1.0), replace(PRESETS[name], sigma=20.0), iterations=30)
        counts = oracle.counts
        assert sum(r.evaluations for r in found.history) == counts.evaluations
        assert sum(r.gradients for r in found.history) == counts.gradients
        assert sum(r.hessians for r in found.history) == counts.hessians == len(found.history)

    @pytest.mark.parametrize("name", ["default", "published", "arc", "trust"])
    @pytest.mark.parametrize("dense", [True, False])
    def test_a_rejected_step_costs_no_new_product(self, name, dense):
        settings = replace(PRESETS[name], sigma=100.0 if name == "trust" else 0.01)
        oracle = oracle_of(rosenbrock, dense=dense)
        state, report = advance(oracle, begin(start(0.0, 0.0)), settings)
        assert report.rejected > 0
        assert report.accepted
        assert (report.gradients, report.hessians, report.products) == ((1, 1, 0) if dense else (1, 0, 2))
        assert report.evaluations >= report.rejected + 1
        assert rosenbrock(state.x) < report.before

    def test_longer_steps_cost_no_new_product(self):
        settings = replace(DEFAULT, sigma=1e6, momentum="none")
        oracle = oracle_of(lambda x: x @ x)
        _, report = advance(oracle, begin(start(3.0, 4.0)), settings)
        assert report.sigma < 1.0
        assert report.evaluations > 5
        assert (report.hessians, report.gradients) == (1, 1)
        _, patient = advance(oracle, begin(start(3.0, 4.0)), replace(settings, longer=0))
        assert patient.sigma == 1e6
        assert report.f < patient.f

    @settings(max_examples=10, deadline=None)
    @given(power=st.floats(-20, 20))
    def test_scaling_f_changes_nothing_in_the_default(self, power):
        scale = 2.0 ** round(power)
        plain, scaled = (
            minimize(oracle_of(lambda x, c=c: c * rosenbrock(x)), start(-1.2, 1.0), iterations=8) for c in (1.0, scale)
        )
        torch.testing.assert_close(plain.x, scaled.x, rtol=1e-9, atol=0)

    def test_a_trial_that_is_not_finite_is_merely_rejected(self):
        def barrier(x):
            return (x - x.log()).sum()  # NaN beyond 0

        found = minimize(oracle_of(barrier), start(5.0, 1e-3), replace(DEFAULT, sigma=1e-9))
        assert found.outcome is Outcome.CONVERGED
        assert found.history[0].rejected > 0
        torch.testing.assert_close(found.x, torch.ones(2).double())

    @pytest.mark.parametrize("f", [lambda x: x.sum() * math.nan, lambda x: x.sqrt().sum(), lambda x: (1 / x).sum()])
    @pytest.mark.parametrize("dense", [True, False])
    def test_a_start_that_is_not_finite_says_so(self, f, dense):
        found = minimize(oracle_of(f, dense=dense), torch.zeros(2).double())
        assert found.outcome is Outcome.NOT_FINITE
        assert found.x.tolist() == [0, 0]

    @pytest.mark.parametrize("subproblem", ["exact", "krylov"])
    def test_a_hessian_that_is_not_finite_says_so(self, subproblem):
        oracle = Oracle(lambda x: x @ x, lambda x: (x @ x, 2 * x), lambda x: torch.full((2, 2), math.nan).to(x))
        found = minimize(oracle, start(1.0, 1.0), replace(DEFAULT, subproblem=subproblem))
        assert found.outcome is Outcome.NOT_FINITE
        assert not found.history[0].accepted

    def test_wrong_derivatives_are_a_stall_and_no_endless_loop(self):
        oracle = Oracle(lambda x: x @ x, lambda x: (x @ x, -2 * x), lambda x: torch.eye(2).double())
        found = minimize(oracle, start(1.0, 1.0))
        assert found.outcome in (Outcome.STALLED, Outcome.PRECISION)
        torch.testing.assert_close(found.x, torch.ones(2).double())

    @pytest.mark.parametrize("dense", [True, False])
    @pytest.mark.parametrize("name", ["default", "published", "arc", "trust"])
    def test_a_start_on_the_saddle_is_left(self, name, dense):
        saddle = FUNCTIONS["saddle"]
        for first in (start(1.0, 0.0, 1.0), torch.zeros(3).double()):
            found = minimize(oracle_of(saddle.f, 3, dense=dense), first, PRESETS[name], tolerance=1e-9)
            assert found.f == pytest.approx(saddle.value)

    def test_a_start_at_the_minimum_stays(self):
        found = minimize(oracle_of(rosenbrock), torch.ones(2).double())
        assert found.outcome is Outcome.CONVERGED
        assert found.x.tolist() == [1, 1]

    def test_few_iterations_say_so(self):
        found = minimize(oracle_of(rosenbrock), start(-1.2, 1.0), iterations=3)
        assert found.outcome is Outcome.ITERATIONS
        assert len(found.history) == 3

    def test_on_step_sees_every_iteration(self):
        seen = []
        found = minimize(
            oracle_of(rosenbrock), start(-1.2, 1.0), on_step=lambda state, report: seen.append((state, report))
        )
        assert [report for _, report in seen] == list(found.history)
        assert torch.equal(seen[-1][0].x, found.x)
        assert float(seen[-1][0].g.norm()) == found.gradient_norm <= 1e-6

    def test_near_a_minimum_only_newton_steps_are_left(self):
        history = minimize(oracle_of(rosenbrock), start(-1.2, 1.0), tolerance=1e-12).history
        assert history[-1].tau < 1e-3
        assert history[-1].evaluations == 1
        assert history[-1].gradient_norm < 1e-4

    def test_momentum_shortens_a_fixed_regularisation(self):
        plain, moved = (
            minimize(oracle_of(rosenbrock), start(-1.2, 1.0), replace(PRESETS[name], sigma=100.0))
            for name in ("cr", "crm")
        )
        assert plain.outcome is moved.outcome is Outcome.CONVERGED
        assert len(moved.history) < len(plain.history)


class TestRounding:
    @pytest.mark.parametrize("name", ["default", "arc", "published", "trust"])
    @pytest.mark.parametrize("seed", range(4))
    def test_float32_with_an_offset_of_1000_finishes(self, name, seed):
        generator = torch.Generator().manual_seed(seed)
        A, x = torch.randn(40, 5, generator=generator), torch.randn(5, generator=generator)
        b = torch.rand(40, generator=generator).round()

        def f(x):
            z = A.to(x) @ x
            return 1000 + (z.exp().log1p() - b.to(x) * z).mean() + 0.01 * (x.square() / (1 + x.square())).sum()

        found = minimize(oracle_of(f, 5, torch.float32), x, PRESETS[name], tolerance=1e-5, iterations=100)
        assert found.outcome is Outcome.CONVERGED
        exact = minimize(oracle_of(f, 5), found.x.double(), tolerance=1e-10)
        torch.testing.assert_close(found.x.double(), exact.x, rtol=0, atol=1e-2)

    def test_where_rounding_hides_f_a_smaller_gradient_is_accepted(self):
        centre, bend = start(-0.4, -0.03), start(2.5, 100.0)  # the model has 1 for 2.5, so that the step overshoots
        model = torch.diag(start(1.0, 100.0))
        oracle = Oracle(lambda x: 1e20, lambda x: (1e20, bend * (x - centre)), lambda x: model)
        state, report = advance(oracle, begin(start(0.0, 0.0)), replace(DEFAULT, sigma=1e-9))
        assert report.rho < 0
        assert report.accepted
        assert report.rejected == 0
        assert state.g is not None
        assert float(state.g.norm()) < 0.5 * report.gradient_norm

    @every_preset
    def test_what_float32_cannot_reach_ends_as_precision(self, name):
        found = minimize(
            oracle_of(lambda x: 1000 + (x - 1 / 3).square().sum() + 0.1 * (x - 1 / 3).pow(4).sum(), 3, torch.float32),
            torch.zeros(3),
            PRESETS[name],
            tolerance=1e-30,
            iterations=200,
        )
        assert found.outcome in (Outcome.PRECISION, Outcome.CONVERGED)
        assert found.gradient_norm < 1e-4
        torch.testing.assert_close(found.x, torch.full((3,), 1 / 3), rtol=0, atol=1e-4)


class TestSettings:
    def test_presets_by_name(self):
        assert set(PRESETS) == {"default", "published", "arc", "cr", "crm", "trust"}
        with pytest.raises(UsageError, match=r"^unknown preset 'defualt'; .*did you mean 'default'\?"):
            preset("defualt")

    def test_changes_that_are_none_keep_the_preset(self):
        assert preset("published", momentum=None, sigma=None) == PRESETS["published"]
        assert preset("published", momentum="wang").momentum == "wang"

    def test_adaptive_is_the_other_switch(self):
        assert preset("default", adaptive=False).control == "fixed"
        assert preset("cr", adaptive=True) == replace(PRESETS["published"], momentum="none")
        assert preset("arc", adaptive=True) == PRESETS["arc"]

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"momentum": "serach"}, "unknown momentum 'serach'; .*did you mean 'search'"),
            ({"control": "free"}, "unknown control 'free'"),
            ({"subproblem": "dense"}, "unknown subproblem 'dense'; legal are: auto, exact, krylov"),
            ({"sigma": -1.0}, "sigma must be None or a positive number, not -1.0"),
            ({"sigma": math.nan}, "sigma must be None or a positive number, not nan"),
            ({"theta": 1.0}, "theta 1.0 must be"),
            ({"control": "radius"}, "with control 'radius', which has no sigma, 0 alone is legal"),
        ],
    )
    def test_bad_settings_are_sentences(self, changes, words):
        with pytest.raises(UsageError, match=words):
            Settings(**changes)


class TestControl:
    step = Exact(torch.eye(2).double(), torch.ones(2).double()).cubic(1.0)

    def trial(self, rho, f=1.0, excess=0.0):
        return Trial(self.step, f, rho, excess, 0.25)

    def test_published_sigma_falls_to_the_gradient_and_doubles(self):
        rule = CONTROLS["gradient"]
        assert rule.accepted(1.0, self.trial(0.95)) == 0.25
        assert rule.accepted(0.1, self.trial(0.95)) == 0.1
        assert rule.accepted(1.0, self.trial(0.5)) == 1.0
        assert refuse(rule, 1.0, self.trial(0.0)) == 2.0

    def test_interpolation_names_the_sigma_that_would_have_foretold_the_trial(self):
        rule = CONTROLS["interpolate"]
        assert rule.start(3.0, 2.0) == pytest.approx(0.0135)
        foretold = 10 * self.step.norm**3 / 3
        assert refuse(rule, 1.0, self.trial(-1, excess=foretold)) == pytest.approx(10)
        assert refuse(rule, 1.0, self.trial(-1, excess=foretold / 100)) == 3
        assert refuse(rule, 1.0, self.trial(-1, excess=foretold * 100)) == 100
        assert refuse(rule, 1.0, self.trial(-math.inf, f=math.nan)) == 100

    def test_a_sigma_that_does_not_act_is_not_lowered(self):
        rule = CONTROLS["interpolate"]
        assert rule.accepted(1.0, self.trial(0.95)) == 0.5
        idle = replace(self.trial(0.95), step=replace(self.step, slope=-1.0, curvature=0.995))
        assert rule.accepted(1.0, idle) == 1.0

    def test_a_radius_grows_at_the_boundary_only(self):
        rule, norm = CONTROLS["radius"], self.step.norm
        assert rule.accepted(norm, self.trial(0.8)) == 2 * norm
        assert rule.accepted(3 * norm, self.trial(0.8)) == 3 * norm
        assert rule.accepted(norm, self.trial(0.2)) == norm / 4
        assert refuse(rule, norm, self.trial(0.0)) == norm / 4


class TestChords:
    """Steps after a Newton step that use its Hessian again."""

    def test_they_reach_the_minimum_with_fewer_hessians(self):
        spent = []
        for chords in (0, 2):
            oracle = oracle_of(lambda x: x.cosh().log().sum() + (x[0] - 1).square())
            found = minimize(oracle, start(0.4, 0.3), replace(PRESETS["default"], chords=chords), tolerance=1e-12)
            assert found.outcome is Outcome.CONVERGED
            assert all(report.f <= report.before for report in found.history)
            spent.append(oracle.counts.hessians)
        assert spent[1] < spent[0]

    def test_one_that_takes_too_little_away_is_not_taken(self):
        # the third derivative is all there is: a Hessian of the point before gains less than nine tenths
        oracle = oracle_of(lambda x: (x**4).sum())
        state = replace(begin(start(1.0, 1.0)), sigma=1e-16)
        after, report = advance(oracle, state, PRESETS["default"])
        torch.testing.assert_close(after.x, start(2 / 3, 2 / 3))
        assert report.gradients == 3  # at the start, at the end, and of the step that was not taken
        assert float(after.g.norm()) == pytest.approx(4 * (2 / 3) ** 3 * 2**0.5)

    def test_an_aimed_subproblem_is_that_of_the_new_gradient(self):
        B, g = torch.diag(torch.linspace(1, 3, 40)).double(), torch.ones(40).double()
        for shift in (0.0, 2.0):
            again = Exact(B - shift * torch.eye(40), g)
            again.aim(-2 * g)
            torch.testing.assert_close(again.cubic(0.7).s, Exact(B - shift * torch.eye(40), -2 * g).cubic(0.7).s)


class TestMomentum:
    def moved(self, name, f, y, d, s=None, tau=0.5):
        s = d if s is None else s
        return MOMENTA[name](oracle_of(f), Place(y, float(f(y)), s, tau, y - d))

    @pytest.mark.parametrize("name", MOMENTA)
    def test_no_rule_lets_f_rise(self, name):
        y, d = start(1.0, 1.0), start(1.0, 0.0)
        assert self.moved(name, lambda x: (x - 1).square().sum(), y, d).f == 0
        assert self.moved(name, rosenbrock, start(-1.2, 1.0), d).f <= float(rosenbrock(start(-1.2, 1.0)))

    def test_beta_by_rule(self):
        f, y, d = (lambda x: -x.sum()), torch.zeros(2).double(), start(0.3, 0.4)
        assert self.moved("none", f, y, d).beta == 0
        assert self.moved("fixed", f, y, d).beta == 0.9
        assert self.moved("published", f, y, d).beta == 0.5
        assert self.moved("published", f, y, d, s=10 * d).beta == 0.9
        assert self.moved("wang", lambda x: f(x) / 10, y, d).beta == pytest.approx(0.1 * 2**0.5)

    def test_search_doubles_as_long_as_f_falls(self):
        moved = self.moved("search", lambda x: (x - 5).square().sum(), torch.zeros(2).double(), torch.ones(2).double())
        assert moved.beta == 4
        assert moved.f == 2

    @pytest.mark.parametrize("name", ["search", "plane"])
    def test_a_newton_step_is_not_moved(self, name):
        oracle = oracle_of(lambda x: x.sum())
        MOMENTA[name](oracle, Place(start(1.0, 1.0), 2.0, start(1.0, 0.0), 0.001, start(0.0, 1.0)))
        assert oracle.counts.evaluations == oracle.counts.gradients == 0

    def test_plane_minimises_over_the_plane(self):
        def f(x):
            return (x - start(2.0, -1.0)).pow(4).sum() + (x - start(2.0, -1.0)).square().sum()

        y, d, s = torch.zeros(2).double(), start(1.0, 0.2), start(0.1, 1.0)
        plane, line = self.moved("plane", f, y, d, s), self.moved("search", f, y, d, s)
        assert plane.f < 0.2 < 2 < line.f
        assert self.moved("plane", rosenbrock, start(-1.2, 1.0), start(1.0, 1.0), s=start(2.0, 2.0)).f < 24


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


def refuse(rule, sigma, trial):
    assert rule.rejected is not None
    return rule.rejected(sigma, trial)


def report(optimizer):
    assert optimizer.report is not None
    return optimizer.report


class Operator:
    """A matrix known by its products only."""

    def __init__(self, B):
        self.B, self.shape = B, B.shape

    def __matmul__(self, other):
        return self.B @ other


def spent(p):
    loss = p.pow(4).sum()
    loss.backward()
    p.grad = None
    return loss
