"""Ranks, wins and the critical difference, against slow counts and published figures."""

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lissome.recipes.standings import errors, scatters, standings, told_apart, wins


def row(name, error, *, family="f", target="near", seed=0):
    return {"name": name, "error": error, "family": family, "target": target, "seed": seed}


def slow_rank(error, errors):
    """One more than those below, ties shared."""
    below, same = sum(e < error for e in errors), sum(e == error for e in errors)
    return below + (same + 1) / 2


tables = st.integers(2, 4).flatmap(
    lambda k: st.lists(
        st.lists(st.sampled_from([0.1, 0.2, 0.4, 0.8, None]), min_size=k, max_size=k), min_size=1, max_size=5
    )
)


@settings(max_examples=40, deadline=None)
@given(tables)
def test_mean_ranks_and_wins_are_counts(table):
    rows = [row(f"c{i}", error, family=f"f{j}") for j, errors in enumerate(table) for i, error in enumerate(errors)]
    known = [[math.inf if e is None else e for e in errors] for errors in table]
    found = {each.name: each for each in standings(rows)}
    for i in range(len(table[0])):
        own = found[f"c{i}"]
        assert own.rank == pytest.approx(sum(slow_rank(e[i], e) for e in known) / len(known))
        assert own.wins == sum(e[i] == min(e) < math.inf for e in known)
        assert own.failed == sum(e[i] == math.inf for e in known)
    names = sorted(found)
    for (i, one), (j, other) in itertools.permutations(enumerate(names), 2):
        won, both = wins(errors(rows), names)[i][j]
        assert (won, both) == (sum(e[int(one[1])] < e[int(other[1])] for e in known), len(known))


def test_errors_are_geometric_means_over_seeds_and_one_failed_seed_fails_them():
    rows = [row("a", 0.1, seed=0), row("a", 0.9, seed=1), row("b", 0.2, seed=0), row("b", 0.2, seed=1)]
    assert [each.name for each in standings(rows)] == ["b", "a"]  # 0.2 against 0.3
    rows = [row("a", 0.1, seed=0), row("a", None, seed=1), row("b", 0.5, seed=0), row("b", 0.5, seed=1)]
    first, second = standings(rows)
    assert (first.name, first.factor, second.failed) == ("b", 1.0, 1)


def test_the_spread_over_seeds_ranks_each_seed_by_itself():
    rows = [row("a", 0.1, seed=0), row("a", 0.3, seed=1), row("b", 0.2, seed=0), row("b", 0.2, seed=1)]
    assert {(each.name, each.low, each.high) for each in standings(rows)} == {("a", 1, 2), ("b", 1, 2)}


@settings(max_examples=30, deadline=None)
@given(st.lists(st.one_of(st.none(), st.floats(1e-6, 1e3)), min_size=1, max_size=5), st.floats(0.1, 10.0))
def test_the_spread_over_seeds_is_a_factor_that_no_scale_changes(errors, scale):
    fine = [error for error in errors if error is not None]
    (found,), (other,) = (
        scatters([row("a", e and by * e, seed=seed) for seed, e in enumerate(errors)])["f", "near"].values()
        for by in (1.0, scale)
    )
    assert (found.seeds, found.failed) == (len(errors), len(errors) - len(fine))
    assert found.mean == (pytest.approx(math.prod(fine) ** (1 / len(fine))) if fine else math.inf)
    assert (found.factor is None) == (len(fine) < 2)
    if found.factor is not None:
        logs = [math.log(error) for error in fine]
        mean = sum(logs) / len(logs)
        variance = sum((each - mean) ** 2 for each in logs) / (len(logs) - 1)
        assert found.factor == pytest.approx(math.exp(math.sqrt(variance)), rel=1e-6)
        assert other.factor == pytest.approx(found.factor, rel=1e-6)


def test_the_seeds_of_a_contestant_are_the_fewest_of_its_members():
    rows = [row("a", 0.1, seed=seed) for seed in range(3)] + [row("a", 0.1, family="g"), row("b", 0.2, seed=0)]
    assert {each.name: each.seeds for each in standings(rows)} == {"a": 1, "b": 1}
    assert standings(rows[:3])[0].seeds == 3


def test_who_was_not_in_a_block_is_not_ranked_there():
    rows = [row("a", 0.1), row("b", 0.2), row("b", 0.2, family="g"), row("c", 0.1, family="g")]
    found = {each.name: (each.rank, each.blocks) for each in standings(rows)}
    assert found == {"a": (1.0, 1), "b": (2.0, 2), "c": (1.0, 1)}


def test_the_critical_difference_is_the_published_one():
    # J. Demsar 2006, section 3.2.2: four classifiers, 14 data sets, q = 2.569, CD = 1.25
    rows = [row(f"c{i}", 0.1 + i, family=f"f{j}") for i in range(4) for j in range(14)]
    found = told_apart(rows)
    assert (found.contestants, found.blocks) == (4, 14)
    assert found.difference == pytest.approx(1.25, abs=0.005)
    assert found.p < 1e-6


def test_equals_are_not_told_apart_and_too_few_are_not_tested():
    rows = [row(f"c{i}", 0.1, family=f"f{j}") for i in range(3) for j in range(4)]
    assert told_apart(rows).p == 1
    assert told_apart(rows[:8]) is None
    assert told_apart([row(f"c{i}", 0.1) for i in range(3)]) is None
