"""All stages of attention while one sentence is read, for the page: `maps.safetensors` and `sentence.json`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from lissome._errors import UsageError
from lissome._files import write, write_json
from lissome.attention import Attention, Frame, Stages
from lissome.language import Vocabulary
from lissome.language.score import scoring
from lissome.models import Decoder
from lissome.report.language_files import MAPS, SENTENCE

TOKENS, LAYERS, HEADS = 96, 12, 16  # that are kept, at most
LENGTH = 512  # tokens, where the training length is not known
FARTHER = 4  # times the training length, to which a bias is followed
PLACES = 400  # distances of a bias, about


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
    layers, heads = _spaced(model.shape.depth, LAYERS), _spaced(model.shape.heads, HEADS)
    found = dict[str, Tensor]()
    with scoring(model) as device:
        tokens = torch.from_numpy(ids)[None].to(device)  # (1, T)
        for layer, (each, recipe) in enumerate(zip(model.stages(tokens), model.recipes, strict=True)):
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
        "depth": model.shape.depth,
        "width": shape.heads,
        "length": trained,
    } | {name: getattr(shape, name) for name in ("position", "refine", "normalize", "validity")}
    write(Path(out) / MAPS, safetensors.torch.save(found))
    write_json(Path(out) / SENTENCE, sentence)
    return sentence


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
