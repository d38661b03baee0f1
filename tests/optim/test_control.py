"""What is decided in one iteration: the next regularisation, and how far momentum goes."""

import math
from dataclasses import replace

import pytest
import torch

from lissome.optim.control import CONTROLS, Trial
from lissome.optim.cubic import Exact
from lissome.optim.momentum import MOMENTA, Place
from tests.optim.starts import oracle_of, rosenbrock, start


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


def refuse(rule, sigma, trial):
    assert rule.rejected is not None
    return rule.rejected(sigma, trial)
