"""Networks of pykan from their state dict, held to pykan's formula written out."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from lissome._errors import UsageError
from lissome.models.pykan import from_pykan
from tests.oracles import splines as oracle


def state(sizes=(3, 4, 2), intervals=4, order=3, seed=0):
    """Return what `kan.KAN(width=sizes, grid=intervals, k=order).state_dict()` holds, with all numbers drawn."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    found = {}
    for number, (n, m) in enumerate(pairwise(sizes)):
        gaps = 0.1 + torch.rand(n, intervals + 2 * order + 1, generator=generator, dtype=torch.float64)
        found |= {
            f"act_fun.{number}.grid": gaps.cumsum(1) - 3,
            f"act_fun.{number}.coef": drawn(n, m, intervals + order),
            f"act_fun.{number}.mask": (drawn(n, m) > -1).double(),
            f"act_fun.{number}.scale_base": drawn(n, m),
            f"act_fun.{number}.scale_sp": drawn(n, m),
            f"symbolic_fun.{number}.mask": torch.zeros(m, n),
            f"symbolic_fun.{number}.affine": drawn(m, n, 4),
            f"node_bias_{number}": torch.zeros(m),
            f"node_scale_{number}": drawn(m),
            f"subnode_bias_{number}": torch.zeros(m),
            f"subnode_scale_{number}": drawn(m),
        }
    return found


def formula(given, x, order):
    number = 0
    while f"act_fun.{number}.coef" in given:
        part = {name.rpartition(".")[2]: value.numpy() for name, value in given.items() if f"act_fun.{number}." in name}
        n, m, _ = part["coef"].shape
        y = np.zeros((len(x), m))
        for p in range(n):
            functions = oracle.basis(part["grid"][p], order, x[:, p])
            for q in range(m):
                edge = part["scale_base"][p, q] * oracle.silu(x[:, p])
                edge = edge + part["scale_sp"][p, q] * functions @ part["coef"][p, q]
                y[:, q] += part["mask"][p, q] * edge
        x = y * given[f"subnode_scale_{number}"].numpy() * given[f"node_scale_{number}"].numpy()
        number += 1
    return x


@pytest.mark.parametrize(("sizes", "order"), [((3, 4, 2), 3), ((2, 1), 2), ((2, 3, 4, 1), 1)])
def test_the_network_computes_what_pykan_writes(sizes, order):
    given = state(sizes, order=order)
    x = torch.randn(20, sizes[0], generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    truth = torch.from_numpy(formula(given, x.numpy(), order))
    torch.testing.assert_close(from_pykan(given)(x).detach(), truth, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"node_bias_1": torch.ones(2)}, "layer 1 has a node_bias other than 0"),
        ({"symbolic_fun.0.mask": torch.ones(4, 3)}, "layer 0 has symbolic functions"),
        ({"act_fun.1.coef": torch.zeros(5, 2, 7)}, None),
        ({"node_scale_0": torch.ones(3)}, "layer 0 has nodes that multiply"),
    ],
)
def test_what_has_no_counterpart_is_told(change, says):
    if says is None:  # a layer of five inputs behind one of four outputs
        change = {k: v for k, v in state((5, 2), seed=1).items() if k.startswith("act_fun")}
        change = {name.replace("act_fun.0", "act_fun.1"): value for name, value in change.items()}
        says = "layer 1 takes 5 numbers and is given 4"
    with pytest.raises(UsageError, match=says):
        from_pykan(state() | change)


def test_another_state_is_told():
    with pytest.raises(UsageError, match="the state holds no act_fun.0.coef"):
        from_pykan({"weight": torch.ones(2)})
    lacking = state()
    del lacking["act_fun.1.mask"]
    with pytest.raises(UsageError, match="the state lacks act_fun.1.mask"):
        from_pykan(lacking)


GRID = state()["act_fun.0.grid"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"act_fun.0.coef": torch.zeros(3, 7)}, r"act_fun.0.coef has shape \(3, 7\) .*; legal are real numbers \(in"),
        ({"act_fun.1.coef": torch.zeros(4, 2, 7).long()}, "act_fun.1.coef has .* dtype torch.int64; legal are real"),
        ({"act_fun.0.mask": torch.ones(4, 3)}, r"act_fun.0.mask has shape \(4, 3\); legal is \(3, 4\)"),
        ({"act_fun.1.scale_sp": torch.ones(1)}, r"act_fun.1.scale_sp has shape \(1,\); legal is \(4, 2\)"),
        ({"act_fun.0.mask": np.ones((3, 4))}, "act_fun.0.mask is of type ndarray; legal is a tensor"),
        ({"node_scale_0": np.ones(4)}, "node_scale_0 is of type ndarray; legal is a tensor"),
        ({"act_fun.0.grid": GRID[:1]}, r"act_fun.0.grid has shape \(1, 11\); legal is \(3, 8 to 14\), G \+ 2 p"),
        ({"act_fun.0.grid": GRID[0]}, r"act_fun.0.grid has shape \(11,\); legal is \(3, 8 to 14\)"),
        ({"act_fun.0.grid": GRID[:, :7]}, r"act_fun.0.grid has shape \(3, 7\); legal is \(3, 8 to 14\)"),
        ({"act_fun.0.grid": GRID[:, :-1]}, "layer 0 has 5 of order 2, layer 1 has 4 of order 3; legal is one number"),
    ],
)
def test_parts_that_do_not_fit_are_told_by_name(change, says):
    with pytest.raises(UsageError, match=says):
        from_pykan(state() | change)


def test_a_model_in_place_of_its_state_is_told():
    with pytest.raises(UsageError, match="state is of type Linear; legal is model.state_dict\\(\\)"):
        from_pykan(torch.nn.Linear(2, 2))
