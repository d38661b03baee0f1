"""Stages by name: `kerple`, `dape(3, form=plain)`, `causal & window(256)`. Text is parsed and never run."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from lissome._checks import refuse
from lissome._errors import UsageError, unknown
from lissome.attention import validity
from lissome.attention.segments import separators, sinks
from lissome.attention.validity import Validity

Value = int | float | str | bool
RULES: Mapping[str, Callable[..., Validity] | Validity] = {
    "causal": validity.causal,
    "everything": validity.everything,
    "every_kth": validity.every_kth,
    "separators": lambda *ids: separators(ids),
    "sinks": sinks,
    "window": validity.window,
}
POLICIES: Mapping[str, Callable[[int], tuple[int, ...]]] = {  # which of so many layers see all of the past
    "h": lambda layers: (0,),
    "ht": lambda layers: (0, layers - 1),
    "hmt": lambda layers: (0, layers // 2, layers - 1),
}
IDS = re.compile(r"separators\(([\d, ]+)\)")


def call(text: str, stage: str, legal: Iterable[str]) -> tuple[str, list[Value], dict[str, Value]]:
    """Split `name(value, key=value)` into its parts; values are numbers, words, True and False.

    Args:
        text: what is read.
        stage: what is being chosen, for the error.
        legal: the names that the error lists; whether the name is one of them is not looked at.

    Raises:
        UsageError: other text.

    >>> call("dape(3, form=plain)", "refine", ("none", "dape"))
    ('dape', [3], {'form': 'plain'})
    """
    return _call(_parsed(text, stage, legal), text, stage, legal)


def made(text: str, stage: str, legal: Mapping[str, Callable[..., Any]]) -> Any:
    """Return what the function of that name makes of its arguments.

    Args:
        text: as `call` reads it.
        stage: what is being chosen, for the error.
        legal: functions by name.

    Raises:
        UsageError: an unknown name (the nearest legal one is named), or arguments that the function does not take.
    """
    name, values, named = call(text, stage, legal)
    if name not in legal:
        raise unknown(stage, name, legal)
    taken = inspect.signature(legal[name])
    try:
        taken.bind(*values, **named)
    except TypeError as error:
        words = ", ".join(f"{one.name}={one.default}" for one in taken.parameters.values()) or "no values"
        raise UsageError(f"the {stage} '{text}' is given wrongly; {name} takes {words}") from error
    return legal[name](*values, **named)


def rule(text: str) -> Validity:
    """Return a rule of validity: names joined by & and |, & first, with brackets.

    Raises:
        UsageError: an unknown rule, or text that is no rule.

    >>> rule("causal & (window(8) | every_kth(4))").name
    'causal & (window(8) | every_kth(4))'
    """
    return _rule(_parsed(text, "validity", RULES), text)


def by_layer(text: str, layers: int) -> list[Validity]:
    """Return the rule of each layer: of one rule, of as many as layers with commas between, or of a policy.

    h(rule) lets the first layer see all of the past, ht(rule) the first and the last, hmt(rule) the middle one too;
    the others have the rule (arXiv 2412.12094, the variants H, HT and HMT).

    Raises:
        UsageError: as `rule` does, or rules for another number of layers.

    >>> [one.name for one in by_layer("ht(causal & window(8))", 4)]
    ['causal', 'causal & window(8)', 'causal & window(8)', 'causal']
    """
    node = _parsed(text, "validity", RULES)
    if isinstance(node, ast.Tuple):
        if len(node.elts) != layers:
            raise UsageError(
                f"the validity '{text}' names {len(node.elts)} rules for {layers} layers; legal is one each"
            )
        return [_rule(one, text) for one in node.elts]
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in POLICIES:
        name = node.func.id
        if len(node.args) != 1 or node.keywords:
            raise UsageError(
                f"the validity '{name}' takes one rule, such as {name}(causal & window(64)), and came as '{text}'"
            )
        full, limited = POLICIES[name](layers), _rule(node.args[0], text)
        return [validity.causal if layer in full else limited for layer in range(layers)]
    return [_rule(node, text)] * layers


def brief(stages: str) -> str:
    """Return stages in words with the number of ids in place of the ids.

    >>> brief("causal & (separators(9, 10, 46) | window(8)); rotary; softmax")
    'causal & (separators(3 ids) | window(8)); rotary; softmax'
    """
    return IDS.sub(lambda found: f"separators({len(found[1].split(','))} ids)", stages)


def _rule(node: ast.expr, text: str) -> Validity:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitAnd):
        return _rule(node.left, text) & _rule(node.right, text)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return _rule(node.left, text) | _rule(node.right, text)
    name, values, named = _call(node, text, "validity", RULES)
    if name not in RULES:
        raise unknown("validity", name, RULES)
    found = RULES[name]
    if isinstance(found, Validity):
        if isinstance(node, ast.Call):
            raise UsageError(f"the validity '{name}' takes no values, and '{text}' gives some")
        return found
    several = name == "separators"
    if not values or named or (len(values) > 1 and not several) or any(type(value) is not int for value in values):
        such = f"whole numbers, such as {name}(13, 198)" if several else f"one whole number, such as {name}(64)"
        raise UsageError(f"the validity '{name}' takes {such}, and came as '{text}'")
    return found(*values)


def _parsed(text: str, stage: str, legal: Iterable[str]) -> ast.expr:
    if not isinstance(text, str):
        raise refuse(f"the {stage}", text, f"are the texts {_listed(legal, stage)}")
    try:
        return ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise _unread(text, stage, legal) from error


def _unread(text: str, stage: str, legal: Iterable[str]) -> UsageError:
    return UsageError(f"the {stage} '{text}' cannot be read; legal are: {_listed(legal, stage)}")


def _listed(legal: Iterable[str], stage: str) -> str:
    return f"{', '.join(legal)}{', joined by & and |' if stage == 'validity' else ''}"


def _call(node: ast.expr, text: str, stage: str, legal: Iterable[str]) -> tuple[str, list[Value], dict[str, Value]]:
    if isinstance(node, ast.Name):
        return node.id, [], {}
    if isinstance(node, ast.Constant) and node.value is None:
        return "none", [], {}
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        named = {str(item.arg): _value(item.value, text, stage) for item in node.keywords}
        if any(item.arg is None for item in node.keywords) or len(named) < len(node.keywords):
            raise _unread(text, stage, legal)
        return node.func.id, [_value(item, text, stage) for item in node.args], named
    raise _unread(text, stage, legal)


def _value(node: ast.expr, text: str, stage: str) -> Value:
    if isinstance(node, ast.Name):
        return {"true": True, "false": False}.get(node.id, node.id)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) and isinstance(node.operand, ast.Constant):
        value = node.operand.value
        if isinstance(value, int | float):
            return -value
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float | str | bool):
        return node.value
    raise UsageError(f"the {stage} '{text}' holds something that is no number and no word")
