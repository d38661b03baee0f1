"""Weights set by hand make a body an algorithm, to rounding: gradient descent, and that of Newton and Schulz."""

import pytest
import torch

from lissome._errors import UsageError
from lissome.models import Looped, LoopedShape, gradient_descent, newton_schulz
from lissome.models.constructions import LINEAR, set_attention
from tests.oracles import looped as oracle

EXACT = {torch.float64: 1e-10, torch.float32: 5e-6}
RATE, D, K = 0.05, 4, 9
each_dtype = pytest.mark.parametrize("dtype", EXACT, ids=str)


def prompts(dtype, *, rows=3, seed=0):
    """Return x (B, K, D) and y (B, K)."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, K, D, generator=generator, dtype=torch.float64).clamp(-2, 2)
    w = torch.randn(rows, D, generator=generator, dtype=torch.float64)
    y = torch.einsum("bkd,bd->bk", x, w) + 0.1 * torch.randn(rows, K, generator=generator, dtype=torch.float64)
    return x.to(dtype), y.to(dtype)


def near(found, truth, dtype):
    torch.testing.assert_close(found.double(), truth, rtol=0, atol=EXACT[dtype])


@each_dtype
@pytest.mark.parametrize("steps", [1, 2, 7, 20])
def test_residuals_of_pairs_are_those_of_gradient_descent(dtype, steps):
    """A: tokens (x_i, r_i), the query nobody's key."""
    x, y = prompts(dtype)
    model = gradient_descent(D, rate=RATE, iterations=steps, tokens="pairs", dtype=dtype)
    (state,) = [h for t, h in enumerate(model.body.iterates(model.into(model.lay(x, y))), 1) if t == steps]
    for b in range(len(x)):
        w = oracle.descent(x[b, :-1], y[b, :-1], RATE, steps)
        near(state[b, :-1, D], y[b, :-1].double() - x[b, :-1].double() @ w, dtype)
        near(state[b, -1, D], -x[b, -1].double() @ w, dtype)
        near(model(x, y)[b, 0], x[b, -1].double() @ w, dtype)


def test_a_causal_mask_breaks_the_residuals_from_the_second_step():
    x, y = prompts(torch.float64)
    full = gradient_descent(D, rate=RATE, iterations=2, tokens="pairs", dtype=torch.float64)
    shape = LoopedShape(**{**full.body.shape.told(), "validity": "causal"})
    causal = Looped(shape).double()
    causal.load_state_dict(full.body.state_dict())
    tokens = full.into(full.lay(x, y))
    query = [[h[:, -1] for h in body.iterates(tokens)] for body in (full.body, causal)]
    # the query is its own key there, with r = 0 at the first step
    near(query[1][0], query[0][0], torch.float64)
    assert (query[1][1] - query[0][1]).abs().max() > 0.01


@each_dtype
def test_every_prefix_descends_by_itself(dtype):
    """B: token (x_j, y_j, w_j, 1), causal."""
    x, y = prompts(dtype)
    eye = torch.eye(2 * D + 2, dtype=dtype)
    at, told, w, one = (eye[part] for part in torch.arange(2 * D + 2).split([D, 1, D, 1]))
    shape = LoopedShape(width=2 * D + 2, pre=0, post=0, feed="none", validity="causal", **LINEAR)
    body = Looped(shape).to(dtype)
    pairs = torch.cat((at, told))
    set_attention(body.loop.blocks[0], query=torch.cat((w, -one)), key=pairs, value=at, out=-RATE * w.T)
    tokens = torch.cat((x, y[..., None], torch.zeros_like(x), torch.ones_like(y)[..., None]), -1)
    for steps, h in enumerate(body.iterates(tokens, iterations=12), 1):
        for b in range(len(x)):
            truth = [oracle.descent(x[b, : j + 1], y[b, : j + 1], RATE, steps) for j in range(K)]
            near(h[b, :, D + 1 : -1], torch.stack(truth), dtype)
    torch.testing.assert_close(h[..., : D + 1], tokens[..., : D + 1], rtol=0, atol=0)


@each_dtype
def test_an_interleaved_prompt_descends_on_the_pairs_before_each_query(dtype):
    """B2: pre copies x beside y, the loop descends, post multiplies."""
    x, y = prompts(dtype)
    model = gradient_descent(D, rate=RATE, dtype=dtype)
    for steps, found in enumerate(model.iterates(x, y, iterations=20), 1):
        for b in range(len(x)):
            near(found[b], oracle.predictions(x[b], y[b], RATE, steps), dtype)
    other = y.clone()
    other[:, -1] += 100
    assert torch.equal(model(x, other), model(x, y))  # the last y is what has to be predicted
    with torch.no_grad():
        assert torch.equal(model(x, y, iterations=20), model.outputs(x, y, window=20, iterations=20)[-1])


@pytest.mark.parametrize("tokens", ["interleaved", "pairs"])
def test_a_descent_at_rest_is_least_squares(tokens):
    x, y = prompts(torch.float64)
    x = torch.cat((2 * torch.linalg.qr(x[:, :-1]).Q, x[:, -1:]), 1)  # every eigenvalue is 4
    model = gradient_descent(D, rate=0.2, iterations=20, tokens=tokens, dtype=torch.float64)
    with torch.no_grad():
        found = model(x, y)[:, -1]
    for b in range(len(x)):
        w = torch.linalg.lstsq(x[b, :-1], y[b, :-1, None]).solution[:, 0]
        torch.testing.assert_close(found[b], x[b, -1] @ w, rtol=0, atol=1e-9)


def spread(n, dtype, seed=0):
    """Return a symmetric positive definite matrix and the start I / |A|_F."""
    B = torch.randn(n, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    A = (B @ B.T / n + 0.3 * torch.eye(n, dtype=torch.float64)).to(dtype)
    return A, torch.eye(n, dtype=dtype) / A.norm()


@each_dtype
@pytest.mark.parametrize("n", [1, 3, 6])
def test_newton_and_schulz_square_what_is_missing(dtype, n):
    """C: E_{t+1} = E_t^2 for E = I - A M."""
    A, M = spread(n, dtype)
    body = newton_schulz(n, dtype=dtype)
    eye = torch.eye(n, dtype=torch.float64)
    missing = eye - A.double() @ M.double()
    for steps, h in enumerate(body.iterates(torch.cat((A.T, M.T), 1)[None], iterations=12), 1):
        found = h[0, :, n:].T.double()
        missing = missing @ missing
        torch.testing.assert_close(eye - A.double() @ found, missing, rtol=0, atol=10 * EXACT[dtype])
        truth = oracle.inverse(A, M, steps)
        torch.testing.assert_close(found, truth, rtol=0, atol=EXACT[dtype] * max(1.0, float(truth.abs().max())))
        assert torch.equal(h[0, :, :n], A.T)
    torch.testing.assert_close(found, torch.linalg.inv(A.double()), rtol=10 * EXACT[dtype], atol=10 * EXACT[dtype])


def test_weights_by_hand_leave_the_global_draws_alone():
    before = torch.random.get_rng_state()
    gradient_descent(2, rate=0.1)
    newton_schulz(2)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: gradient_descent(0, rate=0.1), "dimension is 0; legal are whole numbers, 1 and more"),
        (lambda: gradient_descent(2, rate=float("nan")), "rate is nan; legal are finite numbers"),
        (
            lambda: gradient_descent(2, rate=0.1, tokens="pair"),
            "unknown tokens 'pair'; legal are: interleaved, pairs (did you mean 'pairs'?)",
        ),
        (lambda: newton_schulz(1.5), "size is 1.5; legal are whole numbers, 1 and more"),
    ],
)
def test_wrong_values_are_told(call, sentence):
    with pytest.raises(UsageError) as error:
        call()
    assert str(error.value) == sentence
