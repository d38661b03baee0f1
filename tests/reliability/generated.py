"""Bad input, made from what is legal: settings from their models, options from the commands, files from whole ones."""

import math
import random
import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import annotated_types
import typer
import yaml
from pydantic import BaseModel

from lissome import cli

LONG = "x" * 5000
HUGE = 10**400  # no float holds it
NUMBERS = ["many", "", [], [1], {}, {"of": 1}, math.inf, -math.inf, math.nan, HUGE, -HUGE]
WORDS = [
    "",
    " ",
    LONG,
    "\u2603",
    "a\0b",
    "../..",
    "nosuch",
    "no such thing",
    [],
    [[]],
    {},
    {"of": 1},
    7,
    math.nan,
    True,
]


@dataclass(frozen=True)
class Wrong:
    """One setting, or one group of them, that is not what it should be."""

    key: str
    value: Any

    def change(self) -> str:
        """Return it as an argument of --set."""
        text = yaml.safe_dump(self.value, default_flow_style=True, width=10**9).removesuffix("...\n")
        return f"{self.key}={text.rstrip()}"

    def tree(self) -> dict[str, Any]:
        """Return it as the content of a file."""
        tree: Any = self.value
        for part in reversed(self.key.split(".")):
            tree = {part: tree}
        return tree


def near(name: str, chance: random.Random) -> str:
    """Return a name with one letter lost, doubled, or changed with its neighbour."""
    place = chance.randrange(len(name))
    lost, doubled = name[:place] + name[place + 1 :], name[:place] + name[place] + name[place:]
    turned = name[: max(place - 1, 0)] + name[max(place - 1, 0) : place + 1][::-1] + name[place + 1 :]
    return chance.choice([each for each in (lost, doubled, turned) if each != name])


def settings(kind: type[BaseModel], chance: random.Random, path: str = "") -> Iterator[Wrong]:
    """Walk a model of settings and make each of them wrong in every way that its type has."""
    names = list(kind.model_fields)
    for name in [near(chance.choice(names), chance) for _ in range(3)] + ["", "nosuch", "__class__", "\u2603"]:
        if name not in names:
            yield Wrong(path + name, 1)
    for name, field in kind.model_fields.items():
        for value in of_type(field.annotation, field.metadata, chance):
            yield Wrong(path + name, value)
        for group in groups(field.annotation):
            yield from settings(group, chance, f"{path}{name}.")


def groups(annotation: Any) -> list[type[BaseModel]]:
    """Return the models in an optional annotation; not those in lists, which a dotted key does not reach."""
    parts = [annotation, *(get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else ())]
    return [each for each in parts if isinstance(each, type) and issubclass(each, BaseModel)]


def of_type(annotation: Any, limits: list[Any], chance: random.Random) -> list[Any]:
    """Return values that a type with such limits most often refuses."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return of_type(parts[0], [*limits, *parts[1:]], chance)
    if origin in (Union, types.UnionType):
        return [value for part in parts if part is not type(None) for value in of_type(part, limits, chance)]
    if origin is Literal:
        words = [str(each) for each in parts]
        return [near(chance.choice(words), chance), words[0].upper() + "!", 3, [], {}, "", words]
    if origin in (list, tuple, set):
        inner = of_type(parts[0], [], chance) if parts else []
        return [
            "nosuch",
            1,
            {},
            {"of": 1},
            [None],
            [[]],
            *([value] for value in chance.sample(inner, min(4, len(inner)))),
        ]
    if origin is dict:
        return ["nosuch", 1, [], [1], {"nosuch": "x"}, {1: 2}, {"": 1.0}, {"a": math.nan}]
    if annotation is bool:
        return ["maybe", 7, [], {}, math.nan, ""]
    if annotation in (int, float):
        beyond = [edge for limit in limits for edge in outside(limit, annotation)]
        return [*beyond, *chance.sample(NUMBERS, 5), *([1.5, "1.5"] if annotation is int else [])]
    if annotation is str:
        return chance.sample(WORDS, 8)
    return ["nosuch", 1, [], [[]]]  # groups of settings


def outside(limit: Any, kind: type) -> list[Any]:
    """Return numbers just beyond a limit, and far beyond it."""
    step = 1 if kind is int else 1e-6
    match limit:
        case annotated_types.Ge(ge):
            return [ge - step, -(10**30), -1]
        case annotated_types.Gt(gt):
            return [gt, -0.0, gt - step, -(10**30)]
        case annotated_types.Le(le):
            return [le + step, 10**30]
        case annotated_types.Lt(lt):
            return [lt, lt + step, 10**30]
    return []


@dataclass(frozen=True)
class Option:
    """An option of a verb, by the type that its function asks."""

    verb: tuple[str, ...]
    name: str
    kind: Any
    flag: bool


def verbs() -> dict[tuple[str, ...], Any]:
    """Return the commands by their words."""
    found: dict[tuple[str, ...], Any] = {}

    def walk(command: Any, words: tuple[str, ...]) -> None:
        for name, inner in getattr(command, "commands", {}).items():
            walk(inner, (*words, name))
        if not hasattr(command, "commands"):
            found[words] = command

    walk(typer.main.get_command(cli.app), ())
    return found


def options(verb: tuple[str, ...]) -> list[Option]:
    """Return the options of a verb."""
    command = verbs()[verb]
    hints = get_type_hints(command.callback)
    return [
        Option(verb, each.opts[0], plain(hints[each.name]), each.is_flag)
        for each in command.params
        if each.param_type_name == "option" and each.name in hints
    ]


def plain(annotation: Any) -> Any:
    """Return the one type of an optional annotation."""
    parts = [each for each in get_args(annotation) if each is not type(None)]
    return plain(parts[0]) if get_origin(annotation) in (Union, types.UnionType, list) else annotation


def arguments(option: Option, chance: random.Random) -> list[list[str]]:
    """Return what may be written wrongly for an option."""
    if option.flag:
        return [[option.name + "=maybe"], [near(option.name, chance)]]
    if option.kind in (int, float):
        wrong = ["many", "", "1.5.2", "1e", "0x1g", "nan", "-inf", "-1", "1,5", "--"]
        return [[option.name, text] for text in chance.sample(wrong, 6)] + [[option.name]]
    return [[option.name], [near(option.name, chance), "x"]] + [
        [option.name, text] for text in chance.sample(["", " ", "nosuch", LONG, "\u2603", "=", ",", "a=b=c", "-"], 4)
    ]


def broken(content: bytes, chance: random.Random) -> dict[str, bytes]:
    """Return the ways in which a file may be damaged, by name."""
    place = chance.randrange(1, max(2, len(content)))
    flipped = bytearray(content)
    for _ in range(8 if flipped else 0):
        flipped[chance.randrange(len(flipped))] ^= 1 << chance.randrange(8)
    return {
        "empty": b"",
        "one byte": b"\xff",
        "cut": content[:place],
        "cut early": content[:9],
        "NUL": b"\0" * len(content),
        "NUL behind": content + b"\0" * 16,
        "binary": chance.randbytes(200),
        "flipped": bytes(flipped),
        "list": b"[1, 2]\n",
        "number": b"3\n",
        "null": b"null\n",
        "object": b"{}\n",
        "strange object": b'{"nosuch": [{"kind": null}], "kind": 7, "rows": 3}\n',
        "deep": b"[" * 100_000,
        "Latin-1": "caf\xe9 \xff\n".encode("latin-1"),
        "header": (2**62).to_bytes(8, "little") + b"{}",
    }


BOMB = b"a: &a [x, x, x, x, x, x, x, x, x]\n" + b"".join(
    f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]\n".encode() for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
YAMLS = {
    "binary": bytes(range(256)),
    "cut": b"training: {steps: ",
    "tabs": b"training:\n\tsteps: 3\n",
    "recursion": b"training: &a\n  then: [*a]\n  steps: *a\n",
    "itself": b"&a [*a]\n",
    "own group": b"&a\ntraining: *a\n",
    "bomb": BOMB,
    "bomb in a setting": BOMB + b"seed: *i\ndevice: *i\n",
    "twice": b"seed: 1\nseed: 2\n",
    "group twice": b"training: {steps: 2}\ntraining: {steps: 3}\n",
    "object": b"seed: !!python/object/apply:os.getcwd []\n",
    "unhashable": b"? [1, 2]\n: 3\n",
    "number key": b"1: 2\n",
    "null key": b"~: 2\n",
    "list": b"- 1\n- 2\n",
    "number": b"17\n",
    "text": b"training.steps=3\n",
    "documents": b"seed: 1\n---\nseed: 2\n",
    "merge": b"<<: 3\nseed: 1\n",
    "deep": b"seed: " + b"[" * 1500 + b"]" * 1500,
    "flow": b"seed: " + b"{a: " * 1000,
    "NUL": b"seed: 1\0\n",
    "UTF-16": "seed: nosuch\n".encode("utf-16"),
    "date": b"seed: 2001-01-01\n",
    "hexadecimal": b"seed: 0xfffffffffffffffffffffff\n",
    "long number": b"seed: " + b"9" * 5000 + b"\n",
    "sexagesimal": b"seed: 190:20:30:15:15:15:15:15:15:15:15\n",
    "tag": b"seed: !!int x\n",
    "binary tag": b"seed: !!binary '*'\n",
    "set": b"!!set {seed, training}\n",
}
