"""Who is on when: a scenario as a list of visits, one per camera and session. No clock, no network."""

from __future__ import annotations

import itertools
import random
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from masklet_load.scenario import Scenario

BASE, SPIKE = "base", "spike"
_GOLDEN = 0.6180339887498949
_Span = tuple[str, float, float]  # group, start and end in seconds


@dataclass(frozen=True, slots=True)
class Visit:
    """One camera's session, planned.

    Attributes:
        number: rises from 0, no two alike.
        group: "base", or "spike" for those that come on top.
        start_s: when it opens and its first period begins, from the start of the run.
        end_s: no frame is due from here on.
        phase: where in the first period its frames are due, 0 to 1.
        cuts_s: when its connection is cut.
    """

    number: int
    group: str
    start_s: float
    end_s: float
    phase: float
    cuts_s: tuple[float, ...] = ()


def plan_visits(scenario: Scenario) -> list[Visit]:
    """All visits of a scenario, by number."""
    spans = [*_base(scenario), *_spike(scenario)]
    cuts = _cuts(scenario, spans)
    return [
        Visit(number, *span, 0.0 if scenario.in_step else number * _GOLDEN % 1.0, tuple(cuts[number]))
        for number, span in enumerate(spans)
    ]


def _base(scenario: Scenario) -> Iterator[_Span]:
    """Each place is taken by one camera after the other; the places take turns in changing theirs."""
    starts = [[scenario.ramp_s * place / scenario.streams] for place in range(scenario.streams)]
    if scenario.churn_per_s:
        first_s = max(scenario.warm_up_s, scenario.ramp_s)
        for change in itertools.count():
            at_s = first_s + (change + 1) / scenario.churn_per_s
            if at_s >= scenario.duration_s:
                break
            starts[change % scenario.streams].append(at_s)
    for times in starts:
        for start_s, end_s in itertools.pairwise([*times, scenario.duration_s]):
            yield BASE, start_s, end_s


def _spike(scenario: Scenario) -> Iterator[_Span]:
    end_s = scenario.spike_at_s + scenario.spike_s if scenario.spike_s else scenario.duration_s
    for _ in range(scenario.spike_streams):
        yield SPIKE, scenario.spike_at_s, min(end_s, scenario.duration_s)


def _cuts(scenario: Scenario, spans: Sequence[_Span]) -> list[list[float]]:
    """When each camera is cut: of those present at a storm the share asked for, at least one, drawn anew each time."""
    cuts: list[list[float]] = [[] for _ in spans]
    drawing = random.Random(f"{scenario.seed} storms")
    for at_s in _storms(scenario, spans):
        present = [number for number, (_, start_s, end_s) in enumerate(spans) if start_s <= at_s < end_s]
        wanted = max(1, round(scenario.storm_share * len(present)))
        for number in drawing.sample(present, min(wanted, len(present))):
            cuts[number].append(at_s)
    return cuts


def _storms(scenario: Scenario, spans: Sequence[_Span]) -> Iterator[float]:
    """Every `storm_every_s` before the end, moved away from changes: who has just come has no connection to cut.

    The distance kept is a third of `storm_every_s`, or of the time between the two changes if that is shorter, so no
    two storms become one.
    """
    every_s = scenario.storm_every_s
    if not (every_s and scenario.storm_share):
        return
    changes = sorted({at_s for _, *both in spans for at_s in both})
    for number in itertools.count(1):
        if (at_s := number * every_s) >= scenario.duration_s:
            return
        after = bisect_right(changes, at_s)
        before_s, after_s = changes[after - 1], changes[after]
        apart_s = min(every_s, after_s - before_s) / 3
        yield min(max(at_s, before_s + apart_s), after_s - apart_s)
