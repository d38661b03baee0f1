"""Train a language model in a run directory."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from lissome import report
from lissome._errors import Interrupted, UsageError
from lissome._files import write_json
from lissome.attention.notation import brief
from lissome.language import Text, split_tokens
from lissome.language.memory import available_memory
from lissome.optim import Budget, Result, checkpoint, fit, keep_memory
from lissome.optim.machine import accelerator
from lissome.recipes import directory
from lissome.recipes.language.archive import load_trained
from lissome.recipes.language.gradients import Gradients
from lissome.recipes.language.lead import lead
from lissome.recipes.language.maps import observe
from lissome.recipes.language.network import method_of, new_model, shape_of
from lissome.recipes.language.separators import SHORTEST, separators
from lissome.recipes.language.settings import FREE, LanguageSettings
from lissome.recipes.language.sight import sight
from lissome.recipes.language.source import lasting, opened, prepare, undone
from lissome.recipes.language.start import begin_with, check_start
from lissome.recipes.language.visible import asked_ids
from lissome.recipes.training import count, device_of, trained_of
from lissome.report.language_files import SHAPE, START, TEXT, kept_step, read_lengths
from lissome.report.read import read_json

LOOKED_AT = 48  # characters of a sentence that the page shows attention on
LEAST = 20


def train_language(
    settings: LanguageSettings, out: str | Path, *, resume: bool = False, progress: bool = True
) -> dict[str, Any] | None:
    """Train a decoder to tell the next token of a text, and write its run directory.

    Args:
        settings: the text, the model, and how to train; paths are kept in full.
        out: directory, not there yet; with `resume` the one to go on with.
        resume: go on from the checkpoint in `out`, to the last bit on the same machine.
        progress: show a bar.

    Returns:
        The summary, as in `summary.json`; None in all processes but the first.

    Raises:
        UsageError: a text, vocabulary, stage or size that is none, a run to begin with that does not fit, a text that
            has changed since, a directory that exists.
        RunError: the loss became NaN, or a file could not be written.
        Interrupted: Ctrl-C; a checkpoint is left.
    """
    out, settings = Path(out), lasting(settings)
    shape = shape_of(settings, vocabulary=256)  # what is wrong with it is said before the text is read
    machine = accelerator(device_of(settings.device), settings.precision)
    keep_memory()
    try:
        with contextlib.ExitStack() as until:

            def begin() -> None:
                if resume:
                    _check_more(out, settings)
                until.enter_context(directory.claimed(out, settings, resume=resume, free=FREE))
                until.enter_context(undone(out, SHAPE, START, resume=resume))
                if settings.start is not None and not _goes_on(out, resume):
                    check_start(Path(settings.start), shape)
                prepare(out, settings, resume=resume, progress=progress)

            lead(machine, begin)
            result, text = _train(settings, out, machine, resume, progress)
            return _finish(out, settings, text, result) if machine.is_main_process else None
    except Interrupted as error:
        raise Interrupted(f"{error}: `lissome lm train --resume --out {out}`") from error


def _goes_on(out: Path, resume: bool) -> bool:
    """Say whether there is a checkpoint to go on from; the run that this one began with is not needed then."""
    return resume and checkpoint.exists(out / "checkpoint")


def _check_more(out: Path, settings: LanguageSettings) -> None:
    if read_json(out / TEXT).get("digest") == "":  # as `convert` writes it
        raise UsageError(f"the run '{out}' was imported, and holds no training to go on with; legal is a new --out")
    read_json(out / START)  # what is damaged is told before anything is trained
    read_lengths(out)
    steps, step = settings.training.steps, kept_step(out)
    if steps is not None and step is not None and steps < step:
        raise UsageError(
            f"training.steps is {steps:,}, and the run '{out}' is already at step {step:,}; legal are more"
        )


def _check_batch(settings: LanguageSettings, vocabulary: int, device: torch.device, processes: int) -> None:
    """Refuse a batch whose tokens and logits alone do not fit into memory."""
    room, T = available_memory(device), settings.length
    width = 4.0 if settings.precision == "no" else 2.0
    tokens, logits = 8.0 * (T + 1), width * T * vocabulary / settings.training.accumulate / processes  # bytes of a row
    if room is not None and settings.batch * (tokens + logits) > room:
        most = int(room / (tokens + logits))
        raise UsageError(
            f"batch {settings.batch:,} needs more than {settings.batch * (tokens + logits) / 2**30:,.0f} GiB and "
            f"{room / 2**30:,.1f} GiB of memory are left; legal is less than {most:,}"
        )


def _train(
    settings: LanguageSettings, out: Path, machine: Accelerator, resume: bool, progress: bool
) -> tuple[Result, Text]:
    source, training = opened(out), settings.training
    learnt, held = split_tokens(source.tokens.ids, settings.held)
    text = Text(learnt, held, length=settings.length, vocabulary=source.vocabulary, scored=settings.scored)
    device = machine.device if machine.num_processes > 1 else device_of(settings.device)
    _check_batch(settings, source.vocabulary.size, device, machine.num_processes)
    seen, goes_on = asked_ids(settings.model.visible, source.vocabulary), _goes_on(out, resume)
    model = new_model(shape_of(settings, source.vocabulary.size, seen), settings.seed)
    if machine.is_main_process:
        write_json(out / SHAPE, model.shape.told())
    if settings.start is not None and not goes_on:
        begun = begin_with(Path(settings.start), model)
        if machine.is_main_process:
            write_json(out / START, begun)
    model.to(device)
    trained = trained_of(model)
    result = fit(
        model,
        text,
        method_of(settings, trained),
        Budget(steps=training.steps, seconds=training.seconds),
        parameters=trained,
        seed=settings.seed,
        directory=out,
        evaluate_every=training.evaluate,
        checkpoint_every=training.checkpoint,
        resume=goes_on,
        progress=progress,
        precision=settings.precision,
        compile=training.compile,
        tensorboard=training.tensorboard,
        on_step=Gradients(out),
    )
    return result, text


def _finish(out: Path, settings: LanguageSettings, text: Text, result: Result) -> dict[str, Any]:
    """Write what is left of a run directory: summary, what attention does, and the page; return the summary."""
    trained = load_trained(out)
    model, vocabulary = trained.model, trained.vocabulary
    figures = {key: value for key, value in result.metrics.items() if key not in ("step", "phase", "lr")}
    seen = settings.batch * settings.length * result.steps
    body = "" if settings.model.body == "plain" else f"{settings.model.body}; "
    summary = {
        "kind": "lm",
        "data": trained.text["name"],
        "preset": settings.model.preset,
        "stages": body + " / ".join(dict.fromkeys(brief(recipe.explain()) for recipe in model.recipes)),
        "vocabulary": vocabulary.size,
        "length": settings.length,
        "batch": settings.batch,
        "rate": settings.rate,
        "seed": settings.seed,
        "trained": result.trained,
        "total": count(model),
        "tokens": {"train": len(text.train), "held": len(text.held), "scored": text.scored, "seen": seen},
        "steps": result.steps,
        "seconds": result.seconds,
        "tokens_per_second": seen / result.metrics["seconds"],
        "outcome": result.outcome.value,
        "compiled": result.capture,
        "sight": sight(model, text.held, settings.length, rows=-(-settings.batch // settings.training.accumulate)),
        **_begun(out, result),
        **{key: value for key, value in figures.items() if not key.startswith("lr/")},
    }
    observe(model, vocabulary, sentence_of(vocabulary.decode(text.held[:400])), out)
    if min(settings.length, len(text.held)) >= SHORTEST:
        separators(model, vocabulary, text.held, out=out)
    write_json(out / "summary.json", summary)
    report.language_page(out)
    return summary


def _begun(out: Path, result: Result) -> dict[str, Any]:
    """Say with which run this one began, and what held-out text cost then."""
    told = read_json(out / START)
    return {"start": told | {"loss": result.history[0].get("validation_loss")}} if told else {}


def sentence_of(text: str) -> str:
    r"""Return a line of a text to look at: the first that is not short, at most 48 characters of it.

    >>> sentence_of("\n# a\n\n    return a line that is not short\n")
    'return a line that is not short'
    """
    lines = [line.strip() for line in text.splitlines()]
    return next((line for line in lines if len(line) >= LEAST), text.strip() or text)[:LOOKED_AT]
