"""Forms in another basis: their weight, their gradients, their cuts and their files."""

import copy

import numpy as np
import pytest
import torch

from lissome._errors import UsageError
from lissome.adapt import Adapted, Tucker, lora, lora_xs, pissa, svd
from lissome.adapt.basis import Rotation, halves, rotated, rotation, updated
from tests.adapt.moments import drawn, moment, relative, turned
from tests.contracts.test_adapt import FORMS, ROUNDING, Net, build, every_dtype, move, points, seeded
from tests.oracles import basis as oracle

MATRICES = [name for name, (path, _) in FORMS.items() if path != "cube"]
every_matrix = pytest.mark.parametrize("name", MATRICES)


@every_matrix
@every_dtype
def test_updating_a_form_keeps_what_it_is(name, dtype):
    base, adapted, path = build(name, dtype)
    form, weight = adapted.forms()[path], base.get_parameter(path).detach()
    move(form)
    plain = updated(form)
    assert plain.base != "residual"
    assert relative(plain.dense(weight), form.dense(weight)) < ROUNDING[dtype] * 3
    assert plain.trained == form.trained
    assert plain is form or form.base == "residual"
    assert all(not part.requires_grad for part in plain.buffers())


def test_a_form_of_pissa_gets_as_many_terms_as_its_update_can_have():
    for r, twice in ((2, 4), (4, 6), (5, 6)):
        form = pissa(drawn(5, 6), r)
        move(form)
        assert updated(form).ranks == (twice, twice)
    assert updated(svd(drawn(5, 6), 2)).ranks == (2, 2)


@every_dtype
@pytest.mark.parametrize("moved", [0.1, 1e-2, 1e-4])
def test_the_terms_of_a_little_trained_pissa_are_those_of_its_update(moved, dtype):
    form = pissa(drawn(12, 12, dtype=dtype), 3)
    with torch.no_grad():
        for j, part in enumerate(form.parameters()):
            part += moved * drawn(*part.shape, seed=j + 1, dtype=dtype)
    P, Q = (part.detach().double() for part in form.factors)
    start = [form.get_buffer(f"start_factor{j}").double() for j in range(2)]
    B, A = halves(updated(form))
    sizes = np.linalg.norm(oracle.terms(*turned(B, A, rotation(B, A))).reshape(6, -1), axis=1)
    truth = torch.linalg.svdvals(P @ Q.mT - start[0] @ start[1].mT)[:6].numpy()
    # the weight itself is no more exact than its rounding
    np.testing.assert_allclose(sizes, truth, rtol=1e-5 if dtype == torch.float32 else 1e-10)


def test_an_untrained_pissa_adds_exactly_nothing():
    B, _ = halves(updated(pissa(drawn(5, 6), 2)))
    assert not B.any()


@every_matrix
@every_dtype
def test_turning_a_form_keeps_its_weight(name, dtype):
    base, adapted, path = build(name, dtype)
    weight = base.get_parameter(path).detach()
    move(adapted.forms()[path])
    form = updated(adapted.forms()[path])
    B, A = halves(form)
    assert relative(B @ A, form.delta().detach()) < ROUNDING[dtype] * 3
    if not len(A):
        return
    for X in (rotation(B, A), rotation(B, A, inputs=moment(len(A), 1), outputs=moment(len(A), 2))):
        new = rotated(form, X)
        assert relative(new.dense(weight), form.dense(weight)) < ROUNDING[dtype] * 10
        for what in ("trained", "base", "scale", "core_kind", "shape"):
            assert getattr(new, what) == getattr(form, what)
        assert all(part.dtype == dtype for part in new.state_dict().values())


@every_matrix
def test_trained_parts_of_a_turned_form_have_gradients(name):
    base, adapted, path = build(name)
    move(adapted.forms()[path])
    form = updated(adapted.forms()[path])
    B, A = halves(form)
    if not len(A):
        return
    new = rotated(form, rotation(B, A))
    names = [part for part, _ in new.named_parameters()]
    assert names == list(form.trained)
    gradients = torch.autograd.grad(new.dense(base.get_parameter(path).detach()).square().sum(), list(new.parameters()))
    assert all(bool(gradient.isfinite().all()) and bool(gradient.any()) for gradient in gradients)


@every_matrix
@every_dtype
def test_a_cut_form_is_the_sum_of_its_kept_terms_each_times_its_gate(name, dtype):
    base, adapted, path = build(name, dtype)
    weight = base.get_parameter(path).detach()
    move(adapted.forms()[path])
    form = updated(adapted.forms()[path])
    B, A = halves(form)
    r = len(A)
    if not r:
        return
    X = rotation(B, A)
    kept = torch.arange(0, r, 2)
    values = torch.linspace(-0.5, 1.5, len(kept), dtype=dtype)
    left, right = turned(B, A, X)
    added = left[:, kept] * values.double() @ right[kept]
    wanted = added if form.base == "replace" else weight.double() + added
    cut = rotated(form, X, kept, values)
    assert cut.ranks == (len(kept), len(kept))
    assert relative(cut.dense(weight), wanted) < ROUNDING[dtype] * 10
    none = rotated(form, X, kept[:0])
    assert none.ranks == (0, 0)
    assert torch.equal(none.dense(weight), torch.zeros_like(weight) if form.base == "replace" else weight)


def test_kept_terms_may_come_in_any_order():
    form = lora(drawn(5, 4), 3, generator=seeded())
    move(form)
    X, weight = rotation(*halves(form)), drawn(5, 4)
    one = rotated(form, X, torch.tensor([2, 0]), torch.tensor([2.0, 3.0]))
    other = rotated(form, X, torch.tensor([0, 2]), torch.tensor([3.0, 2.0]))
    torch.testing.assert_close(one.dense(weight), other.dense(weight))


@pytest.mark.parametrize("make", [svd, lambda W: lora_xs(W, 3)], ids=["diagonal", "full"])
def test_a_term_of_no_size_leaves_no_number_that_is_not_finite(make):
    weight = drawn(3, 4)
    form = make(weight)
    with torch.no_grad():
        form.get_parameter("core").zero_()
    new = rotated(form, Rotation(torch.eye(3, dtype=torch.float64), torch.eye(3, dtype=torch.float64)))
    assert all(bool(part.isfinite().all()) for part in new.state_dict().values())
    assert relative(new.dense(weight), form.dense(weight)) == 0


def test_a_scale_of_0_leaves_no_number_that_is_not_finite():
    form = lora(drawn(3, 4), 2, generator=seeded(), scale=0.0)
    move(form)
    new = rotated(form, rotation(*halves(form)))
    assert all(bool(part.isfinite().all()) for part in new.state_dict().values())
    assert torch.equal(new.dense(drawn(3, 4)), drawn(3, 4))


def test_only_forms_of_a_matrix_without_its_own_start_have_halves():
    with pytest.raises(UsageError, match=r"the form has shape \(2, 4, 3\); only those of matrices"):
        halves(FORMS["three-way lora"][1](Net().cube))
    with pytest.raises(UsageError, match="a form of kind 'pissa' subtracts its own start; call lissome.adapt.updated"):
        halves(pissa(drawn(3, 4), 2))


@pytest.mark.parametrize("lean", [False, True])
@every_dtype
@every_matrix
def test_turned_forms_are_saved_bit_for_bit(name, dtype, lean, tmp_path):
    base, adapted, path = build(name, dtype)
    move(adapted)
    form = updated(adapted.forms()[path])
    B, A = halves(form)
    turn = rotated(form, rotation(B, A)) if len(A) else form
    model = Adapted(base, {path: turn}, train=["first.*"])
    move(model, seed=11)
    model.save(tmp_path / "a.safetensors", lean=lean)
    loaded = Adapted.load(base, tmp_path / "a.safetensors")
    assert loaded.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(loaded.state_dict()[key], tensor) for key, tensor in model.state_dict().items())
    assert loaded.trainable().keys() == model.trainable().keys()
    assert torch.equal(loaded(points(dtype=dtype)), model(points(dtype=dtype)))


def test_turning_leaves_the_form_that_is_turned():
    form = Tucker([drawn(4, 3), drawn(5, 3, seed=1)], drawn(3, seed=2), train=["core"])
    before = copy.deepcopy(form.state_dict())
    with torch.no_grad():
        rotated(form, rotation(*halves(form))).get_parameter("core").zero_()
    assert all(torch.equal(form.state_dict()[key], tensor) for key, tensor in before.items())
