"""What LoTRA claims, what stands against it, and the ratios that decide."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lissome.recipes.lotra_names import FULL, FUNCTION, MODES, PDE, RATES, WIDTHS
from lissome.recipes.lotra_report import SHOWN, best
from lissome.recipes.paper import Claim, Ratio, Row, Spread, of, spread

LOW = "LoTRA 4"


def claims(rows: Sequence[Row]) -> list[Claim]:
    """Return the claims of the change's shape, of transfer, and of rates by component."""
    rows = [row for row in rows if not row["quick"] and not row["failed"]]
    return [*_shape(rows), *_transfer(rows), *_rates(rows)]


def _shape(rows: Sequence[Row]) -> list[Claim]:
    found = []
    for part, what in ((FUNCTION, "functions"), (PDE, "equations")):
        here = of(rows, part=part, points=1000 if part == FUNCTION else 0)
        found += [
            Claim(f"the change of all weights is nearer to low rank than random numbers: {what}", "motivation",
                  f"energy outside rank {SHOWN}, change / random tensor, three modes", _energy(here), most=0.7),
            Claim(f"training at rank 4 works where cutting the full change to rank 4 does not: {what}", "here",
                  "error, trained / cut", _cut(here), most=0.3),
        ]  # fmt: skip
    return found


def _transfer(rows: Sequence[Row]) -> list[Claim]:
    many, few, some = (of(rows, part=FUNCTION, points=points) for points in (1000, 30, 100))
    equations = of(rows, part=PDE)
    said = "error, LoTRA 4 / "
    return [
        Claim("LoTRA of rank 4 trains less than a tenth of the numbers", "abstract", "numbers, LoTRA 4 / all",
              spread([Ratio(row["seed"], row["trained"] / row["total"]) for row in of(rows, label=LOW)]), most=0.1),
        Claim("LoTRA of rank 4 comes near to training all numbers: functions, 1,000 points", "abstract",
              f"{said}full", _ratio(many, LOW, FULL), most=1.7),
        Claim("with 30 points LoTRA of rank 4 beats training all numbers", "here", f"{said}full",
              _ratio(few, LOW, FULL), most=0.9),
        Claim("with 100 points LoTRA of rank 4 is as good as training all numbers", "here", f"{said}full",
              _ratio(some, LOW, FULL), most=1.1),
        Claim("LoTRA of rank 4 comes near to training all numbers: equations", "abstract",
              f"{said}full", _ratio(equations, LOW, FULL), most=1.7),
        Claim("LoTRA of rank 8 comes near to training all numbers: equations", "abstract",
              "error, LoTRA 8 / full", _ratio(equations, "LoTRA 8", FULL), most=1.7),
        Claim("LoTRA of rank 4 beats a network drawn anew in as many steps: functions, 1,000 points", "abstract",
              f"{said}scratch", _ratio(many, LOW, "scratch"), most=0.9),
        Claim("LoTRA of rank 4 beats a network drawn anew in as many steps: equations", "abstract",
              f"{said}scratch", _ratio(equations, LOW, "scratch"), most=0.9),
        Claim("LoTRA of rank 4 beats training the last layer alone", "here",
              f"{said}last layer", _ratio([*many, *equations], LOW, "last layer"), most=0.5),
        Claim("a step of LoTRA takes no longer than one of all numbers", "here",
              "seconds for as many steps, LoTRA 4 / full",
              _ratio([*many, *equations], LOW, FULL, what="cpu"), most=1.1),
    ]  # fmt: skip


def _rates(rows: Sequence[Row]) -> list[Claim]:
    here = of(rows, part=RATES)
    found = []
    for policy, said in (("closed", "the closed rule"), ("measured", "measured rates")):
        found += [
            Claim(f"equal rates of the components are inefficient beside {said}", "theory",
                  f"error at the best base rate, {policy} / equal", _swept(here, policy), most=0.95),
            Claim(f"the best base rate of {said} moves less with the width than that of equal rates", "here",
                  f"greatest / least best rate over widths {', '.join(map(str, WIDTHS))}, {policy} / equal",
                  _moved(here, policy), most=0.8),
        ]  # fmt: skip
    return found


def _twin(rows: Sequence[Row], row: Row, label: str) -> list[Row]:
    same = {key: row[key] for key in ("part", "task", "seed", "width", "points")}
    return of(rows, **same, label=label)


def _ratio(rows: Sequence[Row], one: str, other: str, what: str = "error") -> Spread | None:
    """Compare two ways of the same transfer."""
    pairs: list[tuple[Row, Row]] = [(a, b) for a in of(rows, label=one) for b in _twin(rows, a, other)]
    return spread([Ratio(a["seed"], a[what] / b[what]) for a, b in pairs if a[what] and b[what]])


def _energy(rows: Sequence[Row]) -> Spread | None:
    full = [row for row in of(rows, label=FULL) if "spectra" in row]
    pairs = [(row["seed"], *(row["spectra"][kind][mode][SHOWN] for kind in ("change", "random")))
             for row in full for mode in MODES]  # fmt: skip
    return spread([Ratio(seed, change / random) for seed, change, random in pairs if change > 0 and random > 0])


def _cut(rows: Sequence[Row]) -> Spread | None:
    full = [row for row in of(rows, label=FULL) if "cut" in row]
    pairs = [(row, twin) for row in full for twin in _twin(rows, row, LOW)]
    return spread([Ratio(row["seed"], twin["error"] / row["cut"][LOW]) for row, twin in pairs if row["cut"][LOW]])


def _swept(rows: Sequence[Row], policy: str) -> Spread | None:
    """Compare a policy with equal rates, each at its best base rate."""
    ratios = []
    for a in of(rows, label=policy):
        for b in _twin(rows, a, "equal"):
            mine, theirs = best(a), best(b)
            if mine and theirs:
                ratios.append(Ratio(a["seed"], mine[1] / theirs[1]))
    return spread(ratios)


def _moved(rows: Sequence[Row], policy: str) -> Spread | None:
    """Compare how far the best base rates of all widths lie apart."""
    ratios = []
    for seed in dict.fromkeys(row["seed"] for row in rows):
        mine, theirs = (_apart(of(rows, label=label, seed=seed)) for label in (policy, "equal"))
        if mine and theirs:
            ratios.append(Ratio(seed, mine / theirs))
    return spread(ratios)


def _apart(rows: Sequence[Row]) -> float | None:
    found: list[Any] = [best(row) for row in rows]
    if len({row["width"] for row in rows}) < len(WIDTHS) or not all(found):
        return None
    rates = [rate for rate, _ in found]
    return max(rates) / min(rates)
