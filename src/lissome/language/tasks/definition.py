"""A task is data and one short rule that writes rows with their answers; models are trained on it and scored by it.

A rule writes whole sequences of T + 1 symbols, some of which are answers. What is fed is all but the last symbol, and
what a model has to say at a place is the next symbol wherever that is an answer; so answers are fed after they were due
(teacher forcing), and none before. Lengths are counted as the task counts them (pairs, letters), not in tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lissome._errors import UsageError
from lissome._types import Batch
from lissome.language.score import cross_entropy, scoring

IGNORED = -100  # the target where nothing is scored, as torch's cross entropy has it
PAIRS = 2**22  # of query and key that are evaluated at once: a score matrix of 16 MiB per head in float32
APART = 2**40  # the seeds of test rows begin here, so that training does not come upon them

Rule = Callable[[torch.Generator, int, int], tuple[Tensor, Tensor]]


@dataclass(frozen=True, kw_only=True)
class Task:
    """Sequences with questions, an `Objective`: trained at some lengths, tested at others.

    A model maps tokens (n, T) to logits (n, T, V), V = `size`. The loss is the mean cross entropy over the scored
    places. One batch has one length, so nothing is padded.

    Attributes:
        name: by which the task is known.
        what: one sentence.
        symbols: what each token is called; (V,).
        rule: (CPU generator, n, length) -> sequences (n, T + 1) int64, and which of their places are answers,
            (T + 1,) bool, the same in all rows.
        chance: length -> accuracy per token of the best guess that knows the place of an answer and nothing else.
        train: the least and the greatest length of training batches, drawn uniformly.
        test: lengths that `evaluate` measures.
        least: the least length that the rule knows.
        most: the greatest one; None is any.
        rows: of each test batch.
        seed: of the test batches.

    Raises:
        UsageError: lengths that the rule does not know, or no rows.

    Example:
        >>> from lissome.language.tasks import task
        >>> parity = task("parity", test=(8, 64))
        >>> parity.size, parity.train, parity.chance(64)
        (3, (1, 40), 0.5)
        >>> tokens, targets = parity.draw(torch.Generator().manual_seed(0), 1, 5)
        >>> tokens.tolist(), targets.tolist()
        ([[0, 1, 1, 0, 1, 2]], [[-100, -100, -100, -100, -100, 1]])
        >>> parity.show(tokens, targets)
        '0 1 1 0 1 = [1]'
    """

    name: str
    what: str
    symbols: tuple[str, ...]
    rule: Rule
    chance: Callable[[int], float]
    train: tuple[int, int]
    test: tuple[int, ...]
    least: int = 1
    most: int | None = None
    rows: int = 256
    seed: int = 0

    def __post_init__(self):
        for setting, legal in (("train", "two lengths, the least and the greatest"), ("test", "one length or more")):
            given = getattr(self, setting)
            listed = isinstance(given, (tuple, list)) and all(type(length) is int for length in given)
            pair = listed and len(given) == 2 and given[0] <= given[1]
            if not (pair if setting == "train" else listed and given):
                raise UsageError(f"{setting}={given!r} of the task '{self.name}'; legal are {legal}")
            for length in given:
                self._check(length)
            object.__setattr__(self, setting, tuple(given))  # settings files have lists
        at_least(self.name, 1, rows=self.rows)

    @property
    def size(self) -> int:
        """The size of the vocabulary, V."""
        return len(self.symbols)

    def draw(self, generator: torch.Generator, n: int, length: int) -> tuple[Tensor, Tensor]:
        """Return tokens and targets, each (n, T) int64; targets are `IGNORED` where nothing is scored.

        targets[:, t] is what a model that has read tokens[:, : t + 1] has to say; it is fed as tokens[:, t + 1].

        Args:
            generator: of the CPU; the only source of chance.
            n: rows.
            length: as the task counts it.

        Raises:
            UsageError: a length that the task does not have.
        """
        self._check(length)
        sequence, answers = self.rule(generator, n, length)  # (n, T + 1), (T + 1,)
        return sequence[:, :-1].contiguous(), sequence[:, 1:].masked_fill(~answers[1:], IGNORED)

    def sample(self, generator: torch.Generator, n: int) -> Batch:
        """Draw a length of training, then `tokens` and `targets` (n, T) of that length."""
        low, high = self.train
        length = int(torch.randint(low, high + 1, (), generator=generator))
        tokens, targets = self.draw(generator, n, length)
        return {"tokens": tokens, "targets": targets}

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the mean cross entropy over the scored places, in nats."""
        targets = batch["targets"]
        asked = targets != IGNORED  # (n, T)
        nats = cross_entropy(self._logits(model, batch["tokens"]), targets.where(asked, 0))  # (n, T)
        return nats.where(asked, 0).sum() / asked.sum()

    def divide(self, batch: Batch, count: int) -> list[tuple[Batch, float]]:
        """Cut a batch into `count` parts of almost as many rows each, and their shares of the rows: a `Divisible`.

        Raises:
            UsageError: more parts than rows.
        """
        n = len(batch["tokens"])
        if not 1 <= count <= n:
            raise UsageError(f"a batch of {n} rows of the task '{self.name}' in {count} parts; legal are 1 to {n}")
        tokens, targets = (batch[key].tensor_split(count) for key in ("tokens", "targets"))
        return [({"tokens": x, "targets": y}, len(x) / n) for x, y in zip(tokens, targets, strict=True)]

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Return `accuracy/L`, per scored token, and `exact/L`, rows without a mistake, for each test length L."""
        out: dict[str, float] = {}
        for length in self.test:
            generator = torch.Generator().manual_seed(APART + 1_000_000 * self.seed + length)
            accuracy, exact = self.score(model, *self.draw(generator, self.rows, length))
            out |= {f"accuracy/{length}": accuracy, f"exact/{length}": exact}
        return out

    def score(self, model: nn.Module, tokens: Tensor, targets: Tensor) -> tuple[float, float]:
        """Return the part of scored tokens that the model has right, and the part of rows that it has right throughout.

        Args:
            model: from tokens (n, T) to logits (n, T, V); it is asked on its own device, some rows at once, and as one
                that does not train.
            tokens: (n, T).
            targets: (n, T).
        """
        with scoring(model) as device:
            parts = tokens.to(device).split(max(1, PAIRS // tokens.shape[1] ** 2))
            said = torch.cat([self._logits(model, part).argmax(2) for part in parts]).to(targets.device)  # (n, T)
        asked, right = targets != IGNORED, said == targets
        return float(right[asked].double().mean()), float((right | ~asked).all(1).double().mean())

    def show(self, tokens: Tensor, targets: Tensor | None = None) -> str:
        """Return rows (T,) or (n, T) in symbols, a line each.

        With targets, answers stand in brackets where they are due, and are not written again where they are fed.
        """
        targets = torch.full_like(tokens, IGNORED) if targets is None else targets
        if tokens.dim() == 2:
            return "\n".join(map(self.show, tokens, targets))
        words: list[str] = []
        before = IGNORED
        for token, target in zip(tokens.tolist(), targets.tolist(), strict=True):
            words += [self.symbols[token]] if before == IGNORED else []
            words += [f"[{self.symbols[target]}]"] if target != IGNORED else []
            before = target
        return " ".join(words)

    def example(self, length: int | None = None, seed: int = 0) -> str:
        """Return one row in symbols with its answers in brackets; of length 4, or the nearest that is trained at."""
        low, high = self.train
        length = min(max(4, low), high) if length is None else length
        return self.show(*self.draw(torch.Generator().manual_seed(seed), 1, length))

    def describe(self) -> str:
        """Return three lines: what is asked; an example; vocabulary, lengths and the level of chance."""
        levels = ", ".join(f"{self.chance(length):.3f} at {length}" for length in self.test)
        low, high = self.train
        lengths = f"{self.size} symbols; trained at lengths {low} to {high}; a guess is right: {levels}."
        return f"{self.name}: {self.what}\n  {self.example()}\n  {lengths}"

    def _check(self, length: int) -> None:
        if length < self.least or (self.most is not None and length > self.most):
            legal = f"at least {self.least}" if self.most is None else f"{self.least} to {self.most}"
            raise UsageError(f"length {length} of the task '{self.name}'; legal are {legal}")

    def _logits(self, model: nn.Module, tokens: Tensor) -> Tensor:
        logits = model(tokens)
        if logits.dim() != 3 or logits.shape[:2] != tokens.shape or logits.shape[2] < self.size:
            raise UsageError(
                f"the model made {tuple(logits.shape)} of tokens {tuple(tokens.shape)}; the task '{self.name}' needs"
                f" logits ({tokens.shape[0]}, {tokens.shape[1]}, V) with V at least {self.size}"
            )
        return logits


def answered(prompt: Tensor, rest: Tensor, answers: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Join a prompt (n, P) and the rest (n, R) of which `answers` (R,) are answers, all if none are given."""
    answers = torch.ones(rest.shape[1], dtype=torch.bool) if answers is None else answers
    return torch.cat([prompt, rest], 1), torch.cat([answers.new_zeros(prompt.shape[1]), answers])


def questions(keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Return keys (n, m), each followed by its value, as (n, 2 m), and which places are values, (2 m,)."""
    return torch.stack([keys, values], 2).flatten(1), torch.tensor([False, True]).repeat(keys.shape[1])


def orders(generator: torch.Generator, n: int, size: int) -> Tensor:
    """Return n permutations of 0..size-1, uniform and apart from one another, (n, size)."""
    return torch.rand(n, size, generator=generator, dtype=torch.float64).argsort(1)


def uniform(answers: int, length: int) -> float:
    """Return the level of chance where all answers are alike, whatever the length."""
    return 1 / answers


def at_least(name: str, least: int, **settings: int) -> None:
    """Refuse a setting below its least value.

    Raises:
        UsageError: naming the task, the setting, what came and what is legal.
    """
    for setting, value in settings.items():
        if type(value) is not int or value < least:
            raise UsageError(f"{setting}={value!r} of the task '{name}'; legal is {least} or more")
