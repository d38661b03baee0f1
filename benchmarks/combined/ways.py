"""What every combination gives: way -> figures, with the seconds of the processor that it took."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

Row = dict[str, Any]
Rows = dict[str, Row]
Figures = dict[str, Rows]


def clocked(call: Callable[..., Row], *asked: Any, **named: Any) -> Row:
    """Return the figures of a call, and its seconds."""
    begun = time.process_time()
    return call(*asked, **named) | {"cpu": time.process_time() - begun}
