"""Is there room for one more? The load of a backend's sessions against what it takes, see `RoutingConfig`."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from masklet.backends.load import LoadMeter
from masklet.config import RoutingConfig
from masklet.errors import OverCapacity
from masklet.types import StepResult, TrackSettings

_RETRY_AFTER_S = 2.0


def usable_capacity(settings: RoutingConfig, measured: float) -> float:
    """The load that sessions may ask for, in object-frames per second; 0: there is no limit.

    Args:
        settings: what is declared.
        measured: what the backend was found to make; 0: not known.
    """
    if not settings.admit_by_load:
        return 0.0
    return settings.capacity_object_frames_s or settings.capacity_share * measured


def needs_measuring(settings: RoutingConfig) -> bool:
    """Whether `usable_capacity` depends on what is measured."""
    return settings.admit_by_load and not settings.capacity_object_frames_s


def check_room(asked: float, load: float, capacity: float) -> None:
    """Whether so much more may be asked for.

    Args:
        asked: what is added, in object-frames per second.
        load: what there is.
        capacity: 0: there is no limit.

    Raises:
        OverCapacity: it does not fit.
    """
    if capacity and asked > 0 and load + asked > capacity:
        raise OverCapacity(
            f"{asked:.1f} objects x frames/s more are asked for; {load:.1f} of {capacity:.1f} are taken."
            " Come again later, or see routing.capacity_object_frames_s and routing.admit_by_load of the server",
            retry_after_s=_RETRY_AFTER_S,
        )


class Admission:
    """The load of one backend's sessions. A session that would be alone always fits: nobody is harmed by it.

    Args:
        settings: what is declared.
        forgotten_after_s: a session without a frame for so long reserves nothing.
        clock: seconds.

    Attributes:
        measured: what the backend was found to make, in object-frames per second; 0: not known.
    """

    def __init__(
        self,
        settings: RoutingConfig,
        *,
        forgotten_after_s: float = math.inf,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._forgotten_after_s = forgotten_after_s
        self._clock = clock
        self._meters: dict[str, LoadMeter] = {}
        self.measured = 0.0

    @property
    def capacity(self) -> float:
        """The load that is taken, in object-frames per second; 0: there is no limit."""
        return usable_capacity(self._settings, self.measured)

    @property
    def load(self) -> float:
        """Of all sessions, in object-frames per second. May be asked for from any thread."""
        return sum(meter.load for meter in list(self._meters.values()))

    def admit(self, session_id: str, settings: TrackSettings) -> bool:
        """A new session; False if it is here already. Raises OverCapacity if there is no room for it."""
        if session_id in self._meters:
            return False
        meter = self._meter(settings)
        if self._meters:
            check_room(meter.load, self.load, self.capacity)
        self._meters[session_id] = meter
        return True

    def take(self, session_id: str, settings: TrackSettings, objects: int = 1) -> None:
        """A session that was admitted before, with so many objects elsewhere; one that was here stays as it is."""
        if session_id not in self._meters:
            meter = self._meters[session_id] = self._meter(settings)
            meter.objects = max(1, objects)

    def reserve(self, session_id: str, objects: int) -> None:
        """The session is about to have so many objects. Raises OverCapacity if there is no room for them."""
        meter = self._meters.get(session_id)
        if meter is None:
            return
        if len(self._meters) > 1:
            check_room(meter.load_with(objects) - meter.load, self.load, self.capacity)
        meter.objects = max(1, objects)

    def note(self, session_id: str, result: StepResult) -> None:
        """The session got an answer."""
        if meter := self._meters.get(session_id):
            meter.note(result)

    def remove(self, session_id: str) -> None:
        """The session is gone; an unknown one is no error."""
        self._meters.pop(session_id, None)

    def clear(self) -> None:
        """All sessions are gone."""
        self._meters.clear()

    def _meter(self, settings: TrackSettings) -> LoadMeter:
        return LoadMeter(
            self._settings.reserved_object_frames_s,
            frame_rate_hz=settings.frame_rate_hz,
            forgotten_after_s=self._forgotten_after_s,
            clock=self._clock,
        )
