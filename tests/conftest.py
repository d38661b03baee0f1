"""One thread per worker, fixed seeds, memory that is never accidentally zero."""

import os

import pytest
import torch

# kernels are run by Triton's interpreter where there is no GPU; Triton asks once, when it is first imported
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")


@pytest.fixture(autouse=True)
def steady(monkeypatch):
    """Seed what a test might draw from, and poison torch.empty with NaN."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    honest = torch.empty

    def poisoned(*args, **kwargs):
        out = honest(*args, **kwargs)
        if out.is_floating_point() and not kwargs.get("out"):
            with torch.no_grad():
                out.fill_(float("nan"))
        return out

    monkeypatch.setattr(torch, "empty", poisoned)
