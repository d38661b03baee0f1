import copy
import pickle

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.func import functional_call, stack_module_state, vmap

from lissome._errors import RunError, UsageError
from lissome.adapt import Adapted, lora, pissa, svd
from lissome.calculus import derivatives
from lissome.models import MLP


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def network(dtype=torch.float64, width=8, seed=0):
    return MLP(3, width=width, depth=3, generator=seeded(seed)).to(dtype)


def adapted(base=None):
    base = network() if base is None else base
    forms = {path: svd(base.get_parameter(path)) for path in ("layers.2.weight", "layers.4.weight")}
    return Adapted(base, forms, train=["layers.0.*", "*.bias"])


def move(model, seed=1):
    generator = seeded(seed)
    with torch.no_grad():
        for parameter in model.trainable().values():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator).to(parameter)
    return model


def points(n=7):
    return torch.randn(n, 3, generator=seeded(5), dtype=torch.float64)


class Wall(nn.Module):
    """A wrapper, as a hard constraint is one."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, z):
        return (1 - z.square().sum(1, keepdim=True)) * self.network(z)


def test_trained_numbers_carry_the_paths_of_the_base():
    names = list(adapted().trainable())
    assert names == [
        "form.layers.2.weight.core",
        "form.layers.4.weight.core",
        *(
            "free.layers.0.weight",
            "free.layers.0.bias",
            "free.layers.2.bias",
            "free.layers.4.bias",
            "free.layers.6.bias",
        ),
    ]


def test_weights_are_those_that_are_replaced():
    model = adapted()
    assert set(model.weights()) == {
        name.removeprefix("free.").removeprefix("form.").removesuffix(".core") for name in model.trainable()
    }


def test_a_form_goes_before_a_glob_that_also_matches():
    base = network()
    model = Adapted(base, {"layers.2.weight": svd(base.get_parameter("layers.2.weight"))}, train=["*"])
    assert "free.layers.2.weight" not in model.trainable()
    assert "form.layers.2.weight.core" in model.trainable()


def test_later_changes_to_the_base_do_not_reach_the_adapter():
    base = network()
    model, z = adapted(base), points()
    before = model(z)
    with torch.no_grad():
        base.layers[6].weight.zero_()
    assert torch.equal(model(z), before)


@pytest.mark.parametrize("mode", ["auto", "nested", "one-pass", "compressed"])
def test_derivatives_pass_through(mode):
    z, along = points(), torch.randn(1, 7, 3, generator=seeded(2), dtype=torch.float64)
    plain = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 1)).double()
    for model in (move(adapted()), move(Adapted(plain, train=["*"]))):
        ask = {"first": (0, 2), "second": ((0.0, 1.0, 1.0),), "along": along}
        ours, truth = derivatives(model, z, **ask, mode=mode), derivatives(model.merged(), z, **ask, mode="nested")
        for part in ("value", "first", "second", "along"):
            torch.testing.assert_close(getattr(ours, part), getattr(truth, part), rtol=1e-12, atol=1e-12)


def test_gradients_of_derivatives_reach_the_trained_numbers():
    model, z = move(adapted()), points()
    numbers = {name: number.detach() for name, number in model.trainable().items()}

    def loss(numbers, mode):
        def run(module):
            return derivatives(module, z, second=((1.0, 1.0, 1.0),), mode=mode).second.square().mean()

        return functional_call(_Call(model), {f"model.{name}": number for name, number in numbers.items()}, (run,))

    ours = torch.func.grad(loss)(numbers, "one-pass")
    trained = {name: number.clone().requires_grad_() for name, number in numbers.items()}
    truth = torch.autograd.grad(
        loss(trained, "nested"), list(trained.values()), materialize_grads=True, allow_unused=True
    )
    for name, gradient in zip(numbers, truth, strict=True):
        torch.testing.assert_close(ours[name], gradient, rtol=1e-9, atol=1e-12)


def test_derivatives_compile_whole():
    model, z = move(adapted()), points()

    def loss(z):
        return derivatives(model, z, second=((1.0, 1.0, 1.0),)).second.square().mean()

    torch.testing.assert_close(torch.compile(loss, backend="eager", fullgraph=True)(z), loss(z))


def test_copies_answer_for_their_own_derivatives():
    model, z = adapted(), points()
    ask = {"second": ((1.0, 1.0, 1.0),), "mode": "one-pass"}
    before = derivatives(model, z, **ask).second
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        move(twin)
        twin.base.layers[2].bias.data += 1
        torch.testing.assert_close(derivatives(twin, z, **ask).second, derivatives(twin.merged(), z, **ask).second)
    assert torch.equal(derivatives(model, z, **ask).second, before)


class _Call(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, function):
        return function(self.model)


def test_the_base_may_be_a_wrapper_and_the_wrapper_may_hold_an_adapter():
    inner, z = network(), points()
    path = "network.layers.2.weight"
    outside = Adapted(Wall(inner), {path: svd(inner.get_parameter("layers.2.weight"))})
    inside = Wall(Adapted(inner, {"layers.2.weight": svd(inner.get_parameter("layers.2.weight"))}))
    torch.testing.assert_close(outside(z), inside(z), rtol=1e-13, atol=1e-13)
    assert list(outside.trainable()) == ["form.network.layers.2.weight.core"]


def test_many_members_run_at_once():
    base, z = network(), points()
    members = [move(adapted(base), seed) for seed in range(3)]
    parameters, buffers = stack_module_state(members)
    together = vmap(lambda p, b: functional_call(members[0], (p, b), (z,)))(parameters, buffers)
    torch.testing.assert_close(together, torch.stack([member(z) for member in members]))


def test_tied_weights_stay_tied():
    base = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
    base[2].weight = base[0].weight
    model = Adapted(base, {"0.weight": svd(base[0].weight)})
    with torch.no_grad():
        model.forms()["0.weight"].core.mul_(2)
    doubled = copy.deepcopy(base)
    with torch.no_grad():
        doubled[0].weight.mul_(2)
    x = torch.randn(3, 4, generator=seeded())
    torch.testing.assert_close(model(x), doubled(x))
    merged = model.merged()
    assert merged[2].weight is merged[0].weight
    assert torch.equal(merged(x), model(x))


def test_training_reaches_forms_and_free_parameters_alone():
    base = network()
    model = adapted(base)
    optimizer = torch.optim.Adam(model.trainable().values(), lr=1e-2)
    z = points()
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = (model(z) - z.sum(1, keepdim=True)).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    for name, parameter in model.base.named_parameters():
        assert torch.equal(parameter, base.get_parameter(name))


def test_counts():
    model = adapted()
    assert model.count() == 8 + 8 + (3 * 8 + 8) + 8 + 8 + 1
    assert model.total() == sum(p.numel() for p in network().parameters())


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda b: Adapted(b, {"layers.2.wait": svd(torch.eye(8))}), "did you mean 'layers.2.weight'"),
        (lambda b: Adapted(b, {"layers.2.weight": svd(torch.eye(7))}), r"\(7, 7\), not \(8, 8\)"),
        (lambda b: Adapted(b, train=["layer.*"]), r"'layer\.\*' matches no parameter; there are: layers\.0\.weight"),
    ],
)
def test_errors_name_the_paths(make, words):
    with pytest.raises(UsageError, match=words):
        make(network())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_lean_file_holds_the_trained_numbers_alone(tmp_path, dtype):
    base = network(dtype, width=64)
    W = base.get_parameter("layers.2.weight")
    for form in (svd(W), svd(W, 10), pissa(W, 3), lora(W, 2, generator=seeded())):
        model = move(Adapted(base, {"layers.2.weight": form}))
        model.save(tmp_path / "whole")
        model.save(tmp_path / "lean", lean=True)
        loaded = Adapted.load(base, tmp_path / "lean")
        for name, tensor in model.state_dict().items():
            assert torch.equal(loaded.state_dict()[name], tensor), name
        if form.kind == "svd":
            assert (tmp_path / "lean").stat().st_size < 4096 < (tmp_path / "whole").stat().st_size


def test_a_lean_file_whose_vectors_come_out_otherwise_is_refused(tmp_path, monkeypatch):
    base = network()
    move(adapted(base)).save(tmp_path / "lean", lean=True)
    honest = torch.linalg.svd
    monkeypatch.setattr(torch.linalg, "svd", lambda W, **named: honest(W.flip(0), **named))
    with pytest.raises(UsageError, match="lean=False"):
        Adapted.load(base, tmp_path / "lean")


def test_a_file_that_is_missing_foreign_or_cut_short_is_one_error(tmp_path):
    base = network()
    path = tmp_path / "a.safetensors"
    adapted(base).save(path)
    whole = path.read_bytes()
    with pytest.raises(UsageError, match="there is no adapter file"):
        Adapted.load(base, tmp_path / "b.safetensors")
    for length in (0, 5, 200, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(UsageError, match="no whole safetensors file"):
            Adapted.load(base, path)
    save_file({"x": torch.ones(2)}, path)
    with pytest.raises(UsageError, match="is no adapter file"):
        Adapted.load(base, path)


def test_an_adapter_of_another_network_is_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    adapted().save(path)
    with pytest.raises(UsageError, match=r"'layers\.0\.weight' is \(8, 3\) float64 there and \(9, 3\) float64 here"):
        Adapted.load(network(width=9), path)
    with pytest.raises(UsageError, match=r"float64 there and .* float32 here"):
        Adapted.load(network(torch.float32), path)
    with pytest.raises(UsageError, match="names and shapes agree but the weights do not"):
        Adapted.load(network(seed=1), path)
    with pytest.raises(UsageError, match=r"expects 'shift\.offset', this one has network\.shift"):
        Adapted.load(Wall(network()), path)
    bigger = network()
    bigger.layers.append(nn.Linear(1, 1).double())
    with pytest.raises(UsageError, match=r"this one has 'layers\.7\.weight', which it does not know"):
        Adapted.load(bigger, path)


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    model = adapted()
    model.save(path)
    before = path.read_bytes()

    def full_disk(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr("os.replace", full_disk)
    with pytest.raises(RunError, match="no space"):
        move(model).save(path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["a.safetensors"]
