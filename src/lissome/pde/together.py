"""Several members of a family as one objective: one loss for all of them at once.

    loss = sum_k loss_k(network_k)

so that each network's gradient is that of its own loss. The family of one problem is made each of the members in turn,
inside `torch.func.vmap`, by setting its parameters to traced numbers: what it says of operator and lift is then said of
all members at once. Right-hand sides, weights and values on the boundary come with the batch.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.func import vmap

from lissome._errors import UsageError
from lissome._types import Batch
from lissome._vector import functional
from lissome.pde.constraint import Constrained
from lissome.pde.family import Family
from lissome.pde.problem import Problem

OWN = "own "  # before the name of what each member has for itself in a batch
TRIED = {"interior": 500, "boundary": 50, "initial": 50}  # points of a trial: parameters may matter in few places
CLOSE = 1e-9  # what float64 may differ by, stacked and alone


@runtime_checkable
class Stacked(Protocol):
    """K networks side by side, such as `adapt.Stack`."""

    def each(self, f: Callable[..., Any], *stacked: Any) -> Any:
        """Return f(network, *parts) for each network and its part of tensors (K, ...), all at once."""
        ...

    def split(self) -> list[nn.Module]:
        """Return the K networks."""
        ...


class Together:
    """K problems of one family as one objective; the model is a stack of K networks, each wrapped by its problem.

    A batch holds what is the same for all members once, and under `own NAME` (K, ...) what is not. Each member sees
    the points that it would see alone.

    Args:
        problems: members of one family, alike in all but its parameters; `can_stack` says whether that can be.

    Raises:
        UsageError: there are none, or they differ in more than the parameters.

    Example:
        >>> from lissome.adapt import Stack, adapt
        >>> from lissome.models import MLP
        >>> from lissome.pde import load_family
        >>> members = [load_family("heat")(kappa=kappa) for kappa in (0.1, 0.2)]
        >>> problems = [Problem(member, points={"interior": 8}, constraint="exact") for member in members]
        >>> network = MLP(2, width=4, depth=2, generator=torch.Generator().manual_seed(0)).double()
        >>> stack = Stack([problem.wrap(adapt(network, "svd")) for problem in problems])
        >>> together = Together(problems)
        >>> batch = together.sample(torch.Generator().manual_seed(0))
        >>> together.losses(stack, batch).shape, together.loss(stack, batch).shape
        (torch.Size([2]), torch.Size([]))
    """

    def __init__(self, problems: Sequence[Problem]) -> None:
        if not problems:
            raise UsageError("no problems are given; legal is one or more members of a family")
        unlike = _unlike(problems)
        if unlike:
            raise UsageError(f"problems cannot be put together: {unlike}")
        self.problems = tuple(problems)
        self._drawn: Batch | None = None

    def sample(self, generator: torch.Generator, n: int | None = None) -> Batch:
        """Return a batch of all members: each draws from the same state of the generator, as it would alone."""
        start, batches = generator.get_state(), []
        for problem in self.problems:
            generator.set_state(start)
            batches.append(problem.sample(generator, n))
        self._drawn = {}
        for name, first in batches[0].items():
            column = [batch[name] for batch in batches]
            same = all(torch.equal(first, other) for other in column[1:])
            self._drawn[name if same else f"{OWN}{name}"] = first if same else torch.stack(column)
        return self._drawn

    def weigh(self, model: nn.Module, batch: Batch) -> Batch:
        """Return what each member's problem says of weights, for its network as it is."""
        common, own = _cut(batch)
        if not self.problems[0].balanced:
            return {}
        found = [
            problem.weigh(network, common | {name: value[k] for name, value in own.items()})
            for k, (problem, network) in enumerate(zip(self.problems, _stack(model).split(), strict=True))
        ]
        return {f"{OWN}{name}": torch.stack([each[name] for each in found]) for name in found[0]}

    def losses(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the losses of all members (K,), with their graph."""
        return _losses(_stack(model).each, self.problems, batch)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the sum of the members' losses, a scalar with its graph."""
        return self.losses(model, batch).sum()

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Return the figures of each member k as `error/k`, and their means over the members as `error`.

        Those of `Problem.evaluate`, and `loss/k`, the loss on the points that were drawn last, if there are any.
        """
        pairs = zip(self.problems, _stack(model).split(), strict=True)
        rows = [problem.evaluate(network) for problem, network in pairs]
        out = {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}
        for k, row in enumerate(rows):
            out |= {f"{name}/{k}": value for name, value in row.items()}
        if self._drawn is not None:
            device = next(model.parameters()).device
            with torch.no_grad():
                losses = self.losses(model, {name: value.to(device) for name, value in self._drawn.items()})
            out |= {f"loss/{k}": value for k, value in enumerate(losses.tolist())}
        return out


def can_stack(problems: Sequence[Problem]) -> str:
    """Say why problems cannot be put together, or nothing where they can.

    Losses and gradients of small networks are compared with those of each problem alone: what a family does with its
    parameters that is not traced (branches, `math.sin`, numbers made of them in advance) raises or gives other numbers.
    """
    unlike = _unlike(problems)
    if unlike:
        return unlike
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # an operation without a rule for stacks is done one by one, and told so
            return _try(problems)
    except Exception as error:  # whatever goes wrong, one after another goes right
        lines = str(error).strip().splitlines() or [""]
        return f"its code does not take tensors for parameters: {type(error).__name__}: {lines[0][:200]}"


def _unlike(problems: Sequence[Problem]) -> str:
    """Name what keeps problems apart, or return nothing."""
    first = problems[0]
    for problem in problems:
        for what, here, there in (
            ("family", type(problem.family), type(first.family)),
            ("dimension", problem.family.dimension, first.family.dimension),
            ("domain", problem.domain, first.domain),
            ("constraint", problem.constraint, first.constraint),
            ("points", problem.counts, first.counts),
            ("sampling", problem.sampling, first.sampling),
            ("weight_boundary", problem.weighing, first.weighing),
            ("needs", problem.needs, first.needs),
            ("mode", problem.mode, first.mode),
            ("dtype", problem.dtype, first.dtype),
        ):
            if here != there:
                return f"{what} is {there} in one and {here} in another"
    return "directions of mode 'stochastic' are drawn inside the loss" if first.mode == "stochastic" else ""


def _stack(model: nn.Module) -> Stacked:
    if not isinstance(model, Stacked):
        raise UsageError(f"the model is a {type(model).__name__}; legal is a stack of networks, adapt.Stack([...])")
    return model


def _losses(each: Callable[..., Tensor], problems: Sequence[Problem], batch: Batch) -> Tensor:
    """Return the losses (K,) of networks that `each` calls, the first of which is the first problem's."""
    problem, place = problems[0], batch["interior" if "interior" in batch else f"{OWN}interior"]
    values = {
        name: torch.tensor([each.family.values[name] for each in problems], dtype=torch.float64, device=place.device)
        for name in problem.family.values
    }
    common, own = _cut(batch)

    def one(network: nn.Module, values: Batch, part: Batch) -> Tensor:
        with _as_member(problem.family, network, values):
            return problem.loss(network, common | part)

    return each(one, values, own)


def _cut(batch: Batch) -> tuple[Batch, Batch]:
    """Return what all members share, and what each has for itself, (K, ...), by its plain name."""
    own = {name.removeprefix(OWN): value for name, value in batch.items() if name.startswith(OWN)}
    return {name: value for name, value in batch.items() if not name.startswith(OWN)}, own


@contextlib.contextmanager
def _as_member(family: Family, network: nn.Module, values: Batch) -> Iterator[None]:
    """Make a family the member of these traced numbers for a while."""
    before = {name: getattr(family, name) for name in values}
    lifted = [network] if isinstance(network, Constrained) else []
    try:
        for name, value in values.items():
            setattr(family, name, value)
        for each in lifted:
            each.forget()
        yield
    finally:
        for name, value in before.items():
            setattr(family, name, value)
        for each in lifted:
            each.forget()  # what it has kept is traced


def _try(problems: Sequence[Problem]) -> str:
    """Compare losses and gradients of small networks in float64 with those of each problem alone."""
    few = [_few(problem) for problem in problems]
    networks = [problem.wrap(_network(problem.inputs, seed)) for seed, problem in enumerate(few)]
    columns = [{**dict(each.named_parameters()), **dict(each.named_buffers())} for each in networks]
    stacked = {name: torch.stack([column[name].detach() for column in columns]) for name in columns[0]}
    trained = [stacked[name].requires_grad_() for name, _ in networks[0].named_parameters()]

    def each(f: Callable[..., Tensor], *parts: Any) -> Tensor:
        return vmap(functional(f, networks[0], ())[0])(stacked, *parts)

    found = _losses(each, few, Together(few).sample(torch.Generator().manual_seed(0)))
    slopes = torch.autograd.grad(found.sum(), trained, materialize_grads=True, allow_unused=True)
    for k, (problem, network) in enumerate(zip(few, networks, strict=True)):
        loss = problem.loss(network, problem.sample(torch.Generator().manual_seed(0)))
        alone = torch.autograd.grad(loss, list(network.parameters()), materialize_grads=True, allow_unused=True)
        pairs = [(found[k].detach(), loss.detach()), *zip((slope[k] for slope in slopes), alone, strict=True)]
        scale = 1 + max(float(there.abs().max()) for _, there in pairs)
        if not all(float((here - there).abs().max()) < CLOSE * scale for here, there in pairs):
            return f"{problem.family} gives other numbers stacked than alone: its parameters are read in advance"
    return ""


def _few(problem: Problem) -> Problem:
    """Return the problem on a few points, drawn anew, in float64."""
    return Problem(
        problem.family,
        points={kind: TRIED[kind] if count else 0 for kind, count in problem.counts.items()},
        sampling=problem.sampling,
        constraint=problem.constraint,
        weight_boundary=problem.weighing,
        mode=problem.mode,
        pool=0,
    )


def _network(inputs: int, seed: int) -> nn.Module:
    network = nn.Sequential(nn.Linear(inputs, 4), nn.Tanh(), nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 1)).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return network
