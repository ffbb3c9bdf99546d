"""Sessions that may have been left behind at an endpoint are closed there, and disturb nobody."""

from __future__ import annotations

import asyncio

from tests.routing.farm import SETTINGS, Farm, click, request
from tests.routing.followed import links
from tests.routing.simulated import simulate

from masklet.routing.endpoint import EndpointState
from masklet.routing.router import RoutedBackend


async def left_behind(farm: Farm, backend: RoutedBackend, count: int) -> None:
    """So many at a:1; every second has a bank there."""
    names = [f"left-{number}" for number in range(count)]
    for name in names:
        backend._fleet.leave_behind(links(backend)["a:1"], name, 5)
    for name in names[::2]:
        await farm["a:1"].backend.open(name, SETTINGS)


def state(backend: RoutedBackend) -> EndpointState:
    endpoint = backend._fleet.endpoint("a:1")
    assert endpoint is not None
    return endpoint.state


def test_one_too_slow_to_close_all_that_was_left_behind_is_not_ejected_and_closes_it_one_by_one():
    async def scenario():
        farm = Farm("a:1")
        async with farm.routed() as backend:
            await backend.open("s", SETTINGS)
            before = links(backend)
            await left_behind(farm, backend, 8)
            farm["a:1"].latency_s = 3.0  # longer than a look
            await asyncio.sleep(60)
            assert (links(backend), state(backend)) == (before, EndpointState.HEALTHY)
            assert farm["a:1"].sessions == {"s"}
            assert (await backend.step("s", request(1, click()))).recovered is None

    simulate(scenario())


def test_one_that_is_back_is_used_before_all_that_was_left_behind_is_closed():
    async def scenario():
        farm = Farm("a:1")
        async with farm.routed() as backend:
            await left_behind(farm, backend, 20)
            farm["a:1"].up = False  # with its banks
            await asyncio.sleep(10)
            farm["a:1"].latency_s, farm["a:1"].up = 1.0, True
            await asyncio.sleep(15)
            assert state(backend) is EndpointState.HEALTHY
            used = links(backend)
            await asyncio.sleep(60)
            assert links(backend) == used
            assert farm["a:1"].sessions == set()

    simulate(scenario())


def test_what_was_left_behind_at_one_that_dies_while_it_is_closed_is_closed_when_it_is_back():
    async def scenario():
        farm = Farm("a:1")
        async with farm.routed() as backend:
            await left_behind(farm, backend, 4)
            farm["a:1"].latency_s = 3.0
            await asyncio.sleep(1)
            farm["a:1"].up = False
            await asyncio.sleep(10)
            assert state(backend) is EndpointState.EJECTED
            farm["a:1"].latency_s, farm["a:1"].up = 0.001, True
            await asyncio.sleep(10)
            assert (farm["a:1"].sessions, state(backend)) == (set(), EndpointState.HEALTHY)

    simulate(scenario())


def test_a_session_that_is_rebuilt_does_not_wait_for_what_others_left_behind():
    async def scenario():
        farm = Farm("a:1", "b:1")
        async with farm.routed() as backend:
            farm["a:1"].max_sessions = 0
            await backend.open("s", SETTINGS)
            await backend.step("s", request(1, click()))
            farm["a:1"].max_sessions = 100
            await left_behind(farm, backend, 20)
            farm["a:1"].latency_s = 0.4
            await asyncio.sleep(1)  # they are being closed
            farm["b:1"].kill()
            result = await backend.step("s", request(2))
            assert result.recovery_s < 3.0
            assert len(farm["a:1"].sessions) > 5

    simulate(scenario())
