"""How much a session asks of its endpoint, in objects times frames per second."""

from __future__ import annotations

import math
from collections.abc import Callable

_WINDOW_S = 5.0  # what was done this long ago counts 1/e


class LoadMeter:
    """A session's load: what it does now, but never less than what is reserved for it.

    Args:
        reserved: object-frames per second.
        clock: seconds.
    """

    def __init__(self, reserved: float, *, clock: Callable[[], float]) -> None:
        self._reserved = reserved
        self._clock = clock
        self._rate = 0.0
        self._measured_s = clock()

    def add(self, objects: int) -> None:
        """A frame with so many objects was answered; one without any still costs its encoding."""
        self._rate = self._decayed() + max(1, objects) / _WINDOW_S
        self._measured_s = self._clock()

    @property
    def load(self) -> float:
        """Object-frames per second."""
        return max(self._reserved, self._decayed())

    def _decayed(self) -> float:
        return self._rate * math.exp((self._measured_s - self._clock()) / _WINDOW_S)
