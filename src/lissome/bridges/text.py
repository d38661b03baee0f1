"""Models of transformers and adapters of peft from local folders, and text as their batches; nothing is downloaded."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from lissome._errors import UsageError
from lissome._parsed import json_of
from lissome.bridges import causal
from lissome.bridges.attached import CHILD
from lissome.bridges.stored import Stored

try:
    import transformers
    from peft import PeftConfig, PeftModel
except ImportError as error:
    raise UsageError("this needs peft and transformers; install them with: pip install 'lissome[peft]'") from error

# task_type of peft -> class of transformers; for others the model's own architecture is taken
CLASSES = {
    "CAUSAL_LM": "AutoModelForCausalLM",
    "SEQ_CLS": "AutoModelForSequenceClassification",
}
KINDS = {
    "ForCausalLM": "causal",
    "LMHeadModel": "causal",
    "ForMaskedLM": "masked",
    "ForSequenceClassification": "classes",
}
MASKED = 0.15  # share of the tokens that a masked model has to guess, as BERT's; arXiv 1810.04805
BYTES = 256
WITHIN = "base_model.model."  # what peft writes before the path of every weight


@dataclass(frozen=True)
class Loaded:
    """An adapted model and how text becomes its input.

    Attributes:
        model: a `PeftModel`, float32, in evaluation.
        kind: `causal`, `masked` or `classes`.
        tokenizer: of transformers; None reads bytes as tokens.
    """

    model: Any
    kind: str
    tokenizer: Any


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep bars and notes of transformers and peft off the terminal while inside; what matters is told as an error."""
    with causal.quiet():  # which puts the filters back as well
        warnings.filterwarnings("ignore", message="Found missing adapter keys")  # refused below, by name
        warnings.filterwarnings("ignore", category=UserWarning, module=r"peft\.")
        yield


def load(model: str | Path, adapter: str | Path, tokenizer: str | Path | None = None) -> Loaded:
    """Load a base and a LoRA from folders, weights from safetensors alone.

    Args:
        model: folder of transformers with config.json.
        adapter: folder of peft with adapter_config.json.
        tokenizer: folder, or a file of the tokenizers library; None looks in both folders, and else reads bytes.

    Raises:
        UsageError: a folder that holds no such thing, or one that cannot be read; an adapter that is no LoRA, or one of
            another model; a base without some of its weights; a kind of model that is not covered.
    """
    base, own = _folder(model, "config.json", "model"), _folder(adapter, "adapter_config.json", "adapter")
    if not (own / "adapter_model.safetensors").is_file():
        raise UsageError(f"'{own}' holds no adapter_model.safetensors; save the adapter by save_pretrained again")
    try:
        asked = PeftConfig.from_pretrained(str(own))
        method, task = (str(getattr(each, "value", each)) for each in (asked.peft_type, asked.task_type))
        if method != "LORA":
            raise UsageError(
                f"'{own}' holds an adapter of type {method}; legal is LORA, whose terms can be cut one by one"
            )
        config = transformers.AutoConfig.from_pretrained(base, local_files_only=True)
        name = CLASSES.get(task, (config.architectures or ["none"])[0])
        kind = next((kind for end, kind in KINDS.items() if name.replace("AutoModel", "").endswith(end)), None)
        if kind is None or not hasattr(transformers, name):
            raise UsageError(
                f"'{base}' is a {name}; legal here are causal and masked language models and sequence classifiers: for "
                "others call lissome.bridges.peft.choose_ranks"
            )
        stages = Stored.read(base, {"config": config}) if getattr(config, CHILD, None) else None
        with quiet():
            network, told = getattr(transformers, name).from_pretrained(
                base, local_files_only=True, use_safetensors=True, dtype=torch.float32, output_loading_info=True
            )
            network = network if stages is None else stages.put(network)  # they are of the model, and taught with it
            adapted = PeftModel.from_pretrained(network, str(own), local_files_only=True)
        with safe_open(own / "adapter_model.safetensors", "pt") as file:
            saved = set(file.keys())
        _check_whole(base, told["missing_keys"], saved)
        _check_own(base, own, saved, adapted)
    except UsageError:
        raise
    except Exception as error:  # of three libraries, one of which raises plain Exception
        raise UsageError(f"'{base}' with the adapter '{own}' cannot be loaded: {_said(error)}") from error
    return Loaded(adapted.eval(), kind, _tokenizer(tokenizer, (own, base), config))


def read(
    loaded: Loaded, file: str | Path, *, batches: int, size: int, length: int, seed: int
) -> list[dict[str, Tensor]]:
    """Return batches from a file, spread evenly over it.

    Args:
        loaded: the model.
        file: plain text; or, with a name ending in .jsonl, lines with `text`, and `label` for a classifier.
        batches: how many.
        size: rows of each.
        length: tokens of each row.
        seed: of the tokens that a masked model has to guess.

    Raises:
        UsageError: a file that cannot be read, is too short, or lacks labels; a length that the model does not have.
    """
    most = getattr(loaded.model.config, "max_position_embeddings", None) or length
    if length > most:
        raise UsageError(f"length is {length}; legal are 2 to {most}, the positions of the model")
    rows = _lines(Path(file))
    if loaded.kind == "classes":
        return _classes(loaded, rows, Path(file), batches, size, length)
    tokens = _tokens(loaded, "\n".join(row["text"] for row in rows))
    wanted = batches * size
    if len(tokens) < length * wanted:  # else rows that are held out would overlap those that are weighed
        raise UsageError(
            f"'{file}' has {len(tokens):,} tokens, too few for {wanted} rows of {length}; take a longer text, or fewer "
            "batches, or a smaller length"
        )
    starts = torch.linspace(0, len(tokens) - length, wanted).long()
    windows = torch.stack([tokens[start : start + length] for start in starts])  # (rows, length)
    # neighbours go to different batches, so that each batch is spread over the file
    parts = [windows[number::batches] for number in range(batches)]
    if loaded.kind == "causal":
        return [{"input_ids": part, "labels": part} for part in parts]
    generator = torch.Generator().manual_seed(seed)
    return [_masked(loaded, part, generator) for part in parts]


def _folder(place: str | Path, file: str, what: str) -> Path:
    path = Path(place)
    if not (path / file).is_file():
        raise UsageError(f"'{path}' holds no {file}; legal is a local folder of a saved {what}")
    return path


def _check_whole(base: Path, missing: Collection[str], saved: Collection[str]) -> None:
    """Refuse a base with weights that neither folder holds: transformers would draw them at random."""
    if lost := sorted(name for name in missing if WITHIN + name not in saved):
        raise UsageError(
            f"'{base}' lacks weights of its model, {len(lost)} of them, such as {lost[0]}; save the whole model"
        )


def _check_own(base: Path, own: Path, saved: Collection[str], adapted: Any) -> None:
    """Refuse an adapter whose layers are not those of the model: peft would leave some out, or leave some untrained."""
    kept = {name.removesuffix(".lora_A.weight") for name in saved if name.endswith(".lora_A.weight")}
    names = (name for name, _ in adapted.named_parameters() if ".lora_A." in name)
    there = {name.partition(".lora_A.")[0] for name in names}
    if odd := sorted(kept ^ there):
        has, lacks = (own, base) if odd[0] in kept else (base, own)
        raise UsageError(
            f"'{own}' was trained on another model than '{base}': '{has}' has a layer {odd[0].removeprefix(WITHIN)} "
            f"and '{lacks}' none to it; name the model it was trained on"
        )


def _said(error: Exception) -> str:
    """Return the first line of an error that says something."""
    first, *more = str(error).strip().splitlines() or [type(error).__name__]
    return f"{first} {more[0].strip()}" if first.endswith(":") and more else first


def _tokenizer(asked: str | Path | None, folders: tuple[Path, Path], config: Any) -> Any:
    places = [Path(asked)] if asked is not None else list(folders)
    for place in places:
        try:
            if place.is_file():
                return transformers.PreTrainedTokenizerFast(tokenizer_file=str(place))
            if (place / "tokenizer_config.json").is_file() or (place / "tokenizer.json").is_file():
                return transformers.AutoTokenizer.from_pretrained(place, local_files_only=True)
        except Exception as error:  # the tokenizers library raises plain Exception
            raise UsageError(f"the tokenizer in '{place}' cannot be loaded: {_said(error)}") from error
    if asked is not None:
        raise UsageError(f"'{asked}' holds no tokenizer; legal is a folder with tokenizer.json, or such a file")
    if config.vocab_size < BYTES:
        raise UsageError(
            f"neither folder holds a tokenizer, and {config.vocab_size} tokens are too few for bytes ({BYTES}); name "
            "one by --tokenizer"
        )
    return None


def _lines(file: Path) -> list[dict[str, Any]]:
    """Return the texts of a file, one of a plain one."""
    try:
        text = file.read_text(encoding="utf-8-sig")  # a mark that some editors write first is no text
    except OSError as error:
        raise UsageError(f"'{file}' cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise UsageError(
            f"'{file}' is no text in UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8"
        ) from error
    if file.suffix != ".jsonl":
        return [{"text": text}]
    rows = []
    for number, line in enumerate(text.split("\n"), 1):  # JSON may hold what else Python takes for an end of line
        try:
            row = json_of(line) if line.strip() else None
        except ValueError as error:
            raise UsageError(f"line {number} of '{file}' is no JSON: {error}") from error
        if row is not None and not (isinstance(row, Mapping) and isinstance(row.get("text"), str)):
            raise UsageError(f'line {number} of \'{file}\' has no "text"; legal is such as {{"text": "..."}}')
        rows += [dict(row)] if row is not None else []
    return rows


def _tokens(loaded: Loaded, text: str, *, special: bool = False) -> Tensor:
    if loaded.tokenizer is None:
        return torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8).long() if text else torch.zeros(0).long()
    try:
        found = loaded.tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"]
    except Exception as error:  # the tokenizers library raises plain Exception
        raise UsageError(f"the tokenizer cannot read the text: {_said(error)}") from error
    tokens = torch.tensor(found, dtype=torch.long)
    _check_vocabulary(loaded, tokens)
    return tokens


def _check_vocabulary(loaded: Loaded, tokens: Tensor) -> None:
    size = loaded.model.config.vocab_size
    if len(tokens) and int(tokens.max()) >= size:
        raise UsageError(
            f"the tokenizer has a token {int(tokens.max())} and the model {size} of them; name the model's own by "
            "--tokenizer"
        )


def _masked(loaded: Loaded, part: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
    """Hide some tokens, and ask for these alone."""
    mask = BYTES if loaded.tokenizer is None else loaded.tokenizer.mask_token_id
    if mask is None or mask >= loaded.model.config.vocab_size:
        raise UsageError("the masked model's tokenizer has no mask token; name one that has by --tokenizer")
    hidden = torch.rand(part.shape, generator=generator) < MASKED
    hidden[:, 0] |= ~hidden.any(1)  # a row without a question would have no loss
    return {"input_ids": part.masked_fill(hidden, mask), "labels": part.masked_fill(~hidden, -100)}


def _classes(
    loaded: Loaded, rows: list[dict[str, Any]], file: Path, batches: int, size: int, length: int
) -> list[dict[str, Tensor]]:
    config, wanted = loaded.model.config, batches * size
    names, pad = config.label2id, getattr(config, "pad_token_id", None)
    if len(names) < 2:
        raise UsageError("the classifier has one label, as for regression; legal here are two and more")
    if pad is None and size > 1:
        raise UsageError("the classifier's config has no pad_token_id, without which it takes rows one by one; set one")
    if file.suffix != ".jsonl":
        raise UsageError(f"'{file}' has no labels; a classifier needs a .jsonl file of lines with text and label")
    if bare := next((number for number, row in enumerate(rows, 1) if "label" not in row), None):
        raise UsageError(f"text {bare} of '{file}' has no label; a classifier needs one on every line")
    if len(rows) < wanted:
        raise UsageError(f"'{file}' has {len(rows)} lines, too few for {wanted} rows; take fewer or smaller batches")
    chosen = [rows[int(index)] for index in torch.linspace(0, len(rows) - 1, wanted)]
    labels, texts = [], []
    for row in chosen:
        label = names.get(row["label"], row["label"]) if isinstance(row["label"], str) else row["label"]
        if type(label) is not int or not 0 <= label < len(names):  # True is an int to Python, and two labels to torch
            legal = f"0 to {len(names) - 1}, or the model's names for them: {', '.join(map(str, names))}"
            raise UsageError(f"'{file}' has the label {row['label']!r}; legal are {legal}")
        labels.append(label)
        texts.append(_tokens(loaded, row["text"], special=True)[:length])
    found = []
    for number in range(batches):
        ids = [texts[i] if len(texts[i]) else torch.zeros(1).long() for i in range(number, wanted, batches)]
        padded = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=pad or 0)  # (size, longest)
        seen = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in ids], batch_first=True)
        found.append({"input_ids": padded, "attention_mask": seen, "labels": torch.tensor(labels[number::batches])})
    return found
