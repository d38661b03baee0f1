r"""DAPE V2 (arXiv 2410.04798): the scores are a feature map, convolved along the keys before they become weights.

    Z = S + P + C2(LeakyReLU(C1([S; P]))),   C1, C2: 1 x 3 along the keys, pairs that are not valid set to 0 before both

One layer becomes an induction head, which attention that sees one pair at a time cannot be; even pairs in two layers;
and bytes of a text at up to sixteen times the length of training, beside DAPE and Kerple.

Differs from the paper: the hidden map is 0 where a pair is not valid (as published, decoding with a cache gives other
scores); models of one and two layers, and other texts.
"""

from __future__ import annotations

from lissome.recipes.dape import NOTES, run, task_cells, text_cells
from lissome.recipes.dape_claims import convolved_claims
from lissome.recipes.dape_names import AS_LONG, CHOMSKY, DAPE, PAIRS, RECALL, STATIC, V2
from lissome.recipes.dape_report import drawings, tables
from lissome.recipes.language_contest_data import check
from lissome.recipes.paper import Cell, Paper, ReplicateSettings

HEAD = ("NoPE + V2", V2, "rotary + V2", "NoPE", STATIC, "rotary", "NoPE + DAPE", DAPE)
AUTOMATON = ("rotary", "NoPE", STATIC, "NoPE + DAPE", DAPE, "NoPE + V2", V2)
TEXT = (STATIC, DAPE, V2, f"{AS_LONG}{V2}")
LARGE = ("NoPE + V2", "FIRE", "Kerple + V2, k=5", "Kerple + V2, published")
STRINGS = (STATIC, DAPE, V2)


def cells(settings: ReplicateSettings) -> list[Cell]:
    """Return all cells, part by part: recall, even pairs, bytes; in a large look the Chomsky hierarchy too.

    Raises:
        UsageError: more than one text, or one that cannot be read or is too short.
    """
    check(settings.data)
    found = task_cells(RECALL, HEAD, settings) + task_cells(PAIRS, AUTOMATON, settings)
    found += text_cells((*TEXT, *(LARGE if settings.scale else ())), settings)
    return found + [cell for part in CHOMSKY if settings.scale for cell in task_cells(part, STRINGS, settings)]


PAPER = Paper(
    arxiv="2410.04798",
    title="DAPE V2: attention scores as a feature map",
    symbols={
        "A, B": "scores, bias",
        "f, convolution 1 x 3": "attention.Dape(heads, kernel=3)",
        "DAPE (1 x 3)-Kerple": "attention(..., position='kerple', refine='dape(3)')",
    },
    cells=cells,
    run=run,
    claims=convolved_claims,
    tables=tables,
    drawings=drawings,
    notes=NOTES,
    scales=True,
)
