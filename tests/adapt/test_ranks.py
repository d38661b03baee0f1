"""Which gates each rule keeps, held to its definition, and what is refused."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given

from lissome._errors import UsageError
from lissome.adapt import RULES, select_ranks
from tests.adapt.cases import blocks_of, cases, chosen, few, seeded
from tests.oracles import ranks as oracle

SCORES = {
    "diagonal": lambda case: np.diag(case.A) / 2 - case.b,
    "first_order": lambda case: np.abs(case.b),
    "adalora": lambda case: case.score,
    "magnitude": lambda case: np.abs(case.score),
}
TRUTHS = {
    "sublora": lambda case: oracle.greedy(case.b, oracle.projected(case.A), case.legal),
    "greedy": lambda case: oracle.greedy(case.b, case.A, case.legal),
    "reverse": lambda case: oracle.reverse(case.b, case.A, case.legal),
    "measured": lambda case: oracle.measured(case.b, case.A, case.legal),
    "swap": lambda case: oracle.swap(case.b, case.A, case.legal),
    "exhaustive": lambda case: oracle.exhaustive(case.b, case.A, case.legal),
    **{name: lambda case, score=score: oracle.largest(score(case), case.legal) for name, score in SCORES.items()},
}
every_truth = pytest.mark.parametrize("rule", sorted(TRUTHS))
every_rule = pytest.mark.parametrize("rule", sorted(RULES))


@every_truth
@few
@given(case=cases())
def test_each_rule_keeps_what_its_definition_keeps(rule, case):
    choice = case.choose(rule)
    kept = chosen(choice)
    assert kept == TRUTHS[rule](case)
    assert choice.predicted == oracle.change(case.b, case.A, oracle.without(len(case.b), kept))
    assert choice.gates.tolist() == [float(i in kept) for i in range(len(case.b))]


@every_rule
@few
@given(case=cases())
def test_the_budget_and_the_bounds_of_layers_are_met_exactly(rule, case):
    choice = case.choose(rule)
    assert chosen(choice) in case.legal
    assert list(choice.ranks.values()) == [len(kept) for kept in choice.kept.values()]
    assert choice.rule == rule
    assert choice.budget == case.budget
    assert choice.crossed


@few
@given(case=cases())
def test_exchanges_never_make_it_worse(case):
    best, swapped, plain = (case.choose(rule).predicted for rule in ("exhaustive", "swap", "reverse"))
    assert best <= swapped <= plain


@every_rule
@few
@given(case=cases(blocks=True))
def test_blocks_are_a_block_diagonal_matrix(rule, case):
    apart, whole = case.choose(rule, blocks_of(case)), case.choose(rule)
    assert apart.kept == whole.kept
    assert apart.predicted == whole.predicted
    assert not apart.crossed
    assert apart.certificate.endswith("; curvature between layers was left out")


def test_exhaustive_search_of_20_terms_is_no_worse_than_any_rule():
    drawn = torch.randn(20, 20, generator=seeded(), dtype=torch.float64)
    A, b = drawn + drawn.T, torch.randn(20, generator=seeded(1), dtype=torch.float64)
    found = {rule: select_ranks(b, A, 9, rule=rule).predicted for rule in ("exhaustive", "swap", "reverse", "sublora")}
    assert min(found.values()) == pytest.approx(found["exhaustive"], rel=1e-12)
    assert found["exhaustive"] < found["sublora"]


def test_many_terms_with_tight_layers_meet_their_bounds():
    drawn = torch.randn(96, 96, generator=seeded())
    layers = {f"layer {index}": 8 for index in range(12)}
    for rule in ("reverse", "sublora", "swap", "diagonal"):
        choice = select_ranks(drawn[0], drawn + drawn.T, 40, rule=rule, layers=layers, least=3, most=4)
        assert set(choice.ranks.values()) == {3, 4}
        assert sum(choice.ranks.values()) == 40


def test_most_may_leave_less_than_the_budget():
    choice = select_ranks(torch.zeros(5), torch.eye(5), 5, layers={"a": 3, "b": 2}, most={"a": 1})
    assert choice.ranks == {"a": 1, "b": 2}
    assert choice.budget == 5


@pytest.mark.parametrize("budget", [0, 3])
def test_nothing_and_everything_may_stay(budget):
    A = torch.eye(3) + 0.5
    for rule in ("reverse", "sublora", "swap", "exhaustive", "diagonal"):
        choice = select_ranks(torch.ones(3), A, budget, rule=rule, compensate=budget == 0)
        assert choice.gates.tolist() == [float(budget > 0)] * 3
        assert choice.predicted == (0.0 if budget else -3.0 + float(A.sum()) / 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_gates_have_the_dtype_of_the_gradient(dtype):
    seen = []

    def loss(gates):
        seen.append(gates.dtype)
        return gates.square().sum()

    gradient = torch.ones(3, dtype=dtype, requires_grad=True)
    choice = select_ranks(gradient, 2 * torch.eye(3), 2, rule="measured", loss=loss, compensate=True)
    assert choice.gates.dtype == dtype
    assert not choice.gates.requires_grad
    assert set(seen) == {dtype}


def test_inputs_are_left_as_they_were():
    b = torch.randn(6, generator=seeded(), dtype=torch.float64)
    A = torch.randn(6, 6, generator=seeded(1), dtype=torch.float64)
    A = A @ A.T
    A = (A + A.T) / 2
    before = b.clone(), A.clone()
    for rule in RULES:
        select_ranks(
            b, A, 3, rule=rule, magnitude=b, sensitivity=b, loss=lambda g: g.sum(), generator=seeded(), compensate=True
        )
    assert torch.equal(b, before[0])
    assert torch.equal(A, before[1])


def test_rounding_of_the_hessian_is_averaged():
    A = torch.tensor([[2.0, 1.0 + 1e-6], [1.0, 2.0]])
    assert select_ranks(torch.zeros(2), A, 0).predicted == pytest.approx(3.0 + 5e-7, abs=1e-7)


def test_large_hessians_are_averaged_as_small_ones():
    drawn = torch.randn(600, 600, generator=seeded(), dtype=torch.float64)
    A = drawn @ drawn.T / 600 + 1e-10 * drawn
    choice = select_ranks(drawn[0], A, 300)
    mean = select_ranks(drawn[0], (A + A.T) / 2, 300)
    assert choice.kept == mean.kept
    assert choice.predicted == mean.predicted
    A[599, 2] += 1.0
    with pytest.raises(UsageError, match="^hessian and its transpose differ by"):
        select_ranks(drawn[0], A, 300)


def test_random_follows_its_generator():
    options = {"rule": "random", "gradient": torch.ones(30), "hessian": torch.eye(30), "budget": 15}
    first, same, other = (select_ranks(generator=seeded(seed), **options).kept for seed in (1, 1, 2))
    assert first == same != other


I3 = torch.eye(3)


@pytest.mark.parametrize(
    ("gradient", "hessian", "budget", "options", "words"),
    [
        (torch.ones(3), I3, 4, {}, "^budget is 4; legal is a whole number from 0 to 3$"),
        (torch.ones(3), I3, -1, {}, "^budget is -1; legal is a whole number from 0 to 3$"),
        (torch.ones(3), I3, 2, {"least": 3}, "^budget is 2; legal is a whole number from 3 to 3$"),
        (torch.ones(3), I3, 1.0, {}, "^budget is 1.0; legal is a whole number"),
        (torch.ones(3), I3, True, {}, "^budget is True; legal is a whole number"),
        (torch.ones(3, 1), I3, 1, {}, r"^gradient has shape \(3, 1\); legal is \(n,\) with at least one gate$"),
        (torch.ones(0), torch.ones(0, 0), 0, {}, r"^gradient has shape \(0,\)"),
        (torch.ones(3).half(), I3, 1, {}, "^gradient is torch.float16; select in float32 or float64"),
        (torch.ones(3), I3.bfloat16(), 1, {}, "^hessian is torch.bfloat16; select in float32 or float64"),
        (torch.ones(3).long(), I3, 1, {}, "^gradient is torch.int64; select in float32"),
        (torch.tensor([1.0, math.nan, math.inf]), I3, 1, {}, "^gradient has 2 entries that are not finite"),
        (torch.ones(3), I3 / 0, 1, {}, "^hessian has 9 entries that are not finite"),
        (torch.ones(3), torch.ones(3, 2), 1, {}, r"^hessian has shape \(3, 2\); .* 3 gates, legal is one of \(3, 3\)$"),
        (torch.ones(3), torch.eye(4), 1, {}, r"^hessian has shape \(4, 4\)"),
        (torch.ones(3), [torch.eye(2), torch.eye(1)], 1, {}, r"^hessian has shape \(2, 2\), \(1, 1\);"),
        (
            torch.ones(3),
            [torch.eye(1), torch.eye(2)],
            1,
            {"layers": {"a": 2, "b": 1}},
            r"^hessian has shape \(1, 1\), \(2, 2\); legal is one per layer, \(2, 2\), \(1, 1\)$",
        ),
        (torch.ones(3), [], 1, {}, "^hessian has shape of no block"),
        (
            torch.ones(2),
            torch.tensor([[1.0, 0.1], [0.0, 1.0]]),
            1,
            {},
            "^hessian and its transpose differ by 1.0e-01 of its largest entry; legal is up to 3.5e-04",
        ),
        (
            torch.zeros(3),
            torch.zeros(3, 3),
            1,
            {},
            "neither gradient nor curvature: a LoRA whose B is still 0 .* train",
        ),
        (torch.ones(3), I3, 1, {"rule": "revers"}, "^unknown rule 'revers'; legal are: reverse, .*mean 'reverse'"),
        (torch.ones(3), I3, 1, {"rule": "adalora"}, "^rule 'adalora' needs sensitivity, and none came; legal is"),
        (torch.ones(3), I3, 1, {"rule": "magnitude"}, "^rule 'magnitude' needs magnitude"),
        (torch.ones(3), I3, 1, {"rule": "random"}, "^rule 'random' needs generator"),
        (torch.ones(3), I3, 1, {"rule": "measured"}, "^rule 'measured' needs loss"),
        (
            torch.ones(3),
            I3,
            1,
            {"magnitude": torch.ones(2)},
            r"^magnitude has shape \(2,\); legal is \(3,\), as the gr",
        ),
        (torch.ones(3), I3, 1, {"sensitivity": torch.ones(4)}, r"^sensitivity has shape \(4,\)"),
        (
            torch.ones(21),
            torch.eye(21),
            1,
            {"rule": "exhaustive"},
            "^rule 'exhaustive' .* 21 terms; legal are up to 20",
        ),
        (torch.ones(3), I3, 1, {"least": 4}, "^least is 4 for layer 'all'; legal is up to its 3 terms$"),
        (torch.ones(3), I3, 2, {"least": 2, "most": 1}, "^least is 2 for layer 'all'; legal is up to its most, 1$"),
        (torch.ones(3), I3, 2, {"least": -1}, "^least for layer 'all' is -1; legal is a whole number of at least 0$"),
        (torch.ones(3), I3, 2, {"most": 1.5}, "^most for layer 'all' is 1.5"),
        (torch.ones(3), I3, 2, {"least": {"al": 1}}, "^unknown layer of least 'al'; legal are: all"),
        (torch.ones(3), I3, 1, {"layers": {"a": 1, "b": 1}}, "^layers have 2 terms together; legal are .* 3$"),
        (torch.ones(3), I3, 1, {"layers": {"a": 3, "b": 0}}, "^number of terms of layer 'b' is 0"),
        (torch.ones(3), I3, 1, {"layers": {}}, "^layers have 0 terms together"),
        (
            torch.ones(3),
            I3 - torch.eye(3),
            1,
            {"compensate": True},
            "^compensate=True has no answer where the kept terms have a gradient and no curvature",
        ),
    ],
)
def test_bad_input_is_a_sentence(gradient, hessian, budget, options, words):
    with pytest.raises(UsageError, match=words):
        select_ranks(gradient, hessian, budget, **options)
