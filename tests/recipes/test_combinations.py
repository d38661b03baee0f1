"""Methods that meet: separators, SA-Softmax and DAPE; Gauss-Newton and ranks; LoTRA and ARCm; ranks and SA-Softmax."""

import functools
import itertools
import json

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

import lissome.bridges.transformers as bridge
from lissome.adapt import adapt
from lissome.allocation import AdaptedTerms, weigh
from lissome.attention import SelfAdjust, attend
from lissome.attention.attend import SPECIAL
from lissome.bridges.labels import own_loss
from lissome.bridges.peft import choose_ranks, cut_adapter_
from lissome.bridges.separators import separator_ids
from lissome.bridges.text import load, read
from lissome.language import Bytes, Text, split_tokens
from lissome.models import KAN, MLP, Decoder, DecoderShape
from lissome.optim import ARC, Budget, Group, Method, fit
from lissome.pde import Problem, load_family
from lissome.recipes.ranks import rank
from lissome.recipes.ranks_settings import RanksSettings
from tests.oracles import ranks as oracle

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
TEXT = "The sea, which had been calm, rose. It was late; no boat was out. " * 60
IDS, LENGTH, KEPT = separator_ids(Bytes()), 48, 12
SIGHT = f"causal & (sinks(2) | separators({', '.join(map(str, IDS))}) | window(6))"


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


# separators, SA-Softmax and DAPE in one decoder


@functools.cache
def text():
    return Text(*split_tokens(Bytes().encode(TEXT)), length=LENGTH, scored=96)


@functools.cache
def decoder():
    """Return a trained model, and what it paid before."""
    names = {"position": "kerple", "validity": SIGHT, "normalize": "self_adjust(4)", "refine": "dape(3)"}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Decoder(DecoderShape(vocabulary=256, layers=2, width=16, heads=2, **names))
    before = text().evaluate(model)["validation_loss"]
    method = Method((Group(lr=2e-2),), resample_every=1, points=4)
    fit(model, text(), method, Budget(steps=40), evaluate_every=40, progress=False)
    return model.double(), before


def rows():
    return text().validation[:2, :-1]


def test_a_decoder_of_all_three_stages_learns():
    model, before = decoder()
    assert model.recipes[0].explain() == f"{SIGHT}; kerple; dape(3); self_adjust(4)"
    assert text().evaluate(model)["validation_loss"] < 0.7 * before


def test_its_cache_of_separators_gives_what_its_mask_gives():
    model, _ = decoder()
    cache = model.separator_cache(IDS, initial=2, separators_kept=KEPT, local=6, capacity=2 + KEPT + 6 + 4)
    with torch.no_grad():
        stepwise = torch.cat([model(rows()[:, t : t + 1], cache=cache) for t in range(LENGTH)], 1)
        torch.testing.assert_close(stepwise, model(rows()), rtol=1e-9, atol=1e-9)
    assert cache.dropped
    assert int(cache.held.max()) < LENGTH


@pytest.mark.parametrize("stage", ["validity", "refine", "normalize"])
def test_each_of_the_stages_counts_in_what_was_trained(stage):
    model, _ = decoder()
    usual = {"validity": "causal", "refine": "none", "normalize": "softmax"}[stage]
    plain = Decoder(DecoderShape(**model.shape.told() | {stage: usual})).double()
    plain.load_state_dict(model.state_dict(), strict=stage != "refine")
    trained, without = (text().evaluate(each)["validation_loss"] for each in (model, plain))
    assert trained < without - 1e-3


# ranks by curvature, and Gauss-Newton


def heat(kappa):
    points = {"interior": 60, "boundary": 20, "initial": 20}
    return Problem(load_family("heat")(kappa=kappa), constraint="boundary", points=points, test_points=500)


def newton(model, problem, steps):
    method = Method((Group(optimizer="gauss-newton"),), resample_every=1, points=100)
    budget = Budget(steps=steps)
    return fit(problem.wrap(model), problem, method, budget, evaluate_every=steps, progress=False).metrics["error"]


def test_ranks_chosen_by_curvature_are_the_best_of_all_sets_and_gauss_newton_goes_on_from_them():
    near, far = heat(0.05), heat(0.1)
    network = MLP(near.inputs, width=10, depth=3, activation="gelu", offset=near.offset, generator=seeded()).double()
    newton(network, near, 25)
    untouched = far.evaluate(far.wrap(network))["error"]
    model = adapt(network, "lora", rank=3, small=False, generator=seeded())
    newton(model, far, 4)
    terms, batches = AdaptedTerms(far.wrap(model)), [far.sample(seeded(seed)) for seed in (1, 2)]
    weighed = weigh(terms, far.loss, batches, residual=far.residual, kind="gauss-newton")
    found = weighed.choose(3, rule="exhaustive", compensate=False)
    b, A = (each.numpy() for each in (weighed.expansion.gradient, weighed.expansion.hessian))
    changes = [oracle.change(b, A, oracle.without(6, kept)) for kept in itertools.combinations(range(6), 3)]
    assert found.choice.predicted == pytest.approx(min(changes), rel=1e-9)
    kept = {layer: torch.tensor(indices) for layer, indices in found.choice.kept.items()}
    cut = terms.cut(found.rotations, kept, found.choice.values)
    losses = [float(far.loss(far.wrap(cut), batch).detach()) for batch in batches]
    assert sum(losses) / 2 == pytest.approx(found.choice.before + found.choice.measured, rel=1e-9)
    assert cut.count() == model.count() // 2
    assert newton(cut, far, 8) < 0.2 * untouched


# LoTRA on a KAN, and ARCm


def test_arcm_lowers_the_loss_of_a_lotra_adapted_kan_at_every_step():
    near, far = (
        Problem(load_family("poisson")(c=c), constraint="boundary", points={"interior": 60}, test_points=300)
        for c in (0.0, 1.0)
    )
    network = KAN(near.inputs, width=4, depth=2, offset=near.offset, extent=near.extent, generator=seeded()).double()
    method = Method((Group(optimizer="gauss-newton"),), resample_every=1, points=60)
    fit(near.wrap(network), near, method, Budget(steps=15), evaluate_every=15, progress=False)
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    untouched = far.evaluate(far.wrap(network))["error"]
    model = adapt(network, "lotra", rank=3, rules={"*": "lotra"}, small=False, generator=seeded())
    wrapped, batch = far.wrap(model), far.sample(seeded(1))
    optimizer = ARC(model.trainable().values())
    losses = [float(optimizer.step(lambda: far.loss(wrapped, batch))) for _ in range(13)]
    assert all(later < earlier for earlier, later in itertools.pairwise(losses))
    assert optimizer.report is not None
    assert losses[-1] < 0.2 * losses[0]
    assert far.evaluate(wrapped)["error"] < untouched
    assert {form.core_kind for form in model.forms().values()} == {"full"}
    assert all(torch.equal(before[name], p) for name, p in model.base.named_parameters())


# ranks of a LoRA of peft on attention of SA-Softmax

SIZES = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
LORA = {"r": 3, "lora_alpha": 6, "target_modules": ["q_proj", "v_proj", "up_proj"], "task_type": "CAUSAL_LM"}


def llama(**named):
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(vocab_size=256, pad_token_id=0, **SIZES, **named))


def batches(count, length=16):
    tokens = torch.tensor(list(TEXT.encode()))
    starts = torch.randint(0, len(tokens) - length, (count, 4, 1), generator=seeded(count))
    return [{"input_ids": rows, "labels": rows} for rows in tokens[starts + torch.arange(length)]]


def trained(base, **lora):
    model = get_peft_model(base, LoraConfig(**LORA | lora))
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=2e-2)
    for batch in batches(20):
        optimizer.zero_grad()
        own_loss(model, batch).backward()
        optimizer.step()
    return model.eval()


def test_ranks_for_attention_by_its_name_cut_and_load(tmp_path, monkeypatch):
    monkeypatch.setattr(SPECIAL["self_adjust"], "LEAST", 0)  # as of texts of usual length: it has no second derivative
    model = trained(llama(attn_implementation="lissome_sa_softmax"))
    called = []
    monkeypatch.setattr("lissome.bridges.named.attend", lambda *given, **how: called.append(given[4].normalize) or
                        attend(*given, **how))  # fmt: skip
    ranks = choose_ranks(model, None, batches(2), 9)
    assert set(map(type, called)) == {SelfAdjust}
    assert sum(ranks.allocation.ranks.values()) == 9
    fresh = get_peft_model(llama(attn_implementation="lissome_sa_softmax"), LoraConfig(**LORA, **ranks.settings()))
    sizes = {name: len(p) for name, p in fresh.named_parameters() if ".lora_A." in name}
    assert sorted(sizes.values()) == sorted(r for r in ranks.allocation.ranks.values() if r)
    cut_adapter_(model, ranks).save_pretrained(tmp_path / "cut")
    again = PeftModel.from_pretrained(llama(attn_implementation="lissome_sa_softmax"), tmp_path / "cut").eval()
    plain = PeftModel.from_pretrained(llama(), tmp_path / "cut").eval()
    (batch,) = batches(1)
    torch.testing.assert_close(own_loss(again, batch), own_loss(model, batch))
    assert not torch.allclose(own_loss(plain, batch), own_loss(model, batch), atol=1e-3)


def test_ranks_of_folders_are_those_of_the_model_with_its_stages(tmp_path):
    base = bridge.attach(llama(), position="kerple", normalize="self_adjust(4)")
    base.save_pretrained(tmp_path / "base")
    trained(base, modules_to_save=["lissome"]).save_pretrained(tmp_path / "adapter")
    (tmp_path / "text.txt").write_text(TEXT)
    place, few = {name: str(tmp_path / name) for name in ("base", "adapter")}, {"batches": 1, "size": 4, "length": 16}
    asked = RanksSettings(
        model=place["base"], adapter=place["adapter"], data=str(tmp_path / "text.txt"), budget=9, device="cpu", **few
    )
    found = rank(asked, tmp_path / "ranks", progress=False)
    truth = PeftModel.from_pretrained(bridge.load(tmp_path / "base"), tmp_path / "adapter").eval()
    weighed, _ = read(load(place["base"], place["adapter"]), asked.data, seed=0, **few | {"batches": 2})
    assert found["before"] == pytest.approx(float(own_loss(truth, weighed).detach()), rel=1e-5)
    cut = PeftModel.from_pretrained(bridge.load(tmp_path / "base"), tmp_path / "ranks" / "adapter").eval()
    assert float(own_loss(cut, weighed).detach()) == pytest.approx(found["after"], rel=1e-5)
    assert sum(json.loads((tmp_path / "ranks" / "ranks.json").read_text())["rank_pattern"].values()) == 9
