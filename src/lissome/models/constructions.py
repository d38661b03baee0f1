"""Bodies with weights set by hand, which are an algorithm, as the theory of arXiv 2402.13572 has it.

Linear attention without norms, Z <- Z + (mask o (Z WQ^T)(Z WK^T)^T)(Z WV^T) WO^T, does an iteration of gradient descent
(arXiv 2212.07677) or of Newton and Schulz. Bodies that are trained may find something else.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from lissome._checks import check_number, check_whole, refuse
from lissome._errors import unknown
from lissome.models.decoder import Block
from lissome.models.in_context import TOKENS, Regressor
from lissome.models.looped import Looped
from lissome.models.looped_shape import LoopedShape

LINEAR = {"heads": 1, "norm": "none", "position": "none", "normalize": "linear"}


def gradient_descent(
    dimension: int,
    *,
    rate: float,
    iterations: int = 20,
    tokens: str = "interleaved",
    dtype: torch.dtype | None = None,
) -> Regressor:
    """Return a regressor whose iterations are steps of gradient descent from 0 on the pairs before a query.

    w <- w - rate sum_i (<w, x_i> - y_i) x_i,   prediction <w, x>

    Interleaved tokens hold (own x or 0, c, y, w, 1, prediction): `pre` copies into c of each y's token the x before it,
    an iteration asks with (w, -1), finds the keys (c, y), takes c and adds it to w, and `post` multiplies w by x. So
    every x has a w of its own, of the pairs before it. Pairs hold (x, r), where r_i = y_i - <w, x_i>: no w is there.

    Args:
        dimension: d.
        rate: of the descent; it converges below 2 over the greatest eigenvalue of sum_i x_i x_i^T.
        iterations: T, unless a call says another number.
        tokens: interleaved or pairs, see `Regressor`.
        dtype: of the weights; None is torch's default.

    Raises:
        UsageError: a size below 1, unknown tokens, a rate that is not finite, or a dtype that is neither float32 nor
            float64.

    >>> model = gradient_descent(1, rate=0.1, iterations=1)
    >>> model(torch.tensor([[[1.0], [2.0]]]), torch.tensor([[3.0, 0.0]])).detach()  # w = 0.1 * 3 * 1 for the second x
    tensor([[0.0000, 0.6000]])
    """
    check_whole("dimension", dimension)
    check_number("rate", rate, "are finite numbers", math.isfinite)
    if tokens not in TOKENS:
        raise unknown("tokens", tokens, TOKENS)
    _check_dtype(dtype)
    make = _interleaved if tokens == "interleaved" else _pairs
    with torch.random.fork_rng(devices=[]), torch.no_grad():  # what is drawn is not kept
        return make(dimension, rate, iterations, dtype or torch.get_default_dtype())


def _pairs(d: int, rate: float, iterations: int, dtype: torch.dtype) -> Regressor:
    alone = {"pre": 0, "post": 0, "feed": "none", "validity": "but_last"}
    shape = LoopedShape(width=d + 1, iterations=iterations, **alone, **LINEAR)  # type: ignore[arg-type]
    model = Regressor(Looped(shape), d, tokens="pairs").to(dtype)
    eye, x, r = torch.eye(d + 1, dtype=dtype), slice(0, d), slice(d, d + 1)
    set_attention(_only(model.body.loop), query=eye[x], key=eye[x], value=eye[r], out=-rate * eye[:, r])
    _set(model.into, eye)
    _set(model.out, -eye[r])
    return model


def _interleaved(d: int, rate: float, iterations: int, dtype: torch.dtype) -> Regressor:
    width = 3 * d + 3
    seen = "causal & window(2), causal, causal & window(1)"
    shape = LoopedShape(width=width, iterations=iterations, feed="none", validity=seen, **LINEAR)  # type: ignore[arg-type]
    model = Regressor(Looped(shape), d).to(dtype)
    eye = torch.eye(width, dtype=dtype)
    x, c, y, w, one, guess = (eye[part] for part in torch.arange(width).split([d, d, 1, d, 1, 1]))
    # an x's own token starts with c = -x, to which its copy of itself adds x: it is nobody's key
    _set(model.into, torch.cat((x - c, y)).T, one[0])
    set_attention(_only(model.body.pre), query=one, key=one, value=x, out=c.T)
    asked, told = torch.cat((w, -one)), torch.cat((c, y))
    set_attention(_only(model.body.loop), query=asked, key=told, value=c, out=-rate * w.T)
    set_attention(_only(model.body.post), query=w, key=x, value=one, out=guess.T)
    _set(model.out, guess)
    return model


def newton_schulz(size: int, *, iterations: int = 20, dtype: torch.dtype | None = None) -> Looped:
    """Return a body whose iterations are those of Newton and Schulz towards the inverse of a matrix.

    M <- 2 M - M A M,   so that I - A M is squared

    Token j holds the columns (A_j, M_j): the query is M_j, the keys are A_i, the values M_i, and half of their sum is
    taken from M_j; the network of each position, gelu(u) - gelu(-u) = u, then doubles M_j.

    Args:
        size: n; the body takes (B, n, 2 n), the rows (A_j, M_j), and gives them.
        iterations: T, unless a call says another number.
        dtype: of the weights; None is torch's default.

    Raises:
        UsageError: a size below 1, or another dtype than float32 and float64.

    >>> body = newton_schulz(1, iterations=8)
    >>> float(body(torch.tensor([[[4.0, 0.1]]]))[0, 0, 1].detach())  # 1 / 4
    0.25
    """
    check_whole("size", size)
    _check_dtype(dtype)
    width = 2 * size
    alone = {"pre": 0, "post": 0, "feed_width": width, "validity": "everything"}
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        body = Looped(LoopedShape(width=width, iterations=iterations, **alone, **LINEAR))  # type: ignore[arg-type]
        body.to(dtype or torch.get_default_dtype())
        A, M = torch.eye(width, dtype=dtype or torch.get_default_dtype()).split(size)
        block = _only(body.loop)
        set_attention(block, query=M, key=A, value=M, out=-0.5 * M.T)
        assert block.feed is not None
        block.feed.up.weight.copy_(torch.cat((M, -M)))
        block.feed.down.weight.copy_(torch.cat((M.T, -M.T), 1))
        return body


@torch.no_grad()
def set_attention(block: Block, *, query: Tensor, key: Tensor, value: Tensor, out: Tensor) -> None:
    """Set the attention of a layer with one head, so that scores are <query x_j, key x_i> without the scale.

    Args:
        block: the layer.
        query: (m, width), m up to the width.
        key: (m, width).
        value: (n, width).
        out: (width, n), what becomes of the sum of values.
    """
    heads = block.heads
    heads.qkv.weight.zero_()
    heads.out.weight.zero_()
    parts = heads.qkv.weight.split(heads.dimension)
    for part, given in zip(parts, (query * math.sqrt(heads.dimension), key, value), strict=True):
        part[: len(given)] = given
    heads.out.weight[:, : out.shape[1]] = out


def _check_dtype(dtype: object) -> None:
    if dtype not in (None, torch.float32, torch.float64):  # exact in neither of the half precisions
        raise refuse("dtype", dtype, "are torch.float32, torch.float64 and None")


def _only(stage: nn.Module) -> Block:
    (block,) = stage.blocks  # type: ignore[misc]
    assert isinstance(block, Block)
    return block


def _set(layer: nn.Linear, weight: Tensor, bias: Tensor | None = None) -> None:
    layer.weight.copy_(weight)
    layer.bias.copy_(torch.zeros_like(layer.bias) if bias is None else bias)
