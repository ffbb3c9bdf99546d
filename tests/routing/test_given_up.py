"""Sessions that are closed, or left to others, while their Triton cannot be reached."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
from tests.routing.farm import SETTINGS, Client, Farm, click, masks, request, undisturbed
from tests.routing.followed import PLAN, follow, home, links, opened
from tests.routing.simulated import simulate

from masklet.errors import BackendUnavailable, MaskletError, SessionStateLost
from masklet.routing.router import RoutedBackend


class Cuttable(Client):
    """A client whose way to its place may be cut, while others' is not."""

    cut = False

    async def is_ready(self) -> bool:
        self._check()
        return await super().is_ready()

    async def _attached(self, session_id, epoch):
        self._check()
        return await super()._attached(session_id, epoch)

    async def _owned(self, session_id):
        self._check()
        await super()._owned(session_id)

    async def _room(self):
        self._check()
        await super()._room()

    async def ask_stats(self):
        self._check()
        return await super().ask_stats()

    def _check(self) -> None:
        if Cuttable.cut:
            raise BackendUnavailable("cut off")


@pytest.fixture(autouse=True)
def uncut():
    yield
    Cuttable.cut = False


@asynccontextmanager
async def fronts(farm: Farm, **settings: float) -> AsyncIterator[tuple[RoutedBackend, RoutedBackend]]:
    """Two, with session "s" at the first, whose way to all places may be cut."""
    plain = farm.client
    farm.client = lambda address: Cuttable(farm.places[address])  # type: ignore[method-assign]
    async with opened(farm, **settings) as one:
        farm.client = plain  # type: ignore[method-assign]
        async with farm.routed() as other:
            farm.client = lambda address: Cuttable(farm.places[address])  # type: ignore[method-assign]
            await follow(one, PLAN[:3])
            yield one, other


@pytest.mark.parametrize("stepping", [True, False])
def test_a_session_left_to_others_is_not_closed_by_who_lost_it(stepping):
    async def scenario():
        farm = Farm("a:1")
        async with fronts(farm, recovery_timeout_s=1.0 if not stepping else 30.0) as (one, other):
            Cuttable.cut = True
            await asyncio.sleep(3)
            frame = asyncio.create_task(one.step("s", PLAN[3]))
            await asyncio.sleep(2)
            assert frame.done() is not stepping
            one.disown("s")
            Cuttable.cut = False
            await asyncio.sleep(5)
            assert (await other.attach("s", 2, location="a:1")).last_frame_seq == 3
            assert [masks(await other.step("s", PLAN[3]))] == (await undisturbed(PLAN))[3:4]
            with pytest.raises(MaskletError):
                await frame

    simulate(scenario())


def test_a_session_left_to_others_while_it_waits_its_turn_is_not_closed_either():
    async def scenario():
        farm = Farm("a:1")
        names = [f"s{number}" for number in range(12)]
        async with farm.routed() as backend:
            for name in names:
                await backend.open(name, SETTINGS)
                await backend.step(name, request(1, click()))
            farm["a:1"].up = False  # with its banks
            await asyncio.sleep(3)
            frames = [asyncio.create_task(backend.step(name, request(2))) for name in names]
            farm["a:1"].latency_s, farm["a:1"].up = 0.3, True
            while not links(backend):
                await asyncio.sleep(0.01)
            assert "s11" in farm["a:1"].sessions
            backend.disown("s11")
            await asyncio.sleep(30)
            assert farm["a:1"].sessions == set(names)
            with pytest.raises(SessionStateLost, match="not wanted"):
                await frames.pop()
            assert all(result.recovered for result in await asyncio.gather(*frames))

    simulate(scenario())


def test_a_session_disowned_while_it_is_rebuilt_leaves_nothing_behind():
    async def scenario():
        farm = Farm("a:1", "b:1")
        async with opened(farm) as backend:
            await follow(backend, PLAN[:3])
            first = home(farm)
            (other,) = set(farm.places) - {first}
            farm[other].latency_s = 0.3
            farm[first].kill()
            frame = asyncio.create_task(backend.step("s", PLAN[3]))
            await asyncio.sleep(0.5)
            assert farm.holding("s") == {other}
            backend.disown("s")
            with pytest.raises(SessionStateLost, match="not wanted"):
                await frame
            assert [link.loads for link in backend._fleet.links()] == [{}]
            await asyncio.sleep(3)
            assert farm.holding("s") == set()
            assert not farm.metrics.registry.get_sample_value(
                "masklet_recoveries_total", {"origin": "none", "outcome": "SESSION_STATE_LOST"}
            )

    simulate(scenario())


@pytest.mark.parametrize("after_s", [0.1, 0.3, 0.5, 0.7, 0.9, 1.1])
def test_a_session_disowned_while_it_moves_stays_for_others(after_s):
    async def scenario():
        farm = Farm("a:1", "b:1")
        async with farm.routed() as other:
            async with opened(farm, health_period_s=0.1) as backend:
                await follow(backend, PLAN[:3])
                first = home(farm)
                for place in farm.places.values():
                    place.latency_s = 0.2
                farm[first].ready = False
                await asyncio.sleep(after_s)
                backend.disown("s")
                await asyncio.sleep(3)
                assert all("s" not in link.loads for link in backend._fleet.links())
                assert len(farm.holding("s")) == 1
            farm[first].ready = True
            await asyncio.sleep(5)
            assert (await other.attach("s", 2)).last_frame_seq == 3

    simulate(scenario())


@pytest.mark.parametrize("looked", [True, False])
def test_a_session_closed_when_its_triton_was_just_cut_off_is_closed_there_later(looked):
    async def scenario():
        farm = Farm("a:1")
        async with opened(farm) as backend:
            await follow(backend, PLAN[:3])
            farm["a:1"].up = False
            if looked:
                await asyncio.sleep(3)
            await backend.close("s")
            assert farm.holding("s") == {"a:1"}
            await asyncio.sleep(3)
            farm["a:1"].up = True
            await asyncio.sleep(5)
            assert farm.holding("s") == set()

    simulate(scenario())


def test_a_prompt_for_one_more_object_is_not_refused_while_a_session_is_nowhere():
    async def scenario():
        farm = Farm("a:1")
        farm["a:1"].measured = 1000.0
        async with opened(farm) as backend:
            await backend.open("t", SETTINGS)
            await follow(backend, PLAN[:1])
            farm["a:1"].kill()
            await asyncio.sleep(3)
            backend.reserve("s", 2)
            farm["a:1"].start()
            await asyncio.sleep(5)
            assert links(backend), "it is back"
            backend.reserve("s", 2)
            assert backend._sessions["s"].meter.objects == 2
            (result,) = await follow(backend, [request(2, click(2))])
            assert len(result.objects) == 2
            with suppress(SessionStateLost):
                await backend.close("s")

    simulate(scenario())
