"""A language model that fits a line, and windows of a text whose scored places differ from row to row."""

import torch
from torch import nn
from torch.nn.functional import cross_entropy

LETTERS, LENGTH, IGNORED = 11, 9, -100


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.mix = nn.Linear(width, 3 * width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x):  # (n, T, width)
        q, k, v = self.mix(self.norm(x)).chunk(3, dim=-1)
        x = x + nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return x + self.down(nn.functional.gelu(self.up(x)))


class Decoder(nn.Module):
    def __init__(self, width=8, depth=2, dtype=torch.float64, seed=0):
        super().__init__()
        self.embedding = nn.Embedding(LETTERS, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, LETTERS, bias=False)
        self.head.weight = self.embedding.weight
        self.to(dtype)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, p in self.named_parameters():
                p.copy_(0.3 * torch.randn(p.shape, generator=generator, dtype=dtype))
                p.add_(1.0 if name.endswith("norm.weight") else 0.0)

    def forward(self, tokens):  # (n, T) -> (n, T, letters)
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


class Words:
    """Cross entropy over the scored places of windows; `rows` notes how many windows each loss was of."""

    def __init__(self):
        self.text = torch.randint(0, LETTERS, (400,), generator=torch.Generator().manual_seed(5)).sort().values
        self.text = self.text.view(20, 20).T.flatten()
        self.rows = []

    def sample(self, generator, n):
        starts = torch.randint(0, len(self.text) - LENGTH, (n, 1), generator=generator)
        windows = self.text[starts + torch.arange(LENGTH + 1)]  # (n, T + 1)
        silent = torch.rand(n, LENGTH, generator=generator) < torch.linspace(0, 0.8, n)[:, None]
        silent[:, -1] = False
        return {"tokens": windows[:, :-1], "targets": windows[:, 1:].masked_fill(silent, IGNORED)}

    def loss(self, model, batch):
        self.rows.append(len(batch["tokens"]))
        return cross_entropy(model(batch["tokens"]).flatten(0, 1), batch["targets"].flatten(), ignore_index=IGNORED)

    def divide(self, batch, count):
        parts = [{name: value[index::count] for name, value in batch.items()} for index in range(count)]
        scored = [int((part["targets"] != IGNORED).sum()) for part in parts]
        return [(part, number / sum(scored)) for part, number in zip(parts, scored, strict=True)]

    @torch.no_grad()
    def evaluate(self, model):
        batch = self.sample(torch.Generator().manual_seed(9), 16)
        logits = model(batch["tokens"])
        return {
            "held_out": float(cross_entropy(logits.flatten(0, 1), batch["targets"].flatten(), ignore_index=IGNORED))
        }
