"""Pairs whose y is a function of x: linear, sparse, of a representation, a network of two layers, a decision tree.

Tasks of AlgoFormer (arXiv 2402.13572), after arXiv 2208.01066 and 2311.12424. Inputs are N(0, I).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from lissome._checks import check_whole
from lissome._types import Batch
from lissome.language.incontext.definition import Prompts
from lissome.language.incontext.prefix import affine, lasso, least_squares
from lissome.language.incontext.representation import Representation

RIDGES = (0.3, 1.0, 3.0, 10.0)
PENALTIES = (0.1, 0.01)
HIDDEN = 100  # of the network with two layers, arXiv 2208.01066


def linear(*, dimension: int = 20, pairs: int = 40, noise: float = 0.0) -> Prompts:
    """Return y = w^T x, w ~ N(0, I) in each prompt."""
    return Prompts(
        name="linear",
        what="y is a linear function of x.",
        dimension=dimension,
        pairs=pairs,
        noise=noise,
        rule=_linear,
        oracles={"least squares": _ridge},
        power=dimension,
    )


def sparse(*, dimension: int = 20, pairs: int = 40, noise: float = 0.0, nonzero: int = 3) -> Prompts:
    """Return y = w^T x, in each prompt with `nonzero` coordinates of w that are not 0."""
    check_whole("nonzero of the task 'sparse'", nonzero, 1, dimension)
    return Prompts(
        name="sparse",
        what=f"y is a linear function of {nonzero} of the {dimension} coordinates of x.",
        dimension=dimension,
        pairs=pairs,
        noise=noise,
        rule=partial(_sparse, nonzero),
        oracles={"least squares": _ridge, "Lasso": partial(_best, lasso, PENALTIES)},
        slow=("Lasso",),
        power=nonzero,
    )


def representation(
    *,
    dimension: int = 8,
    pairs: int = 20,
    noise: float = 0.1,
    layers: int = 1,
    slope: float = 0.0,
    weights: int = 0,
) -> Prompts:
    """Return y = w^T phi(x) + noise with one `Representation` phi for all prompts; `weights` is its seed.

    Ridge regression on x itself is drawn beside that on phi(x): below the first alone a model has learnt phi.
    """
    phi = Representation(dimension, layers=layers, slope=slope, seed=weights)
    return Prompts(
        name="representation",
        what=f"y is a linear function of phi(x), {shared(layers, slope)}.",
        dimension=dimension,
        pairs=pairs,
        noise=noise,
        rule=partial(_represented, phi),
        oracles={"ridge on phi(x)": partial(_ridge, phi=phi), "affine ridge on x": partial(_best, affine, RIDGES)},
        power=dimension,
    )


def two_layer(*, dimension: int = 20, pairs: int = 100, noise: float = 0.0, hidden: int = HIDDEN) -> Prompts:
    """Return y = sqrt(2 / hidden) w^T relu(W x), W and w of each prompt N(0, I)."""
    check_whole("hidden of the task 'two-layer'", hidden, 1, 1 << 20)
    return Prompts(
        name="two-layer",
        what=f"y is a network of two layers, {hidden} ReLUs between them.",
        dimension=dimension,
        pairs=pairs,
        noise=noise,
        rule=partial(_two_layer, hidden),
        oracles={"least squares": _ridge, "affine ridge on x": partial(_best, affine, RIDGES)},
        power=dimension,
    )


def tree(*, dimension: int = 20, pairs: int = 100, noise: float = 0.0, depth: int = 4) -> Prompts:
    """Return y of a full decision tree: each node asks the sign of one coordinate of x, leaves are N(0, 1)."""
    check_whole("depth of the task 'tree'", depth, 1, 16)
    return Prompts(
        name="tree",
        what=f"y is the leaf of a decision tree of depth {depth} that asks signs of coordinates of x.",
        dimension=dimension,
        pairs=pairs,
        noise=noise,
        rule=partial(_tree, depth),
        oracles={"least squares": _ridge, "affine ridge on x": partial(_best, affine, RIDGES)},
        power=1.0,
    )


def shared(layers: int, slope: float) -> str:
    """Say what all prompts share.

    >>> shared(1, 0.0), shared(3, 0.5)
    ('one layer of ReLUs that all prompts share', '3 layers of slope 0.5 that all prompts share')
    """
    count = "one layer" if layers == 1 else f"{layers} layers"
    return f"{count} of {f'slope {slope:g}' if slope else 'ReLUs'} that all prompts share"


def _pairs(generator: torch.Generator, x: Tensor, clean: Tensor, noise: float) -> Batch:
    y = clean + noise * _randn(generator, x, *clean.shape)
    return {"x": x, "y": y, "target": clean[..., None]}


def _randn(generator: torch.Generator, like: Tensor, *shape: int) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=like.dtype)


def _linear(generator: torch.Generator, x: Tensor, noise: float) -> Batch:
    w = _randn(generator, x, len(x), x.shape[2], 1)
    return _pairs(generator, x, (x @ w)[..., 0], noise)


def _sparse(nonzero: int, generator: torch.Generator, x: Tensor, noise: float) -> Batch:
    n, _, d = x.shape
    chosen = torch.rand(n, d, generator=generator).argsort(1) < nonzero  # a random set of so many
    w = _randn(generator, x, n, d) * chosen
    return _pairs(generator, x, (x @ w[..., None])[..., 0], noise)


def _represented(phi: Representation, generator: torch.Generator, x: Tensor, noise: float) -> Batch:
    return _linear(generator, phi(x), noise) | {"x": x}


def _two_layer(hidden: int, generator: torch.Generator, x: Tensor, noise: float) -> Batch:
    W = _randn(generator, x, len(x), x.shape[2], hidden)
    w = _randn(generator, x, len(x), hidden, 1)
    return _pairs(generator, x, math.sqrt(2 / hidden) * ((x @ W).relu() @ w)[..., 0], noise)


def _tree(depth: int, generator: torch.Generator, x: Tensor, noise: float) -> Batch:
    n, k, d = x.shape
    asks = torch.randint(d, (n, 2**depth - 1), generator=generator)  # the coordinate at each node, level by level
    leaves = _randn(generator, x, n, 2**depth)
    node = torch.zeros(n, k, dtype=torch.int64)
    for _ in range(depth):
        value = x.gather(2, asks.gather(1, node)[..., None])[..., 0]  # (n, k)
        node = 2 * node + 1 + (value > 0)
    return _pairs(generator, x, leaves.gather(1, node - (2**depth - 1)), noise)


def _ridge(batch: Batch, noise: float, phi: Representation | None = None) -> Tensor:
    """Return what Bayes says of linear functions with w ~ N(0, I): ridge sigma^2, without noise minimum norm."""
    x = batch["x"] if phi is None else phi(batch["x"].double())
    return least_squares(x, batch["y"][..., None], noise**2)


def _best(
    solve: Callable[[Tensor, Tensor, float], Tensor], penalties: Sequence[float], batch: Batch, noise: float
) -> Tensor:
    """Return each prompt's predictions by the penalty that is best on the other half of the prompts."""
    told = torch.stack([solve(batch["x"], batch["y"][..., None], penalty) for penalty in penalties])  # (p, n, k, 1)
    miss = (told - batch["target"]).square().mean((2, 3))  # (p, n)
    half = told.shape[1] // 2
    early, late = miss[:, half:].sum(1).argmin(), miss[:, :half].sum(1).argmin()  # of one prompt alone: the first
    return torch.cat((told[early, :half], told[late, half:]))
