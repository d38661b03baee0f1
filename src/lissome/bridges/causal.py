"""A language model of transformers, whole, from a local folder; nothing is downloaded, and no code of a folder runs."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lissome._errors import UsageError
from lissome.bridges.attached import CHILD
from lissome.bridges.folder import CONFIG, read_object
from lissome.bridges.installed import AutoModelForCausalLM, logging
from lissome.bridges.stored import load as load_stages


def load(folder: Path) -> Any:
    """Return the model of a folder in the dtype of its weights, ready to evaluate, with its stages of Lissome if any.

    Raises:
        UsageError: the folder holds no such model, or lacks weights of it.
    """
    config = read_object(folder / CONFIG)
    if config.get(CHILD):
        return load_stages(folder, dtype="auto")
    try:
        with quiet():
            both: Any = AutoModelForCausalLM.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, dtype="auto", output_loading_info=True
            )
            model, told = both
    except Exception as error:  # of two libraries, one of which raises plain Exception
        first = next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")
        raise UsageError(f"the model in '{folder}' cannot be loaded: {first}") from error
    if lost := sorted(told["missing_keys"]):
        raise UsageError(f"'{folder}' lacks {len(lost)} weights of its model, such as {lost[0]}; save the whole model")
    return model.eval()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep bars and notes of transformers off the terminal while inside."""
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of transformers, about its own attributes
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
