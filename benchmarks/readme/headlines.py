"""Which claims of each record the table of papers tells, and how; the record says the verdict and the number.

A key is words that only the line of that claim has; its value is how the table puts it, with `{}` for the number.
"""

from __future__ import annotations

HEADLINES: dict[str, dict[str, str]] = {
    "svd-pinns": {
        "are met: c = 0.5, D by descent": "published table, c = 0.5: {} times the paper's error",
        "are met: c = 2, D by descent": "c = 2: {} of it",
        "Gauss-Newton in the space of D": "Gauss-Newton on the same numbers: {} of it",
        "are met: c = 50, D by descent": "c = 50 after 4,000 steps: {} times the paper's error",
        "lose to all weights, by Gauss-Newton": "far equations: all weights end at {} of its error",
    },
    "arcm": {
        "faster than ARC in iterations. iterations to 1e-6, published / ARC w": "{} of ARC's iterations at one sigma",
        "2 to 10 times faster than CRm": "CRm needs {} times as many",
        "the default needs at most 0.65 of": "the default here: {} of ARC's",
        "50% of ARC's iterations. iterations to 1e-6, published / ARC w": "at most half of ARC's iterations: {}",
        "than ARC in iterations. iterations to 1e-6, published / ARC:": "fewer than ARC as it comes: {} of them",
    },
    "sublora": {
        "in the terms as trained, SubLoRA beats abs(b). loss": "loss after the cut {} of first-order scores'",
        "wins or ties against AdaLoRA's smoothed": "{} of AdaLoRA's",
        "SubLoRA stays within 1.4 of the best set, in the Kron": "on terms turned first: {} of the best set's",
        "SubLoRA stays within 1.4 of the best set, as trained": "on terms as trained too: {} times the best set's",
        "language model, chosen during training, SubLoRA": "lower perplexity than AdaLoRA's rule in training: {} times",
    },
    "lotra": {
        "trains less than a tenth": "trains {:.1%} of the numbers",
        "rank 4 comes near to training all numbers: functions": "functions: {} times the error of training all",
        "rank 8 comes near to training all numbers: equations": "equations, rank 8: {} times",
        "rank 4 comes near to training all numbers: equations": "equations, rank 4: {} times",
        "takes no longer": "saves seconds: {} times those of training all",
        "inefficient beside the closed rule": "gains by the rates of the theory: error {} times that of equal ones",
    },
    "slim-kan": {
        "has a fraction of a full KAN's": "Slim KAN: {:.0%} of a full KAN's numbers",
        "nearly as well as the full KAN": "and {:.0%} of the digits it names",
        "names more digits than an MLP": "more digits than an MLP of its size: {} of them",
    },
    "kan-convergence": {
        "the bound (1 - eta lambda_min / 2)^t holds": "the bound on descent holds in {:.0%} of runs",
        "predict descent, regression, d = 5": "descent foretold up to {:.1%} of the residual",
        "the balance of means beats that of traces": "error with weights from it {} of those from traces",
        "Poisson, d = 1, rbf. exp": "the kernel moves as m^-1/2 on Poisson's equation too: m^-{}",
        "is predicted, at every m": "its loss is foretold: {:.0%} off",
    },
    "dape": {
        "earliest match. accuracy at n = 24, Kerple + D": "look-ups that a static bias cannot do: accuracy {}",
        "rotary collapses beyond": "rotary at 1,024 bytes, trained at 64: perplexity times {}",
        "is the better the more context": "DAPE there: times {}",
        "DAPE beats its own static bias at 64 bytes": "lower perplexity than Kerple in every seed: {} times",
        "as many seconds, at 64 bytes": "lower than Kerple trained for as many seconds: {} times",
    },
    "dape-v2": {
        "Kerple or without a position. accuracy at n = 32": "one layer recalls what followed a key: accuracy {}",
        "DAPE's too, does not recall what followed a key. accuracy at n = 32": "one without it: {}",
        "beats its own static bias at 1,024": "perplexity {} of Kerple's at 1,024 bytes",
        "as many seconds, at 1,024 bytes": "lower than Kerple trained for as many seconds: {} times",
    },
    "sa-softmax": {
        "lower perplexity than the softmax after as many steps. ": "perplexity {} of the softmax's at equal steps",
        "more gradient reaches": "{} times the gradient reaches queries and keys",
        "V1 restores the gradient": "V1 gives a sure softmax {} times its gradient",
        "V4 restores the gradient": "so does V4, which the paper recommends: {} times",
        "after as many steps, beyond chance": "lower perplexity beyond chance: t = {}, 4.3 is wanted",
        "lower perplexity than the softmax after as many seconds. perplexity": "lower perplexity at equal seconds: {}",
    },
    "sepllm": {
        "perplexity is not above full attention": "trained with its mask: {} of full attention's perplexity",
        "full attention collapses": "beyond its length full attention is {} times worse",
        "stream stays level": "the stream stays level: {}",
        "by mask, SepLLM is the best of": "better than windows, fixed places, random ids: perplexity {} times",
        "separators carry the facts": "separators carry facts from afar: accuracy {}",
    },
    "algoformer": {
        "plain model with as many weights, at equal steps": "error {} of a plain model's of as many weights",
        "below the looped model's": "{} of the looped model's",
        "the representation is learnt, in every seed": "{} of affine regression's: the representation is learnt",
        "better than plain at the last place": "softmax, linear regression: {} of a plain model's",
        "AlgoFormer with injection keeps its error": "four times the trained iterations keep its error: {} times",
        "linear attention: early exit costs": "early exit is free with linear attention: error {} times",
        "better than a plain one of as many weights, in every seed": "bytes: perplexity {} of a plain model's",
        "that is trained for as many seconds, in every seed": "bytes: lower perplexity at equal seconds: {} times",
    },
}
