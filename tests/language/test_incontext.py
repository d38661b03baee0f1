"""Tasks of learning in context: what their prompts are made of, drawn again by a seed, under shifts."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import null_space

from lissome._errors import UsageError
from lissome.language.incontext import PROMPTS, SHIFTS, Representation, Shift, prompts
from lissome.language.incontext.representation import leaky, orthogonal, unleaky
from lissome.recipes.incontext.settings import SEQUENCES, TASKS
from lissome.recipes.incontext.settings import SHIFTS as NAMED

SMALL = {"dimension": 6, "pairs": 9}
CLEAN = {"representation": {"noise": 0.0}}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_settings_know_the_tasks_and_shifts_without_loading_them():
    assert tuple(PROMPTS) == TASKS
    assert tuple(SHIFTS) == NAMED
    assert tuple(name for name in PROMPTS if prompts(name).sequence) == SEQUENCES


@pytest.mark.parametrize("name", PROMPTS)
def test_a_seed_draws_the_same_and_another_seed_another(name):
    task = prompts(name, **SMALL)
    one, two, other = (task.draw(seeded(seed), 3) for seed in (1, 1, 2))
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert all(not torch.equal(one[key], other[key]) for key in one)
    assert all(torch.isfinite(value).all() for value in one.values())


@pytest.mark.parametrize("name", PROMPTS)
def test_what_is_to_be_told_has_the_mean_square_that_errors_are_divided_by(name):
    task = prompts(name, **SMALL)
    batch = task.draw(seeded(), 1500, dtype=torch.float64)
    target = batch["target"]
    each = target.square().sum(2).mean(1)
    spread = float(each.std() / math.sqrt(len(each)))
    assert abs(float(each.mean()) - task.power) < 4 * spread + 1e-6 + (0.06 * task.power if name == "chain" else 0)
    zeros = task.errors(torch.zeros_like(target), batch)
    assert zeros.shape == (9,)
    assert float(zeros.mean()) == pytest.approx(float(each.mean()) / task.power)
    assert torch.equal(task.errors(target, batch), torch.zeros(9, dtype=torch.float64))


@pytest.mark.parametrize("name", PROMPTS)
def test_without_noise_a_model_is_trained_on_the_target_itself(name):
    task = prompts(name, **SMALL, **CLEAN.get(name, {}))
    batch = task.draw(seeded(), 3)
    assert torch.equal(task.seen(batch), batch["target"])
    read = task.inputs(batch)
    assert read[0].shape[0] == 3
    assert (len(read) == 1) == task.sequence


@given(d=st.integers(2, 12), layers=st.integers(1, 3), slope=st.sampled_from([0.0, 0.2, 0.5]), seed=st.integers(0, 99))
@settings(max_examples=12, deadline=None)
def test_a_representation_keeps_the_mean_square(d, layers, slope, seed):
    phi = Representation(d, layers=layers, slope=slope, seed=seed)
    x = torch.randn(40_000, d, generator=seeded(seed + 1), dtype=torch.float64)
    square = phi(x).square().sum(1)
    error = float(square.std()) / math.sqrt(len(x)) + float(square.std()) / math.sqrt(1 << 15)
    assert abs(float(square.mean()) - d) < 4.5 * error
    assert torch.equal(phi(x[:5]), Representation(d, layers=layers, slope=slope, seed=seed)(x[:5]))


def test_half_a_slope_leaves_phi_almost_affine_and_a_relu_does_not():
    x = torch.randn(20_000, 20, generator=seeded(), dtype=torch.float64)
    one = torch.cat([x, torch.ones(len(x), 1, dtype=torch.float64)], 1)
    left = {}
    for slope in (0.0, 0.5):
        y = Representation(20, slope=slope)(x)
        fitted = one @ torch.linalg.lstsq(one, y).solution
        left[slope] = float((y - fitted).square().sum(1).mean() / y.square().sum(1).mean())
    assert left[0.5] < 0.10
    assert left[0.0] > 0.15


def test_orthogonal_matrices_are_so_and_leaky_is_undone():
    Q = orthogonal(seeded(), 5, 3)
    assert torch.allclose(Q @ Q.mT, torch.eye(5, dtype=torch.float64).expand(3, 5, 5), atol=1e-12)
    z = torch.randn(50, generator=seeded(), dtype=torch.float64)
    assert torch.allclose(unleaky(leaky(z, 0.5), 0.5), z)


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_autoregression_stays_finite_over_hundreds_of_steps(noise):
    task = prompts("ar", dimension=8, pairs=400, noise=noise)
    batch = task.draw(seeded(), 4, dtype=torch.float64)
    assert batch["s"].shape == (4, 403, 8)
    assert torch.allclose(batch["target"].norm(dim=2), torch.tensor(math.sqrt(8.0), dtype=torch.float64))
    assert batch["s"].abs().max() < 10 * math.sqrt(8)


def test_a_state_of_which_relus_let_nothing_through_is_followed_by_zeros():
    task = prompts("ar", dimension=1, pairs=12, lags=1)
    batch = task.draw(seeded(), 50)
    assert torch.isfinite(batch["s"]).all()
    assert (batch["target"] == 0).any()


def test_autoregression_is_the_recursion_that_it_says():
    task = prompts("ar", dimension=3, pairs=30, lags=2)
    s = task.draw(seeded(), 1, dtype=torch.float64)["s"][0]
    phi = Representation(3)
    past = torch.cat([phi(s[1:-1]), phi(s[:-2])], 1)  # (30, 6)
    # s_t |u| / sqrt(d) = A past: the A that the first 12 determine up to scale tell all others
    rows = []
    for a, b in zip(past.numpy(), s[2:].numpy(), strict=True):
        for i, j in ((0, 1), (1, 2)):  # the cross product of A a and b vanishes
            row = np.zeros((3, 6))
            row[i], row[j] = row[i] + a * b[j], row[j] - a * b[i]
            rows.append(row.reshape(-1))
    found = null_space(np.array(rows), rcond=1e-9)
    assert found.shape[1] == 1
    A = torch.tensor(found[:, 0].reshape(3, 6))
    for one in (A[:, :3], A[:, 3:]):
        square = one @ one.T
        assert torch.allclose(square, square[0, 0] * torch.eye(3, dtype=torch.float64), atol=1e-6)


def test_a_chain_follows_its_network():
    task = prompts("chain", dimension=4, pairs=7, layers=2)
    batch = task.draw(seeded(), 2, dtype=torch.float64)
    s = batch["s"].unflatten(1, (7, 4))  # x, s1, s2, y
    W = torch.linalg.lstsq(s[:, :, 0], unleaky(s[:, :, 1], 0.5)).solution
    assert torch.allclose(W @ W.mT, torch.eye(4, dtype=torch.float64).expand(2, 4, 4), atol=1e-8)
    assert not s[:, :, 3, 1:].any()
    assert torch.equal(batch["target"].unflatten(1, (7, 3)), s[:, :, 1:])


def test_a_tree_asks_signs_alone_and_sparse_weights_are_few():
    tree = prompts("tree", dimension=5, pairs=300, depth=3)
    batch = tree.draw(seeded(), 1)
    assert len(batch["y"].unique()) <= 8
    signs = (batch["x"][0] > 0).long() @ (2 ** torch.arange(5))
    for code in signs.unique():
        assert len(batch["y"][0][signs == code].unique()) == 1
    sparse = prompts("sparse", dimension=10, pairs=30).draw(seeded(), 5, dtype=torch.float64)
    w = torch.linalg.lstsq(sparse["x"], sparse["y"][..., None]).solution[..., 0]
    assert ((w.abs() > 1e-9).sum(1) == 3).all()


def test_fewer_dimensions_and_pairs_are_cut_from_the_same_inputs():
    task = prompts("linear", **SMALL)
    whole, cut = task.draw(seeded(), 2), task.draw(seeded(), 2, pairs=4, dimension=3)
    assert torch.equal(cut["x"][..., :3], whole["x"][:, :4, :3])
    assert not cut["x"][..., 3:].any()


def test_shifts_change_the_law_as_they_say():
    task = prompts("linear", dimension=4, pairs=50)
    plain = task.draw(seeded(), 400, dtype=torch.float64)
    doubled = task.draw(seeded(), 400, shift=Shift("scale", 2.0), dtype=torch.float64)
    assert torch.equal(doubled["x"], 2 * plain["x"])
    skewed = task.draw(seeded(), 400, shift=Shift("skew", 1.0), dtype=torch.float64)["x"]
    variances = torch.linalg.eigvalsh(skewed.flatten(0, 1).T.cov()).flip(0)
    expected = torch.arange(1, 5, dtype=torch.float64) ** -2.0
    assert torch.allclose(variances / variances.sum(), expected / expected.sum(), atol=0.02)
    assert float(variances.sum()) == pytest.approx(4, rel=0.03)
    noisy = task.draw(seeded(), 400, shift=Shift("noise", 0.5), dtype=torch.float64)
    jolts = noisy["y"] - noisy["target"][..., 0]
    assert float(jolts.std()) == pytest.approx(0.5, rel=0.03)
    assert torch.equal(noisy["target"], plain["target"])


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: prompts("liner"), r"unknown task 'liner'; legal are: linear, .* \(did you mean 'linear'\?\)"),
        (lambda: prompts("linear", slope=1), "unknown setting of the task 'linear': 'slope'; legal are: dimension"),
        (lambda: prompts("linear", pairs=0), "pairs of the task 'linear' is 0; legal are whole numbers"),
        (lambda: prompts("linear", noise=-1), "noise of the task 'linear' is -1; legal are numbers of at least 0"),
        (lambda: prompts("sparse", dimension=2), "nonzero of the task 'sparse' is 3; legal are whole numbers, 1 to 2"),
        (lambda: Shift("skewed", 1.0), r"unknown shift 'skewed'; legal are: scale, skew, noise \(did you mean 'skew'"),
        (lambda: Shift("scale", 0.0), "strength of the shift 'scale' is 0.0; legal are numbers above 0"),
        (lambda: Representation(4)(torch.ones(2, 3)), "takes inputs of dimension 4, not 3"),
        (lambda: Representation(4, slope=1.0), "slope of a representation is 1.0; legal are numbers from 0"),
        (lambda: prompts("ar", **SMALL).draw(seeded(), 1, shift=Shift("skew", 1.0)), "shift of the task 'ar': 'skew'"),
        (lambda: prompts("ar", **SMALL).draw(seeded(), 1, dimension=2), "fills all 6 dimensions"),
        (lambda: prompts("tree", **SMALL).draw(seeded(), 1, dimension=7), "dimension is 7; legal are whole numbers"),
    ],
)
def test_what_is_wrong_is_told_in_a_sentence(call, text):
    with pytest.raises(UsageError, match=text):
        call()
