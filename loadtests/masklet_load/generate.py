"""The generator: all cameras of a run, in this process or spread over several."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import multiprocessing
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

from masklet.errors import MaskletError
from masklet_load.camera import Camera, Run
from masklet_load.clip import load_clip
from masklet_load.scenario import Scenario
from masklet_load.schedule import BASE, Visit, plan_visits
from masklet_load.tally import Moments, Tally

SLICES = 120
_PROBE_S = 0.01
_LEAD_S = 0.2  # between the last process being ready and the start
_READY_TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class Part:
    """One process's share of a run."""

    scenario: Scenario
    addresses: tuple[str, ...]
    visits: tuple[Visit, ...]


Tallies = dict[str, Tally]


def new_tally(scenario: Scenario) -> Tally:
    """An empty one, with slices that fit the scenario."""
    return Tally(Moments(max(1.0, (scenario.duration_s + scenario.drain_s) / SLICES)))


async def generate(run: Run, visits: Sequence[Visit]) -> Tallies:
    """Run these cameras in this event loop; what became of their frames, by group."""
    tallies = {group: new_tally(run.scenario) for group in {BASE, *(visit.group for visit in visits)}}
    cpu_s, began_s = time.process_time(), time.monotonic()
    probe = asyncio.create_task(_probe(tallies[BASE]))
    try:
        async with asyncio.TaskGroup() as group:
            for visit in visits:
                group.create_task(Camera(run, visit, tallies[visit.group]).live())
    finally:
        probe.cancel()
    base = tallies[BASE]
    base.cpu_s, base.wall_s = time.process_time() - cpu_s, time.monotonic() - began_s
    base.busiest = base.cpu_s / max(base.wall_s, 1e-9)
    return tallies


async def _probe(tally: Tally) -> None:
    """How late this event loop is, whatever the cameras do."""
    while True:
        wake_s = time.monotonic() + _PROBE_S
        await asyncio.sleep(_PROBE_S)
        tally.loop_lag.record(time.monotonic() - wake_s)


class Crew:
    """Processes that generate; entering starts them and waits until they have their frames in memory.

    Args:
        scenario: what to do.
        addresses: the servers.
        processes: among how many the cameras are dealt out.
    """

    def __init__(self, scenario: Scenario, addresses: Sequence[str], *, processes: int) -> None:
        self._scenario = scenario
        visits = plan_visits(scenario)
        self._parts = [Part(scenario, tuple(addresses), tuple(visits[n::processes])) for n in range(processes)]
        self._members: list[tuple[BaseProcess, Connection]] = []

    async def __aenter__(self) -> Crew:
        """Raises what a process could not get ready for."""
        spawning = multiprocessing.get_context("spawn")  # gRPC does not survive a fork
        try:
            for part in self._parts:
                ours, theirs = spawning.Pipe()
                process = spawning.Process(target=_work, args=(theirs, part), daemon=True)
                process.start()
                theirs.close()
                self._members.append((process, ours))
            async with asyncio.timeout(_READY_TIMEOUT_S):
                for _, pipe in self._members:
                    await _from(pipe)
        except BaseException:
            self._stop()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        """Ends processes that are still there."""
        self._stop()

    def start(self) -> float:
        """Begin; when that is, by the monotonic clock."""
        start_s = time.monotonic() + _LEAD_S
        for _, pipe in self._members:
            pipe.send(start_s)
        return start_s

    async def tallies(self) -> Tallies:
        """What all of them counted, once they are done."""
        total: Tallies = {}
        for _, pipe in self._members:
            for group, tally in (await _from(pipe)).items():
                total.setdefault(group, new_tally(self._scenario)).add(tally)
        return total

    def _stop(self) -> None:
        for process, pipe in self._members:
            process.terminate()
            process.join(5)
            pipe.close()


async def _from(pipe: Connection) -> Tallies:
    """What a process sent. Raises what it could not do."""
    while not pipe.poll():
        await asyncio.sleep(0.05)
    try:
        received = pipe.recv()
    except EOFError:
        raise MaskletError("a generator process ended before it was done") from None
    if isinstance(received, BaseException):
        raise received
    found: Tallies = received
    return found


def _work(pipe: Connection, part: Part) -> None:
    """A process's life."""
    with contextlib.suppress(KeyboardInterrupt, BrokenPipeError, EOFError):
        try:
            clip = load_clip(part.scenario)
            gc.freeze()  # the clip need not be looked at again and again
            pipe.send({})
            run = Run(part.scenario, part.addresses, clip, pipe.recv())
            pipe.send(asyncio.run(generate(run, part.visits)))
        except MaskletError as error:
            pipe.send(MaskletError(str(error)))
