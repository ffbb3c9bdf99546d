"""Who is on when: a scenario as a list of visits, one per camera and session. No clock, no network."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from masklet_load.scenario import Scenario

BASE, SPIKE = "base", "spike"
_GOLDEN = 0.6180339887498949


@dataclass(frozen=True, slots=True)
class Visit:
    """One camera's session, planned.

    Attributes:
        number: rises from 0, no two alike.
        group: "base", or "spike" for those that come on top.
        start_s: when it opens, from the start of the run.
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
    storms = _storms(scenario)
    visits = []
    for number, (group, start_s, end_s) in enumerate(spans):
        cuts = tuple(at for at in storms if start_s < at < end_s and _share(number, at) < scenario.storm_share)
        visits.append(Visit(number, group, start_s, end_s, 0.0 if scenario.in_step else number * _GOLDEN % 1.0, cuts))
    return visits


def _base(scenario: Scenario) -> Iterator[tuple[str, float, float]]:
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


def _spike(scenario: Scenario) -> Iterator[tuple[str, float, float]]:
    end_s = scenario.spike_at_s + scenario.spike_s if scenario.spike_s else scenario.duration_s
    for _ in range(scenario.spike_streams):
        yield SPIKE, scenario.spike_at_s, min(end_s, scenario.duration_s)


def _storms(scenario: Scenario) -> list[float]:
    if not (scenario.storm_every_s and scenario.storm_share):
        return []
    count = int(scenario.duration_s / scenario.storm_every_s)
    return [scenario.storm_every_s * number for number in range(1, count + 1)]


def _share(number: int, at_s: float) -> float:
    """Evenly spread over the cameras, and different in each storm."""
    return (number * _GOLDEN + at_s * _GOLDEN**2) % 1.0
