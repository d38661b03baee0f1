"""What the paper says of two-layer KANs under descent, and what was found here beside it, as claims on rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lissome.recipes.kan_convergence_report import HALF, WHOLE, exponent, values
from lissome.recipes.paper import Claim, Ratio, Row, Spread, of, spread

LEAST = 1e-17  # in place of what rounding has made 0 or negative: a geometric mean is taken
SLOPED = ("regression, d = 1", "regression, d = 5", "Poisson, d = 1, rbf")
WIDE, ROOMY = 1024, 256
FIT, RBF, CUBIC, PLANE = "regression, d = 1", "Poisson, d = 1, rbf", "Poisson, d = 1, cubic", "Poisson, d = 2, cubic"


def claims(rows: Sequence[Row]) -> list[Claim]:
    """Return the theorem's claims, and those made here; quick rows count for none."""
    rows = [row for row in rows if not row["quick"]]
    worst = f"largest gap between predicted and measured residual, over that at the start, the worst of m >= {WIDE:,}"
    gap = "how far loss measured / predicted is from 1"
    relative = "relative L2 error"
    return [
        Claim("the bound (1 - eta lambda_min / 2)^t holds for every width", "theorem on descent",
              "share of runs below it at every step", _share(of(rows, "widths"), _held), least=1.0),
        *(Claim(f"the wider the network the less K moves, as m^-1/2 or less, {system}", "theorem on descent",
                "exponent a of drift ~ m^-a", _by_seed(of(rows, "widths", system=system), exponent), least=0.45)
          for system in SLOPED),
        *(Claim(f"eigenvectors of K predict descent, {system}", "here", worst, _worst(rows, system), most=0.01)
          for system in ("regression, d = 1", "regression, d = 5")),
        *(Claim(f"with a smooth basis the loss of a physics-informed network is predicted, {says}", "here",
                f"{gap}, the worst, Poisson d = 1, rbf", _farthest(rows, RBF, least), most=0.03)
          for says, least in (("at every m", 0), (f"from m = {ROOMY}", ROOMY))),
        Claim("with cubic splines, whose third derivative jumps, it is not, in one dimension", "here",
              f"{gap}, mean over m, Poisson d = 1, cubic", _each(of(rows, "widths", system=CUBIC), _gap), least=0.5),
        Claim(f"in two dimensions it is, with cubic splines too, from m = {ROOMY}", "here",
              f"{gap}, the worst, Poisson d = 2, cubic", _farthest(rows, PLANE, ROOMY), most=0.03),
        Claim("physics-informed losses have a larger lambda_max than regression", "here",
              "lambda_max, Poisson / regression, cubic, d = 1", _across(rows, "largest"), least=10.0),
        Claim("physics-informed losses have a larger lambda_min, too", "here",
              "lambda_min, Poisson / regression, cubic, d = 1", _across(rows, "smallest"), least=10.0),
        Claim("SGD at 0.9 eta* goes down to rounding", "theorem on SGD, the step from here",
              f"share of runs that reach {WHOLE:g} of the start",
              _share(of(rows, "stochastic", factor="0.9 eta*"), lambda row: row["reached"][str(WHOLE)] is not None),
              least=1.0),
        Claim("and does so linearly", "theorem on SGD",
              f"steps from {HALF:g} to {WHOLE:g} / steps to {HALF:g}",
              _each(of(rows, "stochastic", factor="0.9 eta*"), _straight), least=0.5, most=2.0),
        Claim("SGD at 2 eta* is far slower or diverges", "here",
              f"steps to {HALF:g}, 2 eta* / 0.9 eta*", _slower(rows), least=2.0),
        Claim("SGD at 4 eta* diverges", "here", "share of runs that end above their start",
              _share(of(rows, "stochastic", factor="4 eta*"), lambda row: row["end"] > 1), least=1.0),
        Claim("the crude rule, 2 / lambda_max times b / n, is 1.3 to 10 times too small", "here", "eta* / crude",
              _each(of(rows, "stochastic", factor="0.9 eta*"), lambda row: row["limit"] / row["crude"]), 1.3, 10.0),
        *(Claim(says, "here", f"lambda_min / lambda_max, {basis}, d = {d}, n = {n}",
                _each(of(rows, "spectra", basis=basis, dimension=d, count=n), _last), low, high)
          for says, basis, d, n, low, high in SPECTRA),
        *(Claim(f"with boundary rows weighed by the balance of means Poisson's equation is solved, {system} by {by}",
                "here", relative, _each(of(rows, "weights", system=system, by=by, weight="means"), _error), most=5e-3)
          for system, by in (("cubic, d = 1", "Adam"), ("rbf, d = 1", "Adam"), ("cubic, d = 1", "descent"))),
        Claim("unweighed it is far from solved, in one dimension", "here", relative,
              _each([row for row in of(rows, "weights", weight="1") if "d = 1" in row["system"]], _error), least=0.5),
        Claim("the balance of means beats that of traces", "here", f"{relative}, means / traces",
              _means(rows), most=0.99),
    ]  # fmt: skip


SPECTRA = (
    ("in one dimension lambda_min is tiny at 50 points", "bspline", 1, 50, 1e-6, 1e-3),
    ("and at rounding, or near it, at 200", "bspline", 1, 200, 0.0, 1e-7),
    ("in five dimensions K is well conditioned", "bspline", 5, 50, 0.02, 1.0),
    ("analytic functions reach rounding in one dimension at 200 points", "rbf", 1, 200, 0.0, 1e-14),
)


def _each(rows: Sequence[Row], value: Callable[[Row], float | None]) -> Spread | None:
    """Return the mean of a value of rows; None of a row is left out."""
    found = [(row["seed"], value(row)) for row in rows]
    return spread([Ratio(seed, None if each is None else max(each, LEAST)) for seed, each in found])


def _by_seed(rows: Sequence[Row], value: Callable[[Sequence[Row]], float | None]) -> Spread | None:
    """Return the mean of what a seed's rows give together."""
    found = [(seed, value([row for row in rows if row["seed"] == seed])) for seed in values(rows, "seed")]
    return spread([Ratio(seed, None if each is None else max(each, LEAST)) for seed, each in found])


def _share(rows: Sequence[Row], holds: Callable[[Row], bool]) -> Spread | None:
    return _by_seed(rows, lambda own: sum(map(holds, own)) / len(own))


def _held(row: Row) -> bool:
    return row["over"] <= 1 + 1e-9


def _worst(rows: Sequence[Row], system: str) -> Spread | None:
    wide = [row for row in of(rows, "widths", system=system) if row["width"] >= WIDE]
    return _by_seed(wide, lambda own: max(row["error"] for row in own))


def _farthest(rows: Sequence[Row], system: str, least: int) -> Spread | None:
    """Return the greatest gap over the widths of a seed, from one on."""
    wide = [row for row in of(rows, "widths", system=system) if row["width"] >= least]
    return _by_seed(wide, lambda own: max(map(_gap, own)))


def _gap(row: Row) -> float:
    return abs(row["loss"] - 1)


def _last(row: Row) -> float:
    return row["eigenvalues"][-1]


def _error(row: Row) -> float:
    return row["error"]


def _across(rows: Sequence[Row], key: str) -> Spread | None:
    plain = {(row["seed"], row["width"]): row[key] for row in of(rows, "widths", system=FIT)}
    pairs = [
        (row["seed"], row[key], plain.get((row["seed"], row["width"]))) for row in of(rows, "widths", system=CUBIC)
    ]
    known = [(seed, mine / theirs if mine > 0 and theirs > 0 else None) for seed, mine, theirs in pairs if theirs]
    return spread([Ratio(seed, ratio) for seed, ratio in known])  # those at rounding are counted as left out


def _straight(row: Row) -> float | None:
    half, whole = (row["reached"][str(mark)] for mark in (HALF, WHOLE))
    return (whole - half) / half if half and whole else None


def _slower(rows: Sequence[Row]) -> Spread | None:
    """Compare steps of the same seed and batch; what does not get there counts with the most there may be."""
    slow = {(row["seed"], row["batch"]): row for row in of(rows, "stochastic", factor="2 eta*")}
    ratios = []
    for row in of(rows, "stochastic", factor="0.9 eta*"):
        twin, mine = slow.get((row["seed"], row["batch"])), row["reached"][str(HALF)]
        if twin is not None and mine:
            theirs = twin["reached"][str(HALF)]
            ratios.append(Ratio(row["seed"], (theirs or twin["cap"]) / mine, theirs is None))
    return spread(ratios)


def _means(rows: Sequence[Row]) -> Spread | None:
    key = ("seed", "system", "by")
    traces = {tuple(row[k] for k in key): row["error"] for row in of(rows, "weights", weight="traces")}
    pairs = [(row, traces.get(tuple(row[k] for k in key))) for row in of(rows, "weights", weight="means")]
    return spread([Ratio(row["seed"], row["error"] / theirs) for row, theirs in pairs if theirs])
