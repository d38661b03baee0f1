"""What SubLoRA's paper says of its rule, and what is said of rules and bases here, as ratios with bounds."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from lissome.adapt.basis import BASES
from lissome.recipes.paper import Claim, Ratio, Row, Spread, of, spread
from lissome.recipes.sublora_names import ADALORA, ANEW, CONVERGED, EARLY, FASTER, FINAL, HALF, LONGER, LORA, TURNED

Take = Callable[[Row], float]


def claims(rows: Sequence[Row]) -> list[Claim]:
    """Return what the paper says of its rule, and what is said of rules and bases here."""
    rows = [row for row in rows if not row["quick"]]
    loras = [row for row in rows if row.get("form") == LORA]
    rows = [row for row in rows if row.get("form") != LORA]
    late, early = (of(rows, "pinn cut", label=state, basis="trained") for state in (CONVERGED, EARLY))
    sublora, first, ada, reverse = (_rule(name) for name in ("sublora", "first_order", "adalora", "reverse"))
    after, worst = "loss after the cut", "the worst run"
    at, trained = "at a converged point, in the terms as trained", {"state": CONVERGED, "basis": "trained"}
    return [
        Claim(f"{at}, SubLoRA beats the first-order score abs(b) in every run", "paper",
              f"{after}, sublora / first_order, {worst}", _worst(_ratios(late, sublora, first)), most=0.99),
        Claim(f"{at}, SubLoRA beats abs(b)", "paper", f"{after}, sublora / first_order",
              spread(_ratios(late, sublora, first)), most=0.9),
        Claim(f"{at}, SubLoRA wins or ties against AdaLoRA's smoothed score", "paper",
              f"{after}, sublora / adalora", spread(_ratios(late, sublora, ada)), most=1.0),
        Claim("away from convergence AdaLoRA's score comes close", "here", f"{after}, adalora / sublora",
              spread(_ratios(early, ada, sublora)), most=1.25),
        Claim("away from convergence abs(b) does not", "here", f"{after}, first_order / sublora",
              spread(_ratios(early, first, sublora)), least=1.5),
        *_beside_the_best(late, "as trained"),
        *_beside_the_best(of(rows, "pinn cut", label=CONVERGED, basis="kronecker"), "in the Kronecker-factored basis"),
        *_beside_the_best(of(loras, "pinn cut", label=CONVERGED, basis="trained"), "in a LoRA's terms as trained"),
        *[Claim(f"the {basis} basis is at least 20 times below the terms as trained", "here",
                f"{after} by reverse, {basis} / as trained",
                spread(_between(rows, basis, reverse, **trained)), most=0.05) for basis in BASES[1:]],
        Claim("the lead of the basis lasts while the cut model is trained on", "here",
              "loss after 60 L-BFGS iterations more, reverse, kronecker / as trained",
              spread(_between(rows, "kronecker", lambda row: row["retuned"]["reverse"], **trained)), most=0.5),
        Claim("moving the kept gates more than makes up for a bad cut, at no cost", "here",
              f"{after} by reverse, compensated / plain, as trained",
              spread(_ratios(late, lambda row: row["compensated"]["reverse"], reverse)), most=0.6),
        *_while_training(rows),
        *_language(rows),
    ]  # fmt: skip


def _beside_the_best(rows: Sequence[Row], where: str) -> list[Claim]:
    """Hold rules to the best of all sets."""
    best, what = (lambda row: row["best"]), "loss after the cut over the best set's"
    found = {rule: _ratios(rows, _rule(rule), best) for rule in ("sublora", "reverse", "measured")}
    return [
        Claim(f"SubLoRA stays within 1.4 of the best set, {where}", "here", f"{what}, sublora",
              spread(found["sublora"]), most=1.4),
        Claim(f"SubLoRA is never worse than twice the best set, {where}", "here", f"{what}, sublora, the worst run",
              _worst(found["sublora"]), most=2.0),
        Claim(f"the reverse rule stays within 1.15 of the best set, {where}", "here", f"{what}, reverse",
              spread(found["reverse"]), most=1.15),
        Claim(f"the reverse rule on the measured loss stays within 1.06, {where}", "here", f"{what}, measured",
              spread(found["measured"]), most=1.06),
    ]  # fmt: skip


def _while_training(rows: Sequence[Row]) -> list[Claim]:
    """Compare ways at equal budget and steps on the PINNs."""
    mine = of(rows, "pinn joint")

    def compare(one: str, other: str) -> Spread | None:
        return spread(_pairs(mine, one, other, lambda row: row["figures"]["fresh"]))

    what = "PINN, loss on fresh points,"
    return [
        Claim("chosen during training, SubLoRA's rule ends no higher than AdaLoRA's", "paper",
              f"{what} sublora / adalora", compare("sublora", "adalora"), most=1.0),
        Claim("chosen during training, the reverse rule ends no higher than AdaLoRA's", "here",
              f"{what} reverse / adalora", compare("reverse", "adalora"), most=1.0),
        Claim("terms that may come back end no higher than cuts that are final", "here",
              f"{what} reverse / reverse with final cuts", compare("reverse", "reverse, cuts final"), most=1.0),
        Claim("ranks chosen during training beat half the rank from the start", "here",
              f"{what} reverse / half the rank", compare("reverse", HALF), most=0.99),
        *[claim for rule in ("reverse", "adalora") for claim in (
            Claim(f"terms turned before each choice end lower than those as trained, by {rule}", "here",
                  f"{what} {rule} with final cuts, turned / as trained",
                  compare(f"{rule}{TURNED}", f"{rule}{FINAL}"), most=0.99),
            Claim(f"so chosen, ranks beat half the rank from the start, by {rule}", "here",
                  f"{what} {rule} with final cuts, turned / half the rank",
                  compare(f"{rule}{TURNED}", HALF), most=0.99),
            Claim(f"and half the rank whose optimizer begins anew as often, by {rule}", "here",
                  f"{what} {rule} with final cuts, turned / half the rank, the optimizer anew",
                  compare(f"{rule}{TURNED}", ANEW), most=0.99),
        )],
    ]  # fmt: skip


def _language(rows: Sequence[Row]) -> list[Claim]:
    """Compare cuts and ways on the language model."""
    whole = {row["seed"]: row["adapted"] for row in of(rows, "language start")}
    cut = [row for row in of(rows, "language cut") if row["seed"] in whole]

    def lost(rule: str, key: str = "rules") -> Take:
        return lambda row: math.log(row[key][rule] / whole[row["seed"]])

    trained, turned = ([row for row in cut if row["basis"] == basis] for basis in ("trained", "kronecker"))
    ways = of(rows, "language joint")
    twins = {row["seed"]: row for row in ways if row["label"] == LONGER}
    retuned = [
        Ratio(row["seed"], row["retuned"]["reverse"] / twins[row["seed"]]["perplexity"])
        for row in turned
        if row["seed"] in twins
    ]

    def compare(one: str, *others: str) -> Spread | None:
        return spread(_pairs(_least(ways, others), one, others[0], lambda row: row["perplexity"]))

    cost, what = "language model, nats per byte lost by the cut,", "language model, perplexity,"
    return [
        Claim("the Kronecker-factored basis lowers what a cut of the language model costs", "here",
              f"{cost} reverse, kronecker / as trained",
              spread(_between(cut, "kronecker", lost("reverse"), part="language cut", basis="trained")), most=0.9),
        Claim("SubLoRA beats abs(b) on the language model, in the terms as trained", "paper",
              f"{cost} sublora / first_order",
              spread(_ratios(trained, lost("sublora"), lost("first_order"))), most=0.9),
        Claim("SubLoRA wins or ties against AdaLoRA's score on the language model, as trained", "paper",
              f"{cost} sublora / adalora", spread(_ratios(trained, lost("sublora"), lost("adalora"))), most=1.0),
        Claim("the reverse rule wins or ties against AdaLoRA's score in the Kronecker-factored basis", "here",
              f"{cost} reverse / adalora", spread(_ratios(turned, lost("reverse"), lost("adalora"))), most=1.0),
        Claim("SubLoRA's rule costs the language model less than the reverse rule, in the Kronecker-factored basis",
              "here", f"{cost} sublora / reverse", spread(_ratios(turned, lost("sublora"), lost("reverse"))), most=0.9),
        Claim("moving the kept gates lowers what a cut of the language model costs", "here",
              f"{cost} reverse, compensated / plain, as trained",
              spread(_ratios(trained, lost("reverse", "compensated"), lost("reverse"))), most=0.99),
        Claim("cut to half and retuned is no worse than half the rank trained as long", "here",
              f"{what} reverse in the Kronecker-factored basis, retuned / half the rank", spread(retuned), most=1.0),
        *[Claim(f"on the language model, chosen during training, {said} ends no higher than AdaLoRA's", source,
                f"{what} {rule} / adalora, cuts final", compare(f"{rule}{FINAL}", f"adalora{FINAL}"), most=1.0)
          for rule, said, source in (("reverse", "the reverse rule", "here"), ("sublora", "SubLoRA's rule", "paper"))],
        Claim("on the language model terms that may come back end no higher than cuts that are final", "here",
              f"{what} reverse / reverse with final cuts", compare("reverse", f"reverse{FINAL}"), most=1.0),
        Claim("on the language model, chosen during training, the reverse rule ends no higher than peft's AdaLoRA",
              "here", f"{what} reverse, cuts final / the better of two rates of peft's AdaLoRA",
              compare(f"reverse{FINAL}", ADALORA, FASTER), most=1.0),
        Claim("on the language model ranks chosen during training beat half the rank from the start", "here",
              f"{what} reverse, cuts final / half the rank", compare(f"reverse{FINAL}", HALF), most=0.99),
        *[Claim(f"on the language model, terms turned before each choice end lower than those as trained, by {rule}",
                "here", f"{what} {rule} with final cuts, turned / as trained",
                compare(f"{rule}{TURNED}", f"{rule}{FINAL}"), most=0.99) for rule in ("reverse", "adalora")],
        *[Claim(f"on the language model, AdaLoRA's rule with final cuts beats {said}", "here",
                f"{what} adalora with final cuts / {said}", compare(f"adalora{FINAL}", *ways), most=0.99)
          for said, ways in (("half the rank from the start", [HALF]), (ANEW, [ANEW]),
                             ("peft's AdaLoRA, the better of two rates", [ADALORA, FASTER]))],
    ]  # fmt: skip


def _rule(name: str) -> Take:
    return lambda row: row["rules"][name]


def _ratios(rows: Sequence[Row], one: Take, other: Take) -> list[Ratio]:
    """Return ratios within rows; one of what is not above 0 is left out."""
    return [_ratio(row["seed"], one(row), other(row)) for row in rows]


def _ratio(seed: int, one: float, other: float) -> Ratio:
    return Ratio(seed, one / other if one > 0 and other > 0 else None)


def _between(
    rows: Sequence[Row], one: str, take: Take, *, basis: str, state: str = "cut", part: str = "pinn cut"
) -> list[Ratio]:
    """Compare a basis with another one, run by run."""
    here = {_place(row): row for row in of(rows, part, label=state, basis=basis)}
    found = of(rows, part, label=state, basis=one)
    return [_ratio(row["seed"], take(row), take(here[_place(row)])) for row in found if _place(row) in here]


def _pairs(rows: Sequence[Row], one: str, other: str, take: Take) -> list[Ratio]:
    """Compare a way with another one, run by run."""
    there = {_place(row): row for row in rows if row["label"] == other}
    here = [row for row in rows if row["label"] == one and _place(row) in there]
    return [_ratio(row["seed"], take(row), take(there[_place(row)])) for row in here]


def _least(rows: Sequence[Row], labels: Sequence[str]) -> list[Row]:
    """Put in place of the first way the better one of several, seed by seed, where all were run."""
    rest, found = [row for row in rows if row["label"] not in labels], list[Row]()
    for seed in dict.fromkeys(row["seed"] for row in rows):
        mine = [row for row in rows if row["seed"] == seed and row["label"] in labels]
        if len(mine) == len(labels):
            found.append(min(mine, key=lambda row: row["perplexity"]) | {"label": labels[0]})
    return rest + found


def _place(row: Row) -> tuple[object, int]:
    return row.get("family"), row["seed"]


def _worst(ratios: Sequence[Ratio]) -> Spread | None:
    known = [ratio for ratio in ratios if ratio.value is not None]
    return spread([max(known, key=lambda ratio: ratio.value or 0.0)] if known else [])
