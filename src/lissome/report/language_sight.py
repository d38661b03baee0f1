"""What a language model sees of its keys, what that costs, and with which run it began, in words."""

from __future__ import annotations

from typing import Any

from lissome.report.document import details, pairs
from lissome.report.numerals import ABSENT, count, share
from lissome.report.read import Row, finite

SIGHT, FULL = "sight", "of full causal attention"


def seen(row: Row) -> list[tuple[str, str, str]]:
    """Return two tiles, name, value and remark, of a model that does not see all keys before a token; else none.

    >>> seen({"sight": {"seen": 0.25, "computed": 0.5, "layers": []}})[0]
    ('keys in sight', '25%', 'of full causal attention')
    """
    told = _sight(row)
    if told is None or told["seen"] == 1:
        return []
    ways = ", ".join(dict.fromkeys(str(layer["way"]) for layer in told["layers"] if layer["way"]))
    computed = finite(told, "computed")
    work, how = (ABSENT, "is not known") if computed is None else (share(computed, 1), f"{FULL}, by {ways}")
    return [("keys in sight", share(told["seen"], 1), FULL), ("work of attention", work, how)]


def layers(row: Row) -> str:
    """Return what each layer sees as a table, where it is not all."""
    told = _sight(row)
    if told is None or told["seen"] == 1:
        return ""
    rows = {f"layer {number}": _said(layer) for number, layer in enumerate(told["layers"], 1)}
    title = f"Keys in sight and pairs computed, in windows of {count(told['length'])} held-out tokens"
    return details(title, pairs(rows), paper=True)


def begun(row: Row) -> str:
    """Say with which run a run began, or nothing.

    >>> begun({"start": {"run": "runs/full", "steps": 500, "loss": 2.5}})
    " It began with the weights of 'runs/full' (500 steps), at 2.50 nats a held-out token."
    """
    told = row.get("start")
    if not told:
        return ""
    steps, loss = finite(told, "steps"), finite(told, "loss")
    of = "" if steps is None else f" ({count(steps)} steps)"
    at = "" if loss is None else f", at {loss:.2f} nats a held-out token"
    return f" It began with the weights of '{told['run']}'{of}{at}."


def _sight(row: Row) -> dict[str, Any] | None:
    told = row.get(SIGHT)
    return told if isinstance(told, dict) and told.get("layers") is not None else None


def _said(layer: dict[str, Any]) -> str:
    by = f", by {layer['way']}" if layer["way"] else ""
    work = f", {share(layer['computed'], 1)} of the pairs computed{by}" if layer["computed"] is not None else by
    return f"{share(layer['seen'], 1)} of the keys{work}: {layer['stages']}"
