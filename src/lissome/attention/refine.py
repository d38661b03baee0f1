"""A small network that corrects biased scores across heads: DAPE (arXiv 2405.14722), DAPE V2 (arXiv 2410.04798).

With S the scaled scores and P the bias, both (., H, Tq, Tk), and f : R^{2H} -> R^H at each pair:

    Z = S + P + f([S ; P])      residual, the default       DAPE eq. 5
    Z = f([S ; P])              plain
    Z = f(S + P)                sum

f is Linear -> LeakyReLU(0.01) -> Linear, that is two convolutions of width 1; V2 widens both along the keys
(3, 5, ...), and a row then sees its scores as a feature map. Without a bias f reads S alone.

Differs from the paper: the hidden map is 0 where a pair is not valid ("masked"). As published it is not, and row i then
reads column i + 1, which a cached step does not have: decoding and left padding would give other scores.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lissome._checks import check_flag, check_whole, refuse
from lissome._errors import UsageError, unknown

FORMS = ("residual", "plain", "sum")
HIDDEN = ("masked", "published")
WIDTH = 32  # DAPE section 4.1
SLOPE = 0.01  # of the leaky ReLU
KERNELS = range(1, 256, 2)
WIDEST = 4096  # above it a slip of the keyboard asks for all memory


class Dape(nn.Module):
    """Data-adaptive position encoding; with a kernel of 3 or more, DAPE V2.

    Args:
        heads: H.
        biased: whether there is a bias beside the scores to read.
        kernel: keys that f sees, odd, up to 255; 1 is DAPE.
        form: residual, plain or sum.
        hidden: masked or published; they differ for kernels above 1 alone.
        width: of the hidden map, up to 4,096.
        zero_init: start the last layer at 0, so that a trained model can be given a refinement without a jump.

    Raises:
        UsageError: an even kernel, an unknown form, zero_init of a form without residual, or a value of another kind or
            out of its range.
    """

    def __init__(
        self,
        heads: int,
        *,
        biased: bool = True,
        kernel: int = 1,
        form: str = "residual",
        hidden: str = "masked",
        width: int = WIDTH,
        zero_init: bool = False,
    ):
        super().__init__()
        check_whole("the number of heads", heads)
        check_flag("biased of dape", biased)
        if type(kernel) is not int or kernel not in KERNELS:
            raise refuse("the kernel of dape", kernel, f"are odd numbers: 1, 3, 5, ..., {KERNELS[-1]}")
        check_whole("the width of dape", width, most=WIDEST)
        if form not in FORMS:
            raise unknown("form of dape", form, FORMS)
        if hidden not in HIDDEN:
            raise unknown("hidden of dape", hidden, HIDDEN)
        check_flag("zero_init of dape", zero_init)
        if zero_init and form != "residual":
            raise UsageError(f"zero_init keeps a model as it was in the residual form alone, and the form is {form}")
        self.kernel, self.form, self.hidden, self.biased, self.width = kernel, form, hidden, biased, width
        side = (0, kernel // 2)
        read = 2 * heads if biased and form != "sum" else heads
        self.inner = nn.Conv2d(read, width, (1, kernel), padding=side)
        self.outer = nn.Conv2d(width, heads, (1, kernel), padding=side)
        if zero_init:
            nn.init.zeros_(self.outer.weight)
            nn.init.zeros_(self.outer.bias)  # type: ignore[arg-type]

    @property
    def name(self) -> str:
        """What `explain` says: the notation that builds it."""
        form = "" if self.form == "residual" else f", form={self.form}"
        hidden = "" if self.hidden == "masked" else f", hidden={self.hidden}"
        width = "" if self.width == WIDTH else f", width={self.width}"
        return f"dape({self.kernel}{form}{hidden}{width})"

    @property
    def ahead(self) -> int:
        """How many columns behind its own position a row reads besides; the published form alone reads any."""
        return self.kernel // 2 if self.hidden == "published" else 0

    @property
    def beside(self) -> int:
        """How many columns to either side of a pair it reads where some are hidden, which the masked map ends at."""
        return (self.kernel // 2) * (2 if self.hidden == "published" else 1)

    @property
    def operations(self) -> int:
        """What one pair costs over all heads, in additions and multiplications of a forward pass."""
        return 2 * (self.inner.weight.numel() + self.outer.weight.numel())

    def forward(self, scores: Tensor, bias: Tensor | None, valid: Tensor) -> Tensor:
        """Return the refined scores.

        Args:
            scores: S, (B, H, Tq, Tk).
            bias: P, (1 or B, H, Tq, Tk), or None.
            valid: (1 or B, 1, Tq, Tk) bool.

        Raises:
            UsageError: other heads than it was made for; a bias where it was made for none, or the other way round.
        """
        if scores.shape[1] != self.outer.out_channels:
            raise UsageError(f"this dape was made for {self.outer.out_channels} heads, and {scores.shape[1]} came")
        if self.biased != (bias is not None):
            raise UsageError(
                f"this dape was made with biased={self.biased}; with this bias it has to be {not self.biased}"
            )
        total = scores if bias is None else scores + bias  # (B, H, Tq, Tk)
        read = total
        if self.form != "sum" and bias is not None:
            read = torch.cat((scores, bias.expand_as(scores)), 1)  # (B, 2H, Tq, Tk)
        if self.kernel > 1:
            read = read.masked_fill(~valid, 0)
        map = F.leaky_relu(_convolved(self.inner, read), SLOPE)  # (B, width, Tq, Tk)
        if self.kernel > 1 and self.hidden == "masked":
            map = map.masked_fill(~valid, 0)
        found = _convolved(self.outer, map)
        return total + found if self.form == "residual" else found


def _convolved(layer: nn.Conv2d, x: Tensor) -> Tensor:
    # scores are float32 also where a model is held in half precision
    if not x.numel():  # torch refuses a picture without pixels
        return x.new_zeros(x.shape[0], layer.out_channels, *x.shape[2:])
    bias = None if layer.bias is None else layer.bias.to(x.dtype)
    return F.conv2d(x, layer.weight.to(x.dtype), bias, padding=layer.padding)
