"""Scores: what is measured of an object, and how objects are averaged."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from masklet.training.evaluation.presence import Presence
from masklet.training.metrics import boundary_accuracy, region_similarity, statistics
from masklet.types import MaskArray


@dataclass(frozen=True, slots=True)
class Tally:
    """A sum of measurements and how many they are: adding tallies gives means of means or pooled shares alike."""

    total: float = 0.0
    count: int = 0

    @property
    def value(self) -> float | None:
        """The mean; None of nothing."""
        return self.total / self.count if self.count else None

    def __add__(self, other: Tally) -> Tally:
        return Tally(self.total + other.total, self.count + other.count)


Measures = Mapping[str, Tally]


@dataclass(frozen=True, slots=True)
class ObjectScore:
    """One object of one sequence, by the dataset's own id."""

    object_id: int
    measures: Measures


@dataclass(frozen=True, slots=True)
class SequenceScore:
    """One sequence; `seconds` is what it took, `objects` those that were scored."""

    name: str
    frame_count: int
    seconds: float
    objects: tuple[ObjectScore, ...]

    @property
    def measures(self) -> Measures:
        """Over the objects."""
        return add_up(self.objects)


def add_up(objects: Iterable[ObjectScore]) -> Measures:
    """Measures over objects, every object counting the same, whatever its sequence."""
    found: dict[str, Tally] = {}
    for one in objects:
        for name, tally in one.measures.items():
            found[name] = found.get(name, Tally()) + tally
    return found


@dataclass(slots=True)
class FrameScores:
    """J and F of one object, frame by frame; masks are scored and forgotten."""

    regions: list[float] = field(default_factory=list)
    boundaries: list[float] = field(default_factory=list)
    presence: Presence = field(default_factory=Presence)

    def add(self, truth: MaskArray, answer: MaskArray, *, averaged: bool = True) -> float:
        """Score one frame, [H, W] both; `averaged` False: it counts for presence only. Returns its IoU."""
        region = region_similarity(truth, answer)
        self.presence.add(truth, answer, iou=region)
        if averaged:
            self.regions.append(region)
            self.boundaries.append(boundary_accuracy(truth, answer))
        return region

    @property
    def mean(self) -> float:
        """J&F: the mean of mean J and mean F. At least one frame must have been averaged."""
        return (statistics(self.regions).mean + statistics(self.boundaries).mean) / 2

    def measures(self) -> Measures:
        """J&F; mean, recall and decay of J and of F; presence. Without averaged frames presence alone."""
        found: dict[str, Tally] = {}
        if self.regions:
            found["J&F"] = Tally(self.mean, 1)
            for name, values in (("J", self.regions), ("F", self.boundaries)):
                summary = statistics(values)
                found[name] = Tally(summary.mean, 1)
                found[f"{name}-recall"] = Tally(summary.recall, 1)
                found[f"{name}-decay"] = Tally(summary.decay, 1)
        return found | presence_measures(self.presence)


def presence_measures(presence: Presence) -> dict[str, Tally]:
    """Shares over all frames, or all reappearances, not over objects: most objects have none."""
    return {
        "absent": Tally(presence.reported_absent, presence.absent_frames),
        "found": Tally(presence.found_again, presence.reappearances),
    }
