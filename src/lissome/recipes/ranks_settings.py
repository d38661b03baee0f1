"""What `lissome lm ranks` asks; loads neither torch nor anything heavy."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from lissome.recipes.settings import Strict

RULES = (
    "reverse",
    "sublora",
    "swap",
    "diagonal",
    "first_order",
    "adalora",
    "magnitude",
    "random",
    "greedy",
    "measured",
    "exhaustive",
)
BASES = ("kronecker", "whitened", "svd", "trained")

QUICK = {"batches": 1, "size": 4, "length": 64}


class RanksSettings(Strict):
    """`lissome lm ranks`: which ranks the layers of a trained LoRA should have."""

    model: str = Field(description="local folder of a transformers model")
    adapter: str = Field(description="local folder of a trained LoRA of peft")
    data: str = Field(description="text file, or .jsonl with lines of text (and label)")
    budget: int | None = Field(default=None, ge=1, description="terms that stay over all layers; null is half of them")
    tokenizer: str | None = Field(default=None, description="folder or file; null looks beside model and adapter")
    rule: Literal[RULES] = "sublora"  # type: ignore[valid-type]  # docs/ranks.md compares
    basis: Literal[BASES] = "kronecker"  # type: ignore[valid-type]
    compensate: bool = Field(default=False, description="let the kept terms' sizes make up for the cut ones")
    least: int = Field(default=0, ge=0, description="terms that each layer keeps at least")
    most: int | None = Field(default=None, ge=1, description="and at most")
    batches: int = Field(default=4, ge=1, description="on which terms are weighed; as many are held out")
    size: int = Field(default=8, ge=1, description="rows of a batch")
    length: int = Field(default=128, ge=2, description="tokens of a row")
    limit: int = Field(default=2000, ge=1, description="terms above which layers are weighed one by one")
    seed: int = Field(default=0, ge=0, lt=2**63)
    device: str = "auto"
