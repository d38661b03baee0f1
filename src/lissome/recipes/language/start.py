"""Begin with the weights of another run: a model of full attention, say, learns on with fewer keys in sight."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lissome._errors import UsageError
from lissome.models import Decoder, DecoderShape
from lissome.models.stored import filled
from lissome.optim.checkpoint import MODEL
from lissome.recipes.language.archive import check_language, checkpoint_of, read_shape, read_weights
from lissome.report.language_files import kept_step

STAGE = ".recipe."  # in the name of a weight of attention's stages
SIZES = ("layers", "width", "heads", "key_heads", "feed", "feed_width", "tied")  # settings of `model`


def check_start(run: Path, wanted: DecoderShape) -> None:
    """Refuse a run whose weights are none of a decoder; stages and length may be others.

    Args:
        run: to begin with.
        wanted: the shape of the decoder; of any vocabulary, for that is the run's.

    Raises:
        UsageError: it is no run of `lissome lm train`, has no checkpoint, or other sizes.
    """
    check_language(run)
    checkpoint_of(run)
    there, asked = (_sizes(shape) for shape in (read_shape(run), wanted))
    if there != asked:
        other = [name for name in SIZES if there[name] != asked[name]]
        differ = ", ".join(f"{name} {there[name]} where {asked[name]} is asked for" for name in other)
        cure = " ".join(f"--set model.{name}={str(there[name]).lower()}" for name in other)
        raise UsageError(f"the run '{run}' has {differ}, and its weights need its sizes: {cure}")


def begin_with(run: Path, model: Decoder) -> dict[str, Any]:
    """Put the weights of a run into a model that `check_start` lets pass, and say what came of it.

    What a stage of the model has and the run has not stays as it was drawn.

    Returns:
        run, steps (of its training; None if that is not known), drawn and left (names of weights of stages that the run
        has not, and that the model has not).

    Raises:
        UsageError: the weights are missing, damaged or of another network.
    """
    place = checkpoint_of(run)
    weights, own = read_weights(place / MODEL), model.state_dict()
    apart = {name for name in own.keys() | weights.keys() if STAGE in name and not _same(own, weights, name)}
    taken = {name: value for name, value in weights.items() if name not in apart}
    drawn, left = (sorted(apart & held.keys()) for held in (own, weights))
    filled(model, taken | {name: own[name] for name in drawn}, str(place)).train()
    return {"run": str(run), "steps": kept_step(run), "drawn": drawn, "left": left}


def _sizes(shape: DecoderShape) -> dict[str, Any]:
    told = shape.told()
    return {name: told[name] for name in SIZES} | {"key_heads": shape.groups, "feed_width": shape.hidden}


def _same(own: dict[str, Any], weights: dict[str, Any], name: str) -> bool:
    return name in own and name in weights and own[name].shape == weights[name].shape
