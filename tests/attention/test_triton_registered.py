"""What the operators run on a GPU, held to what they run elsewhere."""

import subprocess
import sys

import torch

from lissome.attention import Dape, Kerple
from lissome.attention.backends import refined
from lissome.attention.backends.triton import registered
from tests.attention.interpreted import DEVICE, drawn, near

ops = torch.ops.lissome


def test_no_gpu_no_triton():
    script = (
        "import sys, torch, lissome.attention.backends.triton\n"
        "assert torch.cuda.is_available() or 'triton' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)


def test_self_adjust_gives_what_its_operator_does():
    q, k, v, table = drawn((2, 2, 5, 16), (2, 1, 20, 16), (2, 1, 20, 8), (2, 20), dtype=torch.float32, trained=False)
    for given in ((q, k, v, table, 4, False, 0.25), (q, k, v, None, 4, True, 0.25)):
        ours, theirs = registered.forward_adjusted(*given), ops.self_adjust(*given)
        near(ours[:1], theirs[:1], 2e-5)
        slope = torch.randn_like(ours[0])
        ours = registered.backward_adjusted(slope, *ours, *given)
        theirs = ops.self_adjust_backward(slope, *theirs, *given)
        near(ours, theirs, 2e-5)


def test_refinements_give_what_their_operators_do():
    q, k, v = drawn((1, 2, 5, 16), (1, 1, 20, 16), (1, 1, 20, 8), dtype=torch.float32, trained=False)
    for name, kernel in (("dape", 1), ("convolved", 3)):
        refine, bias = Dape(2, width=4, kernel=kernel).to(DEVICE), Kerple(2).to(DEVICE)
        numbers = [x.detach() for x in refined.numbers_of(refine, bias, q, 20)]
        given = (q, k, v, *numbers, 0.25, True)
        ours, theirs = registered.forward_refined(*given), getattr(ops, name)(*given)
        near(ours[:1], theirs[:1], 2e-5)
        slope = torch.randn_like(ours[0])
        ours = registered.backward_refined(slope, *ours, *given)
        theirs = getattr(ops, f"{name}_backward")(slope, *theirs, *given)
        near(ours, theirs, 2e-5)


def test_what_no_kernel_takes_stays_with_the_operators_own_operations():
    q, k, v = drawn((1, 2, 6, 8), (1, 2, 6, 8), (1, 2, 6, 8), dtype=torch.float64, trained=False)
    given = (q, k, v, None, 4, False, 0.25)
    ours, theirs = registered.forward_adjusted(*given), ops.self_adjust(*given)
    near(ours, theirs, 0)
    near(
        registered.backward_adjusted(theirs[0], *ours, *given)[:3],
        ops.self_adjust_backward(theirs[0], *theirs, *given)[:3],
        0,
    )
    refine = Dape(2, biased=False, kernel=5).to(DEVICE, torch.float64)  # of a width that no kernel takes
    numbers = [x.detach() for x in refined.numbers_of(refine, None, q, 6)]
    given = (q, k, v, *numbers, 0.25, True)
    ours, theirs = registered.forward_refined(*given), ops.convolved(*given)
    near(ours, theirs, 0)
    near(
        registered.backward_refined(theirs[0], *ours, *given),
        ops.convolved_backward(theirs[0], *theirs, *given),
        0,
    )


def test_kernels_are_added_for_cuda_and_change_nothing_elsewhere():
    q, k, v = (torch.randn(1, 1, 5, 8) for _ in range(3))
    before = ops.self_adjust(q, k, v, None, 4, False, 0.25)
    registered.add()
    near(ops.self_adjust(q, k, v, None, 4, False, 0.25), before, 0)
    assert torch._C._dispatch_has_kernel_for_dispatch_key("lissome::self_adjust", "CUDA")
    assert torch._C._dispatch_has_kernel_for_dispatch_key("lissome::convolved_backward", "CUDA")
