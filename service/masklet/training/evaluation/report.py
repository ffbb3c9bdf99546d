"""What came out: as a table for people, and as JSON for programs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from masklet.training.evaluation.scores import Measures, SequenceScore, add_up

_NAME_WIDTH = 28
_LEGENDS = (
    ("J", "J, F: region and boundary accuracy as in DAVIS, without an object's first and the video's last frame."),
    ("IoU@", "IoU@n: of the mask after n clicks on the first frame of an object."),
    ("J&F@", "J&F@n: after clicks on n frames (offline: in n passes), over all frames from the first click on."),
    ("absent", "absent: of the frames without the object, the share that is answered with no mask;"),
    ("absent", "found: of its reappearances, the share found again within 5 frames. Else means over objects."),
)


@dataclass(frozen=True, slots=True)
class Report:
    """Scores of several sequences in one mode."""

    mode: str
    sequences: tuple[SequenceScore, ...]

    @property
    def measures(self) -> Measures:
        """Over all objects of all sequences."""
        return add_up(one for sequence in self.sequences for one in sequence.objects)

    def to_json(self) -> dict[str, Any]:
        """Plain lists and dicts. A measure is its value (None: nothing to measure) and `of` how many it is the mean."""
        return {
            "mode": self.mode,
            "objects": sum(len(sequence.objects) for sequence in self.sequences),
            "seconds": round(sum(sequence.seconds for sequence in self.sequences), 3),
            "mean": _plain(self.measures),
            "sequences": [_plain_sequence(sequence) for sequence in self.sequences],
        }


def format_table(report: Report) -> str:
    """One line per sequence, the mean over all objects, and what the columns mean."""
    names = list(report.measures)
    head = f"{'sequence':<{_NAME_WIDTH}} {'frames':>6} {'objects':>7}"
    lines = [head + "".join(f" {name:>9}" for name in names)]
    for one in report.sequences:
        lines.append(_line(one.name, one.frame_count, len(one.objects)) + _cells(one.measures, names))
    frames, objects = (sum(counts) for counts in zip(*_sizes(report), strict=True))
    lines.append(_line(f"mean of {len(report.sequences)} sequences", frames, objects) + _cells(report.measures, names))
    return "\n".join([*lines, *_legends(names)])


def format_measures(measures: Measures) -> str:
    """One line: names and values."""
    return "  ".join(f"{name} {_number(tally.value)}" for name, tally in measures.items())


def _sizes(report: Report) -> list[tuple[int, int]]:
    return [(one.frame_count, len(one.objects)) for one in report.sequences]


def _line(name: str, frames: int, objects: int) -> str:
    return f"{name:<{_NAME_WIDTH}} {frames:>6} {objects:>7}"


def _cells(measures: Measures, names: list[str]) -> str:
    return "".join(f" {_number(measures[name].value) if name in measures else '-':>9}" for name in names)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _legends(names: list[str]) -> list[str]:
    columns = {name.rstrip("0123456789") for name in names}
    return [text for column, text in _LEGENDS if column in columns]


def _plain(measures: Measures) -> dict[str, dict[str, float | int | None]]:
    return {name: {"value": tally.value, "of": tally.count} for name, tally in measures.items()}


def _plain_sequence(sequence: SequenceScore) -> dict[str, Any]:
    return {
        "name": sequence.name,
        "frames": sequence.frame_count,
        "seconds": round(sequence.seconds, 3),
        "mean": _plain(sequence.measures),
        "objects": [{"id": one.object_id, **_plain(one.measures)} for one in sequence.objects],
    }
