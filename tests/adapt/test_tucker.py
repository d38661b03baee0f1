import pytest
import torch

from lissome._errors import UsageError
from lissome.adapt import Tucker, lora, pissa, svd


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def matrix(rows=5, columns=4):
    return torch.randn(rows, columns, generator=seeded(), dtype=torch.float64)


def three_way():
    factors = [torch.randn(d, r, generator=seeded(d), dtype=torch.float64) for d, r in ((4, 2), (3, 3), (5, 2))]
    return Tucker(factors, torch.randn(2, 3, 2, generator=seeded(), dtype=torch.float64), train=["core"])


def test_gates_are_ones_of_the_cores_shape_and_not_trained():
    for form, shape in ((svd(matrix()), (4,)), (lora(matrix(), 3, generator=seeded()), (3,)), (three_way(), (2, 3, 2))):
        assert torch.equal(form.gates, torch.ones(shape, dtype=torch.float64))
        assert "gates" not in dict(form.named_parameters())
        assert "gates" in form.state_dict()


def test_gates_of_cut_terms_leave_the_output_as_if_they_were_absent():
    W = matrix()
    form = svd(W)
    form.gates[2:] = 0
    U, s, Vh = torch.linalg.svd(W, full_matrices=False)
    torch.testing.assert_close(form.dense(W), (U[:, :2] * s[:2]) @ Vh[:2])


def test_a_gate_cuts_one_entry_of_a_full_core():
    form = three_way()
    whole = form.delta()
    form.gates[1, 2, 0] = 0
    U1, U2, U3 = form.factors
    gone = form.core[1, 2, 0] * torch.einsum("a,b,c->abc", U1[:, 1], U2[:, 2], U3[:, 0])
    torch.testing.assert_close(whole - form.delta(), gone)


def test_a_closed_gate_of_pissa_takes_the_term_away_from_the_weight():
    W = matrix()
    form = pissa(W, 2)
    form.gates[0] = 0
    U, s, Vh = torch.linalg.svd(W, full_matrices=False)
    torch.testing.assert_close(form.dense(W), W - s[0] * torch.outer(U[:, 0], Vh[0]))


def test_the_scale_multiplies_the_form():
    factors = [torch.ones(3, 1), torch.ones(4, 1)]
    torch.testing.assert_close(Tucker(factors, scale=2.5).dense(torch.ones(3, 4)), torch.full((3, 4), 3.5))


def test_a_residual_form_with_nothing_trained_is_its_base():
    factors = [torch.ones(3, 1), torch.ones(4, 1)]
    assert torch.equal(Tucker(factors, base="residual").dense(torch.ones(3, 4)), torch.ones(3, 4))


def test_a_form_keeps_no_tie_to_the_tensors_it_was_made_of():
    U, V, s = torch.ones(3, 2), torch.ones(4, 2), torch.ones(2)
    form = Tucker([U, V], s)
    U.zero_(), V.zero_(), s.zero_()
    assert torch.equal(form.delta(), torch.full((3, 4), 2.0))


def test_torchs_own_apply_still_visits_forms():
    seen = []
    torch.nn.Sequential(svd(matrix())).apply(lambda module: seen.append(type(module).__name__))
    assert seen == ["Tucker", "Sequential"]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Tucker([torch.ones(3, 2)]), "two or more"),
        (lambda: Tucker([torch.ones(3, 2), torch.ones(4, 3)]), r"ranks \(2, 3\) with no core"),
        (lambda: Tucker([torch.ones(3, 2), torch.ones(4, 2)], torch.ones(3)), "diagonal core of 3"),
        (lambda: Tucker([torch.ones(3, 2), torch.ones(4, 2)], torch.ones(2, 3)), r"\(2, 3\) does not fit"),
        (lambda: Tucker([torch.ones(3, 2), torch.ones(4, 2)], train=["core"]), "unknown part 'core'"),
        (lambda: Tucker([torch.ones(3, 2), torch.ones(4, 2)], train=["factor3"]), "factor0, factor1"),
        (lambda: Tucker([torch.ones(3, 2), torch.ones(4, 2)], base="none"), "add, replace, residual"),
        (lambda: Tucker([torch.ones(3, 2), torch.ones(4, 2)]).dense(), r"base weight of shape \(3, 4\)"),
        (lambda: Tucker([torch.ones(3, 2), torch.ones(4, 2)]).dense(torch.ones(4, 3)), r"\(4, 3\)"),
        (lambda: svd(torch.ones(3, 4))(torch.ones(2, 3)), r"\(2, 3\) does not end in \(4,\)"),
        (lambda: svd(torch.ones(3, 4))(torch.ones(3, 4), modes=2), "modes is 2; legal are 1 to 1"),
    ],
)
def test_errors_say_what_came_and_what_is_legal(make, words):
    with pytest.raises(UsageError, match=words):
        make()
