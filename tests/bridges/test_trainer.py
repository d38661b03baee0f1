"""Ranks chosen while the Trainer trains: what is saved, what comes back, runs that go on."""

import shutil

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments

from lissome._errors import RunError, UsageError
from lissome.allocation import Schedule
from lissome.allocation.gated import opened
from lissome.bridges.trainer import FILE, GatedLora, RankCallback
from tests.bridges.small import FAMILIES, SECOND, base, batch, seeded

STEPS, BUDGET, RANK = 24, 5, 4


class Rows(Dataset):
    def __len__(self):
        return 48

    def __getitem__(self, index):
        tokens = torch.tensor(list(SECOND[2 * index : 2 * index + 12]))
        return {"input_ids": tokens, "labels": tokens}


def fresh(seed=0):
    torch.manual_seed(seed)
    return get_peft_model(base("llama"), LoraConfig(r=RANK, lora_alpha=8, **FAMILIES["llama"][1]))


def callback(model, **options):
    pool = [batch("llama", SECOND, seeded(seed)) for seed in range(3)]
    return RankCallback(model, pool, Schedule(BUDGET, STEPS, warmup=4, last=6, every=4), **options)


def train(place, resume=None, settings=None, eval_dataset=None, **options):
    model = fresh()
    ranks = callback(model, **options)
    arguments = TrainingArguments(
        str(place),
        max_steps=STEPS,
        per_device_train_batch_size=4,
        learning_rate=1e-2,
        weight_decay=0.1,
        **({"save_steps": 12} | (settings or {})),
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        seed=3,
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=Rows(), eval_dataset=eval_dataset, callbacks=[ranks])
    trainer.train(resume_from_checkpoint=resume)
    return model.eval(), ranks


WAYS = {"as it is": {"regrow": True}, "turned": {"rule": "adalora", "basis": "kronecker"}}


@pytest.fixture(scope="session", params=list(WAYS))
def trained(tmp_path_factory, request):
    place, options = tmp_path_factory.mktemp("trainer"), WAYS[request.param]
    model, ranks = train(place, **options)
    return place, model, ranks, options


def logits(model):
    tokens = batch("llama", SECOND, seeded(7))["input_ids"]
    with torch.no_grad():
        return model(input_ids=tokens).logits


def test_the_budget_is_kept_along_the_schedule(trained):
    _, _, ranks, options = trained
    assert options.get("regrow") or all(row["came"] == 0 for row in ranks.history)
    assert [row["budget"] for row in ranks.history][-1] == BUDGET
    assert sum(int(work.sum()) for work in ranks.gated.at_work().values()) == BUDGET
    assert all(sum(row["ranks"].values()) == row["budget"] for row in ranks.history)


def test_what_is_saved_on_the_way_computes_what_was_trained(trained):
    place, model, *_ = trained
    again = PeftModel.from_pretrained(base("llama"), place / f"checkpoint-{STEPS}").eval()
    assert torch.equal(logits(again), logits(model))


def test_a_resumed_run_is_bit_equal(trained, tmp_path):
    place, model, ranks, options = trained
    shutil.copytree(place / "checkpoint-12", tmp_path / "checkpoint-12")
    again, later = train(tmp_path, resume=str(tmp_path / "checkpoint-12"), **options)
    assert torch.equal(logits(again), logits(model))
    assert [row for row in ranks.history if row["step"] > 12] == later.history


def test_a_resume_without_the_terms_that_were_set_aside_is_told(trained, tmp_path):
    place, *_ = trained
    shutil.copytree(place / "checkpoint-12", tmp_path / "checkpoint-12")
    (tmp_path / "checkpoint-12" / FILE).unlink()
    with pytest.raises(RunError, match="is missing"):
        train(tmp_path, resume=str(tmp_path / "checkpoint-12"))


def test_the_finished_adapter_has_the_terms_at_work_alone(tmp_path):
    model, ranks = train(tmp_path / "run")
    before = logits(model)
    assert ranks.finish_() is model
    assert sum(layer.r["default"] for layer in model.modules() if getattr(layer, "r", None)) == BUDGET
    torch.testing.assert_close(logits(model), before, rtol=0, atol=1e-5)
    model.save_pretrained(tmp_path / "adapter")
    again = PeftModel.from_pretrained(base("llama"), tmp_path / "adapter").eval()
    assert torch.equal(logits(again), logits(model))


def test_terms_come_back_as_they_left():
    model = fresh()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(generator=seeded(4))
    before, weights = logits(model.eval()), {n: p.clone() for n, p in model.named_parameters()}
    gated = GatedLora(model)
    gated.put({path: torch.tensor([True, False, True, False]) for path in gated.work})
    assert not torch.equal(logits(model), before)
    with opened(gated):
        assert torch.equal(logits(model), before)
    gated.put({path: torch.ones(RANK, dtype=torch.bool) for path in gated.work})
    assert all(torch.equal(p, weights[n]) for n, p in model.named_parameters())
    assert torch.equal(logits(model), before)


def test_a_run_goes_on_from_a_checkpoint_elsewhere(trained, tmp_path):
    place, model, _, options = trained
    there = str(place / "checkpoint-12")
    again, _ = train(tmp_path, resume=there, checkpoint=there, **options)
    assert torch.equal(logits(again), logits(model))


def test_the_best_checkpoint_comes_with_its_own_terms(tmp_path):
    best = {"load_best_model_at_end": True, "eval_strategy": "steps", "eval_steps": 8, "save_steps": 8}
    model, ranks = train(tmp_path, settings=best | {"metric_for_best_model": "loss"}, eval_dataset=Rows())
    before = logits(model)
    ranks.finish_()
    torch.testing.assert_close(logits(model), before, rtol=0, atol=1e-5)


def test_ending_before_the_schedule_does_is_told():
    model = fresh()
    ranks = callback(model)
    work = ranks.gated.at_work()
    ranks.gated.put({path: mask & (torch.arange(RANK) > 0) for path, mask in work.items()})
    with pytest.warns(UserWarning, match="^18 terms are at work where 5 were wanted: training ended before the"):
        ranks.finish_()
    with pytest.raises(UsageError, match="cut already"):
        ranks.gated.finish_()


def test_what_cannot_be_asked_is_told():
    with pytest.raises(UsageError, match="batches is empty"):
        RankCallback(fresh(), [], Schedule(2, 20))
    with pytest.raises(UsageError, match="budget is 99"):
        RankCallback(fresh(), [{}], Schedule(99, 20))
    with pytest.raises(UsageError, match="budget is 0; legal are 1 and more"):
        RankCallback(fresh(), [{}], Schedule(0, 20))
    with pytest.raises(UsageError, match="budget is 2"):
        RankCallback(fresh(), [{}], Schedule(2, 20), least=3)
    gated = GatedLora(fresh())
    gated.put({path: torch.zeros(RANK, dtype=torch.bool) for path in gated.work})
    with pytest.raises(UsageError, match="no term is at work"):
        gated.finish_()
    with pytest.raises(UsageError, match="of another adapter"):
        gated.load_state({"work.nowhere": torch.ones(2)})
