"""Recovery on what is slow, late, or begins to drain: nobody is ejected for that, nothing is lost."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.routing.farm import SETTINGS, Client, Farm, click, masks, request, undisturbed
from tests.routing.followed import PLAN, are_undisturbed, follow, home, links, opened, origins
from tests.routing.simulated import now_s, simulate

from masklet.errors import BackendUnavailable
from masklet.routing.link import Link
from masklet.routing.router import RoutedBackend
from masklet.types import StateOrigin, StepRequest, StepResult

RESTORED = StateOrigin.RESTORED
LONG = [request(1, click()), *map(request, range(2, 16))]
ONE_CHECKPOINT: dict[str, Any] = {"checkpoint_every_frames": 1000, "checkpoint_min_interval_s": 1000.0}  # of frame 1


async def struck(farm: Farm, backend: RoutedBackend, latency_s: float) -> tuple[list[StepResult], str, Link]:
    """The session's Triton dies; another, with a session of its own, is left, and slow.

    Returns:
        what was answered, the survivor's address, its link.
    """
    results = await follow(backend, LONG[:13])
    first = home(farm)
    await backend.open("bystander", SETTINGS)
    other = backend.location("bystander")
    assert other != first
    before = links(backend)[other]
    farm[other].latency_s = latency_s
    farm[first].kill()
    return results, other, before


async def is_untouched(backend: RoutedBackend, other: str, before: Link) -> bool:
    """Whether the survivor was neither ejected nor lost its own session."""
    kept = links(backend) == {other: before}
    return kept and (await backend.step("bystander", request(1, click()))).recovered is None


def test_a_slow_survivor_restores_what_it_was_not_waited_for_and_keeps_its_own_sessions():
    async def scenario():
        farm = Farm("a:1", "b:1")
        async with opened(farm, recovery_timeout_s=1.0, **ONE_CHECKPOINT) as backend:
            results, other, before = await struck(farm, backend, 0.075)  # of each of a frame's two calls
            results += await follow(backend, LONG[13:])
            assert await is_untouched(backend, other, before)
        assert origins(results) == {14: RESTORED}
        assert await are_undisturbed(results, LONG)

    simulate(scenario())


def test_a_survivor_too_slow_is_not_ejected_and_takes_the_session_when_it_is_faster():
    async def scenario():
        farm = Farm("a:1", "b:1")
        async with opened(farm, recovery_timeout_s=6.0, **ONE_CHECKPOINT) as backend:
            results, other, before = await struck(farm, backend, 0.5)
            before_s = now_s()
            with pytest.raises(BackendUnavailable, match=f"{other} did not take session s in time") as caught:
                await backend.step("s", LONG[13])
            assert 6.0 <= now_s() - before_s < 6.5
            assert caught.value.retry_after_s
            assert await is_untouched(backend, other, before)
            await asyncio.sleep(2)
            assert farm.holding("s") == set(), "what was begun is left there"
            farm[other].latency_s = 0.001
            results += await follow(backend, LONG[13:])
        assert origins(results) == {14: RESTORED}
        assert await are_undisturbed(results, LONG)

    simulate(scenario())


def test_a_place_too_slow_for_the_session_is_passed_over():
    async def scenario():
        farm = Farm("a:1", "b:1", "c:1")
        async with opened(farm, recovery_timeout_s=6.0, recovery_attempts=2) as backend:
            results = await follow(backend, PLAN[:5])
            first = home(farm)
            emptiest, other = sorted(set(farm.places) - {first})
            await farm[other].backend.open("t", SETTINGS)
            farm[emptiest].latency_s = 10.0
            before = links(backend)
            farm[first].kill()
            results += await follow(backend, PLAN[5:])
            assert backend.location("s") == other
            assert links(backend)[emptiest] is before[emptiest]
        assert origins(results) == {6: RESTORED}
        assert await are_undisturbed(results)

    simulate(scenario())


def test_the_only_endpoint_comes_back_at_the_last_moment_and_restores_all_a_few_at_a_time(monkeypatch):
    """Each has more to be replayed than what is left of `recovery_timeout_s` would allow."""
    names = [f"s{number}" for number in range(10)]
    replaying: list[str] = []
    at_once: list[int] = []
    step = Client.step

    async def counted(self: Client, session_id: str, one: StepRequest) -> StepResult:
        if session_id not in names or one.frame_seq == 6:
            return await step(self, session_id, one)
        replaying.append(session_id)
        at_once.append(len(replaying))
        try:
            return await step(self, session_id, one)
        finally:
            replaying.remove(session_id)

    async def scenario():
        farm = Farm("a:1")
        async with farm.routed(recovery_timeout_s=30.0, retry_max_s=0.2, **ONE_CHECKPOINT) as backend:
            for name in names:
                await backend.open(name, SETTINGS)
                for one in LONG[:5]:
                    await backend.step(name, one)
            farm["a:1"].kill()
            stepping = [asyncio.create_task(backend.step(name, LONG[5])) for name in names]
            await asyncio.sleep(26.6)  # and so much more until its canary has sung and copies of old are looked for
            farm["a:1"].latency_s = 0.15
            monkeypatch.setattr(Client, "step", counted)
            farm["a:1"].start()
            results = await asyncio.gather(*stepping)
            assert {result.recovered for result in results} == {RESTORED}
            expected = (await undisturbed(LONG))[5]
            assert all(masks(result) == expected for result in results)
            assert farm["a:1"].connections == 1

    simulate(scenario())
    assert max(at_once) == 4


def test_an_endpoint_that_begins_to_drain_while_sessions_wait_their_turn_is_not_ejected():
    async def scenario():
        farm = Farm("a:1", "b:1", "c:1")
        farm["c:1"].up = False
        names = [f"s{number}" for number in range(10)]
        async with farm.routed(**ONE_CHECKPOINT) as backend:
            for name in names:
                await backend.open(name, SETTINGS)
                for one in LONG[:5]:
                    await backend.step(name, one)
            before = links(backend)["b:1"]
            farm["b:1"].latency_s = 0.2
            farm["a:1"].kill()
            stepping = [asyncio.create_task(backend.step(name, LONG[5])) for name in names]
            await asyncio.sleep(0.3)
            farm["b:1"].ready = False  # seen before the first of them is done
            farm["c:1"].start()
            results = await asyncio.gather(*stepping)
            assert before.is_alive, before.failure
            assert [masks(result) for result in results] == len(names) * [(await undisturbed(LONG))[5]]
            assert RESTORED in {result.recovered for result in results}

    simulate(scenario())


def test_a_session_whose_turn_never_came_leaves_nothing_behind_to_be_closed():
    async def scenario():
        farm = Farm("a:1", "b:1")
        names = [f"s{number}" for number in range(10)]
        async with farm.routed(recovery_timeout_s=6.0, **ONE_CHECKPOINT) as backend:
            farm["b:1"].max_sessions = 0
            for name in names:
                await backend.open(name, SETTINGS)
                for one in LONG[:5]:
                    await backend.step(name, one)
            before = links(backend)["b:1"]
            farm["b:1"].max_sessions, farm["b:1"].latency_s = 100, 2.0
            farm["a:1"].kill()
            late = await asyncio.gather(*(backend.step(name, LONG[5]) for name in names), return_exceptions=True)
            assert {type(one) for one in late} == {BackendUnavailable}
            endpoint = backend._fleet.endpoint("b:1")
            assert endpoint is not None
            assert len(endpoint.orphans) == 4, "only as many are rebuilt at a time"
            await asyncio.sleep(60)
            assert links(backend) == {"b:1": before}
            assert (farm["b:1"].sessions, len(endpoint.orphans)) == (set(), 0)
            farm["b:1"].latency_s = 0.001
            results = [await backend.step(name, LONG[6]) for name in names]
            assert {result.recovered for result in results} == {RESTORED}

    simulate(scenario())


def test_an_endpoint_that_begins_to_drain_as_another_dies_is_not_ejected_by_what_it_refuses():
    async def scenario():
        farm = Farm("a:1", "b:1", "c:1")
        async with opened(farm) as backend:
            results = await follow(backend, LONG[:5])
            first = home(farm)
            drained, other = sorted(set(farm.places) - {first})
            farm[first].max_sessions = farm[other].max_sessions = 0
            await backend.open("bystander", SETTINGS)
            farm[drained].max_sessions, farm[other].max_sessions = 0, 2
            await backend.open("another", SETTINGS)
            farm[drained].max_sessions = 100  # the emptiest
            await backend.step("bystander", request(1, click()))
            before = links(backend)[drained]
            farm[drained].ready = False  # and nobody has looked yet
            farm[first].kill()
            results += await follow(backend, LONG[5:7])
            assert before.is_alive, before.failure
        assert origins(results) == {6: RESTORED}
        assert await are_undisturbed(results, LONG)

    simulate(scenario())
