import math

import pytest
import torch

from lissome._errors import UsageError
from lissome.adapt import Adapted, component_rates, lora, lotra, svd, tucker
from lissome.adapt.rates import RHO, nudged
from lissome.adapt.tucker import Tucker
from lissome.models.kan import KANLayer
from tests.oracles import rates as oracle

PARTS = ("core", "factor0", "factor1", "factor2")
WIDTHS = (16, 32, 64, 128, 256, 512)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def layer(n, rows=64, start="outputs", ranks=4):
    """Return the form of a KAN layer, what it is applied to, and the frozen weight."""
    whole = KANLayer(n, n, generator=seeded()).double()
    x = 2 * torch.rand(rows, n, generator=seeded(1), dtype=torch.float64) - 1
    weight = whole.weight.detach()
    return lotra(weight, ranks, generator=seeded(2), start=start), whole.functions(x), weight


def drawn(form, seed=3):
    return {
        name: torch.randn(part.shape, generator=seeded(seed), dtype=torch.float64)
        for name, part in form.named_parameters()
    }


def towards(form, parts, probe, weight):
    """Return the gradient of a mean square error to a layer of which every number is another by a little."""
    change = 0.3 * float(weight.std()) * torch.randn(weight.shape, generator=seeded(9), dtype=torch.float64)
    target = probe.flatten(1) @ change.flatten(1).T
    leaves = {name: part.clone().requires_grad_() for name, part in parts.items()}
    given = torch.func.functional_call(form, leaves, (probe, torch.zeros_like(weight)), {"modes": 2})
    return dict(zip(leaves, torch.autograd.grad((given - target).square().mean(), leaves.values()), strict=True))


@pytest.mark.parametrize(
    ("start", "slopes"), [("core", (0.50, -0.50, 0.0, -0.88)), ("outputs", (0.0, 0.0, 0.0, -0.95))]
)
def test_measured_rates_go_with_the_width_as_the_table_says(start, slopes):
    found = {name: [] for name in PARTS}
    for n in WIDTHS:
        form, probe, weight = layer(n, start=start)
        gradients = towards(form, nudged(form, probe, weight), probe, weight)
        for name, rate in component_rates(
            form, 1.0, "measured", probe=probe, weight=weight, gradients=gradients, floor=False
        ).items():
            found[name].append(rate)
    # between draws that of the inputs goes from -0.7 to -1.2: their signs are aligned by chance
    for name, want, far in zip(PARTS, slopes, (0.15, 0.15, 0.15, 0.3), strict=True):
        assert oracle.slope(WIDTHS, found[name]) == pytest.approx(want, abs=far), name


@pytest.mark.parametrize(("start", "slopes"), [("core", (0.5, -0.5, 0.0, -1.0)), ("outputs", (0.0, 0.0, 0.0, -1.0))])
def test_closed_rates_are_the_table(start, slopes):
    found = [component_rates(layer(n, 2, start)[0], 0.01, "closed", floor=False) for n in WIDTHS]
    for name, want in zip(PARTS, slopes, strict=True):
        values = [rates[name] for rates in found]
        assert oracle.slope(WIDTHS, values) == pytest.approx(want, abs=1e-12)
        assert values[0] == pytest.approx(0.01 * WIDTHS[0] ** want)


def test_a_core_of_0_with_a_first_factor_of_unit_entries_is_the_second_row():
    form, _, _ = layer(16, 2, "core")
    units = Tucker([form.factors[0].sign(), *form.factors[1:]], form.core, train=PARTS)
    assert component_rates(units, 1.0, "closed", floor=False) == dict(zip(PARTS, (1, 1, 1, 1 / 16), strict=True))


@pytest.mark.parametrize("start", ["core", "outputs"])
@pytest.mark.parametrize("given", [True, False])
def test_a_measured_step_moves_the_output_by_the_part_base_of_the_frozen_one(start, given):
    form, probe, weight = layer(8, start=start, ranks=(2, 3, 4))
    parts = [nudged(form, probe, weight)[name] for name in PARTS]
    gradients = drawn(form) if given else None
    rates = component_rates(form, 0.02, "measured", probe=probe, gradients=gradients, weight=weight, floor=False)
    frozen = float(torch.einsum("qkp,nkp->nq", weight, probe).square().mean().sqrt())
    leaves = [part.clone().requires_grad_() for part in parts]
    own = torch.autograd.grad(oracle.output(leaves, probe).square().sum(), leaves)
    for j, name in enumerate(PARTS):
        along = gradients[name] if given else own[j]
        assert rates[name] * oracle.moved(parts, j, along, probe) == pytest.approx(0.02 * frozen, rel=1e-6)


@pytest.mark.parametrize("start", ["core", "outputs"])
def test_the_virtual_change_is_a_part_of_the_frozen_output_and_leaves_the_form(start):
    form, probe, weight = layer(8, start=start)
    parts = nudged(form, probe, weight)
    frozen = torch.einsum("qkp,nkp->nq", weight, probe).square().mean().sqrt()
    size = oracle.output([parts[name] for name in PARTS], probe).square().mean().sqrt()
    torch.testing.assert_close(size, RHO * frozen)
    assert not form.delta().any()
    moving = drawn(form)
    with torch.no_grad():
        for name, part in form.named_parameters():
            part.copy_(moving[name])
    assert all(torch.equal(part, moving[name]) for name, part in nudged(form, probe, weight).items())


def test_rates_are_proportional_to_base_and_do_not_change_with_the_unit_of_outputs():
    form, probe, weight = layer(8)
    one, ten = (component_rates(form, base, "measured", probe=probe, weight=weight) for base in (0.01, 0.1))
    assert {name: 10 * rate for name, rate in one.items()} == pytest.approx(ten)
    # outputs in other units: the weight and the first factor's rate grow together, the others stay
    other = component_rates(form, 0.01, "measured", probe=probe, weight=7 * weight, floor=False)
    same = component_rates(form, 0.01, "measured", probe=probe, weight=weight, floor=False)
    assert other["factor0"] == pytest.approx(7 * same["factor0"])
    for name in ("core", "factor1", "factor2"):
        assert other[name] == pytest.approx(same[name])


def test_measuring_twice_gives_the_same_and_gradients_that_are_0_are_as_none():
    form, probe, weight = layer(8)
    none = component_rates(form, 0.01, "measured", probe=probe, weight=weight)
    zeros = {name: torch.zeros_like(p) for name, p in form.named_parameters()}
    assert component_rates(form, 0.01, "measured", probe=probe, weight=weight, gradients=zeros) == none


def test_the_floor_holds_the_inputs_alone():
    form, probe, weight = layer(64)
    for rule in ("closed", "measured"):
        free, held = (
            component_rates(form, 1.0, rule, probe=probe, weight=weight, floor=floor) for floor in (False, True)
        )
        assert held["factor2"] == 1 / 8 > free["factor2"]
        assert {name: held[name] for name in PARTS[:3]} == {name: free[name] for name in PARTS[:3]}


def test_equal_is_base_for_what_is_trained():
    form, _, _ = layer(8, 2)
    assert component_rates(form, 0.01) == dict.fromkeys(PARTS, 0.01)
    assert component_rates(svd(torch.eye(4)), 0.01) == {"core": 0.01}
    matrix = lotra(torch.eye(16), 3, generator=seeded())
    assert component_rates(matrix, 1.0, "closed", floor=False) == {"core": 1, "factor0": 1, "factor1": 1 / 16}


def test_other_forms_can_be_measured():
    W, probe = torch.randn(6, 5, generator=seeded()), torch.randn(9, 5, generator=seeded(1))
    for form in (lora(W, 2, generator=seeded(2)), svd(W), tucker(W, (2, 3))):
        rates = component_rates(form, 0.01, "measured", probe=probe, weight=W)
        assert rates.keys() == set(form.trained)
        assert all(math.isfinite(rate) and rate > 0 for rate in rates.values())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rule": "closedd"}, "unknown rule for rates 'closedd'; legal are: equal, closed, measured"),
        ({"base": 0.0}, "base is 0.0; legal is a number above 0"),
        ({"rule": "measured"}, r"'measured' needs a probe \(N, 9, 8\)"),
        ({"rule": "measured", "probe": torch.ones(3, 8)}, r"probe has shape \(3, 8\); legal is \(N, 9, 8\)"),
        (
            {"rule": "measured", "probe": torch.ones(3, 9, 8), "weight": torch.ones(8, 8, 9)},
            r"weight has shape \(8, 8, 9\); legal is \(8, 9, 8\)",
        ),
        (
            {"rule": "measured", "probe": torch.ones(3, 9, 8), "gradients": {"cores": torch.ones(4, 4, 4)}},
            "unknown part 'cores'; legal are: core, factor0",
        ),
        (
            {"rule": "measured", "probe": torch.ones(3, 9, 8), "gradients": {"core": torch.ones(4, 4)}},
            r"the gradient of 'core' has shape \(4, 4\); legal is \(4, 4, 4\)",
        ),
        (
            {"rule": "measured", "probe": torch.full((3, 9, 8), math.nan)},
            "probe holds numbers that are not finite; legal are finite ones",
        ),
        (
            {"rule": "measured", "probe": torch.ones(3, 9, 8), "weight": torch.full((8, 9, 8), math.inf)},
            "weight holds numbers that are not finite",
        ),
        (
            {
                "rule": "measured",
                "probe": torch.ones(3, 9, 8),
                "gradients": {"core": torch.full((4, 4, 4), math.nan)},
            },
            "the gradient of 'core' holds numbers that are not finite",
        ),
        ({"rule": "measured", "probe": torch.zeros(3, 9, 8)}, "a step of 'core' changes no output of the probe"),
    ],
)
def test_errors_say_what_came_and_what_is_legal(options, words):
    form, _, _ = layer(8, 2)
    with pytest.raises(UsageError, match=words):
        component_rates(form, options.pop("base", 0.01), **options)


def test_closed_rates_are_refused_away_from_the_starts():
    with pytest.raises(UsageError, match="no rates for a form of kind 'svd'; it is for lotra"):
        component_rates(svd(torch.eye(3)), 0.01, "closed")
    form, _, _ = layer(8, 2)
    with torch.no_grad():
        form.factor0.fill_(0.3)
    with pytest.raises(UsageError, match="the form is at neither; take measured"):
        component_rates(form, 0.01, "closed")
    with pytest.raises(UsageError, match="unknown start 'cores'; legal are: outputs, core"):
        lotra(torch.eye(3), 1, generator=seeded(), start="cores")


def test_what_is_nudged_is_finite():
    form, probe, weight = layer(8, 4)
    with pytest.raises(UsageError, match="probe holds numbers that are not finite"):
        nudged(form, probe * math.nan, weight)
    with pytest.raises(UsageError, match="weight holds numbers that are not finite"):
        nudged(form, probe, weight * math.nan)
    with torch.no_grad():
        form.factor1[0, 0] = math.nan
    with pytest.raises(UsageError, match="'factor1' of the form holds numbers that are not finite"):
        nudged(form, probe, weight)


@pytest.mark.parametrize("rule", ["equal", "closed", "measured"])
def test_what_is_no_form_is_told(rule):
    linear = torch.nn.Linear(4, 4)
    adapted = Adapted(linear, {"weight": lora(linear.weight, 2, generator=seeded())})
    with pytest.raises(UsageError, match="form is of type Adapted; legal is a Tucker form"):
        component_rates(adapted, 0.01, rule)


def test_under_the_floor_a_step_of_the_inputs_alone_moves_more_than_base():
    form, probe, weight = layer(64)
    free, held = (
        component_rates(form, 0.02, "measured", probe=probe, weight=weight, floor=floor) for floor in (False, True)
    )
    assert [name for name in PARTS if held[name] > free[name]] == ["factor2"]
