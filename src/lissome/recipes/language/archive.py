"""A trained language model, from the directory of its run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError

from lissome._errors import UsageError
from lissome._files import reason
from lissome.language import Vocabulary
from lissome.models import Decoder, DecoderShape
from lissome.models.stored import filled
from lissome.optim import checkpoint
from lissome.recipes.language.settings import LanguageSettings
from lissome.recipes.language.source import kept_vocabulary
from lissome.recipes.settings import load
from lissome.report.language_files import SHAPE, TEXT, check_begun, is_language, kept_step
from lissome.report.read import read_json


@dataclass(frozen=True)
class Trained:
    """What a run has come to.

    Attributes:
        path: of the run directory.
        settings: what it was asked.
        text: what is known of its text, as in `text.json`.
        vocabulary: what the model reads and writes.
        model: with the weights of the last checkpoint, ready to evaluate.
        steps: that these weights were trained for; None if the checkpoint does not tell it any more.
    """

    path: Path
    settings: LanguageSettings
    text: dict[str, Any]
    vocabulary: Vocabulary
    model: Decoder
    steps: int | None


def load_trained(run: str | Path, device: torch.device | str = "cpu") -> Trained:
    """Return the model of a run of `lissome lm train`, finished or not.

    Raises:
        UsageError: the directory holds no such run, no checkpoint yet, a damaged file, or another vocabulary than the
            one that it was trained with.
    """
    run = Path(run)
    check_language(run)
    settings = load(LanguageSettings, file=run / "settings.yaml", given={})
    text = read_json(run / TEXT)
    vocabulary = kept_vocabulary(run, text)
    place = checkpoint_of(run)
    weights = read_weights(place / checkpoint.MODEL)
    model = filled(Decoder(read_shape(run)), weights, str(place))
    return Trained(run, settings, text, vocabulary, model.to(device), kept_step(run))


def checkpoint_of(run: Path) -> Path:
    """Return where the checkpoint of a run is.

    Raises:
        UsageError: there is none yet.
    """
    place = run / "checkpoint"
    if not checkpoint.exists(place):
        raise UsageError(f"'{run}' holds no checkpoint; `lissome lm train --resume --out {run}` goes on to one")
    return place


def read_shape(run: Path) -> DecoderShape:
    """Return the sizes and stages of the decoder of a run.

    Raises:
        UsageError: the file is damaged.
    """
    try:
        return DecoderShape(**read_json(run / SHAPE))
    except TypeError as error:
        raise UsageError(f"'{run / SHAPE}' is no shape of a decoder: {error}") from error


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Return the weights of a checkpoint; how it goes on with training is not asked.

    Raises:
        UsageError: the file is missing or damaged.
    """
    try:
        return safetensors.torch.load(path.read_bytes())
    except OSError as error:
        raise UsageError(
            f"the weights '{path}' cannot be read ({reason(error)}); put them back, or train anew"
        ) from error
    except (SafetensorError, ValueError, KeyError) as error:
        raise UsageError(f"the weights '{path}' are damaged ({error}); put them back, or train anew") from error


def check_language(run: Path) -> None:
    """Refuse what is no run of `lissome lm train`.

    Raises:
        UsageError: there is no such directory, or it holds something else.
    """
    if run.is_file():
        raise UsageError(f"'{run}' is a file; legal is the directory of a run of `lissome lm train`")
    if not run.is_dir():
        raise UsageError(f"there is no run directory '{run}'")
    check_begun(run)
    if not is_language(run):
        raise UsageError(f"'{run}' is no run of `lissome lm train`: it holds no {TEXT} with {SHAPE} beside it")
