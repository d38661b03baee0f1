"""Names of the replication of SA-Softmax."""

from __future__ import annotations

from lissome.recipes.language_contest import ADAM, SGD, Sizes
from lissome.recipes.language_contest_seeds import SECONDS

# who is compared -> its normaliser, as `lissome.attention.attention` reads it
VARIANTS: dict[str, str] = {
    "softmax": "softmax",
    "V1": "self_adjust(1)",
    "V2": "self_adjust(2)",
    "V3": "self_adjust(3)",
    "V4": "self_adjust(4)",
    "V3, detached": "self_adjust(3, detach_extrema=True)",
    "V4, detached": "self_adjust(4, detach_extrema=True)",
}
PLAIN, FIRST, SECOND, BEST, HELD_STILL = "softmax", "V1", "V2", "V4", "V4, detached"  # of which most claims speak
AS_LONG = f"{PLAIN}{SECONDS}"  # and the variant whose seconds it is given

ROW, LOOKUP, BYTES = "row", "look-up", "bytes"  # parts
SATURATED, ORDINARY = "saturated", "ordinary"  # starts of a look-up

CAP = 1000  # steps on one row
WRONG = (1, 2, 3, 5, 8, 12, 16, 20, 25)  # scores of the wrong key
DEEP = 20  # the one of which claims speak

POSITION, LENGTH = "Kerple", 64
POSITIONS = {"NoPE": "none", "rotary": "rotary", "ALiBi": "alibi", "Kerple": "kerple", "FIRE": "fire"}
LENGTHS = (256, 512, 1024)  # bytes of a row of training in a large look
SMALL = Sizes(layers=2, width=48, steps=500, rates=(4e-3, 1.2e-2, 3e-2))
LARGE = Sizes(layers=4, width=128, steps=3000, rates=(1e-3, 3e-3, 1e-2))
ONE_LAYER = Sizes(layers=1, width=32, steps=600, rates=(3e-3, 1e-2))
MORE = 2  # times that a best rate at an end is gone beyond
RATES = {ADAM: ONE_LAYER.rates, SGD: (0.1, 1.0)}  # of a look-up
