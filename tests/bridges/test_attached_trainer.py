"""The Trainer of transformers trains models with stages, on text, and goes on from its checkpoints."""

import shutil

import pytest
import torch
from torch.utils.data import Dataset
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

from lissome.bridges.transformers import attach, load
from tests.bridges.seven import logits
from tests.bridges.small import FIRST

STEPS, ROW = 40, 16
STAGES = dict(position="kerple", refine="dape(3)", normalize="self_adjust(4)")


class Rows(Dataset):
    def __len__(self):
        return 64

    def __getitem__(self, index):
        row = torch.tensor(list(FIRST[3 * index : 3 * index + ROW]))
        return {"input_ids": row, "labels": row}


def fresh():
    torch.manual_seed(0)
    sizes = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=128, pad_token_id=0, **sizes))
    return attach(model, **STAGES)


def trainer(model, place, **settings):
    arguments = TrainingArguments(
        str(place),
        max_steps=STEPS,
        per_device_train_batch_size=8,
        learning_rate=1e-2,
        save_steps=STEPS // 2,
        logging_steps=1,
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        seed=3,
        **settings,
    )
    return Trainer(model=model, args=arguments, train_dataset=Rows(), eval_dataset=Rows())


def own(model):
    return {key: p.detach().clone() for key, p in model.named_parameters() if ".lissome." in key}


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    place, model = tmp_path_factory.mktemp("trainer"), fresh()
    before, run = own(model), trainer(model, place)
    run.train()
    return place, model.eval(), before, run


def text():
    return torch.stack([Rows()[index]["input_ids"] for index in (0, 7)])


def test_the_loss_falls_and_the_stages_move(trained):
    _, model, before, run = trained
    losses = [row["loss"] for row in run.state.log_history if "loss" in row]
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])
    for key, value in own(model).items():
        assert (value - before[key]).abs().max() > 1e-3, key
    assert run.evaluate()["eval_loss"] < losses[0]


def test_a_checkpoint_of_the_trainer_is_the_model(trained):
    place, model, *_ = trained
    for steps in (STEPS, STEPS // 2):
        found = load(place / f"checkpoint-{steps}").state_dict()
        assert found.keys() == model.state_dict().keys()
        same = [torch.equal(value, found[key]) for key, value in model.state_dict().items()]
        assert all(same) if steps == STEPS else not any(same)


def test_a_resumed_run_is_bit_equal(trained, tmp_path):
    place, model, *_ = trained
    shutil.copytree(place / f"checkpoint-{STEPS // 2}", tmp_path / f"checkpoint-{STEPS // 2}")
    again = fresh()
    trainer(again, tmp_path).train(resume_from_checkpoint=True)
    assert torch.equal(logits(again.eval(), text()), logits(model, text()))


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")
def test_a_run_with_gradient_checkpoints_is_the_same(trained, tmp_path):
    _, model, *_ = trained
    again = fresh()
    run = trainer(again, tmp_path, gradient_checkpointing=True, save_strategy="no")
    run.train()
    torch.testing.assert_close(logits(again.eval(), text()), logits(model, text()), rtol=0, atol=1e-4)


def test_a_longer_text_than_those_of_training_is_read_as_well(trained):
    _, model, *_ = trained

    def loss(length):
        row = torch.tensor([list(FIRST[5 : 5 + length])])
        return model(row, labels=row).loss.item()

    assert loss(5 * ROW) < 1.1 * loss(ROW)
