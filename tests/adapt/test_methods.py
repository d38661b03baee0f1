import functools

import pytest
import torch
from torch import nn

from lissome._errors import UsageError
from lissome.adapt import METHODS, Adapted, adapt, fitting, large, lora, reinitialize, svd
from lissome.models import KAN, MLP


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def network(inputs=11, width=64, depth=2):
    return MLP(inputs, width=width, depth=depth, generator=seeded()).double()


def points(n=5, inputs=11):
    return torch.randn(n, inputs, generator=seeded(5), dtype=torch.float64)


@pytest.mark.parametrize(("width", "numbers"), [(64, 961), (300, 4501)])
def test_svd_trains_as_few_numbers_as_the_paper(width, numbers):
    assert adapt(network(width=width), "svd").count() == numbers


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method_offers_one_interface(method, tmp_path):
    base = network()
    model = adapt(base, method, generator=seeded(1))
    assert isinstance(model, Adapted)
    assert model.count() == sum(parameter.numel() for parameter in model.trainable().values()) > 0
    merged = model.merged()
    assert type(merged) is MLP
    assert torch.equal(merged(points()), model(points()))
    assert model.weights().keys() <= dict(base.named_parameters()).keys()
    model.save(tmp_path / "a")
    assert torch.equal(Adapted.load(base, tmp_path / "a")(points()), model(points()))


@pytest.mark.parametrize("method", sorted(set(METHODS) - {"scratch"}))
def test_every_method_but_scratch_starts_at_the_base(method):
    base = network()
    torch.testing.assert_close(
        adapt(base, method, generator=seeded(1))(points()), base(points()), rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize(
    ("method", "options", "count"),
    [
        ("svd", {"small": False}, 64),
        ("svd", {"rank": 7, "small": False}, 7),
        ("lora", {"small": False}, 2 * 4 * 64),
        ("lora", {}, 2 * 4 * 64 + 961 - 64),
        ("lora-xs", {"small": False}, 16**2),
        ("lora-xs", {"rank": 3, "small": False}, 9),
        ("pissa", {"rank": 2, "small": False}, 2 * 2 * 64),
        ("lotra", {"small": False}, 4 * 4 + 2 * 4 * 64),
        ("lotra", {"ranks": (2, 3), "small": False}, 2 * 3 + 5 * 64),
        ("last", {}, 65),
        ("full", {}, 11 * 64 + 64 + 64 * 64 + 64 + 65),
        ("scratch", {}, 11 * 64 + 64 + 64 * 64 + 64 + 65),
    ],
)
def test_what_each_method_trains(method, options, count):
    assert adapt(network(), method, generator=seeded(), **options).count() == count


def test_default_ranks_fit_narrow_networks():
    assert adapt(network(width=6), "lora-xs", small=False).count() == 36


def test_large_are_the_hidden_matrices():
    assert large(network()) == ["layers.2.weight"]
    assert large(network(inputs=101, depth=4)) == ["layers.2.weight", "layers.4.weight", "layers.6.weight"]
    assert large(network(depth=1)) == []
    narrow = nn.Sequential(nn.Linear(2, 32), nn.Linear(32, 32), nn.Linear(32, 8), nn.Linear(8, 16), nn.Linear(16, 1))
    assert large(narrow) == ["1.weight"]


def test_a_wrapper_changes_paths_only():
    class Wall(nn.Module):
        def __init__(self, network):
            super().__init__()
            self.network = network

        def forward(self, z):
            return self.network(z)

    model = adapt(Wall(network()), "svd")
    assert list(model.forms()) == ["network.layers.2.weight"]
    assert list(adapt(Wall(network()), "last").weights()) == ["network.layers.4.weight", "network.layers.4.bias"]


def test_rules_come_after_the_method_and_the_later_wins():
    rules = {"*.bias": "freeze", "layers.4.bias": "train", "layers.0.weight": "svd"}
    model = adapt(network(), "svd", rules=rules)
    assert list(model.forms()) == ["layers.0.weight", "layers.2.weight"]
    assert set(model.trainable()) == {
        "form.layers.0.weight.core",
        "form.layers.2.weight.core",
        "free.layers.4.weight",
        "free.layers.4.bias",
    }


def test_a_rule_may_be_a_function():
    rule = functools.partial(lora, rank=1, generator=seeded())
    model = adapt(network(), "last", rules={"layers.2.weight": rule})
    assert model.forms()["layers.2.weight"].ranks == (1, 1)
    assert adapt(network(depth=1), rules={"layers.0.weight": svd}).forms()["layers.0.weight"].kind == "svd"


def test_scratch_draws_as_the_network_itself_does():
    base = network()
    before = torch.get_rng_state()
    one, two, other = (adapt(base, "scratch", generator=seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one(points()), two(points()))
    assert not torch.equal(one(points()), other(points()))
    assert not torch.equal(one(points()), base(points()))
    weights = one.weights()
    assert not weights["layers.2.bias"].any()  # as MLP draws
    assert 0.8 < weights["layers.2.weight"].std() / base.layers[2].weight.std() < 1.25


def test_torchs_modules_are_drawn_from_the_generator_too():
    base = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 1))
    one, two, other = (reinitialize(base, seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(one[0].weight, two[0].weight)
    assert not torch.equal(one[0].weight, other[0].weight)
    assert torch.equal(one[1].weight, torch.ones(4))


class Bare(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: adapt(network(), "svdd"), "did you mean 'svd'"),
        (
            lambda: adapt(network(), rules={"layer.*": "train"}),
            r"'layer\.\*' matches no parameter; there are: layers\.0",
        ),
        (
            lambda: adapt(network(), rules={"*.bias": "frozen"}),
            "unknown rule for '\\*.bias' 'frozen'; legal are: svd, lora",
        ),
        (lambda: adapt(network(), rules={"*.bias": "svd"}), "this form takes matrices"),
        (lambda: adapt(network(), rank=65), "rank is 65; legal are 0 to 64"),
        (lambda: adapt(network(), "full", rank=2), "rank=2 has no meaning for the method 'full'; it is for svd, lora"),
        (lambda: adapt(network(), "last", small=True), "small=True has no meaning"),
        (lambda: adapt(network(), "lora"), "'lora' starts from random numbers: give generator="),
        (lambda: adapt(network(), "scratch"), "'scratch' starts from random numbers"),
        (lambda: adapt(network(depth=1)), "no parameter is a hidden matrix for 'svd'"),
        (lambda: adapt(network(), rank=0, small=False), "leaves nothing to train"),
        (lambda: adapt(nn.Tanh()), "a Tanh has no parameters"),
        (lambda: adapt(Bare(), "scratch", generator=seeded()), "a Bare cannot be drawn anew"),
    ],
)
def test_errors_say_what_came_and_what_is_legal(make, words):
    with pytest.raises(UsageError, match=words):
        make()


def kan():
    return KAN(3, width=6, depth=2, generator=seeded(2)).double()


def test_the_large_tensors_of_a_kan_are_those_of_its_hidden_layers():
    assert large(kan()) == ["layers.1.weight"]
    assert fitting(kan()) == ["lotra", "last", "full", "scratch"]
    assert "lotra" not in fitting(network())
    assert {"svd", "lora", "last"} <= set(fitting(network()))


def test_lotra_adapts_a_kan_from_where_it_is():
    base, z = kan(), torch.rand(5, 3, generator=seeded(), dtype=torch.float64)
    model = adapt(base, "lotra", ranks=(2, 3, 4), small=False, generator=seeded())
    assert model.count() == 2 * 3 * 4 + 2 * 6 + 3 * 9 + 4 * 6
    torch.testing.assert_close(model(z), base(z), rtol=1e-12, atol=1e-12)
    assert adapt(base, "lotra", rank=2, generator=seeded()).forms()["layers.1.weight"].ranks == (2, 2, 2)


@pytest.mark.parametrize(
    ("method", "options", "says"),
    [
        ("svd", {}, r"the weight has shape \(6, 9, 6\); this form takes matrices: take lotra"),
        ("full", {"ranks": (1, 1, 1)}, r"ranks=\[1, 1, 1\] has no meaning for the method 'full'; it is for lotra"),
        (
            "lotra",
            {"ranks": (7, 1, 1)},
            r"ranks are \(7, 1, 1\); legal are one per mode of the weight, 0 to \(6, 9, 6\)",
        ),
    ],
)
def test_what_does_not_fit_a_kan_is_told(method, options, says):
    with pytest.raises(UsageError, match=says):
        adapt(kan(), method, generator=seeded(), **options)
