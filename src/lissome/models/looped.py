"""A transformer built like an algorithm, AlgoFormer (arXiv 2402.13572): prepare, iterate, read out.

h_0 = pre(x);   h_{t+1} = loop(h_t [+ h_0]),  t = 0 .. T - 1;   y = post(h_T)

Each stage is a stack of the decoder's own layers; those of `loop` share their weights over all iterations. The looped
transformer (arXiv 2311.12424) is the loop alone, X_0 = 0, X_t = norm(TF(X_{t-1} + E)); the plain one has no loop.

Differs from the papers: RMSNorm in place of LayerNorm, positions by a stage of attention in place of learned ones, and
AlgoFormer with injection.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from lissome._checks import check_flag, check_kind, check_whole
from lissome._errors import UsageError
from lissome.attention import Attention, Frame
from lissome.attention.rotary import Angles
from lissome.models.decoder import EPS, Block, check_recipe, draw_layers, layer_angles
from lissome.models.looped_shape import LoopedShape, recipes
from lissome.models.norm import Norm


class Stage(nn.Module):
    """Layers one after another, and perhaps a norm: (B, T, width) -> (B, T, width)."""

    def __init__(self, shape: LoopedShape, recipes: list[Attention], *, norm: bool):
        super().__init__()
        self.blocks = nn.ModuleList(Block(shape, recipe, norm=shape.norm == "pre") for recipe in recipes)
        self.norm = Norm(shape.width, eps=EPS) if norm else None

    def forward(self, x: Tensor, frame: Frame, made: dict[tuple[float, int], Angles]) -> Tensor:
        """Return x (B, T, width) after the layers; `made` keeps the angles of rotary stages."""
        for block in self.blocks:
            x = block(x, frame, None, 0, layer_angles(block.heads, frame, x.dtype, made))  # type: ignore[arg-type]
        return x if self.norm is None else self.norm(x)


class Looped(nn.Module):
    """A body: states (B, T, width) -> states (B, T, width), by as many iterations as a call asks for.

    What is not finite in a state is passed on as it is. Weights are drawn from torch's own generator, as a `Decoder`
    draws them, but what adds to the state starts at zero: drawn small, it made linear attention leave the range of
    numbers in training.

    Args:
        shape: sizes and settings; see `LoopedShape`.
        recipe: returns the attention of a layer from its number, `pre` first; None builds what the shape names.
        checkpoint: keep some of the states between iterations alone, and run what lies between again in the backward
            pass: memory of one iteration and 2 sqrt(T) states, the same gradients to the bit. The attribute of that
            name may be set later.

    Raises:
        UsageError: a stage that the shape names wrongly, or an argument of another kind.

    >>> import torch
    >>> body = Looped(LoopedShape(width=16, heads=2, iterations=3))
    >>> x = torch.randn(2, 5, 16)
    >>> body(x).shape, body.outputs(x, window=2).shape, len(list(body.iterates(x, iterations=9)))
    (torch.Size([2, 5, 16]), torch.Size([2, 2, 5, 16]), 9)
    """

    def __init__(
        self, shape: LoopedShape, recipe: Callable[[int], Attention] | None = None, *, checkpoint: bool = False
    ):
        super().__init__()
        check_kind("shape", shape, LoopedShape, "is a LoopedShape")
        check_recipe(recipe)
        check_flag("checkpoint", checkpoint)
        self.shape, self.checkpoint = shape, checkpoint
        given = recipes(shape) if recipe is None else [recipe(layer) for layer in range(shape.layers)]
        for one in given:
            check_kind("what the recipe gives for a layer", one, Attention, "is an Attention")
        first, last = shape.pre, shape.pre + shape.loop
        normed = shape.norm_in_loop and not shape.post  # the state that is given away has its norm
        self.pre = Stage(shape, given[:first], norm=False)
        self.loop = Stage(shape, given[first:last], norm=shape.norm_in_loop)
        self.post = Stage(shape, given[last:], norm=shape.norm == "pre" and not normed)
        draw_layers(self, shape.width, math.inf)

    def forward(self, x: Tensor, *, iterations: int | None = None, frame: Frame | None = None) -> Tensor:
        """Return what `post` makes of the last state.

        Args:
            x: (B, T, width), embedded tokens.
            iterations: how many; None: as many as the shape says. More than in training is legal, and may diverge.
            frame: where the tokens stand; None: 0 .. T - 1, all present.

        Returns:
            (B, T, width).

        Raises:
            UsageError: x of another kind or width, iterations below 1, or other than 1 without a loop.
        """
        return self.outputs(x, window=1, iterations=iterations, frame=frame)[0]

    def outputs(
        self, x: Tensor, *, window: int, iterations: int | None = None, cut: bool = False, frame: Frame | None = None
    ) -> Tensor:
        """Return what `post` makes of the state after each of the last iterations, all of which a loss may supervise.

        Args:
            x: (B, T, width).
            window: how many, from 1 to the number of iterations.
            iterations: as in a call.
            cut: hold the state before the window constant in the gradient, as the looped transformer is trained. `pre`
                then learns through injection and `post` alone: without injection not at all.
            frame: as in a call.

        Returns:
            (window, B, T, width), the last iteration last.

        Raises:
            UsageError: as a call does, or a window that is longer than the loop.
        """
        count = self._count(iterations)
        check_whole("window", window, most=count)
        check_flag("cut", cut)
        run = _Run(self, x, frame)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not cut):
            run.advance(count - window)
        if cut:
            run.state = run.state.detach()
        found = []
        for _ in range(window):
            found.append(run.finish(run.advance(1)))
        return torch.stack(found)

    def iterates(self, x: Tensor, *, iterations: int | None = None, frame: Frame | None = None) -> Iterator[Tensor]:
        """Give the states h_1, h_2, .. (B, T, width) before `post`, each when it is asked for; as a call otherwise."""
        count = self._count(iterations)
        run = _Run(self, x, frame)
        return (run.advance(1) for _ in range(count))

    def finish(self, state: Tensor, *, frame: Frame | None = None) -> Tensor:
        """Return what `post` makes of a state (B, T, width)."""
        return self.post(state, _framed(self, state, frame), {})

    @property
    def recipes(self) -> list[Attention]:
        """The attention of each layer, `pre` first."""
        stages = (self.pre, self.loop, self.post)
        return [block.heads.recipe for stage in stages for block in stage.blocks]  # type: ignore[union-attr, misc]

    def _count(self, iterations: int | None) -> int:
        if iterations is None:
            return self.shape.iterations
        check_whole("iterations", iterations)
        if not self.shape.loop and iterations != 1:
            raise UsageError(f"iterations are {iterations}, and this body has no loop; legal is 1")
        return iterations


class _Run:
    """One pass through a body: where it stands."""

    def __init__(self, body: Looped, x: Tensor, frame: Frame | None):
        self.body, self.frame = body, _framed(body, x, frame)
        self.made: dict[tuple[float, int], Angles] = {}
        self.first = body.pre(x, self.frame, self.made)  # h_0
        self.state = torch.zeros_like(self.first) if body.shape.inject == "from_zero" else self.first

    def advance(self, count: int) -> Tensor:
        """Iterate so often; with checkpoints before each of sqrt(count) parts, and in the backward pass within one."""
        if not self.body.shape.loop:
            return self.state
        if not self.body.checkpoint or not torch.is_grad_enabled():
            for _ in range(count):
                self.state = self._once(self.state, None)
            return self.state
        # the parameters as they are now: after a functional call the body has others when it is run again
        own: dict[str, Tensor] = dict(self.body.loop.named_parameters())
        size = max(1, math.isqrt(count))
        for start in range(0, count, size):
            self.state = _kept(self._several, self.state, own, min(size, count - start))
        return self.state

    def _several(self, state: Tensor, own: dict[str, Tensor], count: int) -> Tensor:
        for _ in range(count - 1):
            state = _kept(self._once, state, own)
        return self._once(state, own)

    def _once(self, state: Tensor, own: dict[str, Tensor] | None) -> Tensor:
        given = (state if self.body.shape.inject == "none" else state + self.first, self.frame, self.made)
        return self.body.loop(*given) if own is None else functional_call(self.body.loop, own, given)

    def finish(self, state: Tensor) -> Tensor:
        return self.body.post(state, self.frame, self.made)


def _kept(function: Callable[..., Tensor], *given: Any) -> Tensor:
    """Return function(*given), of which nothing but what is given is kept: it is run again in the backward pass."""
    return checkpoint(function, *given, use_reentrant=False, preserve_rng_state=False)  # type: ignore[return-value]


def _framed(body: Looped, x: Tensor, frame: Frame | None) -> Frame:
    width = body.shape.width
    check_kind("x", x, Tensor, f"is a tensor (B, T, {width})")
    if x.ndim != 3 or x.shape[-1] != width or not x.is_floating_point():
        came = f"shape {tuple(x.shape)} and dtype {x.dtype}"
        raise UsageError(f"x has {came}; legal is (B, T, {width}) in floating point")
    dtype = next(body.parameters()).dtype
    if x.dtype != dtype and not torch.is_autocast_enabled(x.device.type):
        raise UsageError(f"x is of {x.dtype}; legal beside these weights is {dtype}")
    if frame is None:
        return Frame.full(x.shape[1], device=x.device)
    check_kind("frame", frame, Frame, "is such as Frame.full(5), or None")
    if (sizes := (frame.queries.shape[1], frame.keys.shape[1])) != (x.shape[1], x.shape[1]):
        raise UsageError(f"the frame has {sizes[0]} queries and {sizes[1]} keys, and x has {x.shape[1]} tokens")
    return frame
