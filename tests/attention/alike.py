"""A way for DAPE beside naive: the same recipe, the same tensors, outputs and every gradient."""

from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from lissome.attention import Alibi, Attention, Dape, Frame, Kerple, causal
from lissome.attention.backends import naive


@dataclass(frozen=True)
class Plan:
    """A refinement, its bias and sizes."""

    kernel: int = 1
    form: str = "residual"
    bias: str = "log"
    width: int = 5
    batch: int = 2
    groups: int = 2
    share: int = 1
    queries: int = 7
    keys: int = 7
    dimension: int = 3
    seed: int = 0

    @property
    def heads(self):
        return self.groups * self.share

    def recipe(self):
        torch.manual_seed(self.seed)
        make = {"none": lambda heads: None, "alibi": Alibi}.get(self.bias, lambda heads: Kerple(heads, self.bias))
        settings = {"kernel": self.kernel, "form": self.form, "width": self.width, "biased": self.bias != "none"}
        return Attention(causal, make(self.heads), Dape(self.heads, **settings)).double()

    def tensors(self):
        """Return q, k, v and the slope of the output."""
        torch.manual_seed(self.seed + 1)
        shapes = [
            (self.batch, heads, length, width)
            for heads, length, width in (
                (self.heads, self.queries, self.dimension),
                (self.groups, self.keys, self.dimension),
                (self.groups, self.keys, self.dimension + 1),
                (self.heads, self.queries, self.dimension + 1),
            )
        ]
        *qkv, slope = (torch.randn(shape, dtype=torch.float64) for shape in shapes)
        return *(x.requires_grad_() for x in qkv), slope

    def frame(self):
        return Frame.full(self.keys).rows(self.keys - self.queries, self.keys)


@st.composite
def plans(draw, kernels, longest):
    keys = draw(st.integers(1, longest))
    return Plan(
        kernel=draw(st.sampled_from(kernels)),
        form=draw(st.sampled_from(["residual", "plain", "sum"])),
        bias=draw(st.sampled_from(["none", "alibi", "log", "power"])),
        width=draw(st.sampled_from([1, 4, 32])),
        batch=draw(st.integers(1, 3)),
        groups=draw(st.integers(1, 3)),
        share=draw(st.integers(1, 2)),
        queries=draw(st.integers(1, keys)),
        keys=keys,
        dimension=draw(st.integers(1, 4)),
        seed=draw(st.integers(0, 10_000)),
    )


def run(attend, plan):
    """Return the output, and the gradients of q, k, v and of each parameter."""
    recipe, (*qkv, slope) = plan.recipe(), plan.tensors()
    out = attend(*qkv, plan.frame(), recipe)
    return [out, *torch.autograd.grad(out, [*qkv, *recipe.parameters()], slope)]


def assert_alike(way, plan):
    """Of naive, the last bias of the network has rounding for a gradient: softmax forgets a shift."""
    assert way.refusal(*plan.tensors()[:3], plan.frame(), plan.recipe(), 0.0) == ""
    for found, truth in zip(run(way.attend, plan), run(naive.attend, plan), strict=True):
        torch.testing.assert_close(found, truth, rtol=1e-9, atol=1e-10)


class Largest(TorchDispatchMode):
    """Records how many numbers the largest tensor holds that any operation makes room for."""

    def __init__(self):
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        for x in found if isinstance(found, tuple | list) else (found,):
            if isinstance(x, torch.Tensor):
                self.numbers = max(self.numbers, x.untyped_storage().nbytes() // x.element_size())
        return found
