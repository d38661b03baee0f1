r"""What is known of a set of terms beside the best one, in words.

F(S) = -q(complement of S) is submodular if and only if A_ij >= 0 for all i != j, and grows with S if A_jj / 2 >= b_j
for every j, since the smallest gain of j is at C = {j}. Greedy then comes within 1 - 1/e of the best set of its size
(G. Nemhauser, L. Wolsey and M. Fisher, 1978; SubLoRA, arXiv 2507.01841), counted from the empty set:

    q(C) <= q(C*) + (1/e) (q(all) - q(C*))

Where the layers have bounds of their own the sets are the bases of a matroid, and greedy has 1/2 in place of 1 - 1/e
(M. Fisher, G. Nemhauser and L. Wolsey, 1978). Differs from the paper: gains that are not negative on greedy's own path
are not enough. With b = 0, A_00 = -7.8, A_0j = 1, n = 6 and 4 terms kept they are 1.1, 0, 0, 0, and the best set has 4.
"""

from __future__ import annotations

import numpy as np

from lissome.adapt.quadratic import Quadratic
from lissome.adapt.rules import Terms


def certificate(rule: str, terms: Terms, *, crossed: bool = True) -> str:
    """Return what is known of the set that a rule chose, as a sentence."""
    words = {
        "sublora": lambda: f"{_projection(terms.model)}; {_greedy(terms)}",
        "exhaustive": lambda: "the best set of the model, which is not the loss",
        "swap": lambda: "no exchange of one kept and one cut term betters the model, to rounding",
        "measured": lambda: "no exchange of one kept and one cut term lowers the loss, to rounding",
    }.get(rule, lambda: "no bound is known for this rule")()
    return words if crossed else f"{words}; curvature between layers was left out"


def _projection(model: Quadratic) -> str:
    """Say what was taken off the curvature."""
    square, whole, negative, pairs = 0.0, 0.0, 0, 0
    for block in model.blocks:
        off = block.copy()
        np.fill_diagonal(off, 0.0)
        whole += float(np.square(off).sum())
        np.minimum(off, 0.0, out=off)
        square += float(np.square(off).sum())
        negative += np.count_nonzero(off) // 2
        pairs += len(block) * (len(block) - 1) // 2
    share = (square / whole) ** 0.5 if whole else 0.0
    return f"{negative} of {pairs} pairs had negative curvature, {share:.2g} of the off-diagonal norm, projected to 0"


def _greedy(terms: Terms) -> str:
    """Say whether greedy's bound holds on the projected model, and what it bounds."""
    b, diagonal = terms.model.b, terms.model.diagonal
    name, rest = ("1 - 1/e", "(1/e)") if terms.free else ("1/2", "(1/2)")
    if below := int((diagonal < 0).sum()):
        return f"the bound {name} does not hold: {below} of {terms.n} diagonal entries are negative, this is no minimum"
    if falling := int((diagonal / 2 < b).sum()):
        return f"the bound {name} does not hold: A_jj / 2 < b_j for {falling} of {terms.n} terms"
    why = "" if terms.free else ", 1/2 since layers have bounds of their own"
    formula = f"q(C) <= q(C*) + {rest} (q(all) - q(C*))"
    return f"the bound {name} holds{why}: {formula}, of the projected model and not of the loss"
