import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lissome._errors import RunError, UsageError
from lissome.adapt import RULES, select_ranks, smoothed
from lissome.adapt.quadratic import Quadratic
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
few = settings(max_examples=25, deadline=None)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


class Case:
    """Whole numbers, so that sums are exact and ties are ties; layers and their bounds."""

    def __init__(self, b, A, score, sizes, least, most, budget):
        self.b, self.A, self.score = (np.asarray(x, dtype=float) for x in (b, A, score))
        self.sizes, self.least, self.most, self.budget = sizes, least, most, budget
        self.legal = oracle.finals(sizes, least, most, budget)

    def loss(self, gates):
        return oracle.model(self.b, self.A, gates)

    def choose(self, rule, hessian=None, **options):
        names = [f"layer {index}" for index in range(len(self.sizes))]
        return select_ranks(
            torch.from_numpy(self.b),
            torch.from_numpy(self.A) if hessian is None else hessian,
            self.budget,
            rule=rule,
            layers=dict(zip(names, self.sizes, strict=True)),
            least=dict(zip(names, self.least, strict=True)),
            most=dict(zip(names, self.most, strict=True)),
            magnitude=torch.from_numpy(self.score),
            sensitivity=torch.from_numpy(self.score),
            loss=self.loss,
            generator=seeded(),
            **options,
        )


@st.composite
def cases(draw, *, safe=False, bounded=True, blocks=False):
    sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=3).filter(lambda s: sum(s) <= 7))
    n = sum(sizes)
    whole = st.integers(-6, 6)
    upper = np.array(draw(st.lists(whole, min_size=n * n, max_size=n * n)), dtype=float).reshape(n, n)
    A = np.triu(upper) + np.triu(upper, 1).T
    b = np.array(draw(st.lists(whole, min_size=n, max_size=n)), dtype=float)
    if safe:
        np.fill_diagonal(A, np.abs(np.diag(A)))
        b = np.minimum(b, np.diag(A) / 2)
    if blocks:
        owner = np.repeat(np.arange(len(sizes)), sizes)
        A[owner[:, None] != owner] = 0.0
    if not b.any() and not A.any():
        A[0, 0] = 1.0
    score = draw(st.lists(whole, min_size=n, max_size=n))
    least = [draw(st.integers(0, s)) if bounded else 0 for s in sizes]
    most = [draw(st.integers(low, s + 1)) if bounded else s for low, s in zip(least, sizes, strict=True)]
    return Case(b, A, score, sizes, least, most, draw(st.integers(sum(least), n)))


def chosen(choice):
    """Return the kept terms, numbered over all layers."""
    starts = np.cumsum([0, *choice.layers.values()])
    return tuple(int(start) + i for start, kept in zip(starts, choice.kept.values(), strict=False) for i in kept)


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


def blocks_of(case):
    ends = np.cumsum(case.sizes)
    return [
        torch.from_numpy(case.A[stop - size : stop, stop - size : stop])
        for size, stop in zip(case.sizes, ends, strict=True)
    ]


@few
@given(case=cases(blocks=True))
def test_blocks_are_compensated_as_a_block_diagonal_matrix(case):
    assume(solvable(case, chosen(case.choose("reverse"))))
    whole, apart = (case.choose("reverse", hessian, compensate=True) for hessian in (None, blocks_of(case)))
    assert apart.damping == pytest.approx(whole.damping)
    torch.testing.assert_close(apart.gates, whole.gates, rtol=1e-6, atol=1e-6)


@few
@given(case=cases())
def test_compensation_solves_for_the_kept_gates(case):
    plain = case.choose("reverse")
    kept = list(chosen(plain))
    assume(solvable(case, kept))
    choice = case.choose("reverse", compensate=True)
    assert choice.kept == plain.kept
    if choice.damping:
        inner = case.A[np.ix_(kept, kept)]
        start, lowest = 1e-6 * np.abs(np.diag(inner)).mean(), np.linalg.eigvalsh(inner)[0]
        assert lowest + choice.damping / 2 > -1e-9
        assert choice.damping == pytest.approx(start) or lowest + choice.damping / 20 < 1e-9
    truth = oracle.compensated(case.b, case.A, kept, choice.damping) if choice.damping else plain.gates.numpy()
    np.testing.assert_allclose(choice.gates.numpy(), truth, rtol=1e-6, atol=1e-6)
    assert choice.predicted == pytest.approx(case.loss(choice.gates.tolist()), rel=1e-6, abs=1e-6)
    assert choice.predicted <= plain.predicted + 1e-9


def solvable(case, kept):
    """Say whether the kept terms have a curvature, or nothing to compensate."""
    kept, cut = list(kept), list(oracle.without(len(case.b), kept))
    slope = case.b[kept] - case.A[np.ix_(kept, cut)].sum(1)
    return bool(np.diag(case.A)[kept].any()) or not slope.any()


@pytest.mark.parametrize("curvature", [-1.0, -3.0, -0.7])
def test_a_damping_never_just_cancels_a_negative_curvature(curvature):
    A = torch.diag(torch.tensor([curvature, curvature], dtype=torch.float64))
    choice = select_ranks(torch.ones(2, dtype=torch.float64), A, 1, compensate=True)
    assert choice.damping == pytest.approx(-10 * curvature)
    assert choice.values["all"].item() == pytest.approx(1 + 1 / (9 * curvature))


def test_compensated_change_is_the_surgeons_formula():
    drawn = torch.randn(9, 6, generator=seeded(1), dtype=torch.float64)
    A, b = drawn.T @ drawn, torch.randn(6, generator=seeded(2), dtype=torch.float64)
    choice = select_ranks(b, A, 3, compensate=True)
    S, C = list(choice.kept["all"]), list(oracle.without(6, choice.kept["all"]))
    slope = b[S] - A[S][:, C].sum(1)
    formula = -b[C].sum() + A[C][:, C].sum() / 2 - slope @ torch.linalg.solve(A[S][:, S], slope) / 2
    assert choice.predicted == pytest.approx(float(formula), rel=1e-5)
    assert choice.values["all"].tolist() == choice.gates[S].tolist() != [1.0, 1.0, 1.0]


def test_a_compensated_gate_may_be_0_and_its_term_still_stays():
    choice = select_ranks(torch.zeros(2), torch.tensor([[1.0, -1.0], [-1.0, 1.0]]), 1, compensate=True)
    assert choice.ranks == {"all": 1}
    assert choice.values["all"].abs().max() < 1e-5


def test_gains_on_the_path_alone_give_no_bound():
    A = torch.zeros(6, 6, dtype=torch.float64)
    A[0, 1:] = A[1:, 0] = 1.0
    A[0, 0] = -7.8
    b = torch.zeros(6, dtype=torch.float64)
    nothing = oracle.change(b, A, range(6))
    for rule in ("greedy", "sublora"):
        choice = select_ranks(b, A, 4, rule=rule)
        assert nothing - choice.predicted == pytest.approx(1.1)
    assert nothing - select_ranks(b, A, 4, rule="exhaustive").predicted == pytest.approx(4.0)
    assert "1 - 1/e does not hold: 1 of 6 diagonal entries are negative, this is no minimum" in choice.certificate


@few
@given(case=cases(safe=True, bounded=False))
def test_the_bound_holds_where_it_is_claimed(case):
    choice = case.choose("sublora")
    assert "the bound 1 - 1/e holds:" in choice.certificate
    assert within(case, choice, 1 / math.e)


@few
@given(case=cases(safe=True))
def test_half_is_claimed_where_layers_have_bounds(case):
    choice = case.choose("sublora")
    fraction = 1 / math.e if "the bound 1 - 1/e holds:" in choice.certificate else 1 / 2
    assert fraction != 1 / 2 or "the bound 1/2 holds, 1/2 since layers have bounds" in choice.certificate
    assert within(case, choice, fraction)


@few
@given(case=cases(bounded=False))
def test_no_bound_is_claimed_unless_the_curvature_allows_it(case):
    choice, diagonal = case.choose("sublora"), np.diag(case.A)
    safe = bool((diagonal >= 0).all() and (diagonal / 2 >= case.b).all())
    assert ("1 - 1/e holds" in choice.certificate) == safe
    assert ("1 - 1/e does not hold" in choice.certificate) == (not safe)
    assert not safe or within(case, choice, 1 / math.e)


def within(case, choice, fraction):
    """Say whether the projected model at a choice is near its best set, by looking at all of them."""
    n, A = len(case.b), oracle.projected(case.A)
    best = oracle.change(case.b, A, oracle.without(n, oracle.exhaustive(case.b, A, case.legal)))
    found = oracle.change(case.b, A, oracle.without(n, chosen(choice)))
    return found <= best + fraction * (oracle.change(case.b, A, range(n)) - best) + 1e-9


def test_half_is_all_that_greedy_may_reach_where_layers_have_bounds():
    """Keeping j gains -b_j and the pairs that it is the first to touch; of the first two terms one may stay."""
    b, A = torch.tensor([0.0, -1.0, 0.0]), torch.zeros(3, 3)
    A[0, 2] = A[2, 0] = 1.0
    layers, most = {"pair": 2, "other": 1}, {"pair": 1}
    found, best = (select_ranks(b, A, 2, rule=rule, layers=layers, most=most) for rule in ("sublora", "exhaustive"))
    assert "the bound 1/2 holds" in found.certificate
    nothing = select_ranks(b, A, 0).predicted
    assert (nothing - found.predicted, nothing - best.predicted) == (1.0, 2.0)


@few
@given(case=cases(bounded=False))
def test_submodular_is_no_negative_pair(case):
    n = len(case.b)
    off = case.A[~np.eye(n, dtype=bool)]
    assert oracle.submodular(case.b, case.A) == bool((off >= 0).all())
    model = Quadratic(case.b, (case.A,)).projected()
    assert np.array_equal(model.blocks[0], oracle.projected(case.A))
    assert oracle.submodular(case.b, model.blocks[0])


@few
@given(case=cases(), seed=st.integers(0, 100))
def test_projection_is_the_nearest(case, seed):
    n = len(case.b)
    other = np.random.default_rng(seed).normal(size=(n, n)) + oracle.projected(case.A)
    other = (other + other.T) / 2
    other = np.where(np.eye(n, dtype=bool), other, np.maximum(other, 0.0))
    (found,) = Quadratic(case.b, (case.A,)).projected().blocks
    assert np.linalg.norm(found - case.A) <= np.linalg.norm(other - case.A)


def test_what_was_projected_is_counted():
    A = torch.tensor([[2.0, -3.0, 4.0], [-3.0, 2.0, 0.0], [4.0, 0.0, 2.0]])
    certificate = select_ranks(torch.zeros(3), A, 2, rule="sublora").certificate
    assert certificate.startswith("1 of 3 pairs had negative curvature, 0.6 of the off-diagonal norm, projected to 0;")
    assert certificate.endswith("of the projected model and not of the loss")


def test_a_gradient_above_half_the_curvature_takes_the_bound():
    certificate = select_ranks(torch.tensor([0.75, 0.0]), torch.eye(2), 1, rule="sublora").certificate
    assert certificate.endswith("the bound 1 - 1/e does not hold: A_jj / 2 < b_j for 1 of 2 terms")


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ("exhaustive", "the best set of the model, which is not the loss"),
        ("swap", "no exchange of one kept and one cut term betters the model, to rounding"),
        ("measured", "no exchange of one kept and one cut term lowers the loss, to rounding"),
        ("reverse", "no bound is known for this rule"),
    ],
)
def test_certificates_of_other_rules(rule, words):
    choice = select_ranks(torch.ones(3), torch.eye(3), 1, rule=rule, loss=lambda gates: gates.sum())
    assert choice.certificate == words


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


def test_measured_takes_infinite_losses_for_the_worst():
    def loss(gates):
        return math.nan if gates[0] == 0 else math.inf if gates[1] == 0 else float(gates.sum())

    assert select_ranks(torch.ones(4), torch.eye(4), 2, rule="measured", loss=loss).kept == {"all": (0, 1)}
    with pytest.raises(RunError, match="^after 2 cuts, the loss is not finite whichever term is cut next"):
        select_ranks(torch.ones(4), torch.eye(4), 1, rule="measured", loss=loss)


def test_measured_evaluates_each_set_once():
    asked = []
    loss = lambda gates: asked.append(tuple(gates.tolist())) or float(gates.sum())  # noqa: E731
    select_ranks(torch.ones(8), torch.eye(8), 4, rule="measured", loss=loss)
    assert len(set(asked)) == len(asked)
    assert 8 + 7 + 6 + 5 <= len(asked) <= 8 + 7 + 6 + 5 + 2 * (1 + 4 * 4)


@few
@given(cases(), st.integers(0, 2**16))
def test_measured_ends_where_no_exchange_lowers_the_loss(case, seed):
    n = len(case.b)
    drawn = torch.rand(2**n, generator=seeded(seed), dtype=torch.float64).tolist()  # any function of sets at all
    assume(case.A.any() or case.b.any())

    def of(kept):
        return drawn[sum(2**i for i in kept)]

    case.loss = lambda gates: of(gates.nonzero().flatten().tolist())
    kept = chosen(case.choose("measured"))
    start = oracle.backward(lambda C, j: of(oracle.without(n, (*C, j))), n, case.legal)
    assert of(kept) <= min(
        of(final) for final in (start, *case.legal) if len({*final} - {*kept}) <= 1 or final == start
    )


def test_measuring_returns_a_copy_that_knows_the_loss():
    A = torch.tensor([[2.0, 1.0], [1.0, 4.0]], dtype=torch.float64)
    choice = select_ranks(torch.zeros(2, dtype=torch.float64), A, 1)
    after = choice.measure(lambda g: 5.0 + (g - 1) @ A @ (g - 1) / 2)
    assert (choice.before, choice.measured) == (None, None)
    assert after.before == 5.0
    assert after.measured == pytest.approx(choice.predicted) == 1.0
    assert after.seconds > choice.seconds > 0
    assert after.kept == choice.kept
    assert str(after).splitlines() == [
        "reverse keeps 1 of 2 terms: all 1 of 2",
        "change of the loss: predicted 1, measured 1 from 5",
        "no bound is known for this rule",
    ]


@pytest.mark.parametrize(("value", "where"), [(1.0, "with all gates 1"), (0.0, "at the gates that 'reverse' chose")])
def test_measuring_a_loss_that_is_not_finite_fails(value, where):
    choice = select_ranks(torch.zeros(2), torch.eye(2), 1)
    with pytest.raises(RunError, match=f"^the loss is nan {where}; legal is a finite number"):
        choice.measure(lambda gates: torch.tensor(math.nan if gates.min() == value else 1.0))


def test_many_layers_are_not_all_told():
    choice = select_ranks(torch.ones(10), torch.eye(10), 5, layers={f"l{index}": 1 for index in range(10)})
    assert "and 2 more layers\n" in str(choice)
    assert "l8" not in str(choice)


@few
@given(
    st.lists(st.lists(st.floats(-5, 5), min_size=3, max_size=3), min_size=1, max_size=6),
    st.sampled_from([0.0, 0.5, 0.85]),
    st.sampled_from([0.0, 0.85]),
)
def test_smoothed_is_sensitivity_times_uncertainty(rows, beta1, beta2):
    found = smoothed(torch.tensor(rows, dtype=torch.float64), beta1, beta2)
    np.testing.assert_allclose(found.numpy(), oracle.smoothed(np.array(rows), beta1, beta2), rtol=1e-9, atol=1e-12)


def test_a_gradient_that_never_changes_sign_or_size_still_has_a_score():
    steady = smoothed(torch.tensor([[1.0, 2.0]]).repeat(5, 1))
    assert steady[1] == pytest.approx(4 * float(steady[0]))
    assert steady[0] > 0


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


@pytest.mark.parametrize(
    ("gradients", "betas", "words"),
    [
        (torch.ones(3), (0.5, 0.5), r"^gradients has shape \(3,\); legal is \(batches, n\)"),
        (torch.ones(0, 3), (0.5, 0.5), r"^gradients has shape \(0, 3\)"),
        (torch.ones(2, 3), (1.0, 0.5), "^beta1 is 1.0; legal is a number from 0 to below 1$"),
        (torch.ones(2, 3), (0.5, -0.1), "^beta2 is -0.1"),
    ],
)
def test_bad_scores_are_sentences(gradients, betas, words):
    with pytest.raises(UsageError, match=words):
        smoothed(gradients, *betas)
