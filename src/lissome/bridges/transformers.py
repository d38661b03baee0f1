"""Stages of attention in models of transformers: by name, or attached.

`import lissome.bridges.transformers` is enough for the names of `NAMES`, which `attn_implementation=` then takes;
`attach` gives a model Kerple, FIRE, ALiBi, DAPE, DAPE V2 or SA-Softmax, `load` reads it again and `detach` undoes it.
"""

from lissome.bridges.attached import attach, detach
from lissome.bridges.families import FAMILIES
from lissome.bridges.frames import FRAME
from lissome.bridges.named import NAMES
from lissome.bridges.stored import load

__all__ = ["FAMILIES", "FRAME", "NAMES", "attach", "detach", "load"]
