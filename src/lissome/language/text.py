"""The objective of a language model: the next token of a text."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from lissome._errors import UsageError
from lissome._types import Batch
from lissome.language.score import cross_entropy, perplexity, scoring
from lissome.language.vocabulary import Vocabulary

HELD = 0.1
SCORED = 1 << 15  # tokens of an evaluation
TOGETHER = 1 << 13  # tokens that go through the model at once in an evaluation


def split_tokens(ids: np.ndarray, held: float = HELD) -> tuple[np.ndarray, np.ndarray]:
    """Return the training tokens and the held-out ones, which are the last `held` of all; both are views.

    Raises:
        UsageError: the part is not between 0 and 1.

    >>> [part.tolist() for part in split_tokens(np.arange(10))]
    [[0, 1, 2, 3, 4, 5, 6, 7, 8], [9]]
    """
    if not 0 < held < 1:
        raise UsageError(f"the held-out part is {held}; legal is a number between 0 and 1")
    place = len(ids) - math.ceil(len(ids) * held)
    return ids[:place], ids[place:]


class Text:
    """The mean cross-entropy of the next token, in nats; an `Objective`.

    A model takes tokens (n, T), int64, and returns logits (n, T, V). A batch is {"tokens": (n, T + 1)}, windows that
    begin anywhere in the training tokens, so any rows of it are a batch too, as `Divisible` has it.

    `validation_loss` is the mean in nats over windows of the held-out tokens, the same each time; `perplexity` its
    exponential; `bits_per_byte` what a byte of the text costs in bits, comparable between vocabularies, where the
    vocabulary knows its bytes.

    Args:
        train: tokens to draw from, (N,), in memory or mapped.
        held: tokens to evaluate on, (M,).
        length: T, tokens that the model sees.
        vocabulary: what the tokens are written in; None leaves `bits_per_byte` out.
        scored: about how many held-out tokens an evaluation scores, at most; one window at least.

    Raises:
        UsageError: a length below 1, or one that either part is too short for.

    >>> tokens = np.frombuffer(b"to be or not to be, that is the question " * 9, np.uint8)
    >>> text = Text(*split_tokens(tokens), length=16)
    >>> text.sample(torch.Generator().manual_seed(0), 4)["tokens"].shape
    torch.Size([4, 17])
    """

    def __init__(
        self,
        train: np.ndarray,
        held: np.ndarray,
        *,
        length: int,
        vocabulary: Vocabulary | None = None,
        scored: int = SCORED,
    ):
        _check(length, len(train), len(held))
        self.train, self.held, self.length, self.vocabulary = train, held, length, vocabulary
        self._windows = np.lib.stride_tricks.sliding_window_view(train, length + 1)  # (N - T, T + 1), a view
        many = max(1, min(scored // length, (len(held) - 1) // length))
        starts = np.linspace(0, len(held) - 1 - length, many).astype(np.int64)
        rows = np.lib.stride_tricks.sliding_window_view(held, length + 1)[starts]
        self.validation = torch.from_numpy(rows.astype(np.int64))  # (W, T + 1)

    def sample(self, generator: torch.Generator, n: int) -> Batch:
        """Draw n windows of the training tokens, (n, T + 1) int64 on the CPU."""
        device = generator.device
        starts = torch.randint(len(self._windows), (n,), generator=generator, device=device).cpu().numpy()
        return {"tokens": torch.from_numpy(self._windows[starts].astype(np.int64))}

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the mean cross-entropy in nats per token, in float32 also under half precision."""
        tokens = batch["tokens"]
        return cross_entropy(model(tokens[:, :-1]), tokens[:, 1:]).mean()

    def divide(self, batch: Batch, count: int) -> list[tuple[Batch, float]]:
        """Cut a batch into `count` parts of almost as many rows each, and their shares of the rows.

        Raises:
            UsageError: more parts than rows.
        """
        tokens = batch["tokens"]
        if not 1 <= count <= len(tokens):
            raise UsageError(f"a batch of {len(tokens)} rows in {count} parts; legal are 1 to {len(tokens)}")
        return [({"tokens": part}, len(part) / len(tokens)) for part in tokens.tensor_split(count)]

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Return `validation_loss`, `perplexity`, and `bits_per_byte` where it is known."""
        nats = 0.0
        with scoring(model) as device:
            for rows in self.validation.split(max(1, TOGETHER // self.length)):
                rows = rows.to(device)
                nats += float(cross_entropy(model(rows[:, :-1]), rows[:, 1:]).double().sum())
        mean = nats / self.scored
        found = {"validation_loss": mean, "perplexity": perplexity(mean)}
        return found | ({"bits_per_byte": nats / math.log(2) / self.bytes} if self.bytes else {})

    @property
    def scored(self) -> int:
        """How many held-out tokens an evaluation scores."""
        return len(self.validation) * self.length

    @property
    def bytes(self) -> int | None:
        """How many bytes these tokens stand for, if that is known."""
        widths = None if self.vocabulary is None else self.vocabulary.widths
        return None if widths is None else int(widths[self.validation[:, 1:].numpy()].sum())

    def explain(self) -> str:
        """Say what is trained and evaluated on.

        >>> Text(np.zeros(900, np.uint8), np.zeros(100, np.uint8), length=32).explain()
        'windows of 32 anywhere in 900 tokens; evaluated on 96 of 100 held-out tokens, in 3 windows'
        """
        many = len(self.validation)
        return (
            f"windows of {self.length:,} anywhere in {len(self.train):,} tokens; evaluated on {self.scored:,} of "
            f"{len(self.held):,} held-out tokens, in {many:,} window{'s' * (many > 1)}"
        )


def _check(length: int, train: int, held: int) -> None:
    most = min(train, held) - 1
    if length < 1:
        raise UsageError(f"length is {length}; legal are 1 to {most:,}")
    if length > most:
        legal = f"legal are lengths of 1 to {most:,}, or a longer text" if most > 0 else "take a longer text"
        raise UsageError(
            f"the text is too short for length {length:,}: {train:,} tokens to train on and {held:,} held out; {legal}"
        )
