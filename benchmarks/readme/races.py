"""Which races the table of speeds tells: a file of results, its cell, who is timed in it, and how both are called."""

from __future__ import annotations

from typing import NamedTuple

FILES = (
    "pde-step", "laplacian", "gauss-newton-step", "together", "arcm", "ranks", "gates", "kan", "decoder", "dape",
    "self-adjust", "compact", "training", "caches", "gpu-attention", "looped", "records", "adaptation",
)  # fmt: skip
SHORT, LONG = "T = 4,096", "T = 16,384"
BOTH = "forward and backward"
DAPE = f"T = 2,048, {BOTH}, memory kept"
DECODING = "32,768 tokens of context, capacity 800"
TRAINING = "small, 8,192 tokens"


class Race(NamedTuple):
    """A row: a file, its cell, the peer, what is ours, and how both are called; "" is the row above."""

    file: str
    cell: str
    theirs: str
    ours: str
    what: str
    peer: str


RACES = (
    Race("pde-step", "allen-cahn-10d", "DeepXDE", "one pass, compiled",
         "training step, Allen-Cahn in 10 dimensions", "DeepXDE"),
    Race("laplacian", "value-and-gradient-100", "nested", "one pass",
         "Laplacian with its gradient, 100 dimensions", "nested reverse mode"),
    Race("laplacian", "value-and-gradient-1000", "nested, extrapolated", "compressed",
         "1,000 dimensions", "nested reverse mode, extrapolated"),
    Race("gauss-newton-step", "allen-cahn-10d, singular values and small layers", "Jacobian and floor",
         "Gauss-Newton step", "Gauss-Newton step of an adapter", "its Jacobian and products alone"),
    Race("together", "100 points a member", "16 alone", "together", "step of 16 members at once", "16 steps"),
    Race("together", "100 points a member", "16 x one alone, compiled", "together, compiled",
         "the same, compiled", "16 compiled steps"),
    Race("kan", "the same, pykan as it comes", "pykan", "compiled", "KAN step, compiled", "pykan as it comes"),
    Race("kan", "loss and gradient, 1,024 points", "pykan, speed()", "compiled", "", "pykan after its `speed()`"),
    Race("kan", "residual, 256 points", "pykan, speed()", "compiled",
         "KAN step of an equation, compiled", "pykan after its `speed()`"),
    Race("ranks", "256 terms", "sums anew", "reverse, one layer", "choosing half of 256 terms", "sums made anew"),
    Race("decoder", "small, compiled, 1 thread", "nanoGPT's way", "ours", "decoder step, compiled", "nanoGPT's way"),
    Race("looped", "width 256, 8 prompts of 40 pairs", "20 plain layers", "20 iterations",
         "training step of a loop, 20 iterations", "20 plain layers"),
    Race("dape", DAPE, "dape, naive", "dape, own", "DAPE, 2,048 tokens, with gradient", "all pairs in memory"),
    Race("dape", DAPE, "sdpa", "dape, own", "", "causal softmax of torch"),
    Race("dape", DAPE, "sdpa", "dape(3), own", "DAPE V2, the same", "causal softmax of torch"),
    Race("self-adjust", f"{LONG}, {BOTH}", "softmax, fused", "V4",
         "SA-Softmax, 16,384 tokens, with gradient", "causal softmax of torch"),
    Race("compact", f"{SHORT}, forward", "FlexAttention, forward alone", "compact",
         "separators, 4,096 tokens, forward", "FlexAttention"),
    Race("compact", f"{SHORT}, {BOTH}", "causal SDPA", "compact",
         "separators, 4,096 tokens, with gradient", "causal attention of torch"),
    Race("compact", f"{LONG}, {BOTH}", "causal SDPA", "compact",
         "separators, 16,384 tokens, with gradient", "causal attention of torch"),
    Race("training", TRAINING, "full attention", "separators, n = 64",
         "training step with separators, 8,192 tokens", "full attention"),
    Race("caches", DECODING, "DynamicCache", "SepCache, a cycle",
         "decoding at 32,768 tokens of context", "`DynamicCache` of transformers"),
    Race("caches", DECODING, "StaticCache", "SepCache, a cycle", "", "`StaticCache` of transformers"),
)  # fmt: skip
