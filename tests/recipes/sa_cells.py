"""Cells of the replication of SA-Softmax, run or written by hand."""

from lissome.recipes.language_contest import Sizes, decoder
from lissome.recipes.sa_softmax_names import AS_LONG, POSITIONS, VARIANTS

LONG = f"{AS_LONG}V4"
HALF = Sizes(layers=2, width=16, steps=4, rates=(1e-2,), rows=4)


def nothing():
    return None


def own(part, label, seed=0, **more):
    return {"part": part, "label": label, "seed": seed, "quick": False, "failed": None} | more


def drawn(label, position, seed):
    return decoder(HALF, 256, seed, length=16, position=POSITIONS[position], normalize=VARIANTS[label])
