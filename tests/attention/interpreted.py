"""Where kernels run in tests: on a GPU if there is one, by Triton's interpreter otherwise."""

import torch
import triton.runtime.interpreter as interpreter
from triton import knobs

from lissome.attention.backends.triton.shapes import Tile

SMALL = Tile(16, 16, 4, 1)
INTERPRETED = knobs.runtime.interpret
DEVICE = "cpu" if INTERPRETED else "cuda"
# products of float64 are the interpreter's alone
EXACT, TOLERANCE = (torch.float64, 1e-9) if INTERPRETED else (torch.float32, 2e-4)

_patch = interpreter._patch_lang_tensor


def _patched(tensor, scope):
    """Let numbers be bounds of loops: Triton 3.6 holds them in arrays of one, which numpy 2.4 takes for no index."""
    _patch(tensor, scope)
    scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))


interpreter._patch_lang_tensor = _patched


def drawn(*shapes, dtype=EXACT, factor=1.0, trained=True):
    """Return normal tensors of these shapes, of which gradients are asked where they are trained."""
    return [(factor * torch.randn(shape, dtype=dtype)).to(DEVICE).requires_grad_(trained) for shape in shapes]


def near(found, truth, tolerance=TOLERANCE, names=()):
    """Compare lists of tensors by their largest difference, relative to the largest entry, or absolutely below 1e-3."""
    for index, (one, other) in enumerate(zip(found, truth, strict=True)):
        one, other = one.detach(), other.detach()
        assert one.shape == other.shape
        assert one.isfinite().all(), (index, names)
        if not one.numel():
            continue
        gap = float((one.double() - other.double()).abs().max() / other.double().abs().max().clamp(min=1e-3))
        assert gap <= tolerance, f"number {index} of {names} differs by {gap:.1e}"
