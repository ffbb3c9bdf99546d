"""A rolling restart under load: cameras through Envoy, two fronts, two Tritons, each restarted in turn.

GRPC_ENABLE_FORK_SUPPORT=0 python -m tests.faults.rolling --streams 8 --rate 5 --rounds 2

Each is told to stop (SIGTERM), started again where it was, and used again before the next one's turn. Every frame is
accounted for: answered, or reported as dropped. The variable keeps gRPC from touching the processes started here.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tests.envoy.proxy import Envoy, envoy_before
from tests.faults.camera import Account, camera
from tests.faults.fleet import READY_S, start_triton, stop_fleet
from tests.faults.front_process import FrontProcess, all_ready, fronts

from masklet.backends.triton_server import TritonServer
from masklet_load.facts import machine_facts

DRAIN_DELAY_S = 1.5  # Envoy looks every second
LONGEST_GAP_S = 5.0
"""How long a stream may wait for a result: on a machine with other work, too."""
_POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class Plan:
    """What is done.

    Attributes:
        streams: cameras.
        rate_hz: frames per second of each.
        rounds: how often everything is restarted.
        pause_s: between a restart and the next.
        policy: of the streams, "latest" or "block".
    """

    streams: int = 4
    rate_hz: float = 5.0
    rounds: int = 1
    pause_s: float = 2.0
    policy: str = "latest"


@dataclass(slots=True)
class House:
    """Everything there is."""

    tritons: list[TritonServer]
    fronts: list[FrontProcess]
    envoy: Envoy

    async def ready(self) -> None:
        """Until everything is used."""
        await all_ready(self.fronts, tritons=len(self.tritons))
        await self.envoy.wait_healthy(len(self.fronts), READY_S)

    async def restart_front(self, place: int) -> None:
        """One front; its sessions go to the other."""
        status = await self.fronts[place].end(signal.SIGTERM)
        assert status == 0, f"front {place} ended with {status}"
        self.fronts[place].restart()

    async def restart_triton(self, place: int) -> None:
        """One Triton; its sessions move to the other."""
        old = self.tritons[place]
        old.signal(signal.SIGTERM)
        while old.process.poll() is None:
            await asyncio.sleep(_POLL_S)
        self.tritons[place] = start_triton(grpc_port=old.grpc_port)
        async with asyncio.timeout(READY_S):
            while not await asyncio.to_thread(self.tritons[place].is_ready):
                await asyncio.sleep(_POLL_S)


async def restart_in_turn(house: House, plan: Plan) -> None:
    """Everything, one after the other, as often as planned."""
    for _ in range(plan.rounds):
        for place in range(2):
            for name, restart in (("front", house.restart_front), ("Triton", house.restart_triton)):
                await asyncio.sleep(plan.pause_s)
                began_s = time.monotonic()
                await restart(place)
                await house.ready()
                print(
                    f"{time.strftime('%X')} {name} {place} restarted in {time.monotonic() - began_s:.1f} s", flush=True
                )
    await asyncio.sleep(plan.pause_s)


async def film(envoy: Envoy, plan: Plan, done: asyncio.Event, began: asyncio.Event) -> Account:
    """One stream until everything is done; `began` is set when its first frame was answered."""
    async with camera(envoy.address, policy=plan.policy) as one:
        await one.send(1)
        await one.told(1)
        began.set()
        while not done.is_set():
            await one.send(max(1, round(plan.rate_hz)), rate_hz=plan.rate_hz)
    return one.account


async def roll(plan: Plan, folder: Path) -> list[Account]:
    """The cameras' accounts."""
    tritons = [start_triton(), start_triton()]
    for server in tritons:
        server.wait_ready(READY_S)
    async with AsyncExitStack() as stack:
        made = stack.enter_context(fronts(2, folder, tritons, server__drain_delay_s=str(DRAIN_DELAY_S)))
        await all_ready(made, tritons=2)
        envoy = await stack.enter_async_context(envoy_before([front.port for front in made], folder))
        done, began = asyncio.Event(), [asyncio.Event() for _ in range(plan.streams)]
        films = [asyncio.create_task(film(envoy, plan, done, one)) for one in began]
        await asyncio.gather(*(one.wait() for one in began))
        try:
            await restart_in_turn(House(tritons, made, envoy), plan)
        finally:
            done.set()
            accounts = await asyncio.gather(*films)
    return list(accounts)


def report(accounts: Sequence[Account], *, gap_s: float = LONGEST_GAP_S, dropped_share: float = 0.0) -> bool:
    """Prints what became of all frames; whether no session and no frame was lost, few were dropped and none was late.

    Args:
        accounts: of all streams.
        gap_s: the longest wait between two results of a stream that is good.
        dropped_share: of the frames sent, those that may be dropped.
    """
    for account in accounts:
        print(
            f"sent {account.sent}, answered {len(account.masks)}, dropped {_plain(Counter(account.dropped.values()))}, "
            f"unaccounted for {len(account.missing)}, resumed {_plain(account.resumed)}, "
            f"recovered {_plain(account.origins)}, gaps {_spread(account.gaps_s)} {account.error}"
        )
    lost, missing = sum(one.lost for one in accounts), sum(len(one.missing) for one in accounts)
    sent, dropped = sum(one.sent for one in accounts), sum(len(one.dropped) for one in accounts)
    longest_s = max((gap for one in accounts for gap in one.gaps_s), default=0.0)
    print(f"{len(accounts)} streams: {lost} sessions lost, {missing} frames unaccounted for")
    print(f"{dropped} of {sent} frames dropped, limit {dropped_share:.1%}")
    print(f"longest gap of all {longest_s:.2f} s, limit {gap_s:g} s")
    print(f"longest gap of each stream: {_spread([max(one.gaps_s, default=0.0) for one in accounts])}")
    print(f"all gaps: {_spread([gap for one in accounts for gap in one.gaps_s])}")
    return not lost and not missing and dropped <= dropped_share * sent and longest_s <= gap_s


def _plain(counted: Counter[Any]) -> dict[str, int]:
    return {str(name): count for name, count in counted.items()}


def _spread(values_s: Sequence[float]) -> str:
    if not values_s:
        return "none"
    p50, p99, most = np.percentile(values_s, [50, 99, 100])
    return f"p50 {p50:.2f} p99 {p99:.2f} max {most:.2f} s"


def main() -> int:
    """0 if nothing was lost, dropped or late beyond the limits."""
    plan = Plan()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=plan.streams)
    parser.add_argument("--rate", type=float, default=plan.rate_hz, help="frames per second of each")
    parser.add_argument("--rounds", type=int, default=plan.rounds)
    parser.add_argument("--pause", type=float, default=plan.pause_s, help="seconds between two restarts")
    parser.add_argument("--policy", choices=("latest", "block"), default=plan.policy)
    parser.add_argument("--gap", type=float, default=LONGEST_GAP_S, help="the longest wait for a result, in seconds")
    parser.add_argument("--dropped", type=float, default=0.0, help="the share of frames that may be dropped")
    args = parser.parse_args()
    for key, fact in machine_facts(sys.argv[1:], program="python -m tests.faults.rolling").items():
        print(f"- {key}: {fact}")
    chosen = Plan(args.streams, args.rate, args.rounds, args.pause, args.policy)
    try:
        with tempfile.TemporaryDirectory(prefix="masklet-rolling-") as folder:
            accounts = asyncio.run(roll(chosen, Path(folder)))
        good = report(accounts, gap_s=args.gap, dropped_share=args.dropped)
    finally:
        stop_fleet()
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
