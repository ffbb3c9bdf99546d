"""What the server holds: memory, file descriptors, threads, shared memory, sessions; sampled while it works."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import grpc.aio
import psutil

from masklet.v1 import session_pb2
from masklet.v1.session_pb2_grpc import SessionServiceStub
from masklet_load.report import Sample
from masklet_load.served import Served

_MIB = 1024 * 1024
_SHM = Path("/dev/shm")
_CALL_TIMEOUT_S = 5.0
_UNKNOWN = -1
_IDLE_SAMPLES = 3


class Watch:
    """Samples of one run; `follow` takes them every `period_s` until it is cancelled."""

    def __init__(self, served: Served, *, period_s: float) -> None:
        self._served, self._period_s = served, period_s
        self.samples: list[Sample] = []

    async def follow(self, start_s: float) -> None:
        """Sample on; `start_s`: when the run began, monotonic."""
        while True:
            self.samples.append(await self.sample(start_s))
            await asyncio.sleep(self._period_s)

    async def idle(self, start_s: float) -> list[Sample]:
        """A few samples while nothing happens."""
        found = []
        for _ in range(_IDLE_SAMPLES):
            found.append(await self.sample(start_s))
            await asyncio.sleep(min(1.0, self._period_s))
        return found

    async def sample(self, start_s: float) -> Sample:
        """As it is now."""
        tree = await asyncio.to_thread(process_tree, self._served.watched())
        sessions = [await count_sessions(address) for address in self._served.addresses]
        return Sample(
            at_s=round(time.monotonic() - start_s, 3),
            rss_mib=_total(tree, lambda one: one.memory_info().rss / _MIB),
            fds=int(_total(tree, lambda one: one.num_fds())),
            threads=int(_total(tree, lambda one: one.num_threads())),
            shm_mib=shared_memory_mib(),
            sessions=_UNKNOWN if _UNKNOWN in sessions else sum(sessions),
        )


def process_tree(pids: Iterable[int]) -> list[psutil.Process]:
    """These processes and all below them; those that are gone are left out."""
    found: dict[int, psutil.Process] = {}
    for pid in pids:
        try:
            root = psutil.Process(pid)
            found |= {one.pid: one for one in (root, *root.children(recursive=True))}
        except (psutil.NoSuchProcess, ValueError):
            continue
    return list(found.values())


async def count_sessions(address: str) -> int:
    """Sessions a server has, detached ones included; -1 if it does not say."""
    count, token = 0, ""
    async with grpc.aio.insecure_channel(address) as channel:
        stub = SessionServiceStub(channel)
        try:
            while True:
                asked = session_pb2.ListSessionsRequest(page_size=1000, page_token=token)
                page = await stub.ListSessions(asked, timeout=_CALL_TIMEOUT_S)
                count, token = count + len(page.sessions), page.next_page_token
                if not token:
                    return count
        except grpc.aio.AioRpcError:
            return _UNKNOWN


def shared_memory_mib() -> float:
    """All of /dev/shm; -1 where there is none."""
    try:
        with os.scandir(_SHM) as entries:
            return sum(_blocks(entry) for entry in entries) * 512 / _MIB
    except OSError:
        return _UNKNOWN


def _blocks(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat(follow_symlinks=False).st_blocks
    except OSError:
        return 0


def _total(tree: list[psutil.Process], measure: Callable[[psutil.Process], float]) -> float:
    """The sum over all processes; -1 if none could be read."""
    found = []
    for one in tree:
        try:
            found.append(measure(one))
        except psutil.Error:
            continue
    return round(sum(found), 3) if found else _UNKNOWN
