"""Every row of the table in `masklet.routing.recovery`, and failures on the way."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from tests.routing.farm import SETTINGS, Client, Farm, click, request
from tests.routing.followed import PLAN, are_undisturbed, follow, home, opened, origins
from tests.routing.simulated import now_s, simulate

from masklet.errors import BackendError, BackendUnavailable, SessionStateLost, UnknownFrame, UnknownObject
from masklet.types import StateOrigin, StepRequest

MIGRATED, RESTORED, RESEEDED = StateOrigin.MIGRATED, StateOrigin.RESTORED, StateOrigin.RESEEDED


async def disturbed(
    farm: Farm, event: Callable[[Farm], None], *, plan: Sequence[StepRequest] = PLAN, at: int = 6, **settings: Any
) -> dict[int, StateOrigin]:
    """Runs the plan with the event before one frame; every mask is as if nothing had happened."""
    async with opened(farm, **settings) as backend:
        results = await follow(backend, plan, {at: lambda: event(farm)})
        assert await are_undisturbed(results, plan)
        assert len(farm.holding("s")) == 1
        return origins(results)


def kill(farm: Farm) -> None:
    farm[home(farm)].kill()


def kill_stub(farm: Farm) -> None:
    place = farm[home(farm)]
    place.stub = False
    place.forget()


@pytest.mark.parametrize("event", [kill, kill_stub])
@pytest.mark.parametrize("every", [2, 4, 1000], ids=lambda every: f"checkpoint every {every}")
def test_a_dead_endpoint_s_session_is_restored_bit_for_bit_and_told_once(event, every):
    found = simulate(disturbed(Farm("a:1", "b:1"), event, checkpoint_every_frames=every))
    assert found == {6: RESTORED}


def test_without_any_checkpoint_the_session_is_replayed_from_its_opening():
    run = disturbed(Farm("a:1", "b:1"), kill, checkpoint_bytes=0)
    assert simulate(run) == {6: RESTORED}


def test_a_bank_forgotten_by_a_healthy_endpoint_is_restored():
    farm = Farm("a:1")
    assert simulate(disturbed(farm, lambda farm: farm["a:1"].forget())) == {6: RESTORED}


def test_a_lost_connection_leaves_no_second_copy_and_no_frame_is_applied_twice():
    """The frame is carried out, then the endpoint cannot be reached for a while, with all its banks."""

    async def scenario():
        farm = Farm("a:1")
        async with opened(farm) as backend:
            results = await follow(backend, PLAN[:5])
            stepping = asyncio.create_task(backend.step("s", PLAN[5]))
            await asyncio.sleep(0.0015)
            farm["a:1"].up = False
            await asyncio.sleep(2)
            assert farm["a:1"].steps.count(6) == 1
            farm["a:1"].up = True
            results += [await stepping, *await follow(backend, PLAN[6:])]
        assert origins(results) == {6: RESTORED}
        assert await are_undisturbed(results)
        assert farm.holding("s") == set()

    simulate(scenario())


def test_an_endpoint_that_drains_hands_its_session_over_bit_for_bit():
    async def scenario():
        farm = Farm("a:1", "b:1")
        async with opened(farm) as backend:
            results = await follow(backend, PLAN[:5])
            first = home(farm)
            farm[first].ready = False
            await asyncio.sleep(2)
            assert home(farm) != first
            farm[first].kill()
            results += await follow(backend, PLAN[5:])
        assert origins(results) == {6: MIGRATED}
        assert await are_undisturbed(results)
        assert farm.metrics.registry.get_sample_value(
            "masklet_recoveries_total", {"origin": "migrated", "outcome": "recovered"}
        )

    simulate(scenario())


def test_with_nowhere_to_go_a_session_stays_where_it_drains_and_moves_when_there_is():
    async def scenario():
        farm = Farm("a:1", "b:1")
        farm["b:1"].up = False
        async with opened(farm) as backend:
            results = await follow(backend, PLAN[:3])
            farm["a:1"].ready = False
            await asyncio.sleep(3)
            results += await follow(backend, PLAN[3:6])
            farm["b:1"].up = True
            await asyncio.sleep(10)
            results += await follow(backend, PLAN[6:])
            assert farm.holding("s") == {"b:1"}
        assert origins(results) == {7: MIGRATED}
        assert await are_undisturbed(results)

    simulate(scenario())


def test_what_cannot_be_replayed_goes_on_from_the_last_masks():
    async def scenario():
        farm = Farm("a:1", "b:1")
        async with opened(farm, checkpoint_bytes=0, replay_frames=2) as backend:
            results = await follow(backend, PLAN[:5], {5: lambda: kill(farm)})
            assert origins(results) == {5: RESEEDED}
            assert await are_undisturbed(results)
            results = await follow(backend, [request(6), request(7, remove=[1])])
            assert [len(result.objects) for result in results] == [1, 0]

    simulate(scenario())


def test_an_object_that_was_absent_is_still_known_after_reseeding():
    async def scenario():
        farm = Farm("a:1", "b:1")
        async with opened(farm, checkpoint_bytes=0, replay_frames=0) as backend:
            await follow(backend, [request(1, click(1, 30.0)), request(2, click(2, 4.0)), *map(request, range(3, 9))])
            (result,) = await follow(backend, [request(9)], {9: lambda: kill(farm)})
            assert [one.object_score > 0 for one in result.objects] == [False, True]

    simulate(scenario())


def test_a_checkpoint_of_garbage_is_reseeded_not_believed():
    async def scenario():
        farm = Farm("a:1", "b:1")
        farm["a:1"].lies = farm["b:1"].lies = b"garbage"
        async with opened(farm) as backend:
            results = await follow(backend, PLAN[:6], {6: lambda: kill(farm)})
            assert origins(results) == {6: RESEEDED}

    simulate(scenario())


def test_with_nothing_to_go_on_from_the_state_is_lost():
    async def scenario():
        farm = Farm("a:1", "b:1")
        async with opened(farm, checkpoint_bytes=0, replay_frames=0), farm.routed(checkpoint_bytes=0) as other:
            await other.attach("s", 2)
            kill(farm)
            with pytest.raises(SessionStateLost, match="no answer to go on from"):
                await other.step("s", request(1))

    simulate(scenario())


def test_a_second_failure_during_recovery_is_survived():
    async def scenario():
        farm = Farm("a:1", "b:1", "c:1")
        async with opened(farm) as backend:
            results = await follow(backend, PLAN[:5])
            first = home(farm)
            for name in set(farm.places) - {first, "c:1" if first != "c:1" else "b:1"}:
                farm[name].stub = False  # health does not tell
            farm[first].kill()
            results += await follow(backend, PLAN[5:])
        assert origins(results) == {6: RESTORED}
        assert await are_undisturbed(results)

    simulate(scenario())


def test_a_place_that_refuses_the_session_is_passed_over(monkeypatch):
    async def scenario():
        farm = Farm("a:1", "b:1", "c:1")
        async with opened(farm) as backend:
            results = await follow(backend, PLAN[:5])
            first = home(farm)
            emptiest, other = sorted(set(farm.places) - {first})
            for number in range(3):
                await farm[other].backend.open(f"t{number}", SETTINGS)
            monkeypatch.setattr(Client, "max_sessions", 100)  # what it said once
            farm[emptiest].max_sessions = 0
            farm[first].kill()
            results += await follow(backend, PLAN[5:])
            assert home(farm) == other
        assert await are_undisturbed(results)

    simulate(scenario())


def test_a_frame_that_kills_whatever_takes_it_is_given_up_and_the_session_goes_on():
    async def scenario():
        farm = Farm(*(f"{name}:1" for name in "abcdef"))
        for place in farm.places.values():
            place.die_on = 6
        async with opened(farm) as backend:
            await follow(backend, PLAN[:5])
            with pytest.raises(BackendUnavailable, match="frame 6 was tried 3 times"):
                await backend.step("s", PLAN[5])
            (result,) = await follow(backend, [PLAN[6]])
            assert origins([result]) == {7: RESTORED}
            assert sum(not place.stub for place in farm.places.values()) == 3

    simulate(scenario())


def test_recovery_is_bounded_in_time_and_tried_again_with_the_next_frame():
    async def scenario():
        farm = Farm("a:1")
        async with opened(farm, recovery_timeout_s=4.0) as backend:
            await follow(backend, PLAN[:3])
            farm["a:1"].kill()
            before_s = now_s()
            with pytest.raises(BackendUnavailable, match="no Triton can be used: a:1 is ejected") as caught:
                await backend.step("s", PLAN[3])
            assert 4.0 <= now_s() - before_s < 5.0
            assert caught.value.retry_after_s
            farm["a:1"].start()
            await asyncio.sleep(30)  # longer than the longest pause between tries
            results = await follow(backend, PLAN[3:])
            assert origins(results) == {4: RESTORED}
            assert await are_undisturbed(results)

    simulate(scenario())


def test_errors_of_requests_pass_through_and_are_not_replayed():
    async def scenario():
        farm = Farm("a:1", "b:1")
        async with opened(farm) as backend:
            await follow(backend, PLAN[:3])
            with pytest.raises(UnknownObject):
                await backend.step("s", request(4, remove=[9]))
            with pytest.raises(UnknownFrame):
                await backend.step("s", StepRequest(77, None, (click(),)))
            with pytest.raises(BackendError, match="comes after"):
                await backend.step("s", request(2))
            kill(farm)
            results = await follow(backend, PLAN[3:])
            assert await are_undisturbed(results)

    simulate(scenario())


def test_corrections_are_replayed():
    plan = [*PLAN[:3], StepRequest(2, None, (click(1, 16.0),)), *PLAN[3:]]
    found = simulate(disturbed(Farm("a:1", "b:1"), kill, plan=plan, at=8, checkpoint_every_frames=1000))
    assert found == {8: RESTORED}


def test_a_caller_that_leaves_during_a_frame_leaves_it_carried_out():
    async def scenario():
        farm = Farm("a:1", "b:1")
        async with opened(farm) as backend:
            await follow(backend, PLAN[:3])
            leaving = asyncio.create_task(backend.step("s", PLAN[3]))
            await asyncio.sleep(0.0005)
            leaving.cancel()
            await asyncio.sleep(0.1)
            kill(farm)
            results = await follow(backend, PLAN[4:])
            assert await are_undisturbed(results)

    simulate(scenario())


def test_recoveries_and_their_time_are_counted():
    farm = Farm("a:1", "b:1")
    simulate(disturbed(farm, kill))
    sample = farm.metrics.registry.get_sample_value
    assert sample("masklet_recoveries_total", {"origin": "restored", "outcome": "recovered"}) == 1
    assert sample("masklet_session_recovery_seconds_count") == 1
