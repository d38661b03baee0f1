"""The cubic family: one iteration, its rounding, its settings and its chords."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lissome._errors import UsageError
from lissome.optim.arc import PRESETS, Outcome, Settings, advance, begin, minimize, preset
from lissome.optim.cubic import Exact
from lissome.optim.oracle import Oracle
from tests.optim.functions import FUNCTIONS
from tests.optim.starts import oracle_of, rosenbrock, start

DEFAULT = PRESETS["default"]
every_preset = pytest.mark.parametrize("name", PRESETS)


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
