"""How much a session asks of its backend, in objects times frames per second."""

from __future__ import annotations

import math
from collections.abc import Callable

from masklet.types import StepResult

_WINDOW_S = 5.0  # what was done this long ago counts 1/e


class LoadMeter:
    """A session's load: what it does now, but never less than what is reserved for it.

    Args:
        reserved: object-frames per second, reserved if its client names no frame rate.
        frame_rate_hz: what its client means to send; that is reserved for each of its objects. 0: not named.
        forgotten_after_s: without a frame for so long nothing is reserved any more.
        clock: seconds.

    Attributes:
        objects: how many it has, or is about to have; at least 1.
    """

    def __init__(
        self,
        reserved: float,
        *,
        frame_rate_hz: float = 0.0,
        forgotten_after_s: float = math.inf,
        clock: Callable[[], float],
    ) -> None:
        self._reserved = reserved
        self._frame_rate_hz = frame_rate_hz
        self._forgotten_after_s = forgotten_after_s
        self._clock = clock
        self._rate = 0.0
        self._measured_s = clock()
        self.objects = 1

    def add(self, objects: int) -> None:
        """A frame with so many objects was answered; one without any still costs its encoding."""
        self._rate = self._decayed() + max(1, objects) / _WINDOW_S
        self._measured_s = self._clock()

    def note(self, result: StepResult) -> None:
        """A frame was answered, or corrected, which lists only the objects corrected."""
        self.add(len(result.objects))
        if not result.revised:
            self.objects = max(1, len(result.objects))

    @property
    def load(self) -> float:
        """Object-frames per second."""
        return self.load_with(self.objects)

    def load_with(self, objects: int) -> float:
        """What it would be with so many objects, object-frames per second."""
        done = self._decayed() * objects / self.objects
        if self._clock() - self._measured_s > self._forgotten_after_s:
            return done
        return max(self._frame_rate_hz * objects or self._reserved, done)

    def _decayed(self) -> float:
        return self._rate * math.exp((self._measured_s - self._clock()) / _WINDOW_S)
