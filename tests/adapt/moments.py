"""Factors and moments, drawn."""

import torch

from tests.contracts.test_adapt import seeded


def drawn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64).to(dtype)


def moment(r, seed, rank=None):
    """Return a positive semidefinite (r, r), of full rank to some thousandths unless a rank is given."""
    rows = drawn(rank if rank is not None else 3 * r, r, seed=seed)
    return rows.mT @ rows / len(rows) if len(rows) else torch.zeros(r, r, dtype=torch.float64)


def turned(B, A, X):
    return B.double() @ X.forth, X.back @ A.double()


def relative(found, wanted):
    found, wanted = found.detach().double(), wanted.detach().double()
    size = float(wanted.abs().max()) if wanted.numel() else 0.0
    return float((found - wanted).abs().max()) / (size if size else 1.0)
