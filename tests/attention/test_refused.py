"""Every wrong argument at the doors of attention is one sentence with the value and the legal ones."""

import pytest
import torch

from lissome._errors import UsageError
from lissome.attention import (
    Alibi,
    Attention,
    Dape,
    Fire,
    Frame,
    GrowingCache,
    Kerple,
    Rotary,
    SelfAdjust,
    Validity,
    attend,
    causal,
    every_kth,
    explain,
    stages,
    window,
)

WHOLE = "legal are whole numbers, 1 and more"
X = torch.randn(1, 2, 5, 8)
FULL = Frame.full(5)
ONE = torch.zeros(1, 1).long()

STAGES = {
    "no heads, alibi": (lambda: Alibi(0), f"the number of heads is 0; {WHOLE}"),
    "no heads, kerple": (lambda: Kerple(0), f"the number of heads is 0; {WHOLE}"),
    "no heads, fire": (lambda: Fire(0, 8), f"the number of heads is 0; {WHOLE}"),
    "no heads, dape": (lambda: Dape(2.5), f"the number of heads is 2.5; {WHOLE}"),
    "kind": (lambda: Kerple(2, 3), "unknown kind of Kerple '3'; legal are: log, power"),
    "length": (lambda: Fire(2, 8.5), "the training length of FIRE is 8.5; legal are whole numbers, 2 and more"),
    "kernel": (lambda: Dape(2, kernel=3.0), "the kernel of dape is 3.0; legal are odd numbers: 1, 3, 5, ..., 255"),
    "width": (lambda: Dape(2, width=4097), "the width of dape is 4097; legal are whole numbers, 1 to 4096"),
    "biased": (lambda: Dape(2, biased="no"), "biased of dape is 'no'; legal are True and False"),
    "variant": (lambda: SelfAdjust(True), "the variant of self_adjust is True; legal are 1, 2, 3 and 4"),
    "dimension": (lambda: Rotary(0), f"the dimension of a head is 0; {WHOLE}"),
    "base": (lambda: Rotary(4, float("inf")), "the base of rotary is inf; legal are finite numbers above 1"),
    "window": (lambda: window(2.5), f"the window is 2.5; {WHOLE}"),
    "every": (lambda: every_kth("a"), f"k of every_kth is 'a'; {WHOLE}"),
    "see": (lambda: Validity(3), "see of a validity is 3; legal is a function frame -> "),
    "name": (lambda: Validity(len, 3), "name of a validity is 3; legal is a text"),
    "sure": (lambda: Validity(len, "own", 1), "causal of a validity is 1; legal are True and False"),
    "and": (lambda: causal & 3, "the other side of & is 3; legal is a rule such as causal, window(256)"),
    "or": (lambda: causal | "window(2)", "the other side of | is 'window(2)'; legal is a rule such as causal"),
    "validity": (lambda: Attention("causal"), "validity is 'causal'; legal is a rule such as causal, window(256)"),
    "bias": (lambda: Attention(causal, 3), "bias is 3; legal is such as Kerple(8), or None"),
    "class": (lambda: Attention(causal, Kerple), "bias is <class 'lissome.attention.bias.Kerple'>; legal is such as"),
    "refine": (lambda: Attention(refine="dape"), "refine is 'dape'; legal is such as Dape(8), or None"),
    "normalize": (lambda: Attention(normalize=None), "normalize is None; legal is such as softmax"),
    "rotary": (lambda: Attention(rotary=8), "rotary is 8; legal is such as Rotary(64), or None"),
}
FRAMES = {
    "part": (lambda: Frame.full(2.5), "the length of a frame is 2.5; legal are whole numbers, 0 and more"),
    "negative": (lambda: Frame.full(-1), "the length of a frame is -1; legal are whole numbers, 0 and more"),
    "present": (lambda: Frame.full(2, present=torch.ones(1, 2)), "present has shape (1, 2) and dtype torch.float32; "),
    "tokens": (lambda: Frame.full(2, tokens=[1, 2]), "tokens is [1, 2]; legal is a tensor (B, T) of torch.int64"),
    "no layers": (lambda: GrowingCache(layers=0), f"layers is 0; {WHOLE}"),
    "row": (lambda: GrowingCache(1).begin(ONE[0]), "tokens has shape (1,) and dtype torch.int64; legal is (B, T)"),
    "float": (lambda: GrowingCache(1).begin(ONE, ONE.float()), "present has shape (1, 1) and dtype torch.float32; "),
    "layer": (lambda: GrowingCache(1).append(1, X, X), "layer 1 adds to a cache for 1; legal are 0 and more"),
}
TENSORS = {
    "list": (lambda: attend([1], X, X, FULL, Attention()), "q is [1]; legal is a tensor (B, heads, T, D)"),
    "frame": (lambda: attend(X, X, X, 5, Attention()), "frame is 5; legal is such as Frame.full(5)"),
    "recipe": (lambda: attend(X, X, X, FULL, "causal"), "recipe is 'causal'; legal is such as attention(8, 64)"),
    "mixed": (
        lambda: attend(X, X.double(), X, FULL, Attention()),
        "q, k, v have dtypes torch.float32, torch.float64, torch.float32; legal is one of floating point",
    ),
    "values": (lambda: attend(X, X, X.half(), FULL, Attention()), "q, k, v have dtypes torch.float32, torch.float32, "),
    "whole": (lambda: attend(*[X.long()] * 3, FULL, Attention()), "q, k, v have dtypes torch.int64, torch.int64, "),
    "dropout": (lambda: attend(X, X, X, FULL, Attention(), dropout=2), "dropout is 2; legal are numbers from 0 to 1"),
    "scale": (lambda: attend(X, X, X, FULL, Attention(), scale="a"), "scale is 'a'; legal are finite numbers, or None"),
    "heads": (
        lambda: attend(X, X, X, FULL, Attention(rotary=Rotary(6))),
        "heads have 8 numbers, and the recipe's rotary is for 6",
    ),
    "turned": (lambda: Rotary(6)(X, FULL.queries), "this rotary was made for heads of 6 numbers, and 8 came"),
    "stages": (lambda: stages(X, X, FULL, None), "recipe is None; legal is such as attention(8, 64)"),
    "explain": (lambda: explain(X, X, None, Attention()), "frame is None; legal is such as Frame.full(5)"),
}


@pytest.mark.parametrize(
    ("call", "sentence"), [pytest.param(*case, id=name) for name, case in (STAGES | FRAMES | TENSORS).items()]
)
def test_wrong_arguments_are_one_sentence(call, sentence):
    with pytest.raises(UsageError) as told:
        call()
    assert str(told.value).startswith(sentence)
    assert "\n" not in str(told.value)
