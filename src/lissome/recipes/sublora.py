r"""SubLoRA (arXiv 2507.01841): ranks of each layer from the curvature of the loss.

    L(cut C) - L  ~  -sum_{i in C} b_i + 1/2 sum_{i, j in C} A_ij        b = dL/dg, A = d2L/dg2 at gates g = 1

chosen greedily on A with its negative off-diagonal entries at 0. Held to it: PINNs adapted from one member of a family
to another, where all sets of 8 of 16 terms are measured, at a converged point, away from one and in each basis; a
language model adapted from one text to another; and choices while training goes on.

Differs from the paper: its networks and equations are not ours, and its tables are not repeated here; what is held is
what it says of the rules, and what the bases add. AdaLoRA's score is that of the gates, see `adapt.smoothed`.
"""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path

from lissome._errors import UsageError
from lissome.adapt.basis import BASES
from lissome.recipes import sublora_text
from lissome.recipes.paper import Cell, Paper, ReplicateSettings, Row, Tick
from lissome.recipes.sublora_claims import claims
from lissome.recipes.sublora_names import CONVERGED, FAMILIES, LANGUAGE_WAYS, LORA, PAPERS, PINN_WAYS, START, STATES
from lissome.recipes.sublora_report import drawings, tables

# the language part needs packages that may not be there
PARTS = {"pinn": "lissome.recipes.sublora_pinn", "language": "lissome.recipes.sublora_language"}
NEEDED = ("peft", "transformers")
SEEDS = 5
QUICK_BASES = ("trained", "kronecker")


def cells(settings: ReplicateSettings) -> list[Cell]:
    """Return all cells, seed by seed; those of the language model where peft and transformers are installed.

    Raises:
        UsageError: data that are not two texts, or texts without the packages that read them.
    """
    sublora_text.check(settings.data)
    there = all(importlib.util.find_spec(name) is not None for name in NEEDED)
    if settings.data and not there:
        raise UsageError("texts need peft and transformers; install: pip install 'lissome[peft]', or leave out --data")
    found = []
    for seed in range(1 if settings.quick else settings.seeds or SEEDS):
        for family in list(FAMILIES)[:1] if settings.quick else FAMILIES:
            for form in (PAPERS, LORA):
                shared = {"family": family, "form": form, "seed": seed}
                found += _chain("pinn", f"{family}, {form}, seed {seed}", shared, settings.quick)
        if there:
            shared = {"data": settings.data, "seed": seed}
            found += _chain("language", f"language, seed {seed}", shared, settings.quick)
    return found


def _chain(part: str, name: str, shared: Row, quick: bool) -> list[Cell]:
    """Return a start, and after it a cell for each basis (and state) and for each way to choose during training."""
    same, first = {"part": part, "quick": quick} | shared, f"{name}, {START}"
    states, ways = (STATES, PINN_WAYS) if part == "pinn" else (("cut",), LANGUAGE_WAYS)
    if shared.get("form") == LORA:  # beside the paper's form, where it matters
        states, ways = (CONVERGED,), ()
    bases = QUICK_BASES if quick else BASES
    cuts = [(f"{state}, {basis}", {"label": state, "basis": basis}) for state in states for basis in bases]
    joint = [(f"joint, {way}", {"label": way}) for way in (ways[:1] if quick else ways)]
    rest = [Cell(f"{name}, {said}", same | arguments, first) for said, arguments in (*cuts, *joint)]
    return [Cell(first, same | {"label": START}), *rest]


def run(tick: Tick, place: Path, *, part: str, **asked: object) -> Row:
    """Run one cell of a part."""
    return importlib.import_module(PARTS[part]).run(tick, place, **asked)


PAPER = Paper(
    arxiv="2507.01841",
    title="SubLoRA: the ranks of each layer from the curvature of the loss",
    symbols={
        "W_l = W_l0 + P_l diag(s_l) Q_l": "adapt.adalora, lora, a LoRA of peft: `allocation.Terms`",
        "g, b = dL/dg, A = d2L/dg2": "allocation.Gates, Weighed.expansion",
        "projection and greedy choice": "select_ranks(b, A, budget, rule='sublora')",
        "AdaLoRA's score": "adapt.smoothed(gradients over mini-batches), rule 'adalora'",
        "alternation with training": "allocation.JointRanks, Schedule",
    },
    cells=cells,
    run=run,
    claims=claims,
    tables=tables,
    drawings=drawings,
    notes=(
        "PINNs: 3 hidden layers of 32, float64, P diag(s) Q of rank 8 on both hidden matrices, all of it and nothing "
        "else trained, from s = 0 and orthonormal P and Q; beside it a LoRA B A from B = 0. 128 points inside and 32 "
        "on each edge, fixed. Unconverged is 300 steps of Adam, converged 60 times 20 iterations of L-BFGS more.",
        "Losses after the cut are those of the points that were trained on.",
        "Rules and basis see the same points as eight mini-batches, from which AdaLoRA's score is smoothed.",
        "During training points are fresh in each step, Adam for 1,000 steps, 16 terms to 8 on AdaLoRA's cubic "
        "schedule. Turned: into the Kronecker-factored basis before each choice, after which the optimizer begins "
        "anew; half the rank with an optimizer that begins anew at the same steps stands beside it.",
        "Language model: a Llama of bytes, 2 layers of 64, LoRAs of rank 8 on q, v, up and down, 64 terms to 32; the "
        "last tenth of the second text is held out. AdaLoRA of peft has the same schedule and steps, at the LoRAs' "
        "rate and at three times it.",
        "Without --data both texts are made of small grammars: sentences of a village, then lines of a machine.",
        "A quick look is of few steps: its cells are in the tables and count for no claim.",
    ),
)
