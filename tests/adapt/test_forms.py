import pytest
import torch

from lissome._errors import UsageError
from lissome.adapt import adalora, lora, lora_xs, lotra, pissa, singular_values, slim, svd, tucker


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def tensor(*shape):
    return torch.randn(*shape, generator=seeded(), dtype=torch.float64)


def trained(form):
    return {name: tuple(parameter.shape) for name, parameter in form.named_parameters()}


def test_what_each_form_trains():
    W = tensor(6, 4)
    assert trained(svd(W)) == {"core": (4,)}
    assert trained(lora(W, 2, generator=seeded())) == {"factor0": (6, 2), "factor1": (4, 2)}
    assert trained(lora_xs(W, 2)) == {"core": (2, 2)}
    assert trained(pissa(W, 2)) == {"factor0": (6, 2), "factor1": (4, 2)}
    assert trained(tucker(tensor(3, 4, 2), (2, 2, 2))) == {"core": (2, 2, 2)}
    assert trained(adalora(W, 2, generator=seeded())) == {"core": (2,), "factor0": (6, 2), "factor1": (4, 2)}
    parts = {"core": (2, 1, 2), "factor0": (3, 2), "factor1": (4, 1), "factor2": (2, 2)}
    assert trained(lotra(tensor(3, 4, 2), (2, 1, 2), generator=seeded())) == parts
    assert trained(slim((3, 4, 2), (2, 1, 2), power=1.0, generator=seeded())) == parts


def test_adalora_starts_orthonormal_with_nothing_added():
    form = adalora(tensor(6, 4), 3, generator=seeded())
    assert not form.core.any()
    for factor in form.factors:
        torch.testing.assert_close(factor.mT @ factor, torch.eye(3, dtype=torch.float64))


def test_lotra_adds_nothing_and_a_step_of_its_first_factor_moves_alike_at_any_rank():
    W, sizes = tensor(40, 9, 30), []
    for ranks in ((20, 3, 3), (20, 8, 20)):
        form = lotra(W, ranks, generator=seeded(1))
        assert not form.delta().any()
        with torch.no_grad():
            form.factor0.copy_(torch.eye(40, 20))
        sizes.append(form.delta().norm().item())
    assert sizes[1] == pytest.approx(sizes[0], rel=0.2)


def test_one_rank_stands_for_every_mode_as_far_as_it_has_it():
    assert lotra(tensor(6, 3, 5), 4, generator=seeded()).ranks == (4, 3, 4)
    assert slim((6, 3, 5), 4, power=1.0, generator=seeded()).ranks == (4, 3, 4)


def test_what_comes_out_of_a_slim_form_has_the_size_that_was_asked():
    x = torch.randn(400, 9, 50, generator=seeded(2), dtype=torch.float64)  # S = 9
    form = slim((60, 9, 50), (8, 4, 6), power=9.0, size=0.3, generator=seeded(3)).double()
    assert form(x, modes=2).std().item() == pytest.approx(0.3, rel=0.15)


def test_the_core_of_svd_holds_the_singular_values():
    W = tensor(6, 4)
    torch.testing.assert_close(svd(W).core.detach(), torch.linalg.svdvals(W))


def test_svd_of_full_rank_stands_without_its_base():
    W = tensor(6, 4)
    torch.testing.assert_close(svd(W).dense(), W)


def test_lora_draws_from_its_generator_alone():
    W = tensor(6, 4)
    before = torch.get_rng_state()
    one, two, other = (lora(W, 2, generator=seeded(seed)).factor1 for seed in (1, 1, 2))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
    assert torch.equal(before, torch.get_rng_state())
    assert one.abs().max() <= 0.5


def test_lora_draws_the_same_in_either_precision():
    one, two = (lora(tensor(6, 4).to(dtype), 2, generator=seeded()).factor1 for dtype in (torch.float32, torch.float64))
    torch.testing.assert_close(one.double(), two, rtol=1e-6, atol=1e-6)


def test_lora_xs_follows_the_paper():
    W, R = tensor(6, 4), tensor(2, 2)
    form = lora_xs(W, 2, scale=3.0)
    with torch.no_grad():
        form.core.copy_(R)
    U, s, Vh = torch.linalg.svd(W, full_matrices=False)
    torch.testing.assert_close(form.delta().detach(), 3 * (U[:, :2] * s[:2]) @ R @ Vh[:2])


def test_pissa_starts_with_the_leading_part_of_the_weight():
    W = tensor(6, 4)
    form = pissa(W, 2)
    U, s, Vh = torch.linalg.svd(W, full_matrices=False)
    torch.testing.assert_close((form.factor0 @ form.factor1.mT).detach(), (U[:, :2] * s[:2]) @ Vh[:2])


def test_tucker_finds_an_exact_low_rank_tensor():
    parts = [torch.randn(d, 2, generator=seeded(d), dtype=torch.float64) for d in (5, 4, 6)]
    W = torch.einsum("abc,ia,jb,kc->ijk", tensor(2, 2, 2), *parts)
    form = tucker(W, (2, 2, 2), sweeps=0)
    rebuilt = torch.einsum("abc,ia,jb,kc->ijk", form.core, *form.factors)
    torch.testing.assert_close(rebuilt.detach(), W)


def test_sweeps_better_the_truncation():
    W, misfits = tensor(5, 5, 5), []
    for sweeps in (0, 5):
        form = tucker(W, (2, 2, 2), sweeps=sweeps)
        misfits.append((torch.einsum("abc,ia,jb,kc->ijk", form.core, *form.factors) - W).norm().item())
    assert misfits[1] < misfits[0]


def test_singular_values_are_told_of_matrices_only():
    values = singular_values(
        {"a": torch.diag(torch.tensor([1.0, 3.0])), "bias": torch.ones(3), "row": torch.ones(1, 3)}
    )
    assert list(values) == ["a"]
    torch.testing.assert_close(values["a"], torch.tensor([3.0, 1.0]))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: svd(tensor(3, 4), 5), "rank is 5; legal are 0 to 3"),
        (lambda: pissa(tensor(3, 4), -1), "rank is -1"),
        (lambda: lora_xs(tensor(3, 4, 2), 2), r"shape \(3, 4, 2\); this form takes matrices"),
        (lambda: tucker(tensor(3, 4), (4, 4)), r"ranks are \(4, 4\)"),
        (lambda: tucker(tensor(3, 4), (2,)), r"0 to \(3, 4\)"),
        (
            lambda: lotra(tensor(3, 4, 2), (4, 1, 1), generator=seeded()),
            r"ranks are \(4, 1, 1\); legal are one per mode",
        ),
        (lambda: slim((3, 4, 2), (1, 1), power=1.0, generator=seeded()), r"ranks are \(1, 1\)"),
    ],
)
def test_errors_say_what_came_and_what_is_legal(make, words):
    with pytest.raises(UsageError, match=words):
        make()
