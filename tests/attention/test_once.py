"""Ways with a first derivative, all of which share how they are made operators: compiled, and in forward mode."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from lissome._errors import UsageError
from lissome.attention import Attention, Dape, Frame, Kerple, SelfAdjust, attend, causal, explain, separated
from lissome.attention.attend import SPECIAL

RECIPES = {
    "compact": lambda: Attention(separated([3], near=7)),
    "dape": lambda: Attention(causal, Kerple(2), Dape(2, width=4)),
    "convolved": lambda: Attention(causal, Kerple(2), Dape(2, width=4, kernel=3)),
    "self_adjust": lambda: Attention(normalize=SelfAdjust(4)),
}
EVERY = pytest.mark.parametrize("name", RECIPES)
FRAME = Frame.full(24, tokens=torch.arange(24)[None] % 8)


@EVERY
def test_it_compiles_where_queries_keys_and_values_are_one_tensor(name):
    recipe, x = RECIPES[name](), torch.randn(1, 2, 24, 8, requires_grad=True)

    def run(x):
        return attend(x, x, x, FRAME, recipe, backend=name)

    torch.compiler.reset()
    ours, truth = torch.compile(run, fullgraph=True, backend="aot_eager")(x), run(x)
    torch.testing.assert_close(ours, truth)
    wanted = [x, *(p for p in recipe.parameters() if p.requires_grad)]
    weights = torch.randn_like(truth)
    for one, other in zip(
        torch.autograd.grad(ours, wanted, weights), torch.autograd.grad(truth, wanted, weights), strict=True
    ):
        torch.testing.assert_close(one, other)


@EVERY
@pytest.mark.parametrize("way", ["no gradient is kept", "none is asked for"])
def test_it_compiles_without_a_gradient(name, way):
    recipe = RECIPES[name]().requires_grad_(way == "no gradient is kept")
    q, k, v = (torch.randn(1, 2, 24, 8) for _ in range(3))

    def run(q, k, v):
        return attend(q, k, v, FRAME, recipe, backend=name)

    torch.compiler.reset()
    with torch.set_grad_enabled(way == "none is asked for"):
        ours = torch.compile(run, fullgraph=True, backend="aot_eager")(q, k, v)
    torch.testing.assert_close(ours, run(q, k, v))


@EVERY
def test_a_forward_mode_derivative_is_refused_in_a_sentence(name):
    recipe, x = RECIPES[name](), torch.randn(1, 2, 24, 8)
    with pytest.raises(UsageError, match=f"backend {name} cannot run this: it has no forward-mode derivative"):
        torch.func.jvp(lambda x: attend(x, x, x, FRAME, recipe, backend=name), (x,), (x,))


@EVERY
def test_where_fused_attention_is_switched_off_auto_takes_a_way_of_all_orders(name, monkeypatch):
    monkeypatch.setattr(SPECIAL[name], "LEAST", 0)
    monkeypatch.setattr(SPECIAL[name], "SHORTEST", 0)
    recipe = RECIPES[name]().double()
    x, along = (torch.randn(1, 2, 24, 8, dtype=torch.float64) for _ in "xv")

    def product(**how):
        def loss(x):
            return attend(x, x, x, FRAME, recipe, **how).square().sum()

        return torch.autograd.functional.hvp(loss, x, along)[1]

    assert f"by {name}: " in explain(x, x, FRAME, recipe)
    truth = product(backend="naive")
    with pytest.raises(UsageError, match=f"backend {name} has no second derivative"):
        product()
    with sdpa_kernel([SDPBackend.MATH]):
        assert f"by {name}: " not in explain(x, x, FRAME, recipe)
        with pytest.raises(UsageError, match=f"backend {name} cannot run this: fused attention is switched off"):
            attend(x, x, x, FRAME, recipe, backend=name)
        torch.testing.assert_close(product(), truth, rtol=1e-9, atol=1e-9)
