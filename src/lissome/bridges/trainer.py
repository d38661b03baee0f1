"""Ranks of a `peft` LoRA chosen while the Trainer of transformers trains it: a `TrainerCallback`.

A term out of work has its column of B at 0, so whatever is saved on the way computes what was trained; the column
itself is kept here, and beside each checkpoint of the Trainer. See `allocation.JointRanks` for how terms are chosen.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from lissome._errors import RunError, UsageError
from lissome._files import write
from lissome.adapt.basis import Rotation, unturned
from lissome.allocation import JointRanks, Schedule
from lissome.allocation.gated import Parts, opened
from lissome.bridges.labels import own_loss, sampled_likelihood
from lissome.bridges.peft import PeftTerms

try:
    from transformers import TrainerCallback
except ImportError as error:
    raise UsageError("lissome.bridges.trainer needs transformers; install: pip install 'lissome[peft]'") from error

FILE = "lissome_terms.safetensors"  # in a checkpoint of the Trainer


class GatedLora:
    """The terms of one LoRA adapter of peft, put out of work by their columns of B.

    Args:
        model: as in `bridges.peft.choose_ranks`.
        adapter: its name; None is the active one.
    """

    def __init__(self, model: nn.Module, adapter: str | None = None):
        self.terms = PeftTerms(model, adapter)
        self.work = {path: torch.ones(r, dtype=torch.bool) for path, r in self.terms.sizes().items()}
        self.columns: dict[str, Tensor] = {}  # layer -> B with the columns of terms out of work as they left

    def parts(self) -> Parts:
        """Return the factors that are trained."""
        found: Parts = {}
        for path, (B, A) in self.terms.weights().items():
            found[path] = [(p, dim) for p, dim in ((B, 1), (A, 0)) if p.requires_grad]
        return found

    def at_work(self) -> dict[str, Tensor]:
        """Return layer -> (r,) bool."""
        return dict(self.work)

    def put(self, at_work: Mapping[str, Tensor]) -> None:
        """Take columns of B aside, or put them back."""
        for path, (B, _) in self.terms.weights().items():
            before, now = self.work[path], at_work[path].cpu()
            gone, back = before & ~now, now & ~before
            kept = self.columns.setdefault(path, torch.zeros_like(B.detach()))
            kept[:, gone], B.data[:, back] = B.detach()[:, gone], kept[:, back]
            B.data[:, gone] = 0
            self.work[path] = now.clone()

    def turn(self, rotations: Mapping[str, Rotation]) -> None:
        """Turn the layers of which both factors are trained."""
        trained = {path: B.requires_grad and A.requires_grad for path, (B, A) in self.terms.weights().items()}
        sizes = self.terms.sizes()
        with opened(self):
            self.terms.write({path: X if trained[path] else unturned(sizes[path]) for path, X in rotations.items()})

    def state(self) -> dict[str, Tensor]:
        """Return what a checkpoint of the model does not hold."""
        found = {f"work.{path}": work.to(torch.uint8) for path, work in self.work.items()}
        return found | {f"columns.{path}": B.detach().cpu().contiguous() for path, B in self.columns.items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Go on from `state`."""
        if {name for name in state if name.startswith("work.")} != {f"work.{path}" for path in self.work}:
            raise UsageError("the kept terms are of another adapter; resume with the model they were saved for")
        self.work = {path: state[f"work.{path}"].bool() for path in self.work}
        weights = self.terms.weights()
        self.columns = {
            name.removeprefix("columns."): tensor.to(weights[name.removeprefix("columns.")][0])
            for name, tensor in state.items()
            if name.startswith("columns.")
        }

    def finish_(self) -> nn.Module:
        """Cut the terms out of work for good, in place; the model is ready for `save_pretrained`."""
        if self.terms.sizes() != {path: len(work) for path, work in self.work.items()}:
            raise UsageError("the terms out of work are cut already; train on the model as it is")
        kept = {path: work.nonzero().flatten() for path, work in self.work.items()}
        if not any(len(indices) for indices in kept.values()):
            raise UsageError("no term is at work, and peft has no LoRA without a term; take a budget of 1 or more")
        self.terms.write({path: unturned(len(work)) for path, work in self.work.items()}, kept)
        self.terms.settle({path: len(indices) for path, indices in kept.items()})
        return self.terms.model


class _Pool:
    """Batches to draw from, as an objective."""

    def __init__(self, batches: Sequence[Any], loss: Callable[[nn.Module, Any], Tensor]):
        self.batches, self.own = batches, loss

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """Return the loss that was given."""
        return self.own(model, batch)

    def sample(self, generator: torch.Generator, n: int) -> Any:
        """Return one of the batches."""
        return self.batches[int(torch.randint(len(self.batches), (), generator=generator))]

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Return nothing: the Trainer has its own evaluation."""
        return {}


class RankCallback(TrainerCallback):
    """Chooses ranks during `Trainer.train`; `finish_()` cuts what is out of work in the end.

    Args:
        model: with a LoRA of peft, the Trainer's own.
        batches: dicts of tensors on which terms are weighed, some at each choice: best such as were not trained on.
        schedule: when, and how many stay; its steps are those of the optimizer.
        loss: (model, batch) -> scalar; None is `model(**batch).loss`.
        probe: for the bases `whitened` and `kronecker`; None is the log-probability of labels drawn from the model.
        adapter: its name; None is the active one.
        batches_each: how many of them, at each choice.
        checkpoint: the Trainer's folder that is gone on from, if it is not in the output directory.
        least: terms that a layer keeps at least, one number or by layer.
        options: `rule`, `basis`, `regrow` and the others of `allocation.JointRanks`.

    Example:
        schedule = Schedule(budget=64, steps=1000)
        callback = RankCallback(model, batches, schedule)
        Trainer(model=model, callbacks=[callback], ...).train()
        callback.finish_().save_pretrained("adapter")
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Sequence[Any],
        schedule: Schedule,
        *,
        loss: Callable[[nn.Module, Any], Tensor] | None = None,
        probe: Callable[[nn.Module, Any], Tensor] | None = None,
        adapter: str | None = None,
        batches_each: int = 2,
        checkpoint: str | Path | None = None,
        least: int | Mapping[str, int] = 0,
        **options: Any,
    ):
        if not batches:
            raise UsageError("batches is empty; give at least one")
        if schedule.budget < 1:
            raise UsageError(f"budget is {schedule.budget}; legal are 1 and more, for peft has no LoRA without a term")
        self.gated, self.checkpoint = GatedLora(model, adapter), checkpoint
        pool = _Pool(batches, loss or own_loss)
        least = self.gated.terms.least(least)
        options = {"seed": 0, "probe": probe or self._likelihood} | options
        self.draws, self.seed = torch.Generator(), options["seed"]
        self.joint = JointRanks(self.gated, pool, schedule, batches=batches_each, least=least, **options)

    @property
    def history(self) -> list[dict[str, Any]]:
        """One entry for each choice; see `JointRanks`."""
        return self.joint.history

    def on_train_begin(self, args: Any, state: Any, control: Any, **named: Any) -> None:
        """Go on from what the checkpoint keeps, if training does."""
        if state.global_step:
            self._load(Path(self.checkpoint or Path(args.output_dir) / f"checkpoint-{state.global_step}"))
        self.joint.begin(state.global_step, self.gated.terms.model, _inner(named.get("optimizer")))

    def on_train_end(self, args: Any, state: Any, control: Any, **named: Any) -> None:
        """Take the terms of the best checkpoint, where the Trainer has loaded that."""
        if args.load_best_model_at_end and state.best_model_checkpoint:
            self._load(Path(state.best_model_checkpoint))

    def _load(self, folder: Path) -> None:
        place = folder / FILE
        if not place.is_file():
            raise RunError(
                f"'{place}' is missing, so it is not known which terms were at work; name the checkpoint's folder by "
                "checkpoint=, or train from the start"
            )
        try:
            self.gated.load_state(load_file(place))
        except SafetensorError as error:
            raise RunError(f"'{place}' is damaged ({error}); train from an earlier checkpoint") from error

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **named: Any) -> None:
        """Hold the terms out of work."""
        self.joint.optimizers = _inner(named.get("optimizer"))
        self.joint.frozen.hold()

    def on_step_end(self, args: Any, state: Any, control: Any, **named: Any) -> None:
        """Choose anew where that is due."""
        self.draws.manual_seed(self.seed + state.global_step)  # so that a resumed run draws the same
        self.joint(state.global_step, self.gated.terms.model)

    def _likelihood(self, model: nn.Module, batch: Any) -> Tensor:
        return sampled_likelihood(model, batch, self.draws)

    def on_save(self, args: Any, state: Any, control: Any, **named: Any) -> None:
        """Keep the columns of terms out of work beside the checkpoint."""
        place = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        if state.is_world_process_zero and place.is_dir():
            write(place / FILE, save(self.gated.state()))

    def finish_(self) -> nn.Module:
        """Cut the terms out of work for good, in place, and return the model; warn where more are left than wanted."""
        left, wanted = sum(int(work.sum()) for work in self.gated.at_work().values()), self.joint.schedule.budget
        if left > wanted:
            warnings.warn(
                f"{left} terms are at work where {wanted} were wanted: training ended before the schedule's "
                f"{self.joint.schedule.steps} steps",
                stacklevel=2,
            )
        return self.gated.finish_()


def _inner(optimizer: Any) -> list[torch.optim.Optimizer]:
    """Return torch's own optimizer from Accelerate's."""
    return [] if optimizer is None else [getattr(optimizer, "optimizer", optimizer)]
