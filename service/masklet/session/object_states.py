"""What has become of each object: visible, absent, reappeared, lost."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from masklet.types import ObjectMask, ObjectState


@dataclass(slots=True)
class _Absence:
    """Frames in a row without the object, before the newest frame and including it."""

    before: int = 0
    now: int = 0


class ObjectStates:
    """Counts absences; an object is present where its score (a logit) is above 0 and its mask is not empty.

    Args:
        lost_after_frames: an object absent for more frames than this in a row is lost.
    """

    def __init__(self, lost_after_frames: int) -> None:
        self._lost_after_frames = lost_after_frames
        self._absences: dict[int, _Absence] = {}

    def advance(self, objects: Iterable[ObjectMask]) -> dict[int, ObjectState]:
        """States on a new frame, which lists all objects; those not listed are forgotten."""
        advanced: dict[int, _Absence] = {}
        for found in objects:
            before = self._absences.get(found.object_id, _Absence()).now
            advanced[found.object_id] = _Absence(before, _count(found, before))
        self._absences = advanced
        return {object_id: self._judge(absence) for object_id, absence in advanced.items()}

    def revise(self, objects: Iterable[ObjectMask], *, newest: bool) -> dict[int, ObjectState]:
        """States of corrected objects; a correction of the newest frame changes the count, of an older one does not."""
        states: dict[int, ObjectState] = {}
        for found in objects:
            known = self._absences.setdefault(found.object_id, _Absence())
            before = known.before if newest else 0
            revised = _Absence(before, _count(found, before))
            if newest:
                self._absences[found.object_id] = revised
            states[found.object_id] = self._judge(revised)
        return states

    def forget(self, object_ids: Iterable[int]) -> None:
        """Removed objects start anew if they come back."""
        for object_id in object_ids:
            self._absences.pop(object_id, None)

    def clear(self) -> None:
        """Forgets all objects."""
        self._absences.clear()

    def _judge(self, absence: _Absence) -> ObjectState:
        if absence.now == 0:
            return ObjectState.REAPPEARED if absence.before else ObjectState.VISIBLE
        return ObjectState.LOST if absence.now > self._lost_after_frames else ObjectState.ABSENT


def _count(found: ObjectMask, before: int) -> int:
    return 0 if found.object_score > 0 and found.mask.any() else before + 1
