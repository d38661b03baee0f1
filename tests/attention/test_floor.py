"""Floors count the pairs that may be seen, and no others."""

import pytest
import torch

from lissome.attention import (
    Attention,
    Dape,
    Frame,
    Validity,
    causal,
    every_kth,
    everything,
    separated,
    separators,
    sinks,
    window,
)
from lissome.attention.floor import Floor, floor


@pytest.mark.parametrize("rule", [causal, causal & window(1), causal & window(3), causal & window(50)])
@pytest.mark.parametrize(("rows", "keys"), [(1, 1), (7, 7), (1, 9), (4, 9), (9, 9), (0, 3)])
def test_pairs_are_those_that_the_rule_lets_see(rule, rows, keys):
    q, k = torch.empty(2, 4, rows, 8), torch.empty(2, 2, keys, 8)
    frame = Frame.full(keys).rows(keys - rows, keys)
    seen = int(rule(frame).sum())
    assert floor(q, k, frame, Attention(rule)) == Floor(2 * seen * 4 * 4 * 8, 2 * 4 * (q.numel() + k.numel()))


@pytest.mark.parametrize("rule", [
    separated([1], initial=1, near=3),
    causal & separators([1]),
    causal & (sinks(2) | every_kth(3) | window(2)),
    causal & (separators([1]) | window(50)),
])  # fmt: skip
@pytest.mark.parametrize(("rows", "keys"), [(1, 1), (7, 7), (1, 9), (4, 9), (0, 3)])
def test_keys_that_stay_visible_from_afar_count_text_by_text(rule, rows, keys):
    q, k = torch.empty(3, 4, rows, 8), torch.empty(3, 2, keys, 8)
    frame = Frame.full(keys, tokens=torch.randint(0, 2, (3, keys))).rows(keys - rows, keys)
    seen = int(rule(frame).expand(3, 1, rows, keys).sum())
    assert floor(q, k, frame, Attention(rule)).operations == seen * 4 * 4 * 8


@pytest.mark.parametrize("rule", [everything, every_kth(2), window(3), Validity(causal.see)])
def test_a_rule_that_says_nothing_counts_all_pairs(rule):
    q = torch.empty(1, 1, 5, 8)
    assert floor(q, q, Frame.full(5), Attention(rule)).operations == 25 * 32


def test_a_refinement_adds_its_own():
    q = torch.empty(1, 4, 5, 8)
    net = Dape(4, biased=False, kernel=3, width=6)
    plain, refined = (floor(q, q, Frame.full(5), Attention(refine=one)).operations for one in (None, net))
    assert refined - plain == 15 * 2 * (4 * 6 * 3 + 6 * 4 * 3)
    assert floor(q, q, Frame.full(5), Attention(refine=lambda s, b, v: s)).operations == plain  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("floor", "said"),
    [
        (Floor(999, 40_000), "0.999 k operations and 40 kB"),
        (Floor(3_210_000_000, 1_500_000), "3.21 G operations and 1.5 MB"),
        (Floor(4 * 10**12, 2 * 10**9), "4 T operations and 2 GB"),
    ],
)
def test_floors_are_said_in_units(floor, said):
    assert str(floor) == said
