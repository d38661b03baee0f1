"""What a run of a language model keeps for its page.

- `gradients.jsonl`, by `Gradients`: norms of the gradient in the course of training.
- `maps.safetensors` and `sentence.json`, by `observe`: all stages of attention while one sentence is read.
- `separators.json`, by `separators`: shares of attention, beside shares of the keys.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from lissome._errors import UsageError
from lissome._files import write, write_json
from lissome.attention import Attention, Frame, Stages, stages
from lissome.language import Vocabulary
from lissome.language.score import scoring
from lissome.models import Decoder
from lissome.optim.journal import Journal
from lissome.optim.sharding import whole

GRADIENTS, MAPS, SENTENCE, SEPARATORS = "gradients.jsonl", "maps.safetensors", "sentence.json", "separators.json"
EVERY = 20  # steps
TOKENS, LAYERS, HEADS = 96, 12, 16  # of the maps, at most
FARTHER = 4  # times the training length, to which a bias is followed
PLACES = 400  # distances of a bias, about
LENGTH = 512  # tokens, where the training length is not known
LONGEST = 1024  # tokens of a window in which all pairs are looked at
WINDOWS = 16
FIRST, NEAR = 4, 16  # tokens
MARKS = frozenset(".,?!;:")  # arXiv 2412.12094


class Gradients:
    """A callback of `fit` that writes the gradient's norm in each layer, the embedding and the stages' parameters.

    It reads `p.grad` after a step, which is what the optimizer was given: a gradient that was clipped counts as it was
    after clipping. Every `every` steps the norms come from the device in one piece; in between nothing is done. A run
    that goes on from a checkpoint drops the rows behind it. Of several processes the first one writes.

    A row is {"step", "embedding", "layers": L numbers, "stages": L numbers, "rest"}: `layers` are the blocks without
    what is in their attention recipe, which `stages` have; null where there is no gradient.

    Args:
        out: the run's directory, of gradients.jsonl.
        every: steps from row to row.

    Raises:
        UsageError: every is below 1.
        RunError: the file cannot be written.
    """

    def __init__(self, out: str | Path, every: int = EVERY):
        if every < 1:
            raise UsageError(f"every is {every}; legal are whole numbers of at least 1")
        self.every, self.journal = every, Journal(Path(out) / GRADIENTS)

    def begin(self, step: int, model: nn.Module, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        """Keep the rows up to a step, and note who is who: FSDP has made new parameters by now."""
        alone = not torch.distributed.is_available() or not torch.distributed.is_initialized()
        self.journal.writes = alone or torch.distributed.get_rank() == 0
        self.journal.start(upto=step)
        self.parts = _parts(model)

    def __call__(self, step: int, model: nn.Module) -> None:
        """Write a row if it is time."""
        if step % self.every:
            return
        there = {key: [p.grad for p in part if p.grad is not None] for key, part in self.parts.items()}
        norms = {key: whole(get_total_norm(part).float(), keep=True) for key, part in there.items() if part}
        told = dict.fromkeys(there, math.nan)
        if norms:
            told |= zip(norms, torch.stack(list(norms.values())).tolist(), strict=True)
        layers = 1 + max((layer for _, layer in told if layer is not None), default=-1)
        row: dict[str, Any] = {"step": step, "embedding": told["embedding", None]}
        row |= {name: [told[name, layer] for layer in range(layers)] for name in ("layers", "stages")}
        self.journal.append(row | {"rest": told["rest", None]})


def _parts(model: nn.Module) -> dict[tuple[str, int | None], list[nn.Parameter]]:
    """Return the parameters of a decoder by what they are of, and in which layer."""
    blocks = 1 + max((int(name.split(".")[1]) for name, _ in model.named_parameters() if _in_block(name)), default=-1)
    found: dict[tuple[str, int | None], list[nn.Parameter]] = {("embedding", None): [], ("rest", None): []}
    found |= {(name, layer): [] for name in ("layers", "stages") for layer in range(blocks)}
    for name, p in model.named_parameters():
        if _in_block(name):
            found["stages" if ".recipe." in name else "layers", int(name.split(".")[1])].append(p)
        else:
            found["embedding" if name.startswith("embedding.") else "rest", None].append(p)
    return found


def _in_block(name: str) -> bool:
    return name.startswith("blocks.")


def observe(
    model: Decoder,
    vocabulary: Vocabulary,
    text: str,
    out: str | Path,
    *,
    length: int | None = None,
) -> dict[str, Any]:
    """Look at each stage of each layer while the model reads one sentence; write maps.safetensors and sentence.json.

    Of a long text the first 96 tokens are read; of a large model 12 layers and 16 heads are kept, evenly spaced with
    the first and the last among them. For each kept layer l, with T tokens, h kept heads and n distances:

        layers/l/valid (T, T)            which keys a query sees
        layers/l/scores (h, T, T)        q k / sqrt(D)
        layers/l/bias (h, T, T)          of the distances, where there is one
        layers/l/correction (h, T, T)    refined - scores - bias, where there is a refinement
        layers/l/refined (h, T, T)       what is normalised
        layers/l/weights (h, T, T)
        layers/l/decay (h, n)            the bias at `distance` (n,), of a query 4 times the training length into a text
        layers/l/near (h, m)             at the first m of them, of a query at the training length, where that differs

    Args:
        model: put into evaluation meanwhile.
        vocabulary: of the model.
        text: the sentence.
        out: the run's directory.
        length: the training length, in tokens; None is that of the shape.

    Returns:
        What sentence.json says: pieces, tokens, text, cut (tokens left out), layers, heads (kept ones, from 0), depth,
        width (how many there are), length, position, refine, normalize, validity.

    Raises:
        UsageError: a text without tokens, or a vocabulary that is larger than the model's.
        RunError: a file cannot be written.
    """
    ids = np.asarray(vocabulary.encode(text)).astype(np.int64)
    if not len(ids):
        raise UsageError("the text to look at is empty; legal are texts of at least one token")
    if ids.max() >= model.shape.vocabulary:
        raise UsageError(f"the text has id {ids.max()}, and the model knows those below {model.shape.vocabulary:,}")
    cut, ids = len(ids[TOKENS:]), ids[:TOKENS]
    trained = length or model.shape.length
    layers, heads = _spaced(len(model.blocks), LAYERS), _spaced(model.shape.heads, HEADS)
    found = dict[str, Tensor]()
    with scoring(model) as device:
        tokens = torch.from_numpy(ids)[None].to(device)  # (1, T)
        for layer, (each, recipe) in enumerate(layerwise(model, tokens)):
            if layer in layers:
                told = _maps(each, recipe) | _decays(recipe, trained or LENGTH, device)
                kept = {name: value if name == "valid" else value[heads].float() for name, value in told.items()}
                found |= {f"layers/{layer}/{name}": value.cpu().contiguous() for name, value in kept.items()}
    found["distance"] = distances(trained or LENGTH)
    shape = model.shape
    sentence = {
        "pieces": [vocabulary.decode([i]) for i in ids],
        "tokens": ids.tolist(),
        "text": vocabulary.decode(ids),
        "cut": cut,
        "layers": layers,
        "heads": heads,
        "depth": len(model.blocks),
        "width": shape.heads,
        "length": trained,
    } | {name: getattr(shape, name) for name in ("position", "refine", "normalize", "validity")}
    write(Path(out) / MAPS, safetensors.torch.save(found))
    write_json(Path(out) / SENTENCE, sentence)
    return sentence


def layerwise(model: Decoder, tokens: Tensor) -> Iterator[tuple[Stages, Attention]]:
    """Yield the stages of each layer while the model reads tokens (B, T), and the recipe that they are of."""
    frame = model.frame(tokens)
    x = model.embedding(tokens)  # (B, T, width)
    for block in model.blocks:
        heads: Any = block.heads
        q, k, _ = heads.project(block.norm_heads(x), frame)  # type: ignore[operator]
        yield stages(q, k, frame, heads.recipe), heads.recipe
        x = block(x, frame)


def distances(length: int) -> Tensor:
    """Return the distances at which a bias is kept, (n,) int64: all small ones, then fewer, to 4 times the length."""
    far = FARTHER * length
    spaced = torch.linspace(0, far, min(far + 1, PLACES)).round().long()
    return torch.cat((torch.arange(min(33, far + 1)), torch.tensor([length]), spaced)).unique()


def _maps(each: Stages, recipe: Attention) -> dict[str, Tensor]:
    found = {"valid": each.valid[0, 0], "scores": each.scores[0], "refined": each.refined[0]}
    found["weights"] = each.weights[0]
    if each.bias is not None:
        found["bias"] = each.bias[0]
    if recipe.refine is not None:
        found["correction"] = each.refined[0] - each.scores[0] - (0 if each.bias is None else each.bias[0])
    return found


def _decays(recipe: Attention, length: int, device: torch.device) -> dict[str, Tensor]:
    """Return the bias by distance far into a text, and at the training length if that differs."""
    if recipe.bias is None:
        return {}
    d = distances(length)
    far, near = (_decay(recipe.bias, d[d <= place], place, device) for place in (FARTHER * length, length))
    same = torch.allclose(far[:, : near.shape[1]], near, rtol=1e-4, atol=1e-4)
    return {"decay": far} if same else {"decay": far, "near": near}


def _decay(bias: Callable[[Frame], Tensor], d: Tensor, place: int, device: torch.device) -> Tensor:
    """Return the bias (H, n) of the query at a place for keys at distances d (n,) behind it."""
    query = torch.tensor([[place]])
    return bias(Frame(query.to(device), (query - d).to(device)))[0, :, 0]


def _spaced(many: int, most: int) -> list[int]:
    return np.unique(np.linspace(0, many - 1, min(many, most)).round().astype(int)).tolist()


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

    A separator is a token whose text, spaces stripped, is one of . , ? ! ; : or holds a newline or tab
    (arXiv 2412.12094). Each row of weights counts as |w| / sum |w|, so that self-adjusted ones, whose rows do not sum
    to 1, compare; rows of nothing but zeros are left out. Rows that see fewer than 21 keys back are too: the first 4
    and the nearest 16 then never meet.

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
    least = FIRST + NEAR + 1
    span = min(length or model.shape.length or LENGTH, LONGEST, len(ids))
    if span < least:
        raise UsageError(f"{span} tokens are too few to look for separators; legal are {least} and more")
    starts = np.linspace(0, len(ids) - span, min(windows, len(ids) // span)).astype(np.int64)
    held = [ids[start : start + span].astype(np.int64) for start in starts]
    occur = np.unique(np.concatenate(held)).tolist()
    kinds = {i: text for i in occur if is_separator(text := vocabulary.decode([i]))}
    depth, heads = len(model.blocks), model.shape.heads
    shares, sums = torch.zeros(depth, heads, len(CLASSES), dtype=torch.float64), torch.zeros(2, depth, heads).double()
    even, rows = torch.zeros(len(CLASSES), dtype=torch.float64), span - least + 1
    with scoring(model) as device:
        for window in held:
            marked = torch.from_numpy(np.isin(window, list(kinds))).to(device)
            classes = _classes(marked, least - 1)  # (C, R, T)
            for layer, (each, _) in enumerate(layerwise(model, torch.from_numpy(window)[None].to(device))):
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


CLASSES = ("separators", "first", f"first_{FIRST}", f"nearest_{NEAR}", "far_separators", "rest")


def is_separator(text: str) -> bool:
    r"""Say whether a token's text ends a segment.

    >>> [is_separator(text) for text in (" ,", ".", ".\n", "\t", "a.", "", " ")]
    [True, True, True, True, False, False, False]
    """
    return text.strip(" ") in MARKS or "\n" in text or "\t" in text


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
