"""Real Tritons that drain and die under a router; masks are compared with a run that nothing happens to."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

import pytest
from tests.backends.contract import SETTINGS, click, frame
from tests.faults.fleet import MODEL, forget, home, routed, running_tritons, start_triton
from tests.faults.stub import stub_of

from masklet.backends.base import Backend
from masklet.backends.embedded import EmbeddedBackend
from masklet.backends.triton_server import TritonServer, free_ports
from masklet.errors import BackendUnavailable
from masklet.routing.router import RoutedBackend
from masklet.types import StateOrigin, StepRequest, StepResult

pytestmark = pytest.mark.triton
PATIENCE_S = 60.0  # how long it takes is told by tests/faults/soak.py, on a machine that does nothing else
PLAN = [frame(1, click()), frame(2), frame(3, click(2, 40, 10)), *map(frame, range(4, 11))]


def masks(results: Sequence[StepResult]) -> list[tuple[int, int, float, bytes]]:
    return [
        (result.frame_seq, one.object_id, one.object_score, one.mask.tobytes())
        for result in results
        for one in result.objects
    ]


def origins(results: Sequence[StepResult]) -> dict[int, StateOrigin]:
    return {result.frame_seq: result.recovered for result in results if result.recovered}


async def follow(backend: Backend, session_id: str, plan: Sequence[StepRequest]) -> list[StepResult]:
    return [await backend.step(session_id, one) for one in plan]


@pytest.fixture(scope="module")
def undisturbed() -> list[StepResult]:
    async def run() -> list[StepResult]:
        async with EmbeddedBackend(MODEL) as backend:
            await backend.open("s", SETTINGS)
            return await follow(backend, "s", PLAN)

    return asyncio.run(run())


async def both_usable(backend: RoutedBackend) -> None:
    while len(backend._fleet.links()) < 2:
        await backend._fleet.wait_changed()


def kill_server(server: TritonServer) -> None:
    server.process.kill()


def kill_stub(server: TritonServer) -> None:
    os.kill(stub_of(server), signal.SIGKILL)


async def test_sigterm_of_one_of_two_moves_its_session_bit_for_bit(undisturbed):
    servers = running_tritons(2)
    async with routed(servers) as backend:
        await both_usable(backend)
        await backend.open("s", SETTINGS)
        results = await follow(backend, "s", PLAN[:5])
        drained = home(backend, servers, "s")
        drained.signal(signal.SIGTERM)
        results += await follow(backend, "s", PLAN[5:7])
        while drained.process.poll() is None:  # it ends by itself: its only sequence is gone
            await asyncio.sleep(0.1)
        results += await follow(backend, "s", PLAN[7:])
    assert list(origins(results).values()) == [StateOrigin.MIGRATED]
    assert masks(results) == masks(undisturbed)


@pytest.mark.parametrize("kill", [kill_stub, kill_server])
async def test_kill_9_of_one_of_two_restores_its_session_within_seconds(
    undisturbed, kill: Callable[[TritonServer], None]
):
    servers = running_tritons(2)
    async with routed(servers) as backend:
        await both_usable(backend)
        await backend.open("s", SETTINGS)
        results = await follow(backend, "s", PLAN[:6])
        dead = home(backend, servers, "s")
        forget(dead)
        kill(dead)
        before_s = time.monotonic()
        async with asyncio.timeout(PATIENCE_S):
            results += await follow(backend, "s", PLAN[6:7])
        print(f"answered {time.monotonic() - before_s:.2f} s after the kill, {results[-1].recovery_s:.2f} s to recover")
        results += await follow(backend, "s", PLAN[7:])
        for number in range(4):
            await backend.open(f"new-{number}", SETTINGS)
            assert backend.location(f"new-{number}") != dead.endpoint
    assert origins(results) == {7: StateOrigin.RESTORED}
    assert masks(results) == masks(undisturbed)


def hang_server(server: TritonServer) -> int:
    return server.process.pid


@pytest.mark.parametrize("hung", [hang_server, stub_of])
async def test_a_triton_that_hangs_loses_its_session_within_seconds(undisturbed, hung: Callable[[TritonServer], int]):
    servers = running_tritons(2)
    async with routed(servers, health_timeout_s=1.0) as backend:
        await both_usable(backend)
        await backend.open("s", SETTINGS)
        results = await follow(backend, "s", PLAN[:6])
        stopped = home(backend, servers, "s")
        process = hung(stopped)
        os.kill(process, signal.SIGSTOP)
        try:
            async with asyncio.timeout(PATIENCE_S):
                results += await follow(backend, "s", PLAN[6:7])
        finally:
            os.kill(process, signal.SIGCONT)
        if process == stopped.process.pid:
            await both_usable(backend)
        else:
            forget(stopped)  # Triton does not use a model again that was late once
        results += await follow(backend, "s", PLAN[7:])
    assert origins(results) == {7: StateOrigin.RESTORED}
    assert masks(results) == masks(undisturbed)


async def test_a_server_whose_model_was_killed_ends_and_says_so(caplog):
    (server,) = running_tritons(1)
    forget(server)
    kill_stub(server)
    assert await asyncio.to_thread(server.process.wait, PATIENCE_S) == -signal.SIGKILL
    assert "the model's process has died" in caplog.text


@contextmanager
def halted(process: int) -> Iterator[None]:
    """It answers nothing any more, and is killed in the end."""
    os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


async def test_a_frame_under_way_when_its_triton_dies_is_answered(undisturbed):
    servers = running_tritons(2)
    async with routed(servers) as backend:
        await both_usable(backend)
        await backend.open("s", SETTINGS)
        results = await follow(backend, "s", PLAN[:4])
        dead = home(backend, servers, "s")
        forget(dead)
        with halted(stub_of(dead)):
            under_way = asyncio.create_task(backend.step("s", PLAN[4]))
            await asyncio.sleep(0.5)
            assert not under_way.done() and backend.location("s") == dead.endpoint
            kill_server(dead)
            results += [await under_way]
        results += await follow(backend, "s", PLAN[5:])
    assert masks(results) == masks(undisturbed)
    assert list(origins(results)) == [5]


async def test_a_triton_that_is_up_late_and_one_that_is_restarted(undisturbed):
    (port,) = free_ports("127.0.0.1", (0,))
    server = start_triton(grpc_port=port)
    async with routed([server]) as backend:  # waits for it
        await backend.open("s", SETTINGS)
        results = await follow(backend, "s", PLAN[:5])
        kill_server(server)
        with pytest.raises(BackendUnavailable, match=f"no Triton can be used: 127.0.0.1:{port}"):
            await fails_to_open(backend)
        server.process.wait()
        start_triton(grpc_port=port)
        results += await follow(backend, "s", PLAN[5:])
    assert origins(results) == {6: StateOrigin.RESTORED}
    assert masks(results) == masks(undisturbed)


async def fails_to_open(backend: RoutedBackend) -> None:
    """Opens until the death is noticed."""
    for number in range(1000):
        await backend.open(f"late-{number}", SETTINGS)
        await asyncio.sleep(0.05)
