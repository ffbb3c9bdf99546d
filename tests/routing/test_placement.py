"""Who gets a session, who is refused, and what is left when sessions end."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from tests.routing.farm import SETTINGS, Client, Farm, click, request
from tests.routing.simulated import now_s, simulate

from masklet.backends.load import LoadMeter
from masklet.errors import AdmissionRefused, BackendError, OverCapacity, SessionStateLost
from masklet.types import TrackSettings


def test_sessions_go_where_most_room_is():
    async def scenario():
        farm = Farm("a:1", "b:1")
        farm["b:1"].max_sessions = 300
        async with farm.routed() as backend:
            for number in range(40):
                await backend.open(f"s{number}", SETTINGS)
            return [len(place.sessions) for place in farm.places.values()]

    assert simulate(scenario()) == [10, 30]


def test_what_other_fronts_have_placed_counts():
    async def scenario():
        farm = Farm("a:1", "b:1")
        async with farm.routed() as one, farm.routed() as other:
            for number in range(10):
                await one.open(f"one-{number}", SETTINGS)
            for number in range(10):
                await other.open(f"other-{number}", SETTINGS)
            return [len(place.sessions) for place in farm.places.values()]

    assert simulate(scenario()) == [10, 10]


def test_a_session_stays_where_it_was_placed():
    async def scenario():
        farm = Farm("a:1", "b:1")
        async with farm.routed() as backend:
            await backend.open("s", SETTINGS)
            where = backend.location("s")
            for number in range(20):
                await backend.open(f"t{number}", SETTINGS)
                await backend.step("s", request(number + 1, click()))
            assert backend.location("s") == where
            assert farm.holding("s") == {where}

    simulate(scenario())


def test_when_all_are_full_newcomers_are_refused_and_a_close_makes_room():
    async def scenario():
        farm = Farm("a:1", "b:1")
        for place in farm.places.values():
            place.max_sessions = 2
        async with farm.routed() as backend:
            for number in range(4):
                await backend.open(f"s{number}", SETTINGS)
            with pytest.raises(
                AdmissionRefused, match=r"all 2 Tritons are full: a:1 has 0 of 2 sessions free, .* b:1 has"
            ) as caught:
                await backend.open("late", SETTINGS)
            assert caught.value.retry_after_s
            await backend.close("s0")
            await backend.open("late", SETTINGS)

    simulate(scenario())


def test_a_triton_that_refuses_is_passed_over(monkeypatch):
    async def scenario():
        farm = Farm("a:1", "b:1")
        monkeypatch.setattr(Client, "max_sessions", 100)  # what it said once, and another front has filled it since
        farm["a:1"].max_sessions = 0
        farm["b:1"].max_sessions = 6
        async with farm.routed() as backend:
            for number in range(6):
                await backend.open(f"s{number}", SETTINGS)
            with pytest.raises(AdmissionRefused):
                await backend.open("late", SETTINGS)
            return [len(place.sessions) for place in farm.places.values()]

    assert simulate(scenario()) == [0, 6]


def test_load_is_admitted_up_to_the_capacity_and_released():
    async def scenario():
        farm = Farm("a:1")
        settings: dict[str, Any] = {"capacity_object_frames_s": 10.0, "reserved_object_frames_s": 3.0}
        async with farm.routed(**settings) as backend:
            for number in range(3):
                await backend.open(f"s{number}", SETTINGS)
            with pytest.raises(AdmissionRefused, match=r"^3.0 objects x frames/s are asked for.* load 9.0 of 10.0"):
                await backend.open("late", SETTINGS)
            assert (backend.stats().load, backend.stats().capacity) == (9.0, 10.0)
            await backend.close("s1")
            await backend.open("late", SETTINGS)

    simulate(scenario())


def test_what_a_session_does_counts_when_it_is_more_than_reserved():
    async def scenario():
        farm = Farm("a:1")
        async with farm.routed(capacity_object_frames_s=28.0) as backend:
            await backend.open("busy", SETTINGS)
            for seq in range(1, 200):
                await backend.step("busy", request(seq, *([click(1), click(2)] if seq == 1 else [])))
                await asyncio.sleep(0.066)
            assert 26 < sum(link.load for link in backend._fleet.links()) < 31
            with pytest.raises(AdmissionRefused):
                await backend.open("another", SETTINGS)
            await asyncio.sleep(10)
            await backend.open("later", SETTINGS)

    simulate(scenario())


def rated(frame_rate_hz: float) -> TrackSettings:
    return replace(SETTINGS, frame_rate_hz=frame_rate_hz)


def test_a_share_of_what_a_triton_makes_is_given_to_sessions():
    async def scenario():
        farm = Farm("a:1", "b:1")
        farm["a:1"].measured, farm["b:1"].measured = 100.0, 20.0
        async with farm.routed(capacity_share=0.5) as backend:
            assert backend.stats().capacity == 60.0
            for number in range(6):
                await backend.open(f"s{number}", rated(10.0))
            with pytest.raises(OverCapacity, match=r"a:1 has .* load 50.0 of 50.0; b:1 has .* load 10.0 of 10.0"):
                await backend.open("late", rated(10.0))
            return [len(place.sessions) for place in farm.places.values()]

    assert simulate(scenario()) == [5, 1]


def test_a_front_without_traffic_learns_that_the_sessions_of_others_have_ended():
    async def scenario():
        farm = Farm("a:1")
        farm["a:1"].max_sessions = 2
        async with farm.routed() as one, farm.routed() as other:
            for name in ("s", "t"):
                await one.open(name, SETTINGS)
            with pytest.raises(AdmissionRefused):
                await other.open("late", SETTINGS)
            for name in ("s", "t"):
                await one.close(name)
            await asyncio.sleep(3)
            await other.open("late", SETTINGS)

    simulate(scenario())


def test_a_front_without_traffic_learns_that_the_load_of_others_has_ended():
    async def scenario():
        farm = Farm("a:1")
        async with farm.routed(capacity_object_frames_s=10.0) as one, farm.routed(capacity_object_frames_s=10.0) as two:
            await one.open("s", rated(8.0))
            with pytest.raises(OverCapacity):
                await two.open("t", rated(8.0))
            await one.close("s")
            await one.open("u", rated(1.0))
            await asyncio.sleep(3)
            await two.open("t", rated(8.0))

    simulate(scenario())


def test_a_front_without_traffic_goes_where_others_have_left_room():
    async def scenario():
        farm = Farm("a:1", "b:1")
        async with farm.routed() as one, farm.routed() as other:
            for number in range(10):
                await one.open(f"s{number}", SETTINGS)
            for name in [name for name in one._sessions if one.location(name) == "b:1"]:
                await one.close(name)
            await asyncio.sleep(3)
            await other.open("s", SETTINGS)
            assert other.location("s") == "b:1"

    simulate(scenario())


def test_load_that_other_fronts_have_placed_counts():
    async def scenario():
        farm = Farm("a:1")
        async with farm.routed(capacity_object_frames_s=10.0) as one, farm.routed(capacity_object_frames_s=10.0) as two:
            await one.open("s", rated(8.0))
            with pytest.raises(OverCapacity, match=r"load 8.0 of 10.0"):
                await two.open("t", rated(8.0))
            assert (one.stats().load, two.stats().load) == (8.0, 0.0)  # each tells of its own

    simulate(scenario())


def test_of_fronts_that_fill_a_triton_at_the_same_time_none_overfills_it():
    async def scenario():
        farm = Farm("a:1")
        async with farm.routed(capacity_object_frames_s=10.0) as one, farm.routed(capacity_object_frames_s=10.0) as two:
            opening = [backend.open(f"s{index}", rated(6.0)) for index, backend in enumerate((one, two))]
            outcomes = await asyncio.gather(*opening, return_exceptions=True)
            assert any(isinstance(outcome, OverCapacity) for outcome in outcomes)
            assert farm["a:1"].backend.stats().load <= 10.0
            assert sum(len(backend._sessions) for backend in (one, two)) == len(farm["a:1"].sessions)

    simulate(scenario())


def test_objects_are_added_as_long_as_their_triton_has_room():
    async def scenario():
        farm = Farm("a:1")
        async with farm.routed(capacity_object_frames_s=10.0) as backend:
            await backend.open("s", rated(4.0))
            backend.reserve("s", 3)  # alone
            backend.reserve("s", 1)
            await backend.open("t", rated(4.0))
            with pytest.raises(OverCapacity):
                backend.reserve("s", 2)
            assert backend.stats().load == 8.0

    simulate(scenario())


def test_a_session_that_was_admitted_is_recovered_where_there_is_no_room():
    async def scenario():
        farm = Farm("a:1", "b:1")
        async with farm.routed(capacity_object_frames_s=10.0) as backend:
            for name in ("s", "t"):
                await backend.open(name, rated(10.0))
                await backend.step(name, request(1, click()))
            farm[backend.location("s")].kill()
            result = await backend.step("s", request(2))
            assert result.recovered and backend.location("s") == backend.location("t")
            assert backend.stats().load == 20.0
            with pytest.raises(OverCapacity):
                await backend.open("late", SETTINGS)

    simulate(scenario())


def test_a_front_that_takes_a_session_over_knows_its_load():
    async def scenario():
        farm = Farm("a:1")
        async with farm.routed() as one, farm.routed() as two:
            await one.open("s", rated(8.0))
            await one.step("s", request(1, click(1), click(2)))
            one.disown("s")
            await two.attach("s", 2)
            assert (one.stats().load, two.stats().load) == (0.0, 16.0)

    simulate(scenario())


def test_a_load_fades_to_what_is_reserved():
    async def scenario():
        meter = LoadMeter(1.0, clock=now_s)
        for _ in range(300):
            meter.add(2)
            await asyncio.sleep(0.1)
        assert 19 < meter.load < 21
        await asyncio.sleep(60)
        assert meter.load == 1.0

    simulate(scenario())


def test_an_open_that_fails_leaves_nothing():
    async def scenario():
        farm = Farm("a:1")
        async with farm.routed() as backend:
            await backend.open("s", SETTINGS)
            with pytest.raises(BackendError, match="already open"):
                await backend.open("s", SETTINGS)
            with pytest.raises(BackendError, match="not an exported state"):
                await backend.import_state("t", b"garbage")
            assert [len(link.loads) for link in backend._fleet.links()] == [1]
            with pytest.raises(SessionStateLost):
                await backend.step("t", request(1))

    simulate(scenario())


def test_a_thousand_sessions_opened_and_abandoned_leave_nothing():
    async def scenario():
        farm = Farm("a:1", "b:1")
        async with farm.routed() as backend:
            tasks = len(asyncio.all_tasks())
            for number in range(1000):
                await backend.open(f"s{number}", SETTINGS)
                await backend.step(f"s{number}", request(1, click()))
                if number == 500:
                    farm["a:1"].kill()
                if number == 600:
                    farm["a:1"].start()
                await backend.close(f"s{number}")
            await asyncio.sleep(10)
            assert [link.loads for link in backend._fleet.links()] == [{}, {}]
            assert (len(backend._sessions), len(backend._checkpoints), len(backend._working)) == (0, 0, 0)
            assert [len(place.sessions) for place in farm.places.values()] == [0, 0]
            assert [len(one.orphans) for one in backend._fleet._endpoints.values()] == [0, 0]
            assert len(asyncio.all_tasks()) == tasks

    simulate(scenario())


def test_a_newcomer_who_was_too_much_is_told_so_even_if_the_answer_to_its_closing_is_lost():
    async def scenario():
        farm = Farm("a:1")
        async with farm.routed(capacity_object_frames_s=10.0) as one, farm.routed(capacity_object_frames_s=10.0) as two:
            farm["a:1"].garbled["close"] = 1
            opening = [backend.open(f"s{index}", rated(6.0)) for index, backend in enumerate((one, two))]
            outcomes = await asyncio.gather(*opening, return_exceptions=True)
            assert farm["a:1"].garbled["close"] == 0
            assert {type(outcome) for outcome in outcomes if outcome is not None} == {OverCapacity}

    simulate(scenario())


def test_a_session_that_is_opened_at_another_try_is_above_what_the_first_may_have_left():
    async def scenario():
        farm = Farm("a:1", "b:1")
        async with farm.routed() as backend:
            await asyncio.sleep(0.1)
            farm["a:1"].max_sessions = 300  # most room, so tried first
            farm["a:1"].up = False
            await backend.open("s", SETTINGS)
            left = backend._fleet._endpoints["a:1"].orphans._epochs["s"]
            assert backend.location("s") == "b:1" and backend._sessions["s"].epoch > left

    simulate(scenario())
