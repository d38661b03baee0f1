"""FSDP: each process keeps a part of every parameter, of its gradient and of its optimizer's state.

`fit` shards a model where Accelerate was told so (`accelerate launch --use_fsdp --fsdp_version 2`, which sets the
environment), by torch's own `fully_shard`: Accelerate knows no FSDP on CPUs, and one way for both is tested on both.
A checkpoint has the whole tensors, in the files of any other run.

Reference: PyTorch FSDP, Zhao et al., arXiv:2304.11277; ZeRO, Rajbhandari et al., arXiv:1910.02054, stage 3.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from typing import Any

from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from lissome._errors import UsageError


def asked(machine: Accelerator) -> bool:
    """Say whether the processes were launched to shard the model.

    Raises:
        UsageError: by FSDP's first version, with parameters offloaded to the CPU, or in fp16.
    """
    if machine.num_processes == 1 or os.environ.get("ACCELERATE_USE_FSDP", "false").lower() != "true":
        return False
    version = os.environ.get("FSDP_VERSION", "1")
    if version != "2":
        raise UsageError(f"FSDP version {version} is not supported: launch with --fsdp_version 2")
    if os.environ.get("FSDP_OFFLOAD_PARAMS", "false").lower() == "true":
        raise UsageError("--fsdp_offload_params true is not supported: leave it out, or take more processes")
    if machine.mixed_precision == "fp16":
        raise UsageError("precision fp16 does not go with FSDP; use bf16 or no")
    return True


def shard(model: nn.Module, machine: Accelerator, trained: Mapping[str, nn.Parameter]) -> dict[str, nn.Parameter]:
    """Shard a model in place, each block by itself, so that one block at a time is whole while it computes.

    The parameters are new objects afterwards, and every process has to call the model when one does. It has to be
    called as a whole: a submodule that is called from outside finds its parameters in parts.

    Args:
        model: on each process the same, with the same weights.
        machine: the processes.
        trained: parameters of the model by any names.

    Returns:
        The sharded parameters by the same names.
    """
    if isinstance(model, FSDPModule):
        return dict(trained)
    places = {p: name for name, p in model.named_parameters()}
    mesh = init_device_mesh(next(model.parameters()).device.type, (machine.num_processes,))
    again = os.environ.get("FSDP_RESHARD_AFTER_FORWARD", "true").lower() == "true"
    for block in blocks(model):
        fully_shard(block, mesh=mesh, reshard_after_forward=again)
    fully_shard(model, mesh=mesh)
    own = dict(model.named_parameters())
    return {name: own[places[p]] for name, p in trained.items()}


def close(model: nn.Module) -> None:
    """Let go of what a forward pass has left whole, where no backward pass has followed."""
    if isinstance(model, FSDPModule):
        model.reshard()


def blocks(model: nn.Module) -> list[nn.Module]:
    """Return the blocks of a model: those of the classes that the launch names, or the members of its lists of modules.

    `--fsdp_transformer_layer_cls_to_wrap Block` names classes. Without it, each `nn.ModuleList` that is in no other
    gives its members; one that owns no parameter, or shares one with the rest of the model, stays with the rest.

    >>> [type(block).__name__ for block in blocks(nn.Sequential(nn.ModuleList([nn.Linear(2, 2), nn.Tanh()])))]
    ['Linear']
    """
    named = [name for name in os.environ.get("FSDP_TRANSFORMER_CLS_TO_WRAP", "").split(",") if name]
    found = [m for m in model.modules() if type(m).__name__ in named] if named else list(dict.fromkeys(_members(model)))
    within = {id(inner): block for block in reversed(found) for inner in block.modules()}  # the outermost wins
    homes: dict[nn.Parameter, set[int]] = {}
    for module in model.modules():
        for p in module.parameters(recurse=False):
            homes.setdefault(p, set()).add(id(within.get(id(module), model)))
    outer = [block for block in found if within[id(block)] is block and next(block.parameters(), None) is not None]
    return [block for block in outer if all(homes[p] == {id(block)} for p in block.parameters())]


def _members(module: nn.Module, listed: bool = False) -> Iterator[nn.Module]:
    for child in module.children():
        if isinstance(child, nn.ModuleList | nn.ModuleDict):  # they have no forward pass of their own
            yield from _members(child, listed or isinstance(child, nn.ModuleList))
        elif listed:
            yield child
        else:
            yield from _members(child)


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Say in a sentence that a sharded parameter was met in parts.

    Raises:
        UsageError: in place of torch's error on tensors that are sharded and not.
    """
    try:
        yield
    except RuntimeError as error:
        if "DTensor" not in str(error):
            raise
        raise UsageError(
            "FSDP needs a model that is called as a whole, and whose blocks are called too: this one, or its "
            f"objective, reaches parameters past their modules' forward ({str(error)[:120]}); train it without FSDP"
        ) from error


def local(tensor: Tensor) -> Tensor:
    """Return this process's part of a tensor; all of it where it is not sharded."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tree: Any, *, keep: bool) -> Any:
    """Return a tree of dicts, lists and values with sharded tensors made whole, on the CPU; all processes call it.

    Args:
        tree: such as a state dict.
        keep: whether this process wants them; None stands in their place otherwise.
    """
    if isinstance(tree, DTensor):
        full = tree.full_tensor()
        return full.cpu() if keep else None
    if isinstance(tree, dict):
        return {key: whole(value, keep=keep) for key, value in tree.items()}
    return [whole(value, keep=keep) for value in tree] if isinstance(tree, list) else tree


def like(tensor: Tensor, other: Tensor) -> Tensor:
    """Return a whole tensor sharded as another one of its shape is; as it is where the other is not sharded."""
    if not isinstance(other, DTensor) or tensor.shape != other.shape:
        return tensor
    return distribute_tensor(tensor.to(other.device), other.device_mesh, other.placements, src_data_rank=None)
