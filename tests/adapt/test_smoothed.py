"""Scores of training: sensitivity times uncertainty, averaged."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lissome._errors import UsageError
from lissome.adapt import smoothed
from tests.adapt.cases import few
from tests.oracles import ranks as oracle


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
