"""The ten papers whose methods live here, and how each is replicated."""

from __future__ import annotations

from typing import Any, NamedTuple

from lissome.recipes.replication import BESIDE, PAPERS


class Entry(NamedTuple):
    """A paper: the name that `lissome replicate` takes, its arXiv number, and what it is about."""

    name: str
    arxiv: str
    title: str


CATALOGUE = (
    Entry("svd-pinns", "2211.08760", "SVD-PINNs: transfer of a network between equations by its singular values"),
    Entry("arcm", "2210.05987", "ARCm: adaptive cubic regularisation with momentum"),
    Entry("sublora", "2507.01841", "SubLoRA: the ranks of each layer from the curvature of the loss"),
    Entry("lotra", "2502.06153", "LoTRA and Slim KAN: low tensor rank for Kolmogorov-Arnold networks"),
    Entry("kan-convergence", "2410.08041", "Convergence of gradient descent for two-layer KANs, as a diagnosis"),
    Entry("dape", "2405.14722", "DAPE (CAPE): position encoding that depends on the data"),
    Entry("dape-v2", "2410.04798", "DAPE V2: attention scores as a feature map"),
    Entry("sa-softmax", "2502.18277", "Self-adjusting softmax: gradients that do not vanish"),
    Entry("sepllm", "2412.12094", "SepLLM: separators, first tokens and neighbours in place of the whole context"),
    Entry("algoformer", "2402.13572", "AlgoFormer: pre-process, iterate, post-process"),
)


def papers() -> list[dict[str, Any]]:
    """Return a row for each paper: name, arXiv number, title, and how it is replicated, or None where it is not yet.

    >>> papers()[1]["replicate"]
    'lissome replicate arcm'
    """
    return [
        {
            "paper": entry.name,
            "arxiv": entry.arxiv,
            "title": entry.title,
            "replicate": _commands(entry) if entry.name in PAPERS else None,
        }
        for entry in CATALOGUE
    ]


def _commands(entry: Entry) -> str:
    """Return the command that replicates a paper, and those of its further parts."""
    names = [entry.name, *(name for name, paper in BESIDE.items() if paper.arxiv == entry.arxiv)]
    return ", ".join(f"lissome replicate {name}" for name in names)
