"""One row of scores under gradient descent, and norms of gradients by layer."""

import math

import pytest
import torch

from lissome.recipes.sa_softmax_gradients import norms
from lissome.recipes.sa_softmax_names import ADAM, CAP, SGD, VARIANTS
from lissome.recipes.sa_softmax_row import GAIN, begun, mixed, until_right
from tests.recipes.sa_cells import drawn, nothing


def test_rows_differ_in_the_lead_of_the_wrong_key_alone():
    rows = begun((2, 20), 3, torch.Generator().manual_seed(0)).view(2, 3, -1)
    assert rows[:, :, 1].tolist() == [[2] * 3, [20] * 3]
    rest = [0, *range(2, rows.shape[2])]
    assert torch.equal(rows[0][:, rest], rows[1][:, rest])
    assert not torch.equal(rows[0, 0, rest], rows[0, 1, rest])
    assert rows.dtype == torch.float64


@pytest.mark.parametrize("label", VARIANTS)
def test_the_mix_of_values_is_the_formula(label):
    rows = begun((1, 20), 2, torch.Generator().manual_seed(1)) - 0.3
    p = rows.exp() / rows.exp().sum(1, keepdim=True)
    low, high = rows.amin(1, keepdim=True), rows.amax(1, keepdim=True)
    eps = 1e-6
    wanted = {
        "softmax": p,
        "V1": rows * p,
        "V2": (rows - low) * p,
        "V3": (rows - low) / (high - low + eps) * p,
        "V4": (rows - low.clamp(max=0)) / (high.clamp(min=0) - low.clamp(max=0) + eps) * p,
    }[label.removesuffix(", detached")]
    torch.testing.assert_close(mixed(rows, label), GAIN * wanted)


def test_first_gradient_of_the_row_is_that_of_central_differences():
    rows = begun((2,), 1, torch.Generator().manual_seed(0))
    for label in ("softmax", "V1", "V4"):
        _, (norm,) = until_right(rows, label, SGD, 0, nothing)

        def loss(z, label=label):
            return torch.nn.functional.cross_entropy(mixed(z, label), torch.zeros(1, dtype=torch.long)).item()

        unit = 1e-5 * torch.eye(rows.shape[1], dtype=torch.float64)
        slope = [(loss(rows + step) - loss(rows - step)) / 2e-5 for step in unit]
        assert norm == pytest.approx(math.hypot(*slope), rel=1e-6)


def test_one_step_of_sgd_on_the_row_is_counted():
    rows = torch.tensor([[1.0, 0.0], [0.0, 0.4], [0.0, 40.0]], dtype=torch.float64)
    steps, _ = until_right(rows, "softmax", SGD, 5, nothing)
    assert steps == [0, 1, None]


def test_sgd_does_not_leave_a_saturated_softmax_or_v4_and_does_with_extrema_held_constant():
    rows = begun((20,), 3, torch.Generator().manual_seed(0))
    assert until_right(rows, "softmax", SGD, CAP, nothing)[0] == [None] * 3
    assert until_right(rows, "V4", SGD, CAP, nothing)[0] == [None] * 3
    assert all(step is not None and step <= 100 for step in until_right(rows, "V4, detached", SGD, CAP, nothing)[0])
    assert sorted(step or CAP for step in until_right(rows, "V1", SGD, CAP, nothing)[0])[1] <= 10


def test_with_adam_all_variants_take_as_long_but_v2_where_the_right_key_is_least():
    rows = begun((20,), 8, torch.Generator().manual_seed(1))
    least = rows.argmin(1) == 0
    assert 0 < least.sum() < len(rows)
    found = {label: torch.tensor(until_right(rows, label, ADAM, CAP, nothing)[0]) for label in VARIANTS}
    others = torch.stack([steps[~least].double().median() for steps in found.values()])
    assert others.max() <= 1.2 * others.min()
    assert found["V2"][least].min() > 2 * found["V2"][~least].max()
    assert found["V1"][least].max() < 1.2 * found["V1"][~least].max()


def test_norms_are_those_of_the_gradient_by_layer():
    model = drawn("V4", "Kerple", 0)
    tokens = torch.randint(256, (2, 9), generator=torch.Generator().manual_seed(0))

    def loss():
        logits = model(tokens[:, :-1])
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())

    found = norms(model, loss())
    loss().backward()
    for layer, block in enumerate(model.blocks):
        squares = sum(float(p.grad.square().sum()) for p in block.parameters())
        assert found[f"layer/{layer}"] == pytest.approx(math.sqrt(squares), rel=1e-4)
        turned = block.heads.qkv.weight.grad[: 2 * 16]  # queries and keys, then values
        assert found[f"scores/{layer}"] == pytest.approx(float(turned.norm()), rel=1e-4)
        assert found[f"scores/{layer}"] < found[f"layer/{layer}"]
