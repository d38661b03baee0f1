"""What every small form promises. A new constructor joins by one line in FORMS."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn
from torch.func import functional_call, hessian

from lissome._errors import UsageError
from lissome.adapt import Adapted, Tucker, adalora, lora, lora_xs, lotra, pissa, slim, svd, tucker
from tests.oracles import tucker as oracle


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


class Net(nn.Module):
    """A small network with weights of two and of three modes; `hidden` is used twice in a pass."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(3, 5)
        self.hidden = nn.Linear(5, 5)
        self.wide = nn.Linear(5, 4)
        self.cube = nn.Parameter(torch.zeros(2, 4, 3))
        with torch.no_grad():
            for number, parameter in enumerate(self.parameters()):
                parameter.copy_(torch.randn(parameter.shape, generator=seeded(number)) * 0.5)

    def forward(self, x):
        x = torch.tanh(self.first(x))
        x = torch.tanh(self.wide(torch.tanh(self.hidden(torch.tanh(self.hidden(x))))))
        return torch.einsum("oib,nib->no", self.cube, torch.stack([x, x**2, x**3], -1)).sum(1, keepdim=True)


def three_way_diagonal(weight, rank):
    factors = [torch.randn(d, rank, generator=seeded(d)).to(weight) for d in weight.shape]
    return Tucker(factors, weight.new_zeros(rank), train=["core"])


def three_way_lora(weight, rank):
    factors = [torch.randn(d, rank, generator=seeded(d)).to(weight) for d in weight.shape[1:]]
    return Tucker([weight.new_zeros(weight.shape[0], rank), *factors], scale=0.5, train=["factor0", "factor2"])


def whole(weight, ranks):
    return slim(weight.shape, ranks, power=0.5, generator=seeded()).to(weight)


FORMS = {
    "svd full": ("hidden.weight", svd),
    "svd of an oblong": ("wide.weight", svd),
    "svd cut": ("hidden.weight", lambda W: svd(W, 2)),
    "svd 0": ("hidden.weight", lambda W: svd(W, 0)),
    "lora": ("wide.weight", lambda W: lora(W, 2, generator=seeded(), scale=0.5)),
    "lora 0": ("hidden.weight", lambda W: lora(W, 0, generator=seeded())),
    "lora full": ("hidden.weight", lambda W: lora(W, 5, generator=seeded())),
    "lora-xs": ("wide.weight", lambda W: lora_xs(W, 2, scale=2.0)),
    "lora-xs 0": ("hidden.weight", lambda W: lora_xs(W, 0)),
    "lora-xs full": ("hidden.weight", lambda W: lora_xs(W, 5)),
    "adalora": ("wide.weight", lambda W: adalora(W, 2, generator=seeded(), scale=0.5)),
    "adalora 0": ("hidden.weight", lambda W: adalora(W, 0, generator=seeded())),
    "lotra": ("cube", lambda W: lotra(W, (1, 3, 2), generator=seeded())),
    "lotra of a matrix": ("wide.weight", lambda W: lotra(W, 3, generator=seeded())),
    "lotra full": ("cube", lambda W: lotra(W, 9, generator=seeded())),
    "lotra 0": ("cube", lambda W: lotra(W, (0, 3, 2), generator=seeded())),
    "lotra from its core": ("cube", lambda W: lotra(W, 2, generator=seeded(), start="core")),
    "slim": ("cube", lambda W: whole(W, (1, 3, 2))),
    "slim full": ("cube", lambda W: whole(W, 9)),
    "pissa": ("wide.weight", lambda W: pissa(W, 2)),
    "pissa 0": ("hidden.weight", lambda W: pissa(W, 0)),
    "pissa full": ("hidden.weight", lambda W: pissa(W, 5)),
    "tucker of a matrix": ("hidden.weight", lambda W: tucker(W, (2, 3))),
    "tucker full": ("cube", tucker),
    "tucker cut": ("cube", lambda W: tucker(W, (1, 3, 2))),
    "tucker 0": ("cube", lambda W: tucker(W, (0, 3, 2))),
    "three-way diagonal": ("cube", lambda W: three_way_diagonal(W, 3)),
    "three-way lora": ("cube", lambda W: three_way_lora(W, 2)),
}
STARTLESS = {name for name in FORMS if name.startswith("slim")}  # a weight of their own from the start
ROUNDING = {torch.float32: 1e-6, torch.float64: 1e-12}

every_form = pytest.mark.parametrize("name", FORMS)
every_dtype = pytest.mark.parametrize("dtype", list(ROUNDING), ids=str)


def build(name, dtype=torch.float64):
    """Return the base, the adapted network and the path of its form."""
    path, make = FORMS[name]
    base = Net().to(dtype)
    return base, Adapted(base, {path: make(base.get_parameter(path))}, train=["first.*"]), path


def move(module, seed=9):
    """Move everything that is trained away from the start, and close one gate a little."""
    generator = seeded(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter += 0.3 * torch.randn(parameter.shape, generator=generator).to(parameter)
        for name, buffer in module.named_buffers():
            if name.endswith("gates") and buffer.numel():
                buffer.view(-1)[0] = 0.5


def points(n=6, dtype=torch.float64):
    return torch.randn(n, 3, generator=seeded(3)).to(dtype)


@pytest.mark.parametrize("name", [name for name in FORMS if name not in STARTLESS])
@every_dtype
def test_start_equals_base(name, dtype):
    base, adapted, path = build(name, dtype)
    weight = base.get_parameter(path)
    assert (adapted.weights()[path] - weight).abs().max() <= ROUNDING[dtype] * weight.abs().max()
    x = points(dtype=dtype)
    torch.testing.assert_close(adapted(x), base(x), rtol=ROUNDING[dtype], atol=ROUNDING[dtype] * 3)


@every_form
def test_base_is_left_untouched(name):
    base, before = Net(), Net()
    path, make = FORMS[name]
    adapted = Adapted(base, {path: make(base.get_parameter(path))}, train=["*"])
    move(adapted)
    adapted(points(dtype=torch.float32)).sum().backward()
    for (_, now), (_, then) in zip(base.named_parameters(), before.named_parameters(), strict=True):
        assert torch.equal(now, then)
        assert now.requires_grad
        assert now.grad is None


@every_form
def test_dense_equals_definition(name):
    base, adapted, path = build(name)
    form, weight = adapted.forms()[path], base.get_parameter(path).detach()
    start = copy.deepcopy(form)
    move(form)
    torch.testing.assert_close(form.dense(weight), oracle.dense(form, weight, start), rtol=0, atol=1e-12)
    probe = torch.randn(form.shape, generator=seeded(1), dtype=torch.float64)
    trained = [part for part in form.parameters() if part.numel()]
    if not trained or not all(form.ranks):
        return
    fast = torch.autograd.grad((form.dense(weight) * probe).sum(), trained)
    slow = torch.autograd.grad(
        (oracle.dense(form, weight, start) * probe).sum(), trained, allow_unused=True, materialize_grads=True
    )
    for ours, truth in zip(fast, slow, strict=True):
        torch.testing.assert_close(ours, truth, rtol=0, atol=1e-12)


@every_form
def test_apply_equals_dense(name):
    base, adapted, path = build(name)
    form, weight = adapted.forms()[path], base.get_parameter(path)
    move(form)
    for modes in range(1, form.ways):
        x = torch.randn(2, 3, *form.shape[-modes:], generator=seeded(1), dtype=torch.float64)
        dims = list(range(-modes, 0))
        probe = torch.randn(2, 3, *form.shape[:-modes], generator=seeded(2), dtype=torch.float64)
        dense = torch.tensordot(x, form.dense(weight), dims=(dims, dims))
        applied = form(x, weight, modes=modes)
        torch.testing.assert_close(applied, dense, rtol=0, atol=1e-12)
        ours = torch.autograd.grad((applied * probe).sum(), list(form.parameters()))
        truth = torch.autograd.grad((dense * probe).sum(), list(form.parameters()))
        for one, other in zip(ours, truth, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


@every_form
@every_dtype
def test_merge_is_exact(name, dtype):
    _, adapted, _ = build(name, dtype)
    move(adapted)
    merged, x = adapted.merged(), points(dtype=dtype)
    assert type(merged) is Net
    assert all(parameter.requires_grad for parameter in merged.parameters())
    assert torch.equal(merged(x), adapted(x))


@every_form
def test_merging_a_deep_copy_leaves_the_original(name):
    _, adapted, _ = build(name)
    move(adapted)
    x = points()
    before = adapted(x)
    twin = copy.deepcopy(adapted)
    assert torch.equal(twin(x), before)
    move(twin.merged())
    move(twin, seed=10)
    assert torch.equal(adapted(x), before)
    assert not torch.equal(twin(x), before)


@every_form
def test_pickles(name):
    _, adapted, _ = build(name)
    move(adapted)
    twin = pickle.loads(pickle.dumps(adapted))
    assert torch.equal(twin(points()), adapted(points()))
    torch.save(adapted.state_dict(), buffer := io.BytesIO())
    buffer.seek(0)
    _, fresh, _ = build(name)
    fresh.load_state_dict(torch.load(buffer))
    assert torch.equal(fresh(points()), adapted(points()))


@every_form
@every_dtype
def test_save_and_load_are_bit_equal(name, dtype, tmp_path):
    base, adapted, path = build(name, dtype)
    move(adapted)
    adapted.save(tmp_path / "a.safetensors")
    loaded = Adapted.load(base, tmp_path / "a.safetensors")
    assert [file.name for file in tmp_path.iterdir()] == ["a.safetensors"]
    assert loaded.state_dict().keys() == adapted.state_dict().keys()
    for key, tensor in adapted.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], tensor), key
    assert loaded.trainable().keys() == adapted.trainable().keys()
    assert loaded.forms()[path].settings() == adapted.forms()[path].settings()
    assert torch.equal(loaded(points(dtype=dtype)), adapted(points(dtype=dtype)))


@every_form
def test_a_network_of_another_shape_refuses_the_file(name, tmp_path):
    _, adapted, _ = build(name)
    adapted.save(tmp_path / "a.safetensors")
    other = Net().double()
    other.cube = nn.Parameter(torch.zeros(2, 5, 3, dtype=torch.float64))
    other.hidden, other.wide = nn.Linear(5, 6).double(), nn.Linear(6, 4).double()
    with pytest.raises(UsageError) as error:
        Adapted.load(other, tmp_path / "a.safetensors")
    assert str(error.value).count("\n") == 0
    assert "hidden.weight" in str(error.value) or "cube" in str(error.value)


@pytest.mark.parametrize("name", sorted(STARTLESS))
def test_a_form_without_a_base_does_not_see_it(name):
    base, adapted, path = build(name)
    form = adapted.forms()[path]
    assert form.base == "replace"
    assert torch.equal(form.dense(), form.dense(base.get_parameter(path)))
    x = torch.randn(3, *form.shape[1:], generator=seeded(1), dtype=torch.float64)
    assert torch.equal(form(x, modes=2), form(x, base.get_parameter(path), modes=2))


@every_form
def test_gradcheck(name):
    _, adapted, _ = build(name)
    move(adapted)
    trained = {key: value.detach().requires_grad_() for key, value in adapted.trainable().items() if value.numel()}

    def value(*numbers):
        return functional_call(adapted, dict(zip(trained, numbers, strict=True)), (points(2),)).sum()

    assert torch.autograd.gradcheck(value, tuple(trained.values()))


@every_form
def test_works_inside_hessian(name):
    _, adapted, path = build(name)
    move(adapted)
    names = [f"form.{path}.{part}" for part in (*adapted.forms()[path].trained, "gates")]
    tensors = {key: value for key, value in adapted.state_dict().items() if key in names and value.numel()}
    if not tensors:
        return

    x = points()

    def loss(numbers):
        return (functional_call(adapted, numbers, (x,)) ** 2).sum()

    ours = hessian(loss)(tensors)
    twice = torch.autograd.functional.hessian(
        lambda *numbers: loss(dict(zip(tensors, numbers, strict=True))), tuple(tensors.values())
    )
    for row, one in enumerate(tensors):
        for column, other in enumerate(tensors):
            torch.testing.assert_close(ours[one][other], twice[row][column], rtol=1e-9, atol=1e-10)


@every_form
def test_gates_give_the_derivatives_of_the_core(name):
    """dL/dg = s dL/ds, what rank selection rests on."""
    base, adapted, path = build(name)
    form, weight = adapted.forms()[path], base.get_parameter(path).detach()
    move(form)
    if form.core is None:
        return
    core, gates = form.core.detach(), torch.ones_like(form.gates)
    probe = torch.randn(form.shape, generator=seeded(1), dtype=torch.float64)

    def value(parts):
        return (
            functional_call(form, parts, (torch.eye(form.shape[-1]).to(weight), weight)).movedim(0, -1) * probe
        ).sum()

    gradient = torch.func.grad(value)({"core": core, "gates": gates})
    torch.testing.assert_close(gradient["gates"], core * gradient["core"], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["svd full", "pissa", "three-way lora"])
def test_compiles(name):
    _, adapted, _ = build(name)
    move(adapted)
    compiled = torch.compile(adapted, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(points()), adapted(points()))
