"""A function to be differentiated, what is drawn for it, and every mode of doing so."""

import pytest
import torch

MODES = ["auto", "double-backward", "forward-over-reverse"]
every_mode = pytest.mark.parametrize("mode", MODES)


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def wavy(x):
    """A function whose Hessian is full and indefinite."""
    return (x.sin().sum() * x).cos().sum()
