"""The naive way, outputs and gradients, against the formulas pair by pair."""

import re

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call

from lissome.attention import Alibi, Fire, Kerple, attention
from lissome.attention.backends import naive
from lissome.attention.bias import slopes
from lissome.attention.frame import Frame
from lissome.testing import made
from tests.attention.drawn import plans
from tests.oracles import attention as oracle

RULES = {
    "causal": lambda i, j: j <= i,
    "everything": lambda i, j: True,
    "window": lambda size: lambda i, j: abs(i - j) < size,
    "every_kth": lambda k: lambda i, j: j % k == 0,
    "sinks": lambda count: lambda i, j: j < count,
}


class Rule:
    """A rule on positions that joins as ours do, for Python to read its text."""

    def __init__(self, see):
        self.see = see

    def __and__(self, other):
        return Rule(lambda i, j: self.see(i, j) and other.see(i, j))

    def __or__(self, other):
        return Rule(lambda i, j: self.see(i, j) or other.see(i, j))


def read(text, tokens):
    """Return a rule on positions of a row with such tokens."""
    names = {
        "causal": Rule(RULES["causal"]),
        "everything": Rule(RULES["everything"]),
        "window": lambda size: Rule(RULES["window"](size)),
        "every_kth": lambda k: Rule(RULES["every_kth"](k)),
        "sinks": lambda count: Rule(RULES["sinks"](count)),
        "separators": lambda *ids: Rule(lambda i, j: tokens[j] in ids),
    }
    return eval(text, names).see


def formulas(recipe, plan):
    """Return what the oracle needs, from the numbers of a recipe and the names it was made of."""
    bias, refine = recipe.bias, recipe.refine
    named = {"kerple": oracle.kerple_log, "kerple(power)": oracle.kerple_power}
    if plan.position in named:
        bias = named[plan.position](bias.p, bias.a)
    elif plan.position == "alibi":
        bias = oracle.alibi(plan.case.heads)
    elif plan.position == "fire":
        inner, _, outer = bias.network
        numbers = (inner.weight, inner.bias, outer.weight, outer.bias)
        bias = oracle.fire(bias.c, bias.multiplier, plan.case.length / 2, *numbers)
    if refine is not None:
        numbers = (refine.inner.weight[:, :, 0], refine.inner.bias, refine.outer.weight[:, :, 0], refine.outer.bias)
        form, hidden = re.findall(r"form=(\w+), hidden=(\w+)", plan.refine)[0]
        refine = oracle.dape(*numbers, form=form, hidden=hidden)
    base = re.findall(r"base=([\d.]+)", plan.position) or [10_000]
    return {
        "base": float(base[0]) if plan.position.startswith("rotary") else None,
        "bias": bias,
        "refine": refine,
        "variant": plan.normalize
        if plan.normalize in oracle.LINEAR
        else int((re.findall(r"\d", plan.normalize) or [0])[0]),
        "detach_extrema": "detach" in plan.normalize,
    }


def hold(plan):
    recipe, case = plan.recipe(), plan.case
    length = min(case.length, 4)
    if plan.position == "fire":
        recipe.bias.multiplier.data.fill_(1.1)  # no position lies on the kink
    generator = torch.Generator().manual_seed(case.seed)
    q, k, v = (
        torch.randn(2, count, length, case.dimension, generator=generator, dtype=torch.float64, requires_grad=True)
        for count in (case.heads, case.groups, case.groups)
    )
    present = torch.rand(2, length, generator=generator) < 0.8
    tokens = torch.randint(0, 8, (2, length), generator=generator)
    frame = Frame.full(length, tokens=tokens, present=present)
    found = naive.attend(recipe.rotate(q, frame.queries), recipe.rotate(k, frame.keys), v, frame, recipe)
    rows = [
        oracle.attend(
            *(x[row : row + 1] for x in (q, k, v, present)), read(plan.validity, text), **formulas(recipe, plan)
        )
        for row, text in enumerate(one[here].tolist() for one, here in zip(tokens, present, strict=True))
    ]
    truth = torch.cat(rows)
    torch.testing.assert_close(found, truth, rtol=1e-9, atol=1e-9)
    if not truth.requires_grad:  # every row is empty
        return
    weights, at = torch.randn(truth.shape, generator=generator, dtype=torch.float64), [q, k, v, *recipe.parameters()]
    several = {"allow_unused": True, "materialize_grads": True}
    ours = torch.autograd.grad((found * weights).sum(), at, **several)
    theirs = torch.autograd.grad((truth * weights).sum(), at, **several)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-7)


@settings(max_examples=30, deadline=None)
@given(plan=plans())
def test_every_recipe_equals_the_formulas(plan):
    hold(plan)


@settings(max_examples=10, deadline=None)
@given(plan=plans(hidden="published"))
def test_v2_as_published_equals_its_formula(plan):
    hold(plan)


@settings(max_examples=15, deadline=None)
@given(heads=st.integers(1, 40))
def test_alibi_slopes_of_any_number_of_heads(heads):
    torch.testing.assert_close(torch.tensor(slopes(heads)), torch.tensor(oracle.alibi_slopes(heads)))
    bias = Alibi(heads).double()(Frame.full(4))
    truth = oracle.alibi(heads)
    assert all(abs(bias[0, h, 3, 1] - truth(h, 3, 1)) < 1e-12 for h in range(heads))


def test_biases_far_from_home():
    """Positions of a long text, one query, some keys that a cache kept."""
    frame = Frame(torch.tensor([[8191]]), torch.tensor([[0, 4000, 8190, 8191]]))
    with torch.random.fork_rng():
        kerple, power, fire = Kerple(2).double(), Kerple(2, "power").double(), Fire(2, 512).double()
    inner, _, outer = fire.network
    numbers = (inner.weight, inner.bias, outer.weight, outer.bias)
    for ours, truth in (
        (Alibi(2).double(), oracle.alibi(2)),
        (kerple, oracle.kerple_log(kerple.p, kerple.a)),
        (power, oracle.kerple_power(power.p, power.a)),
        (fire, oracle.fire(fire.c, fire.multiplier, 256, *numbers)),
    ):
        found = ours(frame)[0, :, 0]
        for h in range(2):
            for place, j in enumerate((0, 4000, 8190, 8191)):
                torch.testing.assert_close(found[h, place], truth(h, 8191, j), rtol=1e-9, atol=1e-9)


class Whole(nn.Module):
    """A recipe as one function of its inputs and its numbers."""

    def __init__(self, recipe):
        super().__init__()
        self.recipe = recipe

    def forward(self, q, k, v, frame):
        turned = self.recipe.rotate(q, frame.queries), self.recipe.rotate(k, frame.keys)
        return naive.attend(*turned, v, frame, self.recipe)


GRADCHECKED = [
    ("kerple", "dape(3, width=3)", "self_adjust(4)"),
    ("kerple(power)", "dape(1, form=plain, width=3)", "self_adjust(1)"),
    ("alibi", "dape(5, form=sum, width=3)", "self_adjust(2)"),
    ("fire", "none", "self_adjust(3)"),
    ("rotary", "dape(3, hidden=published, width=3)", "softmax"),
]


def test_gradcheck_of_all_inputs_and_parameters():
    for position, refine, normalize in GRADCHECKED:
        names = {"position": position, "refine": refine, "normalize": normalize, "length": 4}
        recipe = made(lambda heads, names=names: attention(heads, 2, **names), 2, seed=3)
        present = torch.tensor([[True] * 4, [False, False, True, True]])
        frame = Frame.full(4, present=present)
        drawn = [torch.randn(2, heads, 4, 2, dtype=torch.float64) for heads in (2, 1, 1)]
        numbers = dict(recipe.named_parameters())

        def run(q, k, v, *values, whole=Whole(recipe), numbers=numbers, frame=frame):
            named = {f"recipe.{name}": value for name, value in zip(numbers, values, strict=True)}
            return functional_call(whole, named, (q, k, v, frame))

        point = [x.detach().clone().requires_grad_() for x in (*drawn, *numbers.values())]
        assert torch.autograd.gradcheck(run, point), names
