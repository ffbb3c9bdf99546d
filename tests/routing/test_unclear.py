"""Answers that are lost or make no sense: what was asked may have been done. Nothing is done twice or forgotten."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest
from tests.routing.farm import SETTINGS, Farm, click, request
from tests.routing.followed import PLAN, are_undisturbed, follow, home, links, opened, origins
from tests.routing.simulated import simulate

from masklet.errors import BackendUnavailable, BackendUncertain
from masklet.routing.record import owner_epoch
from masklet.types import StateOrigin

RESTORED, RESEEDED = StateOrigin.RESTORED, StateOrigin.RESEEDED
EDITED = [*PLAN[:5], request(6, remove=[1]), request(7), request(8, click(3))]
FOR_EVER = 10**6
CHECKPOINT_OF_FRAME_1: dict[str, Any] = {"checkpoint_every_frames": 1000, "checkpoint_min_interval_s": 1000.0}


def counts(farm: Farm, *, heard: bool) -> Counter[str]:
    """Of the only place: what it answers with nonsense."""
    return farm["a:1"].garbled if heard else farm["a:1"].unheard


@pytest.mark.parametrize("heard", [True, False])
def test_a_frame_whose_answer_is_lost_is_carried_out_once_and_ejects_nobody(heard):
    async def scenario():
        farm = Farm("a:1")
        async with opened(farm) as backend:
            before = links(backend)
            results = await follow(backend, EDITED, {6: lambda: counts(farm, heard=heard).update(step=1)})
            assert origins(results) == {6: RESTORED}
            assert await are_undisturbed(results, EDITED)
            assert (links(backend), farm.holding("s")) == (before, {"a:1"})

    simulate(scenario())


@pytest.mark.parametrize("heard", [True, False])
@pytest.mark.parametrize("call", ["import", "step", "attach", "close"])
def test_nonsense_during_a_recovery_does_not_cost_the_checkpoint(call, heard):
    def struck(farm: Farm) -> None:
        farm["a:1"].garbled["step"] += 1  # of frame 6
        counts(farm, heard=heard)[call] += 1

    async def scenario():
        farm = Farm("a:1")
        async with opened(farm) as backend:
            results = await follow(backend, PLAN, {6: lambda: struck(farm)})
            await asyncio.sleep(2)
            assert origins(results) == {6: RESTORED}
            assert await are_undisturbed(results)
            assert farm.holding("s") == {"a:1"}

    simulate(scenario())


def test_a_frame_that_always_gets_nonsense_is_given_up_after_as_many_tries_as_any():
    async def scenario():
        farm = Farm("a:1")
        async with opened(farm, **CHECKPOINT_OF_FRAME_1) as backend:
            results = await follow(backend, PLAN[:1])
            await asyncio.sleep(1)
            farm["a:1"].unheard["step"] = FOR_EVER
            with pytest.raises(BackendUnavailable, match=r"frame 2 was tried 3 times, .* INTERNAL: a:1 on step"):
                await backend.step("s", PLAN[1])
            assert FOR_EVER - farm["a:1"].unheard["step"] == 3
            farm["a:1"].unheard.clear()
            results += await follow(backend, PLAN[1:])
            assert origins(results) == {2: RESTORED}
            assert await are_undisturbed(results)

    simulate(scenario())


def test_a_session_leaves_a_place_that_answers_nonsense_for_another():
    async def scenario():
        farm = Farm("a:1", "b:1")
        async with opened(farm) as backend:
            results = await follow(backend, PLAN[:5])
            first = home(farm)
            farm[first].garbled.update(dict.fromkeys(("step", "import", "attach", "close"), FOR_EVER))
            results += await follow(backend, PLAN[5:])
            assert backend.location("s") != first
            farm[first].garbled.clear()
            await asyncio.sleep(2)
            assert farm.holding("s") == {backend.location("s")}
        assert origins(results) == {6: RESTORED}
        assert await are_undisturbed(results)

    simulate(scenario())


def test_a_session_is_rather_recovered_where_nothing_was_unclear_than_where_most_room_is():
    async def scenario():
        farm = Farm("a:1", "b:1")
        async with opened(farm) as backend:
            results = await follow(backend, PLAN[:1])
            first = home(farm)
            (other,) = set(farm.places) - {first}
            for number in range(3):
                await farm[other].backend.open(f"t{number}", SETTINGS)
            await asyncio.sleep(3)  # that is seen; a checkpoint, and nothing to be replayed on top of it
            farm[first].unheard["step"] = FOR_EVER
            results += await follow(backend, PLAN[1:])
            assert backend.location("s") == other
        assert origins(results) == {2: RESTORED}
        assert await are_undisturbed(results)

    simulate(scenario())


def test_a_checkpoint_that_never_gets_a_clear_answer_is_given_up_for_the_last_masks():
    async def scenario():
        farm = Farm("a:1")
        async with opened(farm) as backend:
            await follow(backend, PLAN[:5])
            farm["a:1"].unheard["import"] = FOR_EVER
            farm["a:1"].unheard["step"] = 1
            failed = 0
            for seq in range(6, 12):
                try:
                    (result,) = await follow(backend, [request(seq)])
                    break
                except BackendUnavailable:
                    failed += 1
            assert (failed, origins([result])) == (2, {8: RESEEDED})

    simulate(scenario())


@pytest.mark.parametrize("heard", [True, False])
def test_a_new_owner_whose_answer_is_lost_owns_the_session_all_the_same(heard):
    async def scenario():
        farm = Farm("a:1")
        async with opened(farm) as backend:
            results = await follow(backend, PLAN[:5])
            counts(farm, heard=heard)["attach"] = 1
            held = await backend.attach("s", 2)
            assert (held.last_frame_seq, held.origin) == (5, RESTORED)
            results += await follow(backend, PLAN[5:])
            assert await are_undisturbed(results)
            await backend.attach("s", 3)

    simulate(scenario())


def test_a_new_owner_who_was_never_answered_may_ask_again():
    async def scenario():
        farm = Farm("a:1")
        async with opened(farm) as backend:
            results = await follow(backend, PLAN[:5])
            farm["a:1"].garbled["attach"] = FOR_EVER
            with pytest.raises(BackendUnavailable):
                await backend.attach("s", 2)
            farm["a:1"].garbled.clear()
            assert (await backend.attach("s", 2)).last_frame_seq == 5
            results += await follow(backend, PLAN[5:])
            assert await are_undisturbed(results)
            await asyncio.sleep(2)
            assert farm["a:1"].backend._owners._epochs["s"] >= owner_epoch(2)

    simulate(scenario())


@pytest.mark.parametrize("heard", [True, False])
def test_a_session_whose_opening_or_closing_is_unclear_is_not_left_there(heard):
    async def scenario():
        farm = Farm("a:1")
        async with farm.routed() as backend:
            counts(farm, heard=heard).update(open=1, close=1)
            with pytest.raises(BackendUncertain):
                await backend.open("s", SETTINGS)
            await asyncio.sleep(2)
            assert (farm.holding("s"), list(backend._sessions)) == (set(), [])
            await backend.open("s", SETTINGS)
            counts(farm, heard=heard).update(close=1)
            await backend.close("s")
            await asyncio.sleep(2)
            assert farm.holding("s") == set()
            assert [link.loads for link in backend._fleet.links()] == [{}]

    simulate(scenario())


def test_one_left_behind_that_is_not_clearly_closed_keeps_no_other_from_being_closed():
    async def scenario():
        farm = Farm("a:1")
        async with farm.routed() as backend:
            (link,) = backend._fleet.links()
            for name in ("first", "second"):
                await farm["a:1"].backend.open(name, SETTINGS)
                backend._fleet.leave_behind(link, name, 5)
            farm["a:1"].garbled["attach"] = 1
            while len(farm["a:1"].sessions) > 1:
                await asyncio.sleep(0.001)
            assert farm["a:1"].sessions == {"first"}
            await asyncio.sleep(1)
            assert (farm["a:1"].sessions, links(backend)) == (set(), {"a:1": link})

    simulate(scenario())
