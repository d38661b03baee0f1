"""Which block of a decoder runs when: each once, or some of them in a loop (arXiv 2402.13572, arXiv 2311.12424)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from lissome._checks import check_flag, check_whole
from lissome._errors import UsageError
from lissome.attention.notation import made

MOST = 10_000  # runs of layers; more are a slip


class Pass(NamedTuple):
    """One run of a block.

    Attributes:
        block: its number.
        inject: whether the state before the loop is added first.
    """

    block: int
    inject: bool = False


def passes(body: str, layers: int) -> list[Pass]:
    """Return the runs of so many blocks, in their order.

    Args:
        body: plain; algoformer(6): the first block, 6 times those between, the last one, where each of the 6 begins by
            adding the state before the loop; algoformer(6, pre=2, post=0, inject=False) is another; looped(6): all
            blocks 6 times, likewise.
        layers: blocks.

    Raises:
        UsageError: an unknown body, values that it does not take, or no block between the first and the last.

    >>> [(one.block, one.inject) for one in passes("algoformer(2)", 4)]
    [(0, False), (1, True), (2, False), (1, True), (2, False), (3, False)]
    """
    kinds: dict[str, Callable[..., list[Pass]]] = {
        "plain": partial(_plain, layers),
        "algoformer": partial(_algoformer, layers),
        "looped": partial(_looped, layers),
    }
    return made(body, "body", kinds)


def _plain(layers: int) -> list[Pass]:
    if layers > MOST:
        raise UsageError(f"the body has {layers:,} layers; legal are up to {MOST:,}")
    return [Pass(block) for block in range(layers)]


def _looped(layers: int, iterations: int = 6, inject: bool = True) -> list[Pass]:
    return _algoformer(layers, iterations, 0, 0, inject)


def _algoformer(layers: int, iterations: int = 6, pre: int = 1, post: int = 1, inject: bool = True) -> list[Pass]:
    check_whole("iterations of the body", iterations)
    check_whole("pre of the body", pre, 0)
    check_whole("post of the body", post, 0)
    check_flag("inject of the body", inject)
    if pre + post >= layers:
        said = f"a body with pre={pre} and post={post} has no layer left for its loop, as there are {layers} in all"
        raise UsageError(f"{said}; legal are {pre + post + 1} and more layers")
    if iterations * layers > MOST:
        said = f"{iterations:,} iterations of the body run {iterations * layers:,} layers"
        raise UsageError(f"{said}; legal are up to {MOST // layers:,} iterations of {layers} layers")
    loop = [Pass(block, inject and block == pre) for block in range(pre, layers - post)]
    after = [Pass(block) for block in range(layers - post, layers)]
    return [*_plain(pre), *loop * iterations, *after]
