"""What a body reads and predicts in context: prompts of pairs, and sequences of vectors (arXiv 2402.13572).

    Regressor       x_1 y_1 .. x_k y_k      y_i from what stands before it
    Continuation    s_1 .. s_T              s_{t+1} from s_1 .. s_t

Differs from the looped transformer (arXiv 2311.12424): y has a coordinate of its own, in place of the first one of x.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lissome._checks import check_kind, check_number, check_whole
from lissome._errors import UsageError, unknown
from lissome.models.looped import Looped

TOKENS = ("interleaved", "pairs")


class Settled(NamedTuple):
    """Predictions that were taken as soon as they stood still.

    Attributes:
        predictions: (B, ...), of each prompt after its own number of iterations.
        iterations: (B,) int64.
        settled: (B,) bool; False: the last iteration was reached first.
    """

    predictions: Tensor
    iterations: Tensor
    settled: Tensor


class Reader(nn.Module, ABC):
    """A body between two linear maps; a subclass says which vectors it reads, and where it predicts.

    Args:
        body: what lies between.
        dimension: d, coordinates of x.
        inputs: numbers of a token.
        outputs: numbers of a prediction.
    """

    def __init__(self, body: Looped, dimension: int, inputs: int, outputs: int):
        super().__init__()
        check_kind("body", body, Looped, "is a Looped")
        self.dimension = dimension
        self.into = nn.Linear(inputs, body.shape.width)
        self.body = body
        self.out = nn.Linear(body.shape.width, outputs)

    @abstractmethod
    def lay(self, *given: Tensor) -> Tensor:
        """Return the tokens (B, T, inputs) of what is given."""

    @abstractmethod
    def read(self, states: Tensor) -> Tensor:
        """Return the predictions out of states (..., T, width)."""

    def forward(self, *given: Tensor, iterations: int | None = None) -> Tensor:
        """Return the predictions after the last iteration; see the class for what is given and what comes back.

        Raises:
            UsageError: tensors of other shapes or dtypes, or iterations that the body refuses.
        """
        return self.outputs(*given, window=1, iterations=iterations)[0]

    def outputs(self, *given: Tensor, window: int, iterations: int | None = None, cut: bool = False) -> Tensor:
        """Return the predictions after each of the last `window` iterations, the last one last; see `Looped.outputs`.

        Raises:
            UsageError: as a call does, or a window that is longer than the loop.
        """
        states = self.body.outputs(self.into(self.lay(*given)), window=window, iterations=iterations, cut=cut)
        return self.read(states)

    def iterates(self, *given: Tensor, iterations: int | None = None) -> Iterator[Tensor]:
        """Give the predictions after 1, 2, .. iterations, each when it is asked for.

        Raises:
            UsageError: as a call does.
        """
        states = self.body.iterates(self.into(self.lay(*given)), iterations=iterations)
        return (self.read(self.body.finish(state)) for state in states)

    @torch.no_grad()
    def settle(self, *given: Tensor, tolerance: float = 0.1, most: int | None = None) -> Settled:
        """Stop each prompt when its predictions move by less than the tolerance, in root mean square over sqrt(d).

        Predictions are watched and not the state, which goes on moving where they do not. NaN never settles.

        Args:
            given: as in a call.
            tolerance: above 0.
            most: iterations at most, up to the trained number, beyond which predictions drift; None is that number.

        Raises:
            UsageError: as a call does, more iterations than were trained, or a tolerance that is not above 0.
        """
        trained = self.body.shape.iterations
        check_number("tolerance", tolerance, "are numbers above 0", lambda value: 0 < value < math.inf)
        most = trained if most is None else most
        check_whole("most", most)
        if most > trained:
            raise UsageError(f"most is {most}, and the shape says {trained} iterations; legal are 1 to {trained}")
        best: Tensor | None = None
        for count, found in enumerate(self.iterates(*given, iterations=most), 1):
            if best is None:
                best, still = found, found.new_zeros(len(found), dtype=torch.bool)
                taken = still.long() + count
                continue
            moved = (found - best).flatten(1).square().mean(1).sqrt() / math.sqrt(self.dimension)  # (B,)
            best = torch.where(still.view(-1, *[1] * (found.ndim - 1)), best, found)
            taken = torch.where(still, taken, count)
            still = still | (moved < tolerance)
            if still.all():
                break
        assert best is not None
        return Settled(best, taken, still)


class Regressor(Reader):
    """Predict y from x and the pairs before it.

    `interleaved`: 2 k - 1 tokens (x_1, 0), (0, y_1), .., (x_k, 0); every y_i is predicted at x_i, P = k; the body has
    to be causal. `pairs`: k tokens (x_1, y_1), .., (x_k, 0); y_k alone is predicted, P = 1; the body may see all of
    them, and `validity="but_last"` keeps the query from being an example. The last y is never read.

    A call takes x (B, k, d) and y (B, k), and gives (B, P), the predictions of the last P of y.

    Args:
        body: causal for interleaved tokens.
        dimension: d.
        tokens: interleaved or pairs.

    Raises:
        UsageError: unknown tokens, a dimension below 1, or a body that would see the y it has to predict.

    >>> from lissome.models import LoopedShape
    >>> model = Regressor(Looped(LoopedShape(width=16, heads=2, iterations=4)), dimension=3)
    >>> x, y = torch.randn(2, 5, 3), torch.randn(2, 5)
    >>> model(x, y).shape, model.outputs(x, y, window=2).shape
    (torch.Size([2, 5]), torch.Size([2, 2, 5]))
    """

    def __init__(self, body: Looped, dimension: int, *, tokens: str = "interleaved"):
        check_whole("dimension", dimension)
        if tokens not in TOKENS:
            raise unknown("tokens", tokens, TOKENS)
        super().__init__(body, dimension, dimension + 1, 1)
        self.tokens = tokens
        if tokens == "interleaved":
            check_causal(body, "interleaved tokens")

    def lay(self, *given: Tensor) -> Tensor:
        """Return the tokens (B, T, d + 1) of x (B, k, d) and y (B, k).

        Raises:
            UsageError: tensors of other shapes or dtypes.
        """
        if len(given) != 2:
            raise UsageError(f"{len(given)} tensors came; legal are x (B, k, {self.dimension}) and y (B, k)")
        x, y = given
        _check_vectors("x", x, self.dimension, self.into.weight.dtype)
        check_kind("y", y, Tensor, f"is a tensor (B, k) of {x.dtype}")
        if y.shape != x.shape[:2] or y.dtype != x.dtype:
            came = f"shape {tuple(y.shape)} and dtype {y.dtype}"
            raise UsageError(f"y has {came}; legal beside this x is {tuple(x.shape[:2])} of {x.dtype}")
        before = torch.cat((y[:, :-1], torch.zeros_like(y[:, -1:])), 1)[..., None]  # (B, k, 1)
        if self.tokens == "pairs":
            return torch.cat((x, before), -1)  # (B, k, d + 1)
        asked, told = torch.cat((x, torch.zeros_like(before)), -1), torch.cat((torch.zeros_like(x), before), -1)
        return torch.stack((asked, told), 2).flatten(1, 2)[:, :-1]  # (B, 2 k - 1, d + 1)

    def read(self, states: Tensor) -> Tensor:
        """Return the predictions (..., P) out of states (..., T, width), of the tokens of each query."""
        asked = states[..., ::2, :] if self.tokens == "interleaved" else states[..., -1:, :]
        return self.out(asked)[..., 0]

    def told(self) -> dict[str, object]:
        """Return settings as JSON."""
        return {"dimension": self.dimension, "tokens": self.tokens, "body": self.body.shape.told()}


class Continuation(Reader):
    """Predict the next vector of a sequence at each of its places.

    A call takes s (B, T, d) and gives (B, T, d): number t is the prediction of s_{t+1}.

    Args:
        body: causal.
        dimension: d.

    Raises:
        UsageError: a dimension below 1, or a body that would see the vector it has to predict.

    >>> from lissome.models import LoopedShape
    >>> Continuation(Looped(LoopedShape(width=16, heads=2, iterations=4)), dimension=3)(torch.randn(2, 5, 3)).shape
    torch.Size([2, 5, 3])
    """

    def __init__(self, body: Looped, dimension: int):
        check_whole("dimension", dimension)
        super().__init__(body, dimension, dimension, dimension)
        check_causal(body, "a sequence that is continued")

    def lay(self, *given: Tensor) -> Tensor:
        """Return the tokens: s (B, T, d) itself.

        Raises:
            UsageError: a tensor of another shape or dtype.
        """
        if len(given) != 1:
            raise UsageError(f"{len(given)} tensors came; legal is s (B, T, {self.dimension})")
        _check_vectors("s", given[0], self.dimension, self.into.weight.dtype)
        return given[0]

    def read(self, states: Tensor) -> Tensor:
        """Return the predictions (..., T, d) out of states (..., T, width), one at each token."""
        return self.out(states)

    def told(self) -> dict[str, object]:
        """Return settings as JSON."""
        return {"dimension": self.dimension, "body": self.body.shape.told()}


def check_causal(body: Looped, why: str) -> None:
    """Refuse a body whose tokens see later ones.

    Raises:
        UsageError: they do.
    """
    for recipe in body.recipes:
        if not recipe.validity.causal:
            raise UsageError(
                f"validity '{recipe.validity.name}' lets a token see later ones, which {why} would have to predict; "
                "legal is such as 'causal'"
            )


def _check_vectors(what: str, x: object, dimension: int, dtype: torch.dtype) -> None:
    check_kind(what, x, Tensor, f"is a tensor (B, k, {dimension}) of {dtype}")
    if x.ndim != 3 or x.shape[-1] != dimension or not x.shape[1] or x.dtype != dtype:  # type: ignore[attr-defined]
        came = f"shape {tuple(x.shape)} and dtype {x.dtype}"  # type: ignore[attr-defined]
        raise UsageError(f"{what} has {came}; legal is (B, k, {dimension}) of {dtype}, k at least 1")
