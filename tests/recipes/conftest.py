"""A text that several recipes read."""

import numpy as np
import pytest


@pytest.fixture
def text(tmp_path):
    """A text of 260,000 bytes, of words drawn by chance."""
    words = np.array(["to ", "be ", "or ", "not ", "that\n"])[np.random.default_rng(0).integers(0, 5, 70_000)]
    path = tmp_path / "text.txt"
    path.write_text("".join(words))
    return str(path)
