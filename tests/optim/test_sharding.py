"""Which modules FSDP takes as blocks, and which gradients go together; several processes are in test_processes."""

import torch
from torch import nn

from lissome.optim.machine import buckets
from lissome.optim.sharding import blocks, like, local, whole
from tests.optim.words import Block, Decoder


def test_the_members_of_lists_are_blocks():
    model = Decoder(depth=3)
    assert blocks(model) == list(model.blocks)


def test_a_class_can_be_named(monkeypatch):
    monkeypatch.setenv("FSDP_TRANSFORMER_CLS_TO_WRAP", "LayerNorm,Block")
    model = Decoder()
    assert blocks(model) == [*model.blocks, model.norm]


def test_lists_within_lists_are_gone_into_and_blocks_are_not():
    inner = nn.ModuleList([nn.Linear(2, 2), nn.Sequential(nn.ModuleList([nn.Linear(2, 2)]))])
    model = nn.ModuleDict({"a": nn.ModuleList([inner, nn.Tanh()]), "b": nn.Linear(2, 2)})
    assert blocks(model) == list(inner)


def test_what_shares_its_weights_or_stands_twice_is_not_cut_apart():
    block, lone = Block(4), Block(4)
    other = Block(4)
    other.up.weight = lone.up.weight
    model = nn.Sequential(nn.ModuleList([block, block]), nn.ModuleList([lone, other]))
    assert blocks(model) == [block]


def test_without_processes_tensors_are_whole_as_they_are():
    tensor = torch.arange(3)
    assert local(tensor) is tensor
    assert like(tensor, torch.zeros(3)) is tensor
    tree = whole({"a": [tensor, (1, 2)], "b": None}, keep=True)
    assert tree["a"][0] is tensor
    assert tree == {"a": [tensor, (1, 2)], "b": None}


def test_buckets_hold_one_dtype_each_and_all_parameters_in_order():
    dtypes = [torch.float32, torch.float32, torch.bfloat16, torch.bfloat16, torch.float32]
    parameters = [nn.Parameter(torch.zeros(n, dtype=dtype)) for n, dtype in enumerate(dtypes)]
    assert [len(bucket) for bucket in buckets(parameters)] == [2, 2, 1]
    assert [p for bucket in buckets(parameters) for p in bucket] == parameters
    assert [len(bucket) for bucket in buckets(parameters, size=1)] == [1, 1, 1, 1, 1]
