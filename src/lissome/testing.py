"""What every attention promises, as functions that hold a recipe to it: your own stage too, in three lines.

Each property is a function of a recipe in float64 and a `Case`; it returns nothing, or raises an AssertionError of one
sentence that names the property, the size of the difference, and what usually causes it. Nothing but torch is needed.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.func import functional_call

from lissome._checks import check_function, check_kind, check_whole, refuse
from lissome._errors import UsageError, unknown
from lissome.attention import Attention, Frame, GrowingCache, stages
from lissome.attention.backends import naive, tiled

ALLOWED = 1e-9  # between two ways to the same numbers in float64
ALLOWED_SLOPES = 1e-5  # between a gradient and its finite difference
STEPS = (1e-6, 1e-8)  # of the finite difference; the nearer of both counts, since a step may cross a kink
LARGE = 1e4  # scores that half precision has to survive
HALVES = (torch.float16, torch.bfloat16)

Make = Callable[[int], Attention]


@dataclass(frozen=True)
class Case:
    """The sizes of random queries, keys and values, and the seed they come from.

    Attributes:
        heads: H.
        groups: G, key heads, a divisor of H.
        dimension: D of a head.
        length: T, at least 2.
        batch: B, at least 2.
        seed: of all that is drawn.

    Raises:
        UsageError: a size below its least, or G that does not divide H.
    """

    heads: int = 4
    groups: int = 2
    dimension: int = 4
    length: int = 7
    batch: int = 3
    seed: int = 0

    def __post_init__(self):
        for name, least in (("heads", 1), ("groups", 1), ("dimension", 1), ("length", 2), ("batch", 2), ("seed", 0)):
            check_whole(name, getattr(self, name), least)
        if self.heads % self.groups:
            raise UsageError(f"{self.groups} key heads do not divide {self.heads} heads")


def hold_attention(
    make: Make, *, heads: Collection[int] = (1, 3, 4), seeds: int = 3, without: Collection[str] = ()
) -> None:
    """Hold a recipe to every property, for some numbers of heads and some seeds.

    Args:
        make: number of heads -> a recipe for it, whose heads have 4 numbers.
        heads: the numbers of heads to try.
        seeds: how often each is tried; the recipe is made anew each time.
        without: names of properties that the stage lacks on purpose, see `PROPERTIES`.

    Raises:
        AssertionError: a property does not hold.
        UsageError: an unknown property, or a value of another kind.

    >>> from lissome.attention import Attention, Kerple, causal
    >>> hold_attention(lambda heads: Attention(causal, Kerple(heads)), seeds=1)
    """
    check_function("make", make, "is a function heads -> Attention")
    for name, value, such in (("heads", heads, (1, 4)), ("without", without, ("gradients",))):
        if isinstance(value, str) or not isinstance(value, Collection):
            raise refuse(name, value, f"is several, such as {such}")
    check_whole("seeds", seeds)
    for name in without:
        if name not in PROPERTIES:
            raise unknown("property", name, PROPERTIES)
    for seed in range(seeds):
        for count in heads:
            case = Case(heads=count, groups=1 if seed % 2 else count, seed=seed)
            recipe = made(make, count, seed)
            for name, hold in PROPERTIES.items():
                if name not in without:
                    hold(recipe, case)


def made(make: Make, heads: int, seed: int) -> Attention:
    """Return a recipe in float64, parameters from a seed; those that start at 0 are moved: they hide others."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        recipe = make(heads)
        check_kind(f"what make gives for {heads} heads", recipe, Attention, "is an Attention")
        recipe = recipe.double()
        with torch.no_grad():
            for number in recipe.parameters():
                if not number.any():
                    number.normal_(std=0.1)
    return recipe


def shapes(recipe: Attention, case: Case) -> None:
    """Assert that each stage gives the shape that the next one reads, and that unseen keys weigh exactly nothing."""
    q, k, _, tokens = _drawn(case)
    whole = Frame.full(case.length, tokens=tokens)
    B, H, T = case.batch, case.heads, case.length
    for frame in (whole, Frame.full(T, tokens=tokens, present=_holes(case)), whole.rows(T - 1, T)):
        rows = frame.queries.shape[1]
        found = stages(*_turned(recipe, q[:, :, -rows:], k, frame), frame, recipe)
        legal = {
            "validity": ((1, 1, rows, T), (B, 1, rows, T)),
            "bias": ((1, H, rows, T), (B, H, rows, T)),
            "refine": ((B, H, rows, T),),
            "normalize": ((B, H, rows, T),),
        }
        for name, value in zip(legal, (found.valid, found.bias, found.refined, found.weights), strict=True):
            if value is not None and tuple(value.shape) not in legal[name]:
                _fail("shapes", f"{name} gives {tuple(value.shape)}, and legal is {legal[name][-1]}")
        if found.valid.dtype is not torch.bool:
            _fail("shapes", f"validity gives {found.valid.dtype}, and legal is bool")
        hidden = found.weights.masked_fill(found.valid, 0)
        _same("shapes", "keys that are not visible have weights", hidden, torch.zeros_like(hidden), _MASK, exact=True)


def future(recipe: Attention, case: Case) -> None:
    """Assert that other keys, values and tokens later on change no bit; not asked of rules that look ahead."""
    if _looks_ahead(recipe, case):
        return
    q, k, v, tokens = _drawn(case)
    other = _drawn(replace(case, seed=case.seed + 1000))
    truth = _run(recipe, q, k, v, Frame.full(case.length, tokens=tokens))
    for cut in range(1, case.length):
        k2, v2, tokens2 = (
            torch.cat((old.narrow(axis, 0, cut), new.narrow(axis, cut, case.length - cut)), axis)
            for old, new, axis in ((k, other[1], 2), (v, other[2], 2), (tokens, other[3], 1))
        )
        found = _run(recipe, q, k2, v2, Frame.full(case.length, tokens=tokens2))
        said = f"the first {cut} rows change when later keys do"
        _same("future", said, found[:, :, :cut], truth[:, :, :cut], _SEEN, exact=True)


def unseen(recipe: Attention, case: Case) -> None:
    """Assert that other keys and values where a row may not look change no bit of the row."""
    q, k, v, tokens = _drawn(case)
    other = _drawn(replace(case, seed=case.seed + 1000))
    frame = Frame.full(case.length, tokens=tokens, present=_holes(case))
    truth, valid = _run(recipe, q, k, v, frame), recipe.validity(frame)
    for row in range(case.length):
        sees = valid[:, :, row, :, None]  # (., 1, Tk, 1)
        found = _run(recipe, q, torch.where(sees, k, other[1]), torch.where(sees, v, other[2]), frame)
        said = f"row {row} changes when keys that it may not see do"
        _same("unseen", said, found[:, :, row], truth[:, :, row], _SEEN, exact=True)


def cache(recipe: Attention, case: Case) -> None:
    """Assert that a text read in parts gives what the whole text gives; not asked of rules that look ahead."""
    if _looks_ahead(recipe, case):
        return
    q, k, v, tokens = _drawn(case)
    generator = _seeded(case, 1)
    somewhere = (torch.rand(case.length, generator=generator) < 0.4).nonzero()[:, 0].tolist()
    for present in (None, _holes(case)):
        frame = Frame.full(case.length, tokens=tokens, present=present)
        truth = _run(recipe, q, k, v, frame)
        for cuts in (range(case.length), somewhere):
            edges, kept, found = sorted({0, case.length, *cuts}), GrowingCache(1), []
            for a, b in itertools.pairwise(edges):
                part = kept.begin(tokens[:, a:b], None if present is None else present[:, a:b])
                new = recipe.rotate(k[:, :, a:b], part.queries)
                keys, values = kept.append(0, new, v[:, :, a:b])
                turned = recipe.rotate(q[:, :, a:b], part.queries)
                found.append(naive.attend(turned, keys, values, part, recipe))
            _same("cache", "a text read in parts differs from the whole", torch.cat(found, 2), truth, _COUNTED)


def left(recipe: Attention, case: Case) -> None:
    """Assert that a row padded on the left gives what it gives alone."""
    _padded("left", recipe, case)


def right(recipe: Attention, case: Case) -> None:
    """Assert that a row padded on the right gives what it gives alone."""
    _padded("right", recipe, case)


def empty(recipe: Attention, case: Case) -> None:
    """Assert that a query that sees no key gets exactly 0 and sends no gradient, and that all gradients are finite."""
    q, k, v, tokens = (x.requires_grad_(x.is_floating_point()) for x in _drawn(case))
    present = _holes(case)
    present[0] = False
    frame = Frame.full(case.length, tokens=tokens, present=present)
    out = _run(recipe, q, k, v, frame)
    blind = ~recipe.validity(frame).any(-1)[..., None].expand_as(out)
    got = out.masked_fill(~blind, 0)
    _same("empty", "queries that see no key get something", got, torch.zeros_like(got), _EMPTY, exact=True)
    found = _slopes(out, _weights(out, case), q=q, k=k, v=v, **dict(recipe.named_parameters()))
    for name, slope in found.items():
        if not slope.isfinite().all():
            _fail("empty", f"the gradient of {name} is not finite; usually {_EMPTY}")
    sent = found["q"].masked_fill(~blind[..., :1], 0)
    said = "queries that see no key get a gradient"
    _same("empty", said, sent, torch.zeros_like(sent), _EMPTY, exact=True)


def gradients(recipe: Attention, case: Case) -> None:
    """Assert that gradients of queries, keys, values and parameters are those of finite differences."""
    q, k, v, tokens = _drawn(case)
    frame = Frame.full(case.length, tokens=tokens, present=_holes(case))
    numbers = {f"recipe.{name}": p.detach() for name, p in recipe.named_parameters() if p.requires_grad}
    at = {"q": q, "k": k, "v": v, **numbers}
    run, generator = _Whole(recipe), _seeded(case, 2)

    def value(point: Mapping[str, Tensor]) -> Tensor:
        rest = {name: point[name] for name in numbers}
        return functional_call(run, rest, (point["q"], point["k"], point["v"], frame))

    point = {name: x.clone().requires_grad_() for name, x in at.items()}
    out = value(point)
    weights = _weights(out, case)
    found = _slopes(out, weights, **point)
    for name, x in at.items():
        way = torch.randn(x.shape, generator=generator, dtype=x.dtype)
        with torch.no_grad():
            ends = [[value({**at, name: x + sign * step * way}) for sign in (1, -1)] for step in STEPS]
        slopes = [((a - b) * weights).sum() / (2 * step) for (a, b), step in zip(ends, STEPS, strict=True)]
        ours = (found[name] * way).sum()
        said = f"the gradient of {name.removeprefix('recipe.')} differs from a finite difference"
        _same("gradients", said, ours, min(slopes, key=lambda slope: (slope - ours).abs()), _CUT, ALLOWED_SLOPES)


def half(recipe: Attention, case: Case) -> None:
    """Assert that half precision is finite, in empty rows and at scores of 1e4 too, and near what float32 gives."""
    q, k, v, tokens = _drawn(case)
    v = v.clamp(-1, 1)
    present = _holes(case)
    present[0] = False
    frame = Frame.full(case.length, tokens=tokens, present=present)
    grown = (LARGE / (q.norm(dim=-1).max() * k.norm(dim=-1).max()) * case.dimension**0.5) ** 0.5
    single = copy.deepcopy(recipe).float()
    for dtype in HALVES:
        for weak in (single, copy.deepcopy(recipe).to(dtype)):
            for factor in (1, grown):
                out = _run(weak, (factor * q).to(dtype), (factor * k).to(dtype), v.to(dtype), frame)
                if out.dtype is not dtype:
                    _fail("half", f"{dtype} values come back as {out.dtype}")
                if not out.isfinite().all():
                    _fail("half", f"something is not finite in {dtype}; usually {_EMPTY}")
        q2, k2, v2 = (x.to(dtype).requires_grad_() for x in (q, k, v))
        out = _run(single, q2, k2, v2, frame)
        truth = _run(single, q2.detach().float(), k2.detach().float(), v2.detach().float(), frame)
        allowed = 8 * torch.finfo(dtype).eps
        _same("half", f"{dtype} differs from float32", out, truth, "positions are rounded to it", allowed)
        found = _slopes(out, _weights(out, case), q=q2, k=k2, v=v2, **dict(single.named_parameters()))
        for name, slope in found.items():
            if not slope.isfinite().all():
                _fail("half", f"the gradient of {name} is not finite in {dtype}; usually {_EMPTY}")


def tiles(recipe: Attention, case: Case) -> None:
    """Assert that outputs and gradients are the same by tiles of queries and at once."""
    q, k, v, tokens = (x.requires_grad_(x.is_floating_point()) for x in _drawn(case))
    whole = Frame.full(case.length, tokens=tokens)
    numbers = dict(recipe.named_parameters())
    for frame in (
        whole,
        Frame.full(case.length, tokens=tokens, present=_holes(case)),
        whole.rows(case.length // 2, case.length),
    ):
        last = q[:, :, -frame.queries.shape[1] :]
        truth = _run(recipe, last, k, v, frame)
        for tile in (1, 3, case.length):
            with torch.no_grad():
                out = tiled.attend(*_turned(recipe, last, k, frame), v, frame, recipe, tile=tile)
            _same("tiles", f"tiles of {tile} queries differ from all at once", out, truth, _TILED)
        weights, tile = _weights(truth, case), (case.length + 1) // 2
        slopes = _slopes(truth, weights, q=q, k=k, v=v, **numbers)
        out = tiled.attend(*_turned(recipe, last, k, frame), v, frame, recipe, tile=tile)
        for name, slope in _slopes(out, weights, q=q, k=k, v=v, **numbers).items():
            said = f"the gradient of {name} by tiles of {tile} queries differs from that of all at once"
            _same("tiles", said, slope, slopes[name], _TILED)


PROPERTIES: dict[str, Callable[[Attention, Case], None]] = {
    hold.__name__: hold for hold in (shapes, future, unseen, cache, left, right, empty, gradients, half, tiles)
}
"""The properties by name, in the order in which they are asked."""

_MASK = "the normaliser does not set the weights to 0 where `valid` is False"
_SEEN = "a stage reads pairs without asking `valid`, a minimum or a mean over all keys for one"
_COUNTED = "a stage counts columns or takes a length where it should read the frame's positions, or reads unseen pairs"
_EMPTY = "a row in which `valid` is False everywhere is divided by 0, or filled with minus infinity"
_CUT = "something is detached, rounded or changed in place on the way"
_TILED = "a stage takes a length from a shape, or reads more columns than its `ahead` says"


class _Whole(nn.Module):
    """A recipe as one function, the turning of queries and keys included."""

    def __init__(self, recipe: Attention):
        super().__init__()
        self.recipe = recipe

    def forward(self, q: Tensor, k: Tensor, v: Tensor, frame: Frame) -> Tensor:
        return _run(self.recipe, q, k, v, frame)


def _padded(side: str, recipe: Attention, case: Case) -> None:
    q, k, v, tokens = _drawn(case)
    counts = torch.randint(1, case.length, (case.batch,), generator=_seeded(case, 3)).tolist()
    starts = [case.length - n if side == "left" else 0 for n in counts]
    places = torch.arange(case.length)
    present = torch.stack([(places >= a) & (places < a + n) for a, n in zip(starts, counts, strict=True)])
    together = _run(recipe, q, k, v, Frame.full(case.length, tokens=tokens, present=present))
    for b, (a, n) in enumerate(zip(starts, counts, strict=True)):
        row, part = slice(b, b + 1), slice(a, a + n)
        alone = _run(recipe, q[row, :, part], k[row, :, part], v[row, :, part], Frame.full(n, tokens=tokens[row, part]))
        _same(side, f"a row padded on the {side} differs from itself alone", together[row, :, part], alone, _COUNTED)


def _looks_ahead(recipe: Attention, case: Case) -> bool:
    # a rule may read tokens: those of the text, and those that `future` puts in their place
    texts = (_drawn(replace(case, seed=case.seed + more))[3] for more in (0, 1000))
    frames = [Frame.full(case.length, tokens=tokens) for tokens in texts]
    ahead = any(bool((recipe.validity(frame)[:, 0] & (frame.distance < 0)).any()) for frame in frames)
    if ahead and recipe.validity.causal:
        _fail("future", f"the validity {recipe.validity.name} says that it is causal, and sees later keys")
    return ahead


def _seeded(case: Case, stream: int) -> torch.Generator:
    return torch.Generator().manual_seed(4 * case.seed + stream)


def _drawn(case: Case) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = _seeded(case, 0)
    sizes = [(case.batch, count, case.length, case.dimension) for count in (case.heads, case.groups, case.groups)]
    q, k, v = (torch.randn(size, generator=generator, dtype=torch.float64) for size in sizes)
    return q, k, v, torch.randint(0, 8, (case.batch, case.length), generator=generator)


def _holes(case: Case) -> Tensor:
    """Return (B, T) bool: padding left, right and between, and one row without."""
    present = torch.rand(case.batch, case.length, generator=_seeded(case, 1)) < 0.7
    present[-1] = True
    return present


def _turned(recipe: Attention, q: Tensor, k: Tensor, frame: Frame) -> tuple[Tensor, Tensor]:
    return recipe.rotate(q, frame.queries), recipe.rotate(k, frame.keys)


def _run(recipe: Attention, q: Tensor, k: Tensor, v: Tensor, frame: Frame) -> Tensor:
    return naive.attend(*_turned(recipe, q, k, frame), v, frame, recipe)


def _weights(out: Tensor, case: Case) -> Tensor:
    return torch.randn(out.shape, generator=_seeded(case, 2), dtype=torch.float64).to(out.dtype)


def _slopes(out: Tensor, weights: Tensor, **at: Tensor) -> dict[str, Tensor]:
    """Return the gradients of the weighted sum of an output, 0 where it does not depend on something."""
    asked = {name: x for name, x in at.items() if x.requires_grad}
    found = torch.autograd.grad((out * weights).sum(), list(asked.values()), allow_unused=True, materialize_grads=True)
    return dict(zip(asked, found, strict=True))


def _same(
    name: str, said: str, found: Tensor, truth: Tensor, cause: str, allowed: float = ALLOWED, *, exact: bool = False
) -> None:
    found, truth = found.detach().double(), truth.detach().double()
    if exact and torch.equal(found, truth):
        return
    size = truth.abs().max().clamp(min=1)
    difference = ((found - truth).abs().max() / size).item()
    if exact or not difference <= allowed:
        limit = "nothing" if exact else f"{allowed:.0e}"
        _fail(name, f"{said}, by {difference:.2g} where {limit} is allowed; usually {cause}")


def _fail(name: str, said: str) -> None:
    raise AssertionError(f"{name}: {said}")
