"""Step lengths by the strong Wolfe conditions."""

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lissome._errors import UsageError
from lissome.optim.line_search import Search, Trial, Verdict, interpolate, search


class Line:
    """A function of the step length that remembers where it was asked."""

    def __init__(self, f, slope):
        self.f, self.slope, self.asked = f, slope, []

    def at(self, t):
        return Trial(t, self.f(t), self.slope(t))

    def __call__(self, t):
        self.asked.append(t)
        return self.at(t)


def satisfied(trial, start, c1=1e-4, c2=0.9):
    return trial.f <= start.f + c1 * trial.t * start.slope and abs(trial.slope) <= c2 * abs(start.slope)


# after More and Thuente, ACM Trans. Math. Softw. 20 (1994), functions 5.1 and 5.2, and two of our own
LINES = {
    "one valley": Line(lambda t: -t / (t * t + 2), lambda t: (t * t - 2) / (t * t + 2) ** 2),
    "sharp bend": Line(lambda t: (t + 0.1) ** 5 - 2 * (t + 0.1) ** 4, lambda t: (t + 0.1) ** 3 * (5 * t - 7.5)),
    "waves": Line(lambda t: math.cos(3 * t) - t / 2 + t * t / 50, lambda t: -3 * math.sin(3 * t) - 1 / 2 + t / 25),
    "parabola": Line(lambda t: (t - 3) ** 2, lambda t: 2 * (t - 3)),
}


@settings(max_examples=60, deadline=None)
@given(name=st.sampled_from(sorted(LINES)), power=st.floats(-4, 4), c2=st.floats(0.1, 0.9))
def test_an_accepted_step_satisfies_both_conditions(name, power, c2):
    line = LINES[name]
    found = search(line, line.at(0.0), 10.0**power, Search(c2=c2, evaluations=100))
    assert found.verdict is Verdict.WOLFE
    assert satisfied(found.trial, line.at(0.0), c2=c2)


def test_every_evaluation_is_counted():
    line = Line(lambda t: (t - 3) ** 2, lambda t: 2 * (t - 3))
    found = search(line, line.at(0.0), 1e-3, Search(c2=1e-3))
    assert found.evaluations == len(line.asked) > 1


def test_a_good_first_step_costs_one_evaluation():
    line = Line(lambda t: (t - 3) ** 2, lambda t: 2 * (t - 3))
    found = search(line, line.at(0.0), 2.0)
    assert (found.trial.t, found.evaluations) == (2.0, 1)


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("edge", [2.0, 0.02, 1e-6])
def test_a_trial_that_is_not_finite_is_too_long(broken, edge):
    line = Line(lambda t: -t if t < edge else broken, lambda t: -1 + t / edge if t < edge else broken)
    found = search(line, line.at(0.0), 10.0)
    assert found.verdict is Verdict.WOLFE
    assert 0 < found.trial.t < edge
    assert found.evaluations <= 9  # a tenth each time


def test_a_huge_value_is_no_obstacle():
    line = Line(lambda t: (t - 1) ** 2 + 1e250 * (t > 5), lambda t: 2 * (t - 1) + 1e250 * (t > 5))
    found = search(line, line.at(0.0), 100.0)
    assert found.verdict is Verdict.WOLFE
    assert found.trial.t <= 5


def test_a_rise_after_a_fall_is_not_passed_over():
    line = Line(lambda t: -10.0 * (t > 0) + 5.0 * (t > 1), lambda t: -1.0)  # never flat, and lowest up to 1
    found = search(line, line.at(0.0), 1.0, Search(evaluations=8))
    assert (found.verdict, found.trial.f) == (Verdict.DECREASE, -10.0)
    assert max(line.asked) == line.asked[1]


def test_a_finite_value_with_a_broken_slope_is_too_long():
    line = Line(lambda t: (t - 1) ** 2, lambda t: 2 * (t - 1) if t < 1.5 else math.nan)
    found = search(line, line.at(0.0), 1.9)
    assert found.verdict is Verdict.WOLFE
    assert found.trial.t < 1.5


def test_a_line_that_only_rises_fails_at_its_start():
    line = Line(lambda t: t, lambda t: 1.0)
    start = Trial(0.0, 0.0, -1.0)  # a slope that is wrong, as rounding makes it
    found = search(line, start, 1.0)
    assert found.verdict is Verdict.FAILED
    assert found.trial is start
    assert found.evaluations == len(line.asked) <= 25


def test_a_search_without_end_stops_with_what_it_has():
    line = Line(lambda t: -t, lambda t: -1.0)  # falls for ever, and never flattens
    found = search(line, line.at(0.0), 1.0, Search(evaluations=5))
    assert found.verdict is Verdict.DECREASE
    assert found.evaluations == len(line.asked) == 5
    assert found.trial.t == max(line.asked)


def test_bracketing_grows_within_its_reach():
    line = Line(lambda t: -t, lambda t: -1.0)
    search(line, line.at(0.0), 1.0, Search(evaluations=4))
    stretches = [b - a for a, b in itertools.pairwise([0.0, *line.asked])]
    assert all(1.1 * a <= b <= 4 * a for a, b in itertools.pairwise(stretches))


def test_equal_values_are_decided_by_the_slope_where_rounding_is_allowed():
    eps = 2.0**-52
    line = Line(lambda t: 1 + eps * (t > 0), lambda t: 1e-17 * (t - 1))  # all that is left of 1 + 1e-17 (t - 1)^2 / 2
    assert search(line, line.at(0.0), 1.0).verdict is Verdict.FAILED
    found = search(line, line.at(0.0), 1.0, Search(rounding=2 * eps))
    assert (found.verdict, found.trial.t) == (Verdict.WOLFE, 1.0)


@settings(max_examples=40, deadline=None)
@given(
    least=st.floats(-3, 3),
    width=st.floats(0.5, 3),
    ends=st.tuples(st.floats(-2, 2), st.floats(-2, 2)).filter(lambda pair: abs(pair[0] - pair[1]) > 0.1),
)
def test_interpolation_finds_the_minimum_of_a_cubic(least, width, ends):
    def cubic(t):
        return Trial(t, (t - least) ** 3 / 3 + width * (t - least) ** 2, (t - least) ** 2 + 2 * width * (t - least))

    assert interpolate(cubic(ends[0]), cubic(ends[1])) == pytest.approx(least, abs=1e-6)


@pytest.mark.parametrize(
    "pair",
    [
        (Trial(0.0, 0.0, 1.0), Trial(1.0, 1.0, 1.0)),  # a straight line
        (Trial(0.0, 0.0, -1.0), Trial(1.0, math.inf, 1.0)),
        (Trial(1.0, 0.0, -1.0), Trial(1.0, 0.0, -1.0)),
        (Trial(0.0, 0.0, -1.0), Trial(1.0, 1e250, 1e250)),
        (Trial(0.0, 0.0, 1.0), Trial(1.0, 0.8, 1.0)),  # rises throughout
    ],
)
def test_no_minimum_is_none(pair):
    assert interpolate(*pair) is None


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"c1": 0.0}, "c1 is 0.0 and c2 is 0.9; legal is 0 < c1 < c2 < 1"),
        ({"c1": 0.5, "c2": 0.4}, "c1 is 0.5 and c2 is 0.4"),
        ({"c2": 1.0}, "c2 is 1.0"),
        ({"evaluations": 0}, "evaluations is 0; legal is a whole number of at least 1"),
    ],
)
def test_bad_settings_are_sentences(settings, words):
    with pytest.raises(UsageError, match=words):
        Search(**settings)
