"""One page per paper, made from its recipe and from the record of its replication that is kept."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from docs._ext.links import DOCS, GENERATED, RECORDS, guests, relative

from lissome.recipes.catalogue import CATALOGUE, Entry
from lissome.recipes.paper import Claim, Paper, ReplicateSettings
from lissome.recipes.replication import BESIDE, PAPERS

PACE = ("QUICK", "EVERY")  # how a look is shortened and how often it is evaluated: no part of a preset
PLACE = GENERATED / "papers"
INDEX = PLACE / "index.md"


class Guide(NamedTuple):
    """Where a reader goes on: pages of `docs/`, and what is typed."""

    pages: tuple[str, ...]
    commands: tuple[str, ...]


GUIDES = {
    "svd-pinns": Guide(("family", "adapters"), ("lissome pde adapt RUN --parameter c=2 --method svd",)),
    "arcm": Guide(("optimizers", "choosing"), ("lissome pde solve heat --optimizer arcm",)),
    "sublora": Guide(("ranks",), ("lissome lm ranks MODEL --adapter DIR --data FILE --budget 96",)),
    "lotra": Guide(("kan", "adapters"), ("lissome pde adapt RUN --parameter c=1 --method lotra --ranks 4,4,4",)),
    "kan-convergence": Guide(("diagnosis", "kan"), ("lissome pde diagnose heat --network kan",)),
    "dape": Guide(("dape", "attention", "transformers"), ("lissome lm train --position kerple --refine dape",)),
    "dape-v2": Guide(("dape", "attention", "transformers"), ('lissome lm train --position kerple --refine "dape(3)"',)),
    "sa-softmax": Guide(
        ("sa-softmax", "attention", "transformers"), ('lissome lm train --normalize "self_adjust(4)"',)
    ),
    "sepllm": Guide(
        ("sepcache", "language", "attention"),
        ("lissome lm train --visible separators", "lissome lm stream RUN --text FILE", "lissome lm separators MODEL"),
    ),
    "algoformer": Guide(("algoformer", "language"), ("lissome icl train representation --model algoformer",)),
}


class Verdict(NamedTuple):
    """A line of a record: verdict, and what was measured."""

    verdict: str
    evidence: str


def pages() -> dict[Path, str]:
    """Return the pages of all papers and the one that lists them: place and text."""
    return {PLACE / f"{entry.name}.md": _page(entry) for entry in CATALOGUE} | {INDEX: _index()}


def record(name: str) -> Path:
    """Return the place of the kept record of a replication, which need not be there."""
    return RECORDS / f"{name}-replication.md"


def verdicts(name: str, paper: Paper) -> list[tuple[Claim, Verdict | None]]:
    """Return the claims of a recipe, each with what its record says of it; None where it says nothing.

    A sentence may be claimed of several measurements: the one of the same words is taken, else the first that is left.
    """
    text = record(name).read_text("utf-8") if record(name).is_file() else ""
    lines = re.findall(r"^- \*\*(shown|not shown|not measured)\*\* (\(.*)$", text, re.MULTILINE)
    found: list[tuple[Claim, Verdict | None]] = []
    for claim in paper.claims([]):
        start = f"({claim.source}): {claim.says}. "
        mine = [line for line in lines if line[1].startswith(start)]
        exact = [line for line in mine if line[1].startswith(f"{start}{claim.what}: ")]
        taken = next(iter(exact or mine), None)
        if taken:
            lines.remove(taken)
        found.append((claim, Verdict(taken[0], taken[1].removeprefix(start)) if taken else None))
    return found


def _page(entry: Entry) -> str:
    own = {entry.name: PAPERS[entry.name]} if entry.name in PAPERS else {}
    parts = own | {name: paper for name, paper in BESIDE.items() if paper.arxiv == entry.arxiv}
    head = [f"# {entry.title}", f"[arXiv {entry.arxiv}](https://arxiv.org/abs/{entry.arxiv})", _guide(entry.name)]
    if not parts:
        head.append("Its experiments cannot be replicated by one command yet; the pages above use its method.")
    level = "##" if len(parts) > 1 else "#"
    body = [section for name, paper in parts.items() for section in _part(name, paper, level)]
    return "\n\n".join([*head, *body]) + "\n"


def _guide(name: str) -> str:
    guide = GUIDES[name]
    links = ", ".join(f"[]({relative(DOCS / f'{page}.md', PLACE / 'page.md')})" for page in guide.pages)
    typed = "\n".join(f"$ {command}" for command in guide.commands)
    verbs = sorted({" ".join(command.split()[1:3]) for command in guide.commands})
    told = ", ".join(f"[`lissome {verb}`](../reference/commands.md#{anchor(verb)})" for verb in verbs)
    return f"Use it: {links}. Verbs: {told}.\n\n```console\n{typed}\n```"


def anchor(verb: str) -> str:
    """Return the anchor of a verb on the page of the command line."""
    return "lissome-" + verb.replace(" ", "-")


def _part(name: str, paper: Paper, level: str) -> list[str]:
    """Return the sections of a recipe; where a paper has two, each has a heading above it."""
    module: Any = inspect.getmodule(paper.cells)
    summary, _, method = inspect.getdoc(module).partition("\n")
    whole, quick = (len(paper.cells(ReplicateSettings(paper=name, quick=quick))) for quick in (False, True))
    scale = ", `--scale` is a larger look, for hours" if paper.scales else ""
    kept = guests().get(record(name))
    return [
        *([f"## {paper.title}"] if level == "##" else []),
        _sentence(summary, paper.arxiv),
        method.strip("\n"),
        f"{level}# Symbols",
        _table(("the paper", "here"), [(code(symbol), code(ours)) for symbol, ours in paper.symbols.items()]),
        *_presets(module, level),
        f"{level}# Claims",
        _claims(name, paper, kept),
        f"{level}# Run it again",
        f"```console\n$ lissome replicate {name} --out runs/{name}\n```",
        f"{whole:,} runs; `--quick` takes {quick:,} short ones and settles no claim{scale}. A run that was stopped "
        "goes on with `--resume`.",
        "\n".join(f"- {note}" for note in paper.notes),
    ]


def _sentence(summary: str, arxiv: str) -> str:
    """Return the first line of a recipe without the number that stands above it already."""
    plain = re.sub(rf"( \(arXiv {arxiv}\)|, arXiv {arxiv}(?=\)))", "", summary)
    return f"**{plain}**"


def _claims(name: str, paper: Paper, kept: Path | None) -> str:
    found = verdicts(name, paper)
    if kept is None:
        rows = [(cell(claim.says), claim.source, cell(_wanted(claim))) for claim, _ in found]
        return "No record of a whole run is kept yet.\n\n" + _table(("claim", "source", "measured by"), rows)
    told = [verdict.verdict if verdict else "not in the record" for _, verdict in found]
    kinds = {kind: told.count(kind) for kind in ("shown", "not shown", "not measured", "not in the record")}
    count = ", ".join(f"{number} {kind}" for kind, number in kinds.items() if number)
    rows = [
        (f"[{said}]{{.verdict .{said.replace(' ', '-')}}}", f"{cell(claim.says)}<br>{_said(claim, of)}", claim.source)
        for said, (claim, of) in zip(told, found, strict=True)
    ]
    link = f"[The whole record]({relative(kept, PLACE / 'page.md')})"
    text = f"{len(found)} claims: {count}. {link} has machine, tables and what to make of them; claims from `here`"
    return f"{text} stand in no paper.\n\n" + _table(("", "claim, and what was measured", "source"), rows)


def _said(claim: Claim, of: Verdict | None) -> str:
    """Return what the record says below the sentence, small."""
    said = re.sub(r"([*_`|<\[\]])", r"\\\1", of.evidence if of else _wanted(claim))
    return f"[{said}]{{.evidence}}"


def _wanted(claim: Claim) -> str:
    return claim.evidence.replace(": no cell to compare,", ",")


def _presets(module: ModuleType, level: str) -> list[str]:
    """Return what a recipe calls published and default, from its own constants."""
    named = {name: value for name, value in vars(module).items() if name.isupper() and isinstance(value, Mapping)}
    pairs = {name: value for name, value in named.items() if {"published", "default"} <= value.keys()}
    sets = [own for name, own in named.items() if name not in pairs and any("published" in str(key) for key in own)]
    told = [list(value.values()) for value in sets]  # a set that holds a pair's values says more
    both = {
        name: value
        for name, value in pairs.items()
        if name not in PACE and not any(value["default"] in own for own in told)
    }
    rows = [
        (name.lower(), code(_brief(value["published"])), code(_brief(value["default"]))) for name, value in both.items()
    ]
    tables = [_table(("", "published", "default"), rows)] if rows else []
    heads = ("method", "settings")
    tables += [_table(heads, [(key, code(_brief(own))) for key, own in value.items()]) for value in sets]
    return [f"{level}# Presets", *tables] if tables else []


def _brief(value: Any) -> str:
    """Return a value of a preset in one line; of a dataclass what differs from its defaults, if anything does."""
    if isinstance(value, Mapping):
        return "; ".join(f"{key}: {_brief(own)}" if not isinstance(own, Mapping) else _brief(own)
                         for key, own in value.items())  # fmt: skip
    if is_dataclass(value):
        told = [(field.name, getattr(value, field.name), field.default) for field in fields(value)]
        changed = ", ".join(f"{name}={own}" for name, own, usual in told if own != usual)
        return changed or f"{type(value).__name__}()"
    if isinstance(value, tuple | list):
        return ", ".join(_brief(part) for part in value if part != "")
    return f"{value:,}" if isinstance(value, int) else str(value)


def _index() -> str:
    rows = []
    for entry in CATALOGUE:
        paper = PAPERS.get(entry.name)
        told = [verdict.verdict for _, verdict in verdicts(entry.name, paper) if verdict] if paper else []
        count = f"{told.count('shown')} of {len(told)}" if told else "–"
        rows.append((f"[{entry.title}]({entry.name}.md)", entry.arxiv, count))
    listed = "\n".join(f"{_short(entry.title)} <{entry.name}>" for entry in CATALOGUE)
    return (
        "# Papers\n\nTen published methods live here. Each page is made from the recipe that runs the paper's "
        "experiments again: its symbols and ours, its presets, its claims and what was measured of each. `shown` means "
        "that a measured ratio lies within bounds that were written down beside the claim.\n\n"
        f"{_table(('paper', 'arXiv', 'claims shown'), rows)}\n\n:::{{toctree}}\n:hidden:\n\n{listed}\n:::\n"
    )


def _short(title: str) -> str:
    """Return a title for the margin.

    >>> _short("DAPE (CAPE): position encoding that depends on the data")
    'DAPE'
    """
    return re.split(r"[:,(]", title)[0].strip()


def _table(heads: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [heads, (":---",) * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cell(text: str) -> str:
    """Return a text that may stand in a table."""
    return text.replace("|", r"\|")


def code(text: str) -> str:
    """Return a text as code in a table."""
    return f"`{cell(text)}`" if text else ""
