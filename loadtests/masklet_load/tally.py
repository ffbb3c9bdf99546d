"""What is counted while it happens, by each process for itself, and added up afterwards."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, fields

from masklet_load.times import Times

_COARSE = 2


@dataclass(slots=True)
class Frames:
    """What became of frames.

    sent = answered + dropped + unanswered + unaccounted, each counted by itself; due = sent + unsent.

    Attributes:
        sent: written to a connection, or on their way to one that broke.
        answered: with a result.
        unanswered: the session or the time was over before an answer came.
        unaccounted: the server ended the stream in good order without having said what became of them.
        unsent: due, but the camera had no session yet or any more, or the server took nothing.
        surplus: answers for frames that nobody waited for: a second result, or a number never sent.
        incomplete: of those answered, results that lack an object that was clicked; an absent one is in it, too.
        dropped: reported by the server, by reason.
    """

    sent: int = 0
    answered: int = 0
    unanswered: int = 0
    unaccounted: int = 0
    unsent: int = 0
    surplus: int = 0
    incomplete: int = 0
    dropped: Counter[str] = field(default_factory=Counter)

    @property
    def due(self) -> int:
        """All that a camera had to give."""
        return self.sent + self.unsent

    @property
    def bad(self) -> int:
        """All that did not get an answer."""
        return self.due - self.answered

    def add(self, other: Frames) -> None:
        """Count all of another."""
        for item in fields(self):
            if item.name != "dropped":
                setattr(self, item.name, getattr(self, item.name) + getattr(other, item.name))
        self.dropped.update(other.dropped)


@dataclass(slots=True)
class Moments:
    """The run in slices of equal length, by the time a frame was due.

    Attributes:
        slice_s: length of a slice.
        latency: of the frames answered, by slice.
        due: frames, by slice.
        bad: frames without an answer, by slice.
    """

    slice_s: float
    latency: dict[int, Times] = field(default_factory=dict)
    due: Counter[int] = field(default_factory=Counter)
    bad: Counter[int] = field(default_factory=Counter)

    def answered(self, due_s: float, latency_s: float) -> None:
        """A frame due at `due_s` from the start of the run has its result."""
        at = int(due_s / self.slice_s)
        self.due[at] += 1
        if at not in self.latency:
            self.latency[at] = Times(_COARSE)
        self.latency[at].record(latency_s)

    def missed(self, due_s: float) -> None:
        """A frame due then has none."""
        at = int(due_s / self.slice_s)
        self.due[at] += 1
        self.bad[at] += 1

    def add(self, other: Moments) -> None:
        """Count all of another with slices of the same length."""
        self.due.update(other.due)
        self.bad.update(other.bad)
        for at, times in other.latency.items():
            self.latency.setdefault(at, Times(_COARSE)).add(times)


@dataclass(slots=True)
class Tally:
    """One group of cameras.

    Attributes:
        moments: over time, warm-up included.
        warm_up: frames due during the warm-up.
        measured: all others.
        latency: due to result received; frames never answered count with the time waited in vain.
        lag: due to handed over, when nothing but the generator was in the way.
        loop_lag: how late the generator's event loop wakes up.
        sending: due to written, flow control and lost connections included.
        jitter: difference in latency of one answer to that before it on the same stream.
        first_mask: planned opening to the first result with a mask, the objects not all absent.
        opening: `open` to `opened`.
        prompts: a correction to its `prompt_applied`.
        outages: connection lost to the first answer after it.
        recoveries: as the server reports them.
        sessions: planned, opened, refused, reconnects, and so on.
        reasons: refusals, failures and errors by what the server called them.
        retry_after_s: what refused cameras were told to wait, by seconds.
        presence: [start, end) of sessions in seconds of the run.
        cpu_s: CPU time of the generator.
        wall_s: how long it ran; of the longest process.
        busiest: CPU time over wall time of the busiest process.
    """

    moments: Moments
    warm_up: Frames = field(default_factory=Frames)
    measured: Frames = field(default_factory=Frames)
    latency: Times = field(default_factory=Times)
    lag: Times = field(default_factory=Times)
    loop_lag: Times = field(default_factory=Times)
    sending: Times = field(default_factory=Times)
    jitter: Times = field(default_factory=Times)
    first_mask: Times = field(default_factory=Times)
    opening: Times = field(default_factory=Times)
    prompts: Times = field(default_factory=Times)
    outages: Times = field(default_factory=Times)
    recoveries: Times = field(default_factory=Times)
    sessions: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    retry_after_s: Counter[float] = field(default_factory=Counter)
    presence: list[tuple[float, float]] = field(default_factory=list)
    cpu_s: float = 0.0
    wall_s: float = 0.0
    busiest: float = 0.0

    def add(self, other: Tally) -> None:
        """Count all of another."""
        for item in fields(self):
            mine, theirs = getattr(self, item.name), getattr(other, item.name)
            if isinstance(mine, Counter):
                mine.update(theirs)
            elif isinstance(mine, list):
                mine.extend(theirs)
            elif not isinstance(mine, float):
                mine.add(theirs)
        self.cpu_s += other.cpu_s
        self.wall_s = max(self.wall_s, other.wall_s)
        self.busiest = max(self.busiest, other.busiest)
