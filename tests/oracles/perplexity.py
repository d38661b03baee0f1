"""Perplexity by length by its definition, token by token in float64: slow and obvious."""

import math

import torch


def nats_by_window(model, tokens, length, *, longest, shortest, scored, windows):
    """The mean of each window, a list of numbers.

    Args:
        model: takes tokens (1, T) and returns logits (1, T, V); asked anew for each token, with what stands before it.
        tokens: (N,), list.
        length: what the window has at its end.
        longest: of all lengths that are compared.
        shortest: of all lengths that are compared.
        scored: at most so many tokens of a window.
        windows: at most so many.
    """
    scored = min(scored, shortest)
    last = len(tokens) - 1
    many = 1
    while many < windows and longest + many * scored <= last:  # no token is scored twice
        many += 1
    found = []
    for number in range(many):
        end = longest if many == 1 else int(longest + (last - longest) / (many - 1) * number + 1e-9)
        total = 0.0
        for place in range(end - scored + 1, end + 1):
            context = tokens[end - length : place]
            logits = model(torch.tensor([context]))[0, -1].detach().double()
            total -= float(logits[tokens[place]] - torch.logsumexp(logits, 0))
        found.append(total / scored)
    return found


def summary(each):
    """Mean, perplexity and standard error over windows."""
    mean = sum(each) / len(each)
    spread = sum((value - mean) ** 2 for value in each) / max(1, len(each) - 1)
    return mean, math.exp(mean), math.sqrt(spread / len(each))
