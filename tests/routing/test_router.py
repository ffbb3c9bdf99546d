"""Owners, other fronts, and the smaller promises of a backend."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from tests.routing.farm import SETTINGS, Client, Farm, click, masks, request, undisturbed
from tests.routing.simulated import simulate

from masklet.errors import BackendUnavailable, BackendUncertain, SessionStateLost, SessionSuperseded
from masklet.routing.record import owner_epoch
from masklet.types import StateOrigin

PLAN = [request(1, click()), *map(request, range(2, 9))]
CANARY = 2  # steps, each a batch of its own


async def steps(backend, *requests):
    return [masks(await backend.step("s", one)) for one in requests]


def test_another_front_takes_a_session_over_wherever_it_is():
    async def scenario():
        farm = Farm("a:1", "b:1", "c:1")
        async with farm.routed() as one, farm.routed() as other:
            await one.open("s", SETTINGS)
            before = await steps(one, *PLAN[:4])
            held = await other.attach("s", 2, location="nowhere:1")
            assert (held.last_frame_seq, held.origin) == (4, StateOrigin.INTACT)
            assert other.location("s") == one.location("s")
            with pytest.raises(SessionSuperseded):
                await one.step("s", PLAN[4])
            await one.close("s")
            assert before + await steps(other, *PLAN[4:]) == await undisturbed(PLAN)

    simulate(scenario())


def test_a_session_adopted_is_checkpointed_and_restored_like_any_other():
    async def scenario():
        farm = Farm("a:1", "b:1")
        async with farm.routed() as one, farm.routed() as other:
            await one.open("s", SETTINGS)
            await steps(one, *PLAN[:4])
            await other.attach("s", 2)
            await asyncio.sleep(1)
            farm[other.location("s")].kill()
            result = await other.step("s", PLAN[4])
            assert (result.recovered, masks(result)) == (StateOrigin.RESTORED, (await undisturbed(PLAN))[4])

    simulate(scenario())


def test_a_copy_of_old_is_never_taken_for_the_session():
    """The endpoint cut off comes back with its old copy while another front looks for the session."""

    async def scenario():
        farm = Farm("a:1", "b:1")
        async with farm.routed(health_period_s=1000.0) as one, farm.routed() as other:
            await one.open("s", SETTINGS)
            before = await steps(one, *PLAN[:4])
            old = one.location("s")
            farm[old].stub = False
            before += await steps(one, *PLAN[4:6])
            farm[old].stub = True
            assert len(farm.holding("s")) == 2
            held = await other.attach("s", 2, location=old)  # a hint of before
            assert (held.last_frame_seq, len(farm.holding("s"))) == (6, 1)
            assert before + await steps(other, *PLAN[6:]) == await undisturbed(PLAN)

    simulate(scenario())


def test_a_late_front_is_superseded_and_disturbs_nothing():
    async def scenario():
        farm = Farm("a:1", "b:1")
        async with farm.routed() as one, farm.routed() as late:
            await one.open("s", SETTINGS)
            await one.attach("s", 3)
            with pytest.raises(SessionSuperseded):
                await late.attach("s", 2)
            assert await steps(one, *PLAN) == await undisturbed(PLAN)

    simulate(scenario())


def test_a_session_nobody_has_is_lost():
    async def scenario():
        async with Farm("a:1", "b:1").routed() as backend:
            with pytest.raises(SessionStateLost, match="at none of 2 Tritons"):
                await backend.attach("s", 2)
            with pytest.raises(SessionStateLost, match="not open here"):
                await backend.step("s", PLAN[0])
            await backend.close("s")

    simulate(scenario())


def test_with_all_gone_attaching_says_so():
    async def scenario():
        farm = Farm("a:1")
        async with farm.routed() as backend:
            farm["a:1"].kill()
            await asyncio.sleep(5)
            with pytest.raises(BackendUnavailable, match="no Triton can be used"):
                await backend.attach("s", 2)

    simulate(scenario())


def test_a_new_owner_on_the_same_front_is_told_of_a_recovery():
    async def scenario():
        farm = Farm("a:1", "b:1")
        async with farm.routed() as backend:
            await backend.open("s", SETTINGS)
            await steps(backend, *PLAN[:4])
            farm[backend.location("s")].kill()
            held = await backend.attach("s", 2)
            assert (held.origin, held.last_frame_seq) == (StateOrigin.RESTORED, 4)
            assert (await backend.step("s", PLAN[4])).recovered is StateOrigin.RESTORED
            assert (await backend.step("s", PLAN[5])).recovered is None

    simulate(scenario())


def test_a_disowned_session_outlives_its_front():
    async def scenario():
        farm = Farm("a:1", "b:1")
        async with farm.routed() as other:
            async with farm.routed() as one:
                await one.open("s", SETTINGS)
                before = await steps(one, *PLAN[:4])
                one.disown("s")
                with pytest.raises(SessionStateLost):
                    await one.step("s", PLAN[4])
            await other.attach("s", 2)
            assert before + await steps(other, *PLAN[4:]) == await undisturbed(PLAN)

    simulate(scenario())


def test_owners_epochs_leave_room_for_moves_between_them():
    assert owner_epoch(2) - owner_epoch(1) > 1000
    assert owner_epoch(2**40) < 2**62


def test_states_are_exported_and_imported():
    async def scenario():
        farm = Farm("a:1", "b:1")
        async with farm.routed() as backend:
            await backend.open("t", SETTINGS)
            for one in PLAN[:4]:
                await backend.step("t", one)
            await backend.import_state("s", await backend.export_state("t"))
            farm[backend.location("s")].kill()
            result = await backend.step("s", PLAN[4])
            assert (result.recovered, masks(result)) == (StateOrigin.RESTORED, (await undisturbed(PLAN))[4])

    simulate(scenario())


def test_a_session_that_is_imported_is_what_it_was():
    async def scenario():
        farm = Farm("a:1", "b:1")
        settings = replace(SETTINGS, frame_rate_hz=10.0)
        async with farm.routed(checkpoint_bytes=0) as backend:
            await backend.open("t", settings)
            for one in [request(1, click(1), click(2)), request(2), request(3)]:
                await backend.step("t", one)
            state = await backend.export_state("t")
            await backend.close("t")
            assert backend.stats().load == 0
            await backend.import_state("s", state)
            assert (backend._sessions["s"].settings, backend.stats().load) == (settings, 20.0)
            await backend.attach("s", 2)
            assert len((await backend.step("s", request(4))).objects) == 2
            await backend.close("s")
            assert (backend.stats().load, farm.holding("s")) == (0, set())

    simulate(scenario())


def test_an_import_without_a_clear_answer_leaves_nothing():
    async def scenario():
        farm = Farm("a:1")
        async with farm.routed() as backend:
            await backend.open("t", SETTINGS)
            state = await backend.export_state("t")
            for call in ("import", "attach"):
                farm["a:1"].garbled[call] = 1
                with pytest.raises(BackendUncertain):
                    await backend.import_state("s", state)
                assert farm["a:1"].sessions == {"s", "t"}
                await asyncio.sleep(3)
                assert farm["a:1"].sessions == {"t"}

    simulate(scenario())


@pytest.mark.parametrize("refused", [False, True])
def test_an_open_cancelled_before_its_answer_leaves_nothing(monkeypatch, refused):
    monkeypatch.setattr(Client, "max_sessions", 100)  # what it said once

    async def scenario():
        farm = Farm("a:1")
        async with farm.routed() as backend:
            farm["a:1"].latency_s, farm["a:1"].max_sessions = 0.3, 0 if refused else 100
            opening = asyncio.create_task(backend.open("s", SETTINGS))
            await asyncio.sleep(0.1)
            opening.cancel()
            await asyncio.wait([opening])
            assert opening.cancelled() and not backend._sessions
            await asyncio.sleep(0.25)
            assert farm.holding("s") == (set() if refused else {"a:1"})  # what was sent is carried out
            await asyncio.sleep(2)
            assert farm.holding("s") == set()
            assert [len(one.orphans) for one in backend._fleet._endpoints.values()] == [0]
            assert [link.loads for link in backend._fleet.links()] == [{}]

    simulate(scenario())


def test_an_open_cancelled_just_before_leaving_leaves_nothing():
    async def scenario():
        farm = Farm("a:1")
        async with farm.routed() as backend:
            opening = asyncio.create_task(backend.open("s", SETTINGS))
            await asyncio.sleep(0)
            opening.cancel()
            await asyncio.wait([opening])
        await asyncio.sleep(1)
        assert opening.cancelled() and farm.holding("s") == set()

    simulate(scenario())


def test_leaving_ends_a_frame_that_waits_for_recovery():
    async def scenario():
        farm = Farm("a:1")
        async with farm.routed() as backend:
            await backend.open("s", SETTINGS)
            farm["a:1"].kill()
            waiting = asyncio.create_task(backend.step("s", PLAN[0]))
            await asyncio.sleep(5)
        with pytest.raises(BackendUnavailable, match="the backend was left"):
            await waiting

    simulate(scenario())


def test_what_is_held_is_the_sum():
    async def scenario():
        farm = Farm("a:1", "b:1")
        async with farm.routed() as backend:
            for number in range(4):
                await backend.open(f"s{number}", SETTINGS)
                await backend.step(f"s{number}", PLAN[0])
            stats = backend.stats()
            assert (stats.sessions, stats.bank_bytes) == (4, 4 * 24 * 32)
            assert backend.describe().model == "fake"

    simulate(scenario())


def test_what_a_triton_did_before_it_was_known_here_is_not_counted():
    async def scenario():
        farm = Farm("a:1")
        async with farm.routed() as one, farm.routed() as other:
            await one.open("s", SETTINGS)
            await steps(one, *PLAN)
            assert one.stats().batches == one.stats().batched_steps > len(PLAN)
            async with farm.routed() as newcomer:
                assert newcomer.stats().batches == newcomer.stats().batched_steps == CANARY
                farm["a:1"].stub = False
                await asyncio.sleep(1)
                with pytest.raises(BackendUnavailable):
                    await newcomer.open("t", SETTINGS)
                farm["a:1"].start()
                await asyncio.sleep(5)
                assert newcomer.stats().batches <= CANARY * 3
            assert other.stats().sessions == 1

    simulate(scenario())
