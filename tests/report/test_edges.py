"""Pictures of learned functions: what is kept of a network, what the page says of it, and networks without any."""

import itertools
import re

import numpy as np
import pytest
import torch
from matplotlib.patches import Rectangle
from safetensors.numpy import load_file

from lissome._errors import UsageError
from lissome.models import KAN, MLP, edge_functions
from lissome.recipes import show, solve
from lissome.recipes.edges import EDGES, NODES, learned
from lissome.recipes.settings import SolveSettings, load
from lissome.report.drawing import svg
from lissome.report.edges import caption, edges, functions, layers, network


def curves(inputs=2, width=5, depth=1, outputs=1, dead=(), **more):
    net = KAN(inputs, width=width, depth=depth, outputs=outputs, generator=torch.Generator().manual_seed(0), **more)
    with torch.no_grad():
        for level, q, p in dead:
            net.layers[level].weight[q, :, p] = 0
    z = 2 * torch.rand(60, inputs, generator=torch.Generator().manual_seed(1)) - 1
    kept = learned(net, z)
    return net, z, {name: value.double().numpy().reshape(-1) for name, value in kept.items()}


@pytest.mark.parametrize(("width", "depth"), [(3, 1), (5, 2), (16, 3), (64, 2)])
def test_what_is_kept_is_of_the_network_and_few(width, depth):
    net, z, kept = curves(3, width, depth)
    found, whole = layers(kept), edge_functions(net, z)
    assert len(found) == depth + 1
    for one, all_ in zip(found, whole, strict=True):
        assert one.size == tuple(all_.importance.T.shape)
        assert len(one.inputs) == min(NODES, one.size[0])
        assert 1 <= len(one.edges) <= EDGES
        for k, (p, q) in enumerate(one.edges):
            np.testing.assert_allclose(one.y[k], all_.values[q, p].numpy())
            np.testing.assert_allclose(one.x[k], all_.x[p].numpy())
            assert one.importance[k] == pytest.approx(all_.importance[q, p].item())
    assert found[0].outputs == found[1].inputs
    assert sum(value.nbytes for value in kept.values()) < 30_000 * (depth + 1)


def test_the_most_important_nodes_and_edges_are_those_that_are_kept():
    net, z, kept = curves(3, 16, 2)
    found, whole = layers(kept), edge_functions(net, z)
    node = whole[1].importance.sum(0)
    assert min(node[found[1].inputs]) >= max(node[[i for i in range(16) if i not in found[1].inputs]])
    for one in found:  # no node stands without an edge on either side
        assert {p for p, _ in one.edges} == set(one.inputs)
        assert {q for _, q in one.edges} == set(one.outputs)


def test_a_dead_edge_is_left_out():
    _, _, kept = curves(dead=[(0, 3, 1)])
    found = layers(kept)
    assert (1, 3) not in found[0].edges
    assert len(found[0].edges) < 10


def test_the_caption_counts_what_is_drawn():
    one, wide = (layers(curves(*sizes)[2]) for sizes in ((2, 3, 1), (3, 16, 2)))
    drawn = [len(each.edges) for each in one]
    told = (
        "all 9" if drawn == [6, 3] else f"the most important, {drawn[0]} of 6 and {drawn[1]} of 3 from layer to layer"
    )
    assert f"output above: {told}. " in caption(one)
    a, b, c = (len(each.edges) for each in wide)
    assert f"the most important, {a} of 48, {b} of 256 and {c} of 16 from layer to layer" in caption(wide)
    assert "between 8 of 16 and 8 of 16 nodes." in caption(wide)


@pytest.mark.parametrize("sizes", [(2, 3, 1), (10, 64, 2), (1, 1, 1), (3, 4, 1, 12)])
def test_figures_have_a_curve_for_each_function_and_names_in_full(sizes):
    found = layers(curves(*sizes)[2])
    names = [f"in{i}" for i in range(sizes[0])], [f"out{i}" for i in range(found[-1].size[1])]
    drawn = network(found, *names, "#0072B2")
    axes = drawn.axes[0]
    assert len(axes.lines) == sum(len(one.edges) for one in found)
    texts = {text.get_text() for text in axes.texts}
    assert {names[0][p] for p in found[0].inputs} | {names[1][q] for q in found[-1].outputs} <= texts
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    for line in axes.lines:
        x, y = line.get_data()
        assert left <= x.min() <= x.max() <= right
        assert low <= y.min() <= y.max() <= high
    boxes = sorted((p.get_y(), p.get_x(), p.get_width()) for p in axes.patches if isinstance(p, Rectangle))
    for (y, x, width), (other, after, _) in itertools.pairwise(boxes):
        assert y != other or x + width < after  # plots do not overlap
    assert "currentColor" in svg(drawn, "edges", "t")
    assert len(functions(found, *names, "#0072B2").axes) == sum(min(4, len(one.edges)) for one in found)


def test_long_names_are_cut_and_wrong_ones_are_numbered(tmp_path):
    kept = curves(4, 2, 1)[2]
    shown = "".join(edges(tmp_path, kept, ["a very long name of a column of a table $x$"] * 4, ["y"], "#0072B2"))
    assert "a very long" in shown
    assert "column of a table" not in shown
    assert ">x3<" in "".join(edges(tmp_path, kept, ["one"], None, "#0072B2"))


def test_a_function_that_goes_beyond_the_grid_marks_its_end():
    net = KAN(1, width=1, depth=1, generator=torch.Generator().manual_seed(0))
    kept = learned(net, torch.linspace(-2, 0.5, 40)[:, None])
    found = layers({name: value.double().numpy().reshape(-1) for name, value in kept.items()})
    axes = functions(found, ["x"], ["y"], "#0072B2").axes[0]
    assert [line.get_xdata()[0] for line in axes.lines[1:]] == [-1.0]


def test_one_point_or_numbers_that_are_none_draw_without_a_fault(tmp_path):
    net = KAN(2, width=3, depth=1, generator=torch.Generator().manual_seed(0))
    one = {name: value.double().numpy().reshape(-1) for name, value in learned(net, torch.ones(1, 2)).items()}
    assert len(edges(tmp_path, one, None, None, "#0072B2")) == 2
    assert edges(tmp_path, one | {"edges/0/y": one["edges/0/y"] * np.nan}, None, None, "#0072B2") == []


@pytest.mark.parametrize(("name", "value"), [("to", [9.0]), ("x", [1.0]), ("size", [2.0]), ("importance", None)])
def test_tensors_that_do_not_fit_are_a_sentence(name, value):
    kept = curves()[2]
    kept[f"edges/0/{name}"] = np.array(value)
    if value is None:
        del kept[f"edges/0/{name}"]
    with pytest.raises(UsageError, match="curves.safetensors holds functions of layer 1 that do not fit each other"):
        layers(kept)


def test_a_network_without_functions_keeps_none():
    assert learned(MLP(2, width=3, depth=1), torch.zeros(3, 2)) == {}


def solved(out, kind, **more):
    few = {"points.interior": 16, "training.steps": 1, "training.compile": False, "network.width": 3}
    given = {"family": "heat", "network.kind": kind, "network.depth": 1, "training.optimizer": "adam"} | few | more
    solve(load(SolveSettings, given=given), out, progress=False)
    return out


def test_a_run_of_a_kan_holds_the_picture_and_show_draws_it_again(tmp_path):
    run = solved(tmp_path / "run", "kan")
    text = (run / "index.html").read_text()
    assert "The learned functions, from the inputs below to the output above: " in text
    for name in (">t<", ">x<", "/ factor"):
        assert name in text
    drawn = {name: (run / "figures" / f"{name}.svg").read_text() for name in ("edges", "functions")}
    for name in drawn:
        (run / "figures" / f"{name}.svg").unlink()
    show(run)
    assert drawn == {name: (run / "figures" / f"{name}.svg").read_text() for name in drawn}
    assert (run / "index.html").read_text() == text


def test_a_run_of_an_mlp_has_no_such_picture(tmp_path):
    run = solved(tmp_path / "run", "mlp")
    assert "learned functions" not in (run / "index.html").read_text()
    assert not [name for name in load_file(run / "curves.safetensors") if re.match("edges/", name)]
