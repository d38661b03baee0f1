"""What rules and bases leave of an adapted model, as tables and figures."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence

from matplotlib.figure import Figure

from lissome.adapt import RULES
from lissome.recipes.paper import Drawn, Row, Sheet, of
from lissome.recipes.sublora_names import CONVERGED, LANGUAGE_WAYS, PAPERS, PINN_WAYS, SAID, STATES
from lissome.report.drawing import blank, legend, logarithmic, palette, plain
from lissome.report.numerals import ABSENT, quantity

Dots = Mapping[str, Mapping[str, Sequence[float]]]  # series -> category -> a value for each seed
BEYOND = 1e3  # times the best set's loss: what lies further off is drawn there


def tables(rows: Sequence[Row]) -> list[Sheet]:
    """Return rules beside the best set, bases, and the ways during training; then the same of the language model."""
    sheets = []
    for name, mine in _groups(rows):
        sheets += [_rules(mine, name, state) for state in STATES if of(mine, "pinn cut", label=state)]
        sheets += [_bases(mine, name)]
        sheets += [_ways(mine, name)] if of(mine, "pinn joint") else []
    return sheets + (_language(rows) if of(rows, "language start") else [])


def _groups(rows: Sequence[Row]) -> list[tuple[str, list[Row]]]:
    """Return the rows of each family and form, and how they are called; the paper's form goes without saying."""
    cut = dict.fromkeys((row["family"], row["form"]) for row in of(rows, "pinn cut"))
    return [
        (family if form == PAPERS else f"{family}, a LoRA",
         [row for row in rows if (row.get("family"), row.get("form")) == (family, form)])
        for family, form in cut
    ]  # fmt: skip


def _rules(rows: Sequence[Row], family: str, state: str) -> Sheet:
    """Return for each rule and basis the measured loss over that of the best set."""
    bases = [basis for basis in SAID if of(rows, "pinn cut", label=state, basis=basis)]
    lines = []
    for rule in RULES:
        here = [of(rows, "pinn cut", label=state, basis=basis) for basis in bases]
        lines.append([rule, *(_mean_and_worst([row["rules"][rule] / row["best"] for row in part]) for part in here)])
    note = "Geometric mean over the seeds, in brackets the worst."
    return Sheet(
        f"{family}, {state}: loss after the cut over that of the best set", ["rule", *_heads(bases)], lines, note
    )


def _bases(rows: Sequence[Row], family: str) -> Sheet:
    """Return for each basis the losses after the cut at the converged point."""
    asked: dict[str, Callable[[Row], float]] = {
        "best": lambda row: row["best"],
        "median of all": lambda row: row["median"],
        **{rule: lambda row, rule=rule: row["rules"][rule] for rule in ("reverse", "sublora", "first_order")},
        "reverse, compensated": lambda row: row["compensated"]["reverse"],
        "reverse, retuned": lambda row: row["retuned"]["reverse"],
        "adalora, retuned": lambda row: row["retuned"]["adalora"],
    }
    lines = []
    for basis, said in SAID.items():
        here = of(rows, "pinn cut", label=CONVERGED, basis=basis)
        if here:
            lines.append([said, *(_between([take(row) for row in here]) for take in asked.values())])
    whole = [row["loss"] for row in of(rows, "pinn cut", label=CONVERGED, basis="trained")]
    note = f"Geometric mean over the seeds, least and greatest in brackets. Before the cut: {_between(whole)}."
    return Sheet(f"{family}, converged: the loss after half of the terms were cut", ["basis", *asked], lines, note)


def _ways(rows: Sequence[Row], family: str) -> Sheet:
    heads = ["chosen by", "loss on fresh points", "error", "terms that came back"]
    lines = []
    for way in PINN_WAYS:
        here = of(rows, "pinn joint", label=way)
        if here:
            figures = [_between([row["figures"][key] for row in here]) for key in ("fresh", "error")]
            lines.append([way, *figures, f"{statistics.mean(row['came back'] for row in here):.1f}"])
    return Sheet(f"{family}: half of the terms chosen during training, equal steps", heads, lines)


def _language(rows: Sequence[Row]) -> list[Sheet]:
    bases = [basis for basis in SAID if of(rows, "language cut", basis=basis)]
    here = {basis: of(rows, "language cut", basis=basis) for basis in bases}
    lines = []
    for key, said in (("rules", ""), ("compensated", ", compensated"), ("retuned", ", retuned")):
        for rule in next(iter(here.values()))[0][key] if here else ():
            lines.append([rule + said, *(_plain([row[key][rule] for row in part]) for part in here.values())])
    before, after = (_plain([row[key] for row in of(rows, "language start")]) for key in ("untouched", "adapted"))
    said = f"Mean over the seeds, least and greatest in brackets. Before adapting {before}, before the cut {after}."
    cut = Sheet("Language model: held-out perplexity per byte after half of the terms were cut",
                ["rule", *_heads(bases)], lines, said)  # fmt: skip
    ways = []
    for way in LANGUAGE_WAYS:
        found = of(rows, "language joint", label=way)
        if found:
            back = f"{statistics.mean(row['came back'] for row in found):.0f}"
            ways.append([way, _plain([row["perplexity"] for row in found]), back])
    heads = ["chosen by", "perplexity", "terms that came back"]
    return [cut, Sheet("Language model: half of the terms by the end of training, equal steps", heads, ways)]


def _heads(bases: Sequence[str]) -> list[str]:
    return [SAID[basis] for basis in bases]


def _mean_and_worst(values: Sequence[float]) -> str:
    if not values:
        return ABSENT
    mean = (
        quantity(statistics.geometric_mean(values)) if max(values) > 10 else f"{statistics.geometric_mean(values):.2f}"
    )
    return f"{mean} ({quantity(max(values)) if max(values) > 10 else f'{max(values):.2f}'})"


def _between(values: Sequence[float]) -> str:
    if not values:
        return ABSENT
    mean = quantity(statistics.geometric_mean(values))
    return mean + (f" ({quantity(min(values))} to {quantity(max(values))})" if len(values) > 1 else "")


def _plain(values: Sequence[float]) -> str:
    if not values:
        return ABSENT
    return f"{statistics.mean(values):.3f}" + (f" ({min(values):.3f} to {max(values):.3f})" if len(values) > 1 else "")


def drawings(rows: Sequence[Row]) -> list[Drawn]:
    """Return rules beside the best set, losses by basis, and the language model's perplexity by rule and basis."""
    drawn = []
    for family, mine in _groups(rows):
        by_rule = {
            f"{state}, {SAID[basis]}": {
                rule: [
                    min(row["rules"][rule] / row["best"], BEYOND)
                    for row in of(mine, "pinn cut", label=state, basis=basis)
                ]
                for rule in RULES
            }
            for state, basis in ((CONVERGED, "trained"), ("unconverged", "trained"), (CONVERGED, "kronecker"))
        }
        caption = f"{family}: loss after the cut over that of the best of all sets, a dot for each seed"
        file = family.replace(", a ", "-").lower()
        drawn.append(Drawn(f"{file}-rules", dots(by_rule, "loss over the best set's"), caption))
        by_basis = {
            name: {said: take(of(mine, "pinn cut", label=CONVERGED, basis=basis)) for basis, said in SAID.items()}
            for name, take in (
                ("best set", lambda here: [row["best"] for row in here]),
                ("reverse", lambda here: [row["rules"]["reverse"] for row in here]),
                ("reverse, retuned", lambda here: [row["retuned"]["reverse"] for row in here]),
            )
        }
        caption = f"{family}, converged: the loss after half of the terms were cut, by basis"
        drawn.append(Drawn(f"{file}-bases", dots(by_basis, "loss after the cut"), caption))
    cut = of(rows, "language cut")
    if cut:
        rules = list(cut[0]["rules"])
        by_rule = {
            said: {rule: [row["rules"][rule] for row in of(cut, "language cut", basis=basis)] for rule in rules}
            for basis, said in SAID.items()
        }
        caption = "Language model: held-out perplexity after half of the terms were cut, a dot for each seed"
        drawn.append(Drawn("language-rules", dots(by_rule, "perplexity per byte"), caption))
    return drawn


def dots(series: Dots, what: str) -> Figure | None:
    """Draw values by category, a colour and a marker for each series; None where there is nothing."""
    categories = list(dict.fromkeys(name for group in series.values() for name, values in group.items() if values))
    if not categories:
        return None
    figure, axes = blank(4.6, 1.2 + 0.28 * len(categories))
    styles = palette((name, name) for name in series)
    for place, (name, group) in enumerate(series.items()):
        shift = 0.18 * (place - (len(series) - 1) / 2)
        pairs = [(value, categories.index(category) + shift) for category, values in group.items() for value in values]
        known = [(value, y) for value, y in pairs if math.isfinite(value)]
        if known:
            x, y = zip(*known, strict=True)
            style = styles[name]
            axes.plot(x, y, style.marker, color=style.colour, markersize=4, alpha=0.8, label=plain(name))
    logarithmic(axes, "x")
    axes.set_yticks(range(len(categories)), categories)
    axes.invert_yaxis()
    axes.set(xlabel=what)
    legend(figure, axes)
    return figure
