"""How many last tokens each layer keeps; some layers may keep everything (the variants of SepLLM, arXiv 2412.12094)."""

from __future__ import annotations

from collections.abc import Sequence

from lissome._checks import check_whole
from lissome._errors import UsageError, unknown

FULL = ("none", "h", "ht", "hmt", "all")


def windows_of(local: int | Sequence[int], full: str | Sequence[int], layers: int) -> list[int | None]:
    """Return the window of each layer, None where it keeps everything.

    Args:
        local: one for all layers, or one each.
        full: none, h (the first layer keeps everything), ht (first and last), hmt (and the middle one), all; or numbers
            of layers.
        layers: of the model.

    Raises:
        UsageError: a window below 1, or one too few; a layer that is not there.

    >>> windows_of(4, "ht", 3), windows_of([4, 2, 4], [1], 3)
    ([None, 4, None], [4, None, 4])
    """
    windows = list(local) if isinstance(local, Sequence) else [local] * layers
    for each in windows:
        check_whole("local", each)
    if len(windows) != layers:
        raise UsageError(f"local has {len(windows)} numbers and the model {layers} layers; give one each, or one")
    named = {"none": (), "h": (0,), "ht": (0, layers - 1), "hmt": (0, layers // 2, layers - 1), "all": range(layers)}
    if isinstance(full, str) and full not in named:
        raise unknown("full", full, FULL)
    whole = named[full] if isinstance(full, str) else full
    for each in whole:
        check_whole("a layer of full", each, 0, layers - 1)
    return [None if number in whole else window for number, window in enumerate(windows)]


def check_room(initial: int, kept: int, windows: Sequence[int | None], chunk: int | None, capacity: int) -> None:
    """Refuse a capacity that cannot hold what is kept and what is to come.

    Raises:
        UsageError: it cannot.

    >>> check_room(4, 64, [256, None], None, 800)
    """
    window, coming = max((each for each in windows if each is not None), default=0), chunk or 1
    if (need := initial + kept + window + coming) > capacity and window:
        raise UsageError(
            f"initial {initial} + separators_kept {kept} + local {window} + {coming} to come (chunk) are {need}, above "
            f"the capacity of {capacity}; legal is a capacity of {need} and more"
        )
