"""Stages by name: `kerple`, `dape(3, form=plain)`, `causal & window(256)`. Text is parsed and never run."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from lissome._checks import refuse
from lissome._errors import UsageError, unknown
from lissome.attention import validity
from lissome.attention.validity import Validity

Value = int | float | str | bool
RULES: Mapping[str, Callable[..., Validity] | Validity] = {
    "causal": validity.causal,
    "everything": validity.everything,
    "every_kth": validity.every_kth,
    "window": validity.window,
}


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
    if len(values) != 1 or named or type(values[0]) is not int:
        raise UsageError(f"the validity '{name}' takes one whole number, such as {name}(64), and came as '{text}'")
    return found(values[0])


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
