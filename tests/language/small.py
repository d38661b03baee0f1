"""A causal model that makes use of all that it sees, small enough to be asked token by token."""

import torch
from torch import nn


class Echo(nn.Module):
    """Logits from the token and the mean of all tokens up to it; `last` keeps those of the last positions."""

    def __init__(self, size, width=8, dtype=torch.float64, seed=0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.inside, self.outside = (
            nn.Parameter(torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype))
            for shape in ((size, width), (2 * width, size))
        )
        self.drop = nn.Dropout(0.5)
        self.seen = []

    def forward(self, tokens, last=None):
        self.seen.append(tuple(tokens.shape))
        x = self.inside[tokens]  # (B, T, width)
        count = torch.arange(1, x.shape[1] + 1, dtype=x.dtype, device=x.device)[:, None]
        h = torch.cat([x, x.cumsum(1) / count], -1)  # (B, T, 2 width)
        return self.drop(h[:, -last:] if last else h) @ self.outside
