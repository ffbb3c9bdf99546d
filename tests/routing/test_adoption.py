"""A front looks for a session while endpoints are late, gone for a moment, or slow."""

from __future__ import annotations

import asyncio

import pytest
from tests.routing.farm import SETTINGS, Farm, click, masks, request, undisturbed
from tests.routing.simulated import now_s, simulate

from masklet.errors import BackendUnavailable, SessionStateLost, SessionSuperseded
from masklet.routing.router import RoutedBackend
from masklet.types import BankSummary, StateOrigin

PLAN = [request(1, click()), *map(request, range(2, 5))]


async def begun(backend: RoutedBackend) -> str:
    """A session of three frames; where it is."""
    await backend.open("s", SETTINGS)
    for one in PLAN[:3]:
        await backend.step("s", one)
    return backend.location("s")


async def goes_on(backend: RoutedBackend) -> bool:
    """Whether the fourth frame's masks are as if nothing had happened."""
    return masks(await backend.step("s", PLAN[3])) == (await undisturbed(PLAN))[3]


def eject(backend: RoutedBackend, address: str) -> None:
    (link,) = (link for link in backend._fleet.links() if link.address == address)
    backend._fleet.eject(link, "a look that was lost")


async def asked_until_lost(backend: RoutedBackend, location: str) -> float:
    """Seconds until nobody believes in the session any more."""
    before_s = now_s()
    while True:
        try:
            await backend.attach("s", 2, location=location)
        except BackendUnavailable as error:
            assert error.retry_after_s
        except SessionStateLost:
            return now_s() - before_s
        await asyncio.sleep(0.5)


def test_an_endpoint_that_sings_its_canary_is_waited_for():
    async def scenario():
        farm = Farm("a:1", "b:1")
        async with farm.routed() as one:
            location = await begun(one)
            farm[location].latency_s = 0.5  # seven calls until it is used
            async with farm.routed() as other:
                held = await other.attach("s", 2, location=location)
                assert (held.last_frame_seq, held.origin) == (3, StateOrigin.INTACT)
                assert await goes_on(other)

    simulate(scenario())


def test_while_its_canary_takes_long_the_session_is_not_lost():
    async def scenario():
        farm = Farm("a:1", "b:1")
        async with farm.routed() as one:
            location = await begun(one)
            farm[location].latency_s = 1.2
            async with farm.routed() as other:
                with pytest.raises(BackendUnavailable, match=f"{location}, where session s was") as caught:
                    await other.attach("s", 2, location=location)
                assert caught.value.retry_after_s
                await asyncio.sleep(5)
                assert (await other.attach("s", 2, location=location)).last_frame_seq == 3

    simulate(scenario())


@pytest.mark.parametrize("later_s", [0.0, 0.05], ids=["just now", "a moment ago"])
def test_an_endpoint_that_was_ejected_may_come_back_with_the_session(later_s):
    async def scenario():
        farm = Farm("a:1", "b:1")
        async with farm.routed() as one, farm.routed() as other:
            location = await begun(one)
            eject(other, location)
            await asyncio.sleep(later_s)
            with pytest.raises(BackendUnavailable, match=f"{location}, where session s was") as caught:
                await other.attach("s", 2, location=location)
            assert caught.value.retry_after_s
            await asyncio.sleep(1)
            assert (await other.attach("s", 2, location=location)).origin is StateOrigin.INTACT
            assert await goes_on(other)

    simulate(scenario())


def test_a_session_found_elsewhere_does_not_wait_for_where_it_was():
    async def scenario():
        farm = Farm("a:1", "b:1", "c:1")
        async with farm.routed() as one, farm.routed() as other:
            location = await begun(one)
            old = next(name for name in farm.places if name != location)
            farm[old].kill()
            eject(other, old)
            before_s = now_s()
            assert (await other.attach("s", 2, location=old)).last_frame_seq == 3
            assert now_s() - before_s < 0.1
            assert other.location("s") == location

    simulate(scenario())


def test_one_that_does_not_come_back_is_given_up_after_some_seconds():
    async def scenario():
        farm = Farm("a:1", "b:1")
        async with farm.routed() as one, farm.routed() as other:
            location = await begun(one)
            farm[location].kill()
            eject(other, location)
            assert 4.0 < await asked_until_lost(other, location) < 6.0

    simulate(scenario())


@pytest.mark.parametrize(("latency_s", "at_most_s"), [(0.001, 6.0), (60.0, 15.0)], ids=["refuses", "says nothing"])
def test_one_that_never_was_used_is_given_up_when_its_canary_s_time_is_over(latency_s, at_most_s):
    async def scenario():
        farm = Farm("a:1", "b:1")
        farm["a:1"].up = False
        farm["a:1"].latency_s = latency_s
        async with farm.routed(canary_timeout_s=10.0) as backend:
            assert await asked_until_lost(backend, "a:1") < at_most_s

    simulate(scenario())


def test_an_endpoint_that_does_not_say_in_time_is_asked_again_and_keeps_its_sessions():
    """What a client is told passes: it comes back with its token."""

    async def scenario():
        farm = Farm("a:1", "b:1")
        async with farm.routed() as one, farm.routed() as other:
            location = await begun(one)
            farm[location].latency_s = 6.0
            with pytest.raises(BackendUnavailable, match=f"{location} did not say within 5 s") as caught:
                await other.attach("s", 2, location=location)
            assert (caught.value.retryable, caught.value.retry_after_s) == (True, 2.0)
            assert len(other._fleet.links()) == 2
            farm[location].latency_s = 0.001
            assert (await other.attach("s", 2, location=location)).origin is StateOrigin.INTACT
            assert await goes_on(other)

    simulate(scenario())


async def resumed(backend: RoutedBackend, location: str) -> BankSummary:
    """As a server does it: the epoch may have been taken by an attempt before."""
    for epoch in range(2, 5):
        try:
            return await backend.attach("s", epoch, location=location)
        except SessionSuperseded:
            pass
    raise AssertionError("no epoch is high enough")


def test_an_endpoint_that_began_to_drain_keeps_its_sessions_while_another_s_are_looked_for():
    """It refuses to start a sequence that it does not have."""

    async def scenario():
        farm = Farm("a:1", "b:1")
        async with farm.routed() as one, farm.routed() as other:
            location = await begun(one)
            drained = next(name for name in farm.places if name != location)
            await farm[location].backend.open("somebody else's", SETTINGS)
            await asyncio.sleep(3)  # it was asked what it holds
            await other.open("t", SETTINGS)
            assert other.location("t") == drained
            await other.step("t", request(1, click()))
            farm[drained].ready = False  # and nobody has looked yet
            assert (await other.attach("s", 2, location=location)).last_frame_seq == 3
            assert len(other._fleet.links()) == 2
            await asyncio.sleep(3)
            assert (await other.step("t", request(2))).recovered is StateOrigin.MIGRATED
            assert await goes_on(other)

    simulate(scenario())


def test_an_endpoint_that_drains_says_with_its_refusal_that_it_does_not_have_the_session():
    async def scenario():
        farm = Farm("a:1", "b:1")
        async with farm.routed() as backend:
            farm["a:1"].ready = False
            with pytest.raises(SessionStateLost, match="at none of 2 Tritons"):
                await backend.attach("s", 2, location="a:1")

    simulate(scenario())


async def moved(one: RoutedBackend, farm: Farm) -> tuple[str, str]:
    """A session that has moved, and left a copy behind: where it is, and where it was."""
    old = await begun(one)
    farm[old].stub = False
    assert await goes_on(one)
    farm[old].stub = True
    assert len(farm.holding("s")) == 2
    return one.location("s"), old


@pytest.mark.parametrize("arrives", [True, False], ids=["attached late", "never attached"])
@pytest.mark.parametrize("hint", ["where it is", "where it was"])
def test_no_copy_is_taken_while_the_endpoint_named_does_not_say_and_the_newest_is_found_later(hint, arrives):
    async def scenario():
        farm = Farm("a:1", "b:1")
        async with farm.routed(health_period_s=1000.0) as one, farm.routed(health_period_s=1000.0) as other:
            location, old = await moved(one, farm)
            named = location if hint == "where it is" else old
            farm[named].latency_s = 6.0
            with pytest.raises(BackendUnavailable, match=f"{named} did not say within 5 s") as caught:
                await other.attach("s", 2, location=named)
            assert caught.value.retry_after_s
            farm[named].up = arrives
            await asyncio.sleep(2)
            farm[named].latency_s, farm[named].up = 0.001, True
            assert (await resumed(other, named)).last_frame_seq == 4
            assert farm.holding("s") == {location}

    simulate(scenario())
