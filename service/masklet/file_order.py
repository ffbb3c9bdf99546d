"""Files in the order people mean: `9.png` before `10.png`."""

from __future__ import annotations

import re
from pathlib import Path

_DIGITS = re.compile(r"([0-9]+)")


def frame_order(path: Path) -> tuple[list[str | int], str]:
    """A key to sort by that reads runs of digits as numbers; names that differ in leading zeros alone go by name."""
    pieces = _DIGITS.split(str(path))
    return [int(piece) if place % 2 else piece for place, piece in enumerate(pieces)], str(path)
