"""Answers of a gated model, and how near others come."""

import pytest
import torch
from peft import PeftModel

from lissome.bridges.peft import choose_ranks, cut_adapter_, own_loss
from tests.bridges.small import DEFAULT, FAMILIES, answers, base, batches, hooked, landed, layers_of

QUIET = [
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*lora_bias=True.*"),
    pytest.mark.filterwarnings("ignore:.*LoRA tensor.s. have invalid shape.*"),  # so peft says of a bias, wrongly
]
every_family = pytest.mark.parametrize("family", FAMILIES)
BASES = ("trained", "svd", "whitened", "kronecker")
every_basis = pytest.mark.parametrize("basis", BASES)


def close(found, wanted, to):
    scale = float(wanted.abs().max())
    torch.testing.assert_close(found, wanted, rtol=to, atol=to * scale, check_dtype=False)


def gated_answers(model, family, found):
    values = {path: torch.zeros(r, dtype=torch.float64) for path, r in found.choice.layers.items()}
    for path, kept in found.choice.kept.items():
        values[path][list(kept)] = found.choice.values[path].double()
    with hooked(model, values, found.rotations):
        return answers(model, family)


def cut_and_compare(model, family, budget=5, to=2e-5, **options):
    """Cut, hold the outputs to the gated model, and the loss to what was measured; return the ranks."""
    data = batches(family)
    ranks = choose_ranks(model, None, data, budget, **options)
    wanted = gated_answers(model, family, ranks.allocation)
    assert cut_adapter_(model, ranks) is model
    close(answers(model, family), wanted, to)
    choice = ranks.allocation.choice
    with torch.no_grad():
        after = sum(float(own_loss(model, each)) for each in data) / len(data)
    assert after == pytest.approx(landed(choice), rel=max(to, 1e-6))
    for path, layer in layers_of(model).items():
        r = ranks.allocation.ranks[path]
        assert layer.r[DEFAULT] == r > 0
        assert layer.lora_A[DEFAULT].weight.shape[0] == layer.lora_B[DEFAULT].weight.shape[1] == r
    return ranks


def files_agree(model, family, folder):
    """Save, load onto a fresh base, and compare bit for bit."""
    wanted = answers(model, family)
    model.save_pretrained(folder)
    loaded = PeftModel.from_pretrained(base(family), folder).eval().to(wanted.dtype)
    found = answers(loaded, family)
    assert torch.equal(found, wanted)
    return loaded


def only(path, model, r=4):
    """Return bounds by which the first layer whose path ends so keeps nothing."""
    gone = [each for each in layers_of(model) if each.endswith(path)]
    assert gone
    return dict.fromkeys(gone, 0)
