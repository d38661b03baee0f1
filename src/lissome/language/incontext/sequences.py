"""Sequences of vectors: autoregression with a representation, and chains of thought.

Tasks of AlgoFormer (arXiv 2402.13572); chains after arXiv 2305.18869.
"""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor

from lissome._checks import check_whole
from lissome._types import Batch
from lissome.language.incontext.definition import Prompts
from lissome.language.incontext.prefix import least_squares
from lissome.language.incontext.representation import Representation, leaky, orthogonal, unleaky


def autoregression(
    *,
    dimension: int = 20,
    pairs: int = 40,
    noise: float = 0.0,
    lags: int = 3,
    layers: int = 1,
    slope: float = 0.0,
    weights: int = 0,
) -> Prompts:
    """Return x_t = sqrt(d) u / |u| + noise, u = sum_i A_i phi(x_{t-i}), with A_i of each prompt.

    The A_i are orthogonal / sqrt(lags). Without the division by |u| maps of spectral norm 1 diverge (1e18 at step 42)
    and smaller ones decay into noise. The first `lags` states are random, and not asked; `pairs` are.
    """
    check_whole("lags of the task 'ar'", lags)
    phi = Representation(dimension, layers=layers, slope=slope, seed=weights)
    return Prompts(
        name="ar",
        what=f"each vector is a normalised linear function of phi of the {lags} before it.",
        dimension=dimension,
        pairs=pairs,
        noise=noise,
        rule=partial(_advance, phi, lags),
        oracles={
            "least squares on phi(x)": partial(_lagged, phi, lags),
            "least squares on x": partial(_lagged, None, lags),
        },
        power=dimension,
        sequence=True,
        asked=partial(_after, lags - 1),
        shifts=("noise",),
        shrinks=False,
    )


def chain(*, dimension: int = 10, pairs: int = 20, noise: float = 0.0, layers: int = 2, slope: float = 0.5) -> Prompts:
    """Return prompts x, s_1, .., s_L, y, x, .. of an MLP of each prompt, s_l = f(W_l s_{l-1}), y = v^T s_L.

    W_l are orthogonal, f is a leaky ReLU that keeps the mean square; y is the first coordinate of a vector with zeros,
    and has the noise. All but the x are asked. As an oracle each layer is solved for by least squares, since f can be
    undone; with slope 0 there is none.
    """
    check_whole("layers of the task 'chain'", layers)
    phi = Representation(dimension, slope=slope)  # what is wrong with a slope is said there
    return Prompts(
        name="chain",
        what=f"the {layers} hidden layers and the output of a network follow each input.",
        dimension=dimension,
        pairs=pairs,
        noise=noise,
        rule=partial(_chain, layers, phi.slope),
        oracles={"least squares by layer": partial(_by_layer, layers, slope)} if slope else {},
        power=dimension,
        sequence=True,
        asked=partial(_within, layers + 2),
        steps=layers + 1,
    )


def _advance(phi: Representation, lags: int, generator: torch.Generator, x: Tensor, noise: float) -> Batch:
    n, k, d = x.shape
    start = torch.randn(n, lags, d, generator=generator, dtype=x.dtype)
    states = [state * math.sqrt(d) / state.norm(dim=1, keepdim=True) for state in start.unbind(1)]
    A = torch.stack([orthogonal(generator, d, n) for _ in range(lags)], 1).to(x) / math.sqrt(lags)  # (n, q, d, d)
    jolts, clean = noise * torch.randn(k, n, d, generator=generator, dtype=x.dtype), []
    for jolt in jolts:
        past = torch.stack([phi(state) for state in states[: -lags - 1 : -1]], 1)  # (n, q, d), the latest first
        u = (A @ past[..., None]).sum(1)[..., 0]
        size = u.norm(dim=1, keepdim=True)  # 0 where ReLUs let nothing through, as happens in few dimensions
        clean.append(u * math.sqrt(d) / size.where(size > 0, 1))
        states.append(clean[-1] + jolt)
    return {"s": torch.stack(states, 1), "target": torch.stack(clean, 1)}  # (n, q + k, d), (n, k, d)


def _lagged(phi: Representation | None, lags: int, batch: Batch, noise: float) -> Tensor:
    """Return least squares on the states before, brought to the length that all have; ridge by the noise."""
    s = batch["s"].double()
    told = s if phi is None else phi(s)
    count = s.shape[1] - lags
    x = torch.cat([told[:, lags - 1 - i : lags - 1 - i + count] for i in range(lags)], 2)  # (n, k, q d)
    found = least_squares(x, s[:, lags:], noise**2)
    return math.sqrt(s.shape[2]) * found / found.norm(dim=2, keepdim=True).clamp(min=1e-300)


def _chain(layers: int, slope: float, generator: torch.Generator, x: Tensor, noise: float) -> Batch:
    n, k, d = x.shape
    links = [x]
    for _ in range(layers):
        links.append(leaky(links[-1] @ orthogonal(generator, d, n).to(x), slope))
    y = links[-1] @ torch.randn(n, d, 1, generator=generator, dtype=x.dtype)  # (n, k, 1)
    jolt = noise * torch.randn(n, k, 1, generator=generator, dtype=x.dtype)
    rest = x.new_zeros(n, k, d - 1)
    s = torch.stack([*links, torch.cat([y + jolt, rest], 2)], 2)  # (n, k, L + 2, d)
    target = torch.stack([*links[1:], torch.cat([y, rest], 2)], 2)  # (n, k, L + 1, d)
    return {"s": s.flatten(1, 2), "target": target.flatten(1, 2)}


def _by_layer(layers: int, slope: float, batch: Batch, noise: float) -> Tensor:
    s = batch["s"].double().unflatten(1, (-1, layers + 2))  # (n, k, L + 2, d)
    found = [leaky(least_squares(s[:, :, i], unleaky(s[:, :, i + 1], slope)), slope) for i in range(layers)]
    last = least_squares(s[:, :, layers], s[:, :, layers + 1], noise**2)
    return torch.stack([*found, last], 2).flatten(1, 2)


def _after(lead: int, length: int) -> Tensor:
    return torch.arange(length - 1) >= lead


def _within(period: int, length: int) -> Tensor:
    return torch.arange(length - 1) % period != period - 1
