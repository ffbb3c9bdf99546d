"""The report of a load test: numbers, circumstances, verdict; to JSON and back."""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from masklet.errors import ConfigError
from masklet_load.scenario import Scenario
from masklet_load.tally import Frames, Tally
from masklet_load.times import Spread

TIMES = (
    "latency",
    "lag",
    "loop_lag",
    "sending",
    "jitter",
    "first_mask",
    "opening",
    "prompts",
    "outages",
    "recoveries",
)


@dataclass(frozen=True, slots=True)
class Summary:
    """One group of cameras.

    Attributes:
        offered_per_s: frames due per second of the measured time, over all cameras.
        delivered_per_s: results per second for those frames.
        bad_share: of the frames due, those without a result.
        frames: what became of the measured frames: due, dropped, and what `Frames` counts.
        warm_up: the same for the warm-up.
        dropped: measured frames dropped, by reason.
        sessions: what became of sessions and connections.
        reasons: errors by the server's names.
        retry_after_s: what refused cameras were told to wait, and how often.
        times: histograms in numbers, by name; see `Tally`.
        latency_histogram: all latencies, HdrHistogram's format in base64.
        generator_cpu: CPU time over wall time, of all processes together.
        busiest_cpu: the same of the busiest process.
    """

    offered_per_s: float
    delivered_per_s: float
    bad_share: float
    frames: dict[str, int]
    warm_up: dict[str, int]
    dropped: dict[str, int]
    sessions: dict[str, int]
    reasons: dict[str, int]
    retry_after_s: dict[str, int]
    times: dict[str, Spread]
    latency_histogram: str
    generator_cpu: float
    busiest_cpu: float


@dataclass(frozen=True, slots=True)
class Slice:
    """A part of the run: frames due in it, and streams connected in its middle."""

    at_s: float
    streams: int
    due: int
    bad: int
    p50_ms: float
    p99_ms: float
    max_ms: float


@dataclass(frozen=True, slots=True)
class Sample:
    """What the server's processes held at a time; -1 where it could not be read. `sessions` is what it says itself."""

    at_s: float
    rss_mib: float
    fds: int
    threads: int
    shm_mib: float
    sessions: int


@dataclass(frozen=True, slots=True)
class Check:
    """Something that must be as before: `tolerance` is how far `after` may exceed `before`."""

    what: str
    before: float
    after: float
    tolerance: float

    @property
    def met(self) -> bool:
        """Whether it is."""
        return self.before >= 0 and 0 <= self.after <= self.before + self.tolerance


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came out: "met", "missed" or "void" (the generator itself was too slow), and why."""

    outcome: str
    why: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Level:
    """One step of the search for capacity."""

    streams: int
    verdict: Verdict
    summary: Summary


@dataclass(frozen=True, slots=True)
class Report:
    """One load test.

    Attributes:
        name: of the scenario, or "custom".
        facts: command, date, machine, commit, versions.
        server: what the server says of itself, and the flags it was started with.
        scenario: what was done.
        verdict: whether the SLO was met; of a search: whether its result is valid.
        groups: "all", and "base" and "spike" if there were both.
        slices: over time.
        samples: the server's resources over time.
        checks: whether resources are back to where they began.
        actions: what was done to the server, and when.
        levels: of a search, in the order tried.
        capacity: of a search: most streams that met the SLO.
        notes: what the verdict does not say.
    """

    name: str
    facts: dict[str, str]
    server: dict[str, str]
    scenario: Scenario
    verdict: Verdict
    groups: dict[str, Summary]
    slices: tuple[Slice, ...] = ()
    samples: tuple[Sample, ...] = ()
    checks: tuple[Check, ...] = ()
    actions: tuple[str, ...] = ()
    levels: tuple[Level, ...] = field(default=())
    capacity: int | None = None
    notes: tuple[str, ...] = ()

    def save(self, path: Path) -> None:
        """Write it as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(dataclasses.asdict(self), indent=1) + "\n", encoding="utf-8")


def load_report(path: Path) -> Report:
    """What `save` wrote. Raises ConfigError if it is none."""
    try:
        report: Report = _build(Report, json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} is not a load report: {error!r}") from error
    return report


def summarise(tally: Tally, scenario: Scenario) -> Summary:
    """A tally in numbers."""
    seconds = scenario.duration_s - scenario.warm_up_s
    frames = tally.measured
    return Summary(
        offered_per_s=frames.due / seconds,
        delivered_per_s=frames.answered / seconds,
        bad_share=frames.bad / frames.due if frames.due else 0.0,
        frames=_plain(frames),
        warm_up=_plain(tally.warm_up),
        dropped=_sorted(frames.dropped),
        sessions=_sorted(tally.sessions),
        reasons=_sorted(tally.reasons),
        retry_after_s={f"{seconds:g}": count for seconds, count in sorted(tally.retry_after_s.items())},
        times={name: getattr(tally, name).spread() for name in TIMES},
        latency_histogram=tally.latency.encode(),
        generator_cpu=tally.cpu_s / tally.wall_s if tally.wall_s else 0.0,
        busiest_cpu=tally.busiest,
    )


def slices_of(tally: Tally) -> tuple[Slice, ...]:
    """The run over time."""
    moments, found = tally.moments, []
    for at in sorted(moments.due):
        middle_s = (at + 0.5) * moments.slice_s
        streams = sum(start_s <= middle_s < end_s for start_s, end_s in tally.presence)
        times = moments.latency.get(at)
        quantiles = [times.quantile_ms(percent) if times else 0.0 for percent in (50, 99, 100)]
        found.append(Slice(at * moments.slice_s, streams, moments.due[at], moments.bad[at], *quantiles))
    return tuple(found)


def _plain(frames: Frames) -> dict[str, int]:
    names = ("due", "sent", "answered", "unanswered", "unsent", "unaccounted", "surplus", "incomplete")
    return {name: getattr(frames, name) for name in names} | {"dropped": frames.dropped.total()}


def _sorted(counter: Counter[str]) -> dict[str, int]:
    return dict(sorted(counter.items()))


def _build(kind: Any, value: Any) -> Any:
    """`value` from JSON as `kind`, which is a dataclass, tuple, dict, X | None, or plain."""
    origin, parameters = typing.get_origin(kind), typing.get_args(kind)
    if origin is types.UnionType:
        return None if value is None else _build(parameters[0], value)
    if origin is tuple:
        return tuple(_build(parameters[0], one) for one in value)
    if origin is dict:
        return {key: _build(parameters[1], one) for key, one in value.items()}
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        return typing.cast(Any, kind)(**{name: _build(hints[name], one) for name, one in value.items()})
    return value
