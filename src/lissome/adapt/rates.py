r"""Learning rates for the parts of a Tucker form, so that a step of each changes the layer's output alike.

One sign step of rate e, as Adam's, changes output q of W0 + C x1 U1 ... xn Un by, with z what enters the core,

    C: e |U1_q| |z|        U1: e |C z|        inputs: e |U1_q| |C| n_in        other factors: e |U1_q| |C|

(sqrt(n_in) in place of n_in where the signs have nothing to do with the inputs). Equal changes of the output ask for

| start | core | outputs | inputs | others |
|---|---|---|---|---|
| C = 0, orthonormal factors | sqrt(n_out) | 1/sqrt(n_out) | 1/n_in | 1 |
| C random, U1 = 0; or C = 0, U1 of unit entries | 1 | 1 | 1/n_in | 1 |

LoTRA (arXiv 2502.06153) claims that equal rates are inefficient. Differs from the paper: equal rates are the default.
Each at its best base rate, rules were seen 25% worse to 15% better; what they give is a best base rate that moves less
with the width. The form of a KAN is (out, K, in): `factor0` is U1 of the paper, `factor1` is U3 and `factor2` is U2.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.func import functional_call

from lissome._errors import UsageError, unknown
from lissome.adapt.tucker import Tucker

RATES = ("equal", "closed", "measured")
RHO = 0.3  # of the frozen output: the virtual change at which rates are measured; at 0 they are 0 / 0


def component_rates(
    form: Tucker,
    base: float,
    rule: str = "equal",
    *,
    probe: Tensor | None = None,
    gradients: Mapping[str, Tensor] | None = None,
    weight: Tensor | None = None,
    floor: bool = True,
) -> dict[str, float]:
    """Return the learning rate of each trained part: "core", "factor0", ...

    `equal` is base for each. `closed` is base times the table above, for a form at one of its starts. `measured` is
    base over the root mean square of what a step along sign(gradient) changes, as a part of the frozen output's:
    one step of any part then changes the output by the part `base` of it, but for the inputs, where `floor` holds them.
    No part keeps the rate base by itself, since the base rate would then move with the width again. A form that does
    nothing yet is measured at `nudged`.

    Args:
        form: at its start.
        base: a number above 0.
        rule: equal, closed or measured.
        probe: (N, d2, ..., dn) inputs of the layer, the functions of a basis for a KAN; for `measured`.
        gradients: part -> dL/dpart, at `nudged`; None, or 0 throughout as at a start, is that of a larger output.
        weight: the frozen weight; None takes its output to be of root mean square 1. Not asked for with `replace`.
        floor: keep the rate of the inputs at base / sqrt(n_in) at least; seen better in 6 of 7 tests.

    Raises:
        UsageError: no Tucker form; an unknown rule; a base that is not above 0; tensors of other shapes, or not finite;
            `closed` away from the starts; `measured` without a probe, or where a part changes nothing.

    >>> form = Tucker([torch.zeros(16, 2), torch.eye(9)[:, :2], torch.eye(4)[:, :2]], torch.ones(2, 2, 2),
    ...     train=["core", "factor0", "factor1", "factor2"])
    >>> component_rates(form, 0.01, "closed", floor=False)
    {'core': 0.01, 'factor0': 0.01, 'factor1': 0.01, 'factor2': 0.0025}
    """
    if not isinstance(form, Tucker):
        raise UsageError(
            f"form is of type {type(form).__name__}; legal is a Tucker form, as lotra, svd or lora make it"
        )
    if rule not in RATES:
        raise unknown("rule for rates", rule, RATES)
    if not 0 < base < float("inf"):
        raise UsageError(f"base is {base}; legal is a number above 0")
    if rule == "equal":
        factors = dict.fromkeys(form.trained, 1.0)
    elif rule == "closed":
        factors = _closed(form)
    else:
        factors = _measured(form, _fitting(form, probe), gradients or {}, weight)
    inputs = f"factor{form.ways - 1}"
    if floor and rule != "equal" and inputs in factors:
        factors[inputs] = max(factors[inputs], form.shape[-1] ** -0.5)
    return {name: base * factors[name] for name in form.trained}


def nudged(form: Tucker, probe: Tensor, weight: Tensor | None = None, *, rho: float = RHO) -> dict[str, Tensor]:
    """Return the trained parts, where those that are 0 are moved until the form does something.

    They become normal numbers, of the size at which the form's output is `rho` of the frozen one; other forms stay.

    Args:
        form: of any kind.
        probe: (N, d2, ..., dn).
        weight: the frozen weight; None takes its output to be of root mean square 1.
        rho: above 0.

    Raises:
        UsageError: tensors of other shapes, or not finite.
    """
    probe = _fitting(form, probe)
    parts = {name: getattr(form, name).detach().clone() for name in form.trained}
    for name, part in parts.items():
        _check_finite(f"'{name}' of the form", part)
    still = [name for name, part in parts.items() if not bool(part.any())]
    generator = torch.Generator().manual_seed(0)  # its size alone matters, so one draw does
    for name in still:
        parts[name] = torch.randn(parts[name].shape, generator=generator, dtype=torch.float64).to(parts[name])
    if still and (size := float(_rms(_output(form, parts, probe)))) > 0:
        parts[still[0]] *= rho * _frozen(form, probe, weight) / size
    return parts


def _closed(form: Tucker) -> dict[str, float]:
    if form.core is None or form.core_kind != "full" or form.base == "residual":
        raise UsageError(
            f"rule 'closed' has no rates for a form of kind '{form.kind}'; it is for lotra: take equal or measured"
        )
    U, core = form.factors[0].detach().double(), form.core
    free, quiet = not bool(core.any()), not bool(U.any())
    eye = torch.eye(U.shape[1]).to(U)
    orthonormal = bool(torch.allclose(U.mT @ U, eye, atol=torch.finfo(core.dtype).eps ** 0.5))
    even = 0.5 <= float(U.square().mean()) <= 2
    if free == quiet or (free and not (orthonormal or even)):
        raise UsageError(
            "rule 'closed' knows rates for two starts, a core of 0 with orthonormal factors and a first factor of 0 "
            "with a random core, and the form is at neither; take measured"
        )
    rates = {name: 1.0 for name in form.trained} | {f"factor{form.ways - 1}": 1 / form.shape[-1]}
    if free and orthonormal:
        rates |= {"core": form.shape[0] ** 0.5, "factor0": form.shape[0] ** -0.5}
    return rates


def _measured(form: Tucker, probe: Tensor, gradients: Mapping[str, Tensor], weight: Tensor | None) -> dict[str, float]:
    for name, gradient in gradients.items():
        if name not in form.trained:
            raise unknown("part", name, form.trained)
        if gradient.shape != (legal := getattr(form, name).shape):
            raise UsageError(f"the gradient of '{name}' has shape {tuple(gradient.shape)}; legal is {tuple(legal)}")
        _check_finite(f"the gradient of '{name}'", gradient)
    parts = nudged(form, probe, weight)
    size, rates = _frozen(form, probe, weight), {}
    aim = here = _output(form, parts, probe)
    if not bool(aim.any()):  # a form that subtracts its start
        drawn = torch.randn(aim.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        aim = drawn.to(aim)
    leaves = {name: part.clone().requires_grad_() for name, part in parts.items()}
    with torch.enable_grad():
        value = (_output(form, leaves, probe) * aim).sum()
    own = dict(zip(leaves, torch.autograd.grad(value, list(leaves.values())), strict=True))
    for name, part in parts.items():
        given = gradients.get(name)
        along = own[name] if given is None or not bool(given.any()) else given.to(part)
        # the output is linear in each part alone: this is its derivative along the signs
        change = _output(form, parts | {name: part + along.sign()}, probe) - here
        if not float(_rms(change)) > 0:
            raise UsageError(f"a step of '{name}' changes no output of the probe; give other inputs, or take equal")
        rates[name] = size / float(_rms(change))
    return rates


def _output(form: Tucker, parts: dict[str, Tensor], probe: Tensor) -> Tensor:
    """Return what the form alone adds, (N, out)."""
    zero = probe.new_zeros(form.shape)
    return functional_call(form, parts, (probe, zero), {"modes": form.ways - 1})


def _frozen(form: Tucker, probe: Tensor, weight: Tensor | None) -> float:
    """Return the root mean square of the frozen output, or of the form's own where there is no base."""
    if form.base == "replace":
        parts = {name: getattr(form, name).detach() for name in form.trained}
        return float(_rms(_output(form, parts, probe))) or 1.0
    if weight is None:
        return 1.0
    if tuple(weight.shape) != form.shape:
        raise UsageError(f"weight has shape {tuple(weight.shape)}; legal is {form.shape}, the form's")
    _check_finite("weight", weight)
    return float(_rms(probe.flatten(1) @ weight.detach().to(probe).flatten(1).mT)) or 1.0


def _fitting(form: Tucker, probe: Tensor | None) -> Tensor:
    legal = f"(N, {', '.join(map(str, form.shape[1:]))})"
    if probe is None:
        raise UsageError(f"rule 'measured' needs a probe {legal}, inputs of the layer; or take equal or closed")
    if probe.shape[1:] != form.shape[1:] or not len(probe):
        raise UsageError(f"probe has shape {tuple(probe.shape)}; legal is {legal}")
    probe = probe.detach().to(form.gates)
    _check_finite("probe", probe)
    return probe


def _check_finite(what: str, given: Tensor) -> None:
    if not bool(given.isfinite().all()):
        raise UsageError(f"{what} holds numbers that are not finite; legal are finite ones")


def _rms(x: Tensor) -> Tensor:
    return x.square().mean().sqrt()
