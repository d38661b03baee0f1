"""How much of attention falls on separators, beside their share of the keys, for the page: `separators.json`.

Reference: G. Chen et al., arXiv 2412.12094: separators collect their segments.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lissome._errors import UsageError
from lissome._files import write_json
from lissome.bridges.separators import separator_ids
from lissome.language import Vocabulary
from lissome.language.score import scoring
from lissome.models import Decoder
from lissome.report.language_files import SEPARATORS

LENGTH = 512  # tokens, where the training length is not known
LONGEST = 1024  # tokens of a window in which all pairs are looked at
WINDOWS = 16
FIRST, NEAR = 4, 16  # tokens
SHORTEST = FIRST + NEAR + 1  # tokens of a window
CLASSES = ("separators", "first", f"first_{FIRST}", f"nearest_{NEAR}", "far_separators", "rest")


def separators(
    model: Decoder,
    vocabulary: Vocabulary,
    tokens: np.ndarray | Tensor,
    *,
    out: str | Path | None = None,
    length: int | None = None,
    windows: int = WINDOWS,
) -> dict[str, Any]:
    """Measure how much attention falls on separators, the first tokens and the nearest, and what would be even.

    Separators are those of `lissome.bridges.separators.separator_ids` (arXiv 2412.12094). Each row of weights counts as
    |w| / sum |w|, so that self-adjusted ones, whose rows do not sum to 1, compare; rows of nothing but zeros are left
    out. Rows that see fewer than 21 keys back are too: the first 4 and the nearest 16 then never meet.

    Args:
        model: put into evaluation meanwhile.
        vocabulary: of the model.
        tokens: held-out text, (N,) of whole numbers.
        out: the run's directory, which gets separators.json; None writes nothing.
        length: T, tokens of a window, at most 1,024; None is that of the shape, or 512.
        windows: how many, at most, evenly over the text.

    Returns:
        attention: {name: L lists of H shares}, keys: {name: share of the keys that are seen}, with the names
        separators (anywhere), first (the first token), first_4, nearest_16, far_separators (those that are neither) and
        rest (what is none of these): first_4 + nearest_16 + far_separators + rest is 1. row_sum: the mean sum of a row,
        L lists of H. windows, length, rows: how much was read; kinds: which separators occur.

    Raises:
        UsageError: fewer than 21 tokens.
        RunError: the file cannot be written.
    """
    ids = (tokens.cpu().numpy() if isinstance(tokens, Tensor) else np.asarray(tokens)).reshape(-1)
    span = min(length or model.shape.length or LENGTH, LONGEST, len(ids))
    if span < SHORTEST:
        raise UsageError(f"{span} tokens are too few to look for separators; legal are {SHORTEST} and more")
    starts = np.linspace(0, len(ids) - span, min(windows, len(ids) // span)).astype(np.int64)
    held = [ids[start : start + span].astype(np.int64) for start in starts]
    occur = np.unique(np.concatenate(held)).tolist()
    ends = set(separator_ids(vocabulary))
    kinds = {i: vocabulary.decode([i]) for i in occur if i in ends}
    depth, heads = model.shape.depth, model.shape.heads
    shares, sums = torch.zeros(depth, heads, len(CLASSES), dtype=torch.float64), torch.zeros(2, depth, heads).double()
    even, rows = torch.zeros(len(CLASSES), dtype=torch.float64), span - SHORTEST + 1
    with scoring(model) as device:
        for window in held:
            marked = torch.from_numpy(np.isin(window, list(kinds))).to(device)
            classes = _classes(marked, SHORTEST - 1)  # (C, R, T)
            for layer, each in enumerate(model.stages(torch.from_numpy(window)[None].to(device))):
                weights = each.weights[0, :, -rows:].double()  # (H, R, T)
                total = weights.abs().sum(-1)  # (H, R)
                part = torch.einsum("hrt,crt->hrc", weights.abs(), classes) / total.clamp(min=1e-30)[..., None]
                shares[layer] += part.sum(1).cpu()
                sums[0, layer] += (total > 0).sum(1).cpu()
                sums[1, layer] += weights.sum((1, 2)).cpu()
                seen = each.valid[0, 0, -rows:].double()  # (R, T)
                even += ((classes * seen).sum(-1) / seen.sum(-1).clamp(min=1)).sum(1).cpu() / depth
    shares /= sums[0].clamp(min=1)[..., None]
    every = rows * len(held)
    found = {
        "attention": {name: shares[..., c].tolist() for c, name in enumerate(CLASSES)},
        "keys": {name: float(even[c]) / every for c, name in enumerate(CLASSES)},
        "row_sum": (sums[1] / every).tolist(),
        "windows": len(held),
        "length": span,
        "rows": every,
        "kinds": sorted(set(kinds.values())),
    }
    if out is not None:
        write_json(Path(out) / SEPARATORS, found)
    return found


def _classes(marked: Tensor, start: int) -> Tensor:
    """Return which keys (T,) are of which class for each query from `start` on, (C, R, T) float64."""
    length = len(marked)
    key = torch.arange(length, device=marked.device)
    query = key[start:, None]
    first, near = (key < FIRST).expand(len(query), -1), (query - key < NEAR) & (key <= query)
    far = marked & ~first & ~near
    rest = ~(first | near | far)
    told = (marked.expand_as(first), (key < 1).expand_as(first), first, near, far, rest)
    return torch.stack(told).double()
