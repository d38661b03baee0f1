"""AdaLoRA's cubic schedule."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lissome._errors import UsageError
from lissome.allocation import Schedule


@given(st.integers(0, 30), st.integers(5, 400), st.integers(1, 60))
def test_it_begins_with_all_terms_never_rises_and_ends_at_the_budget(budget, steps, n):
    schedule = Schedule(budget, steps)
    course = [schedule.at(step, n) for step in range(steps + 1)]
    assert course[: schedule.warmup + 1] == [n] * (schedule.warmup + 1)
    assert all(later <= earlier for earlier, later in pairwise(course))
    assert course[steps - schedule.last :] == [min(budget, n)] * (schedule.last + 1)


@given(st.integers(5, 400), st.integers(1, 50))
def test_the_last_choice_is_of_the_final_budget(steps, every):
    schedule = Schedule(3, steps, every=every)
    due = [step for step in range(1, steps + 1) if schedule.due(step)]
    assert due[-1] == steps - schedule.last
    assert schedule.at(due[-1], 9) == 3


def test_the_cubic_is_that_of_the_paper():
    schedule = Schedule(8, steps=1000, warmup=100, last=100)
    assert schedule.at(500, 64) == 8 + round(56 * (1 - 400 / 800) ** 3)


@pytest.mark.parametrize(
    ("given_", "says"),
    [
        (dict(budget=-1, steps=10), "budget is -1"),
        (dict(budget=1, steps=0), "steps is 0"),
        (dict(budget=1, steps=10, warmup=-1), "warmup is -1"),
        (dict(budget=1, steps=10, warmup=6, last=4), "leave 0 to cut in"),
        (dict(budget=1, steps=10, every=0), "every is 0"),
        (dict(budget=1.5, steps=10), "budget is 1.5; legal are whole numbers"),
        (dict(budget=1, steps=None), "steps is None; legal are whole numbers"),
        (dict(budget=1, steps=10, warmup=True), "warmup is True; legal are whole numbers"),
    ],
)
def test_what_leaves_no_course_is_told(given_, says):
    with pytest.raises(UsageError, match=says):
        Schedule(**given_)
