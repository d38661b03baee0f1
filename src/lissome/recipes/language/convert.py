"""A run of a language model as a folder of transformers, and such a folder as a run."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from tokenizers import Tokenizer

from lissome import report
from lissome._errors import RunError, UsageError
from lissome._files import check_room, reason, write, write_json
from lissome._weights import check_weights
from lissome.bridges import layout, llama, tokenizer
from lissome.bridges.folder import CONFIG, WHOLE, read_object, read_weights
from lissome.language import Bpe, Bytes, Vocabulary, describe_vocabulary
from lissome.models import Decoder, DecoderShape
from lissome.models.decoder import EPS
from lissome.optim.checkpoint import MODEL
from lissome.recipes.directory import environment
from lissome.recipes.language.archive import load_trained
from lissome.recipes.language.settings import LanguageSettings, ModelSettings
from lissome.recipes.language.source import TOKENS, VOCABULARY
from lissome.recipes.settings import dump, load
from lissome.report.language_files import SHAPE, TEXT, is_language

TOKENIZER, TOKENIZING = "tokenizer.json", "tokenizer_config.json"


def export_language(run: str | Path, out: str | Path) -> dict[str, Any]:
    """Write the model of a run as a folder that `transformers.AutoModelForCausalLM.from_pretrained` loads.

    Args:
        run: directory of `lissome lm train`, finished or not.
        out: the folder, not there yet.

    Returns:
        run, out, type (llama, mistral or arcee), class, numbers (weights), vocabulary (tokens), steps.

    Raises:
        UsageError: no such run or no checkpoint, a part that no class of transformers has, or a folder that holds
            something.
        RunError: the system refused to write; nothing is left.
    """
    out = _free(out)
    trained = load_trained(run)
    model, end = trained.model, trained.vocabulary.end
    dtype = model.embedding.weight.dtype
    config = llama.config_of(model.shape, model.recipes, eps=EPS, end=end, dtype=dtype)
    kept = json.loads((trained.path / VOCABULARY).read_text(encoding="utf-8"))
    told = tokenizer.of_bytes() if isinstance(trained.vocabulary, Bytes) else tokenizer.without_frame(kept)
    weights = layout.outward(model.state_dict(), model.shape)
    with _whole(out) as place:
        write(place / WHOLE, safetensors.torch.save(weights, {"format": "pt"}))
        write_json(place / CONFIG, config)
        write_json(place / TOKENIZER, told)
        write_json(place / TOKENIZING, tokenizer.settings_of(told, end))
    return {
        "run": str(run),
        "out": str(out),
        "type": config["model_type"],
        "class": config["architectures"][0],
        "numbers": sum(value.numel() for value in weights.values()),
        "vocabulary": model.shape.vocabulary,
        "steps": trained.steps,
    }


def import_language(folder: str | Path, out: str | Path, *, tokens: str | Path | None = None) -> dict[str, Any]:
    """Make a run of a model of transformers, which `evaluate_language`, `generate_text` and `show` take.

    Weights in half precision become float32, which changes none.

    Args:
        folder: local, with config.json, safetensors and tokenizer.json.
        out: directory of the run, not there yet.
        tokens: folder or file of the tokenizer, if not beside the model, or the word `bytes`.

    Returns:
        The summary, as in `summary.json`.

    Raises:
        UsageError: no such folder, a model that a decoder is not, weights or a tokenizer that are missing, damaged or
            of another model, or a directory that holds something.
        RunError: the system refused to write; nothing is left.
    """
    folder, out = Path(folder), _free(out)
    config = _config(folder)
    shape = DecoderShape(**llama.sizes_of(config))
    eps = llama.eps_of(config)
    vocabulary = vocabulary_of(folder, tokens, shape.vocabulary)
    weights = layout.inward(read_weights(folder), shape, eps=eps, own=EPS, source=f"'{folder}'")
    with torch.device("meta"):  # takes no memory
        check_weights(Decoder(shape).state_dict(), weights, f"'{folder}'", dtypes=False)
    told = shape.told()
    sizes = {f"model.{name}": told[name] for name in told if name in ModelSettings.model_fields}
    kind = "bytes" if isinstance(vocabulary, Bytes) else "bpe"
    settings = load(LanguageSettings, given=sizes | {"length": shape.length, "vocabulary": kind})
    summary = {
        "kind": "lm",
        "imported": str(folder.resolve()),
        "type": config["model_type"],
        "stages": "; ".join((shape.validity, shape.position, shape.normalize)),
        "vocabulary": shape.vocabulary,
        "length": shape.length,
        "total": sum(value.numel() for value in weights.values()),
    }
    facts = {
        "name": f"what '{folder.name}' was trained on",
        "files": 0,
        "documents": 0,
        "count": 0,
        "digest": "",  # no text has it: the run cannot be gone on with as if it had one
        "tokens": TOKENS,
        "vocabulary": describe_vocabulary(vocabulary),
    }
    with _whole(out) as place:
        write(place / "checkpoint" / MODEL, safetensors.torch.save(weights))
        vocabulary.save(place / VOCABULARY)
        write_json(place / TEXT, facts)
        write_json(place / SHAPE, told)
        write(place / "settings.yaml", dump(settings))
        write_json(place / "environment.json", environment())
        write(place / "metrics.jsonl", "")  # how it was trained is not known
        write_json(place / "summary.json", summary)
    report.language_page(out)
    return summary


def _config(folder: Path) -> dict[str, Any]:
    legal = "legal is a local folder of a model that transformers saved"
    if is_language(folder):
        raise UsageError(f"'{folder}' is a run already; {legal}")
    if not (folder / CONFIG).is_file():
        raise UsageError(f"'{folder}' {'holds no ' + CONFIG if folder.is_dir() else 'is no folder'}; {legal}")
    return read_object(folder / CONFIG)


def vocabulary_of(folder: Path, asked: str | Path | None, size: int) -> Vocabulary:
    """Return the vocabulary of a folder, with as many tokens as the model has.

    Args:
        folder: of transformers.
        asked: folder or file of a tokenizer, if not beside the model, or the word `bytes`.
        size: tokens of the model.

    Raises:
        UsageError: no tokenizer is there, it cannot be read, or it is of another model.
    """
    if asked == "bytes":
        return _of_bytes("bytes", size)
    place = folder if asked is None else Path(asked)
    path = place / TOKENIZER if place.is_dir() else place
    if not path.is_file():
        raise UsageError(
            f"there is no '{path}'; name the folder or file of a tokenizer by --tokenizer, or bytes, or save one that "
            f"has no {TOKENIZER} by transformers.AutoTokenizer"
        )
    told = read_object(path)
    if tokenizer.is_of_bytes(told) and size == Bytes.size:
        return Bytes()
    try:
        read = Tokenizer.from_str(json.dumps(told))
    except Exception as error:  # the tokenizers library raises plain Exception
        raise UsageError(f"the tokenizer '{path}' cannot be read ({error}); save it again") from error
    return Bpe(tokenizer.filled(read, size, f"'{path}'"))


def _of_bytes(source: str, size: int) -> Vocabulary:
    if size < Bytes.size:
        raise UsageError(f"{source} are {Bytes.size} tokens and the model has {size}; give the model's own tokenizer")
    if size == Bytes.size:
        return Bytes()
    return Bpe(tokenizer.filled(Tokenizer.from_str(json.dumps(tokenizer.of_bytes())), size, source))


def _free(out: str | Path) -> Path:
    """Return where to write, if nothing is there.

    Raises:
        UsageError: it is a file, or a directory that holds something.
    """
    out = Path(out)
    check_room(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"'{out}' exists and holds something; name another directory by --out")
    return out


@contextlib.contextmanager
def _whole(out: Path) -> Iterator[Path]:
    """Give a directory to write in, which becomes `out` at the end; on an error nothing of it is left.

    Raises:
        RunError: it cannot be made or moved into place.
    """
    out = out.absolute()
    new = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        new.mkdir(parents=True)
        yield new
        os.replace(new, out)
    except OSError as error:
        raise RunError(f"'{out}' cannot be written: {reason(error)}") from error
    finally:
        shutil.rmtree(new, ignore_errors=True)
