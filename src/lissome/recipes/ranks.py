"""Which ranks the layers of a trained LoRA should have: from folders and a text to settings, a cut adapter, a page."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from lissome._errors import Interrupted, RunError, UsageError
from lissome._files import write_json
from lissome.adapt.basis import Rotation, unturned
from lissome.adapt.quota import shares
from lissome.adapt.rules import check_rule
from lissome.allocation import Gates, Weighed, measuring, rotations
from lissome.bridges.labels import own_loss, sampled_likelihood
from lissome.bridges.peft import PeftRanks, PeftTerms, cut_adapter_
from lissome.bridges.text import load, quiet, read
from lissome.calculus import merged
from lissome.recipes import directory, ranks_kept
from lissome.recipes.progress import Bar
from lissome.recipes.ranks_settings import RanksSettings
from lissome.recipes.settings import dump
from lissome.recipes.training import device_of
from lissome.report.ranks import page

POINTS = 8  # budgets along which the loss is drawn
SLOW = ("measured", "exhaustive")  # rules that are asked for the chosen budget alone
Batches = Sequence[Mapping[str, Tensor]]


def rank(settings: RanksSettings, out: str | Path, *, resume: bool = False, progress: bool = True) -> dict[str, Any]:
    """Choose the ranks of a trained LoRA, and write them.

    `out` gets `ranks.json` (settings for `LoraConfig`, and all figures), `adapter/` (the cut adapter, for
    `PeftModel.from_pretrained`) and the page. What was measured batch by batch is kept in `weighed/`.

    Args:
        settings: what is asked.
        out: directory, not there yet.
        resume: go on where an earlier call stopped.
        progress: show a bar if the error stream is a terminal.

    Returns:
        config, budget, terms, layers, loss before and after, predicted, held out, curve, certificate, spreads, seconds.

    Raises:
        UsageError: anything asked wrongly, folders and data that cannot be read, a LoRA that was never trained.
        Interrupted: Ctrl-C; finished batches are kept.
    """
    out = Path(out)
    with directory.claimed(out, settings, resume=resume, free=()):
        try:
            with quiet():
                return _written(settings, out, progress)
        except KeyboardInterrupt:
            kept = len(list((out / "weighed").glob("batch-*")))
            raise Interrupted(
                f"stopped; {kept} of {settings.batches} batches are kept in '{out}': `--resume --out {out}` goes on"
            ) from None


def _written(settings: RanksSettings, out: Path, progress: bool) -> dict[str, Any]:
    """Load, weigh, choose, cut; write what was found into the directory, and return it."""
    start = time.perf_counter()
    loaded = load(settings.model, settings.adapter, settings.tokenizer)
    device = device_of(settings.device)
    loaded.model.to(device)
    drawn = read(
        loaded,
        settings.data,
        batches=2 * settings.batches,
        size=settings.size,
        length=settings.length,
        seed=settings.seed,
    )
    moved = [{name: value.to(device) for name, value in batch.items()} for batch in drawn]
    terms = PeftTerms(loaded.model)
    budget = settings.budget or max(1, terms.count // 2)
    if budget > terms.count:
        raise UsageError(f"budget is {budget}; legal are 1 to {terms.count}, the terms of the adapter")
    # said before anything is measured
    shares(budget, terms.sizes(), terms.least(settings.least), settings.most)
    check_rule(settings.rule, terms.count)
    terms.check_cuttable()
    inputs = ranks_kept.inputs(settings, out / "weighed" / "inputs.json")
    with Bar(progress) as bar:
        weighed = _weigh(terms, settings, moved[::2], out / "weighed", inputs, bar)
        found = _found(terms, settings, weighed, moved[1::2], budget, bar)
    ranks = found.pop("ranks")
    _keep(cut_adapter_(loaded.model, ranks), out / "adapter")
    found |= {"seconds": time.perf_counter() - start}
    write_json(out / "ranks.json", found)
    page(out, found, dump(settings), directory.environment())
    return found


def _weigh(
    terms: PeftTerms, settings: RanksSettings, batches: Batches, kept: Path, inputs: dict[str, str], bar: Bar
) -> Weighed:
    """Measure basis and curvature, batch by batch, or read what was measured before."""
    generator = torch.Generator().manual_seed(settings.seed)

    def probe(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        bar.step(f"basis {settings.basis}")
        return sampled_likelihood(model, batch, generator)

    bar.expect(2 * len(batches))
    with measuring(terms.model):
        Gates(terms, own_loss, batches, {path: unturned(r) for path, r in terms.sizes().items()}).check()

    def made() -> dict[str, Rotation]:
        found = rotations(terms, settings.basis, batches, probe=probe)
        write_json(kept / "inputs.json", inputs)  # nothing is kept of what was refused
        return found

    basis = ranks_kept.turned(kept / "basis.safetensors", made)
    basis = {layer: Rotation(*(each.to(terms.device) for each in X)) for layer, X in basis.items()}
    gates, found = Gates(terms, own_loss, batches, basis), []
    with measuring(terms.model):
        for k, batch in enumerate(batches):
            bar.step(f"curvature of {terms.count} terms")
            found.append(ranks_kept.expansion(kept / f"batch-{k}.safetensors", gates, batch, settings.limit))
    return Weighed(gates, basis, settings.basis, merged(found))


def _found(
    terms: PeftTerms, settings: RanksSettings, weighed: Weighed, held: Batches, budget: int, bar: Bar
) -> dict[str, Any]:
    """Choose for the budget asked, and for others along the way; measure all of them."""
    gates, n = weighed.gates, sum(weighed.gates.layers.values())
    budgets = sorted({budget, *(max(1, round(n * k / POINTS)) for k in range(1, POINTS + 1))})
    bar.expect(len(budgets))

    def choose(terms_left: int, rule: str):
        bar.step(f"budget {terms_left}")
        generator = torch.Generator().manual_seed(settings.seed)
        return weighed.choose(
            terms_left,
            rule=rule,
            least=terms.least(settings.least),
            most=settings.most,
            compensate=settings.compensate,
            generator=generator,
        )

    chosen, rows = choose(budget, settings.rule), []
    with measuring(terms.model):
        held_before = gates.mean(torch.ones_like(chosen.choice.gates), held)
    for each in budgets:
        own = each == budget
        rule = "reverse" if settings.rule in SLOW else settings.rule
        try:
            choice = chosen.choice if own else choose(each, rule).choice
        except UsageError:  # a budget along the way that the bounds of the layers do not allow
            continue
        assert choice.before is not None
        assert choice.measured is not None
        with measuring(terms.model):
            measured = gates.mean(choice.gates, held)
        rows.append(
            {
                "budget": sum(choice.ranks.values()),
                "predicted": choice.before + choice.predicted,
                "measured": choice.before + choice.measured,
                "held": measured,
            }
        )
    own = next(row for row in rows if row["budget"] == sum(chosen.ranks.values()))
    ranks = PeftRanks(*terms.patterns(chosen.ranks), chosen, terms.adapter)
    return {
        "config": ranks.settings(),
        "rank_pattern": ranks.rank_pattern,
        "budget": own["budget"],
        "terms": n,
        "layers": {name: {"rank": r, "terms": gates.layers[name]} for name, r in chosen.ranks.items()},
        "before": chosen.choice.before,
        "after": own["measured"],
        "predicted": own["predicted"],
        "held_before": held_before,
        "held_after": own["held"],
        "rule": settings.rule,
        "basis": settings.basis,
        "certificate": chosen.choice.certificate,
        "gradient_spread": weighed.expansion.gradient_spread,
        "hessian_spread": weighed.expansion.hessian_spread,
        "curve": rows,
        "ranks": ranks,
    }


def _keep(model: Any, place: Path) -> None:
    """Write the cut adapter beside its place, and then there, so that a folder is whole or not there.

    Raises:
        RunError: it cannot be written.
    """
    part = place.with_name(f".{place.name}.part")
    try:
        for gone in (part, place):
            if gone.exists():
                shutil.rmtree(gone)
        model.save_pretrained(str(part))
        part.rename(place)
    except (OSError, SafetensorError) as error:
        raise RunError(f"'{place}' cannot be written: {error}; `--resume` goes on from what was measured") from error
