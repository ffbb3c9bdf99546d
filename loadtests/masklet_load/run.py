"""One load test from its start to its report: cameras, watch and actions side by side."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from masklet_load.actions import Done, check_actions, parse_action, perform_all
from masklet_load.facts import server_facts
from masklet_load.generate import Crew, Tallies, new_tally
from masklet_load.report import Check, Level, Report, Sample, Summary, Verdict, slices_of, summarise
from masklet_load.scenario import MAX_DURATION_S, Scenario
from masklet_load.schedule import BASE, SPIKE
from masklet_load.search import find_capacity
from masklet_load.served import Served
from masklet_load.tally import Tally
from masklet_load.verdict import MET, MISSED, VOID, compare, judge, newcomers_misses, not_compared, noted
from masklet_load.watch import Watch

_SAMPLES = 180


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one run left behind."""

    tallies: Tallies
    samples: tuple[Sample, ...]
    checks: tuple[Check, ...]
    actions: tuple[Done, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Test:
    """What is to be done with a server.

    Attributes:
        name: of the scenario.
        scenario: it.
        served: the server.
        processes: generators.
        facts: of the machine.
        refusals_allowed: those of the spike are beyond capacity and have to be refused; the others are judged as ever.
    """

    name: str
    scenario: Scenario
    served: Served
    processes: int
    facts: dict[str, str]
    refusals_allowed: bool = False

    async def run(self) -> Report:
        """The scenario as it is."""
        server = await server_facts(self.served)
        outcome = await perform(self.scenario, self.served, processes=self.processes)
        groups = summaries(outcome.tallies, self.scenario)
        trained = _trained(server)
        return Report(
            name=self.name,
            facts=self.facts,
            server=server,
            scenario=self.scenario,
            verdict=self._verdict(groups, outcome.actions, trained=trained),
            groups=groups,
            slices=slices_of(_all(outcome.tallies, self.scenario)),
            samples=outcome.samples,
            checks=outcome.checks,
            actions=tuple(done.line for done in outcome.actions),
            notes=outcome.notes + noted(groups["all"], self.scenario, trained=trained),
        )

    def _verdict(self, groups: dict[str, Summary], actions: Sequence[Done], *, trained: bool) -> Verdict:
        """Of those that were there before the spike, of the newcomers, and of what was to be done to the server."""
        found = judge(groups.get(BASE, groups["all"]), self.scenario, trained=trained)
        if found.outcome == VOID:
            return found
        why = [*found.why, *(f"failed: {done.line}" for done in actions if done.failed)]
        if SPIKE in groups:
            refused = self.refusals_allowed
            why += newcomers_misses(groups[SPIKE], self.scenario, to_be_refused=refused, trained=trained)
        return Verdict(MISSED if why else MET, tuple(why))

    async def search(self, *, first: int, most: int, tell: Callable[[Level], None]) -> Report:
        """The largest number of streams that meets the SLO; the report's numbers are those of that level."""
        server = await server_facts(self.served)

        async def measure(streams: int) -> Level:
            scenario = replace(self.scenario, streams=streams)
            async with Crew(scenario, self.served.addresses, processes=min(self.processes, streams)) as crew:
                crew.start()
                tallies = await crew.tallies()
            summary = summaries(tallies, scenario)["all"]
            level = Level(streams, judge(summary, scenario, trained=_trained(server)), summary)
            tell(level)
            await asyncio.sleep(scenario.settle_s)
            return level

        capacity, levels, verdict = await find_capacity(measure, first=first, most=most)
        met = [level for level in levels if (level.streams, level.verdict.outcome) == (capacity, MET)]
        best = (met or levels)[-1]
        scenario = replace(self.scenario, streams=best.streams)
        return Report(
            self.name, self.facts, server, scenario, verdict, {"all": best.summary}, levels=levels, capacity=capacity
        )


async def perform(scenario: Scenario, served: Served, *, processes: int) -> Outcome:
    """Run a scenario; resources are compared before and after if anything can be watched and the server was primed.

    After a kill they are not: another process has taken the place of the one before.
    """
    actions = tuple(parse_action(line, most_s=MAX_DURATION_S) for line in scenario.kills)
    check_actions(actions, served.parts)
    watch = Watch(served, period_s=max(1.0, scenario.duration_s / _SAMPLES))
    if scenario.prime_s:
        await _prime(scenario, served, processes)
    begun_s = time.monotonic()
    judged = scenario.prime_s > 0 and served.watched() and not actions
    before = await watch.idle(begun_s) if judged else []
    async with Crew(scenario, served.addresses, processes=min(processes, scenario.streams)) as crew:
        start_s = crew.start()
        watching = asyncio.create_task(watch.follow(start_s) if served.watched() else asyncio.sleep(0))
        acting = asyncio.create_task(perform_all(actions, served.parts, start_s=start_s))
        try:
            tallies = await crew.tallies()
            done = await acting
        finally:
            for task in (watching, acting):
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
    await asyncio.sleep(scenario.settle_s)
    checks = compare(before, await watch.idle(start_s)) if before else ()
    notes = not_compared(checks, watched=bool(served.watched()), killed=bool(actions)) if scenario.prime_s else ()
    return Outcome(tallies, tuple(watch.samples), checks, tuple(done), notes)


def _trained(server: dict[str, str]) -> bool:
    return server["trained"] == str(True)


async def _prime(scenario: Scenario, served: Served, processes: int) -> None:
    """The same streams, once and briefly, with nothing done to them."""
    brief = replace(
        scenario,
        duration_s=max(1.0, scenario.prime_s),
        warm_up_s=0.0,
        ramp_s=0.0,
        spike_streams=0,
        spike_at_s=0.0,
        kills=(),
        storm_every_s=0.0,
    )
    async with Crew(brief, served.addresses, processes=min(processes, brief.streams)) as crew:
        crew.start()
        await crew.tallies()
    await asyncio.sleep(scenario.settle_s)


def summaries(tallies: Tallies, scenario: Scenario) -> dict[str, Summary]:
    """By group, and of all together."""
    by_group = {group: summarise(tally, scenario) for group, tally in sorted(tallies.items())}
    everything = {"all": summarise(_all(tallies, scenario), scenario)}
    return everything | (by_group if len(by_group) > 1 else {})


def _all(tallies: Tallies, scenario: Scenario) -> Tally:
    total = new_tally(scenario)
    for tally in tallies.values():
        total.add(tally)
    return total
