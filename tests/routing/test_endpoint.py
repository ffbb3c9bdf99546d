"""Endpoints that are late, fail, drain, come back, or run something else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from itertools import pairwise

import pytest
from tests.routing.farm import SETTINGS, Client, Farm, click, request
from tests.routing.simulated import now_s, simulate

from masklet.errors import AdmissionRefused, BackendError, BackendUnavailable
from masklet.routing.discovery import Found, Standing
from masklet.routing.endpoint import EndpointState
from masklet.types import StepRequest, StepResult


def states(farm: Farm) -> dict[str, float]:
    sample = farm.metrics.registry.get_sample_value
    found = {state: sample("masklet_triton_endpoints", {"state": state}) for state in EndpointState}
    return {str(state): count for state, count in found.items() if count}


def test_an_endpoint_that_never_comes_is_an_error_that_names_it():
    async def scenario():
        farm = Farm("a:1")
        farm["a:1"].up = False
        before_s = now_s()
        with pytest.raises(BackendUnavailable, match=r"after 7 s: a:1 is connecting \(UNAVAILABLE: a:1\)"):
            async with farm.routed(first_timeout_s=7.0):
                pass
        assert 7.0 <= now_s() - before_s < 9.0

    simulate(scenario())


def test_one_that_is_up_late_is_waited_for():
    async def scenario():
        farm = Farm("a:1")
        farm["a:1"].up = False
        asyncio.get_running_loop().call_later(20, farm["a:1"].start)
        before_s = now_s()
        async with farm.routed(first_timeout_s=60.0) as backend:
            assert 20.0 <= now_s() - before_s < 27.0
            await backend.open("s", SETTINGS)

    simulate(scenario())


def test_pauses_between_tries_grow_and_are_bounded(monkeypatch):
    tried_s: list[float] = []

    async def scenario():
        farm = Farm("a:1")
        farm["a:1"].up = False
        make = farm.client

        def noted(address: str) -> Client:
            tried_s.append(now_s())
            return make(address)

        monkeypatch.setattr(farm, "client", noted)
        with pytest.raises(BackendUnavailable):
            async with farm.routed(first_timeout_s=120.0):
                pass

    simulate(scenario())
    pauses = [later - sooner for sooner, later in pairwise(tried_s)]
    assert 0.1 <= pauses[0] <= 0.21
    assert min(pauses[8:]) >= 1.0
    assert max(pauses) <= 2.1
    assert len({round(pause, 3) for pause in pauses[8:]}) > 3, "there is no jitter"


def test_after_the_death_of_all_sessions_are_refused_until_one_is_back():
    async def scenario():
        farm = Farm("a:1", "b:1")
        async with farm.routed() as backend:
            for place in farm.places.values():
                place.kill()
            with pytest.raises(BackendUnavailable, match="no Triton can be used") as caught:
                await backend.open("s", SETTINGS)
            assert caught.value.retry_after_s
            await asyncio.sleep(60)
            assert states(farm) == {"ejected": 2}
            farm["b:1"].start()
            await asyncio.sleep(10)
            await backend.open("s", SETTINGS)
            assert farm.holding("s") == {"b:1"}

    simulate(scenario())


def test_the_breaker_opens_on_the_first_error_though_health_stays_green():
    async def scenario():
        farm = Farm("a:1", "b:1")
        async with farm.routed() as backend:
            farm["a:1"].stub = False
            for number in range(6):
                await backend.open(f"s{number}", SETTINGS)
            assert len(farm["b:1"].sessions) == 6
            assert states(farm) == {"healthy": 1, "ejected": 1}

    simulate(scenario())


def test_a_dead_server_is_noticed_without_any_session():
    async def scenario():
        farm = Farm("a:1", "b:1")
        async with farm.routed():
            farm["a:1"].kill()
            await asyncio.sleep(3)
            assert states(farm) == {"healthy": 1, "ejected": 1}

    simulate(scenario())


def test_one_lost_look_at_the_health_ejects_nobody():
    async def scenario():
        farm = Farm("a:1")
        async with farm.routed() as backend:
            await backend.open("s", SETTINGS)
            farm["a:1"].up = False
            await asyncio.sleep(0.5)
            farm["a:1"].up = True
            assert (await backend.step("s", request(1, click()))).recovered is None
            await asyncio.sleep(5)
            assert states(farm) == {"healthy": 1}

    simulate(scenario())


def test_no_session_is_placed_before_the_canary_has_sung():
    async def scenario():
        farm = Farm("a:1")
        farm["a:1"].stub = False
        with pytest.raises(BackendUnavailable, match="a:1"):
            async with farm.routed(first_timeout_s=10.0):
                pass
        farm["a:1"].stub = True
        async with farm.routed():
            assert farm["a:1"].steps == [1, 2]
            assert not farm["a:1"].sessions

    simulate(scenario())


def test_an_endpoint_that_is_too_slow_for_the_canary_is_not_used():
    async def scenario():
        farm = Farm("a:1", "b:1")
        farm["a:1"].latency_s = 30.0
        async with farm.routed(canary_timeout_s=2.0) as backend:
            await asyncio.sleep(20)
            assert states(farm) == {"connecting": 1, "healthy": 1}
            await backend.open("s", SETTINGS)
            assert farm.holding("s") == {"b:1"}

    simulate(scenario())


def test_an_endpoint_with_another_model_is_not_used():
    async def scenario():
        farm = Farm("a:1", "b:1")
        farm["b:1"].up = False
        async with farm.routed() as backend:
            farm["b:1"].model = "another"
            farm["b:1"].start()
            farm["a:1"].max_sessions = 0
            await asyncio.sleep(20)
            with pytest.raises(AdmissionRefused, match="all 1 Tritons are full"):
                await backend.open("s", SETTINGS)
            assert "b:1 runs another" in backend._fleet.why()

    simulate(scenario())


def test_nothing_is_placed_on_an_endpoint_that_drains(caplog):
    async def scenario():
        farm = Farm("a:1", "b:1")
        async with farm.routed() as backend:
            farm["a:1"].ready = False  # and nobody has looked yet
            for number in range(4):
                await backend.open(f"s{number}", SETTINGS)
            assert len(farm["b:1"].sessions) == 4
            await asyncio.sleep(1)
            assert states(farm) == {"draining": 1, "healthy": 1}

    simulate(scenario())
    assert not [one for one in caplog.records if one.exc_info], "a session that was not there yet was moved"


def test_a_copy_left_behind_is_closed_when_its_endpoint_is_back():
    async def scenario():
        farm = Farm("a:1", "b:1")
        async with farm.routed() as backend:
            await backend.open("s", SETTINGS)
            await backend.step("s", request(1, click()))
            (first,) = farm.holding("s")
            farm[first].up = False  # with its banks
            await asyncio.sleep(10)
            await backend.step("s", request(2))
            assert len(farm.holding("s")) == 2
            farm[first].up = True
            await asyncio.sleep(10)
            assert len(farm.holding("s")) == 1
            assert len((await backend.step("s", request(3))).objects) == 1

    simulate(scenario())


def test_a_session_closed_while_its_endpoint_was_gone_is_closed_there_later():
    async def scenario():
        farm = Farm("a:1")
        async with farm.routed() as backend:
            await backend.open("s", SETTINGS)
            farm["a:1"].up = False
            await asyncio.sleep(10)
            await backend.close("s")
            assert farm.holding("s") == {"a:1"}
            farm["a:1"].up = True
            await asyncio.sleep(10)
            assert farm.holding("s") == set()

    simulate(scenario())


def test_connections_are_left_when_the_backend_is():
    async def scenario():
        farm = Farm("a:1", "b:1")
        async with farm.routed() as backend:
            await backend.open("s", SETTINGS)
            assert [place.connections for place in farm.places.values()] == [1, 1]
        assert [place.connections for place in farm.places.values()] == [0, 0]
        assert farm.holding("s") == set()

    simulate(scenario())


def test_an_endpoint_that_answers_nothing_is_ejected_however_healthy_it_says_it_is():
    async def scenario():
        farm = Farm("a:1", "b:1")
        async with farm.routed(step_timeout_s=3.0) as backend:
            await backend.open("s", SETTINGS)
            await backend.step("s", request(1, click()))
            hung = farm[backend.location("s")]
            hung.hangs_s = 2.9
            await asyncio.sleep(2)
            assert states(farm) == {"healthy": 2}
            hung.hangs_s = 3.1
            await asyncio.sleep(0.6)
            assert states(farm)["healthy"] == 1  # the other is ejected or, some while after, on probation
            assert (await backend.step("s", request(2))).recovered is not None

    simulate(scenario())


def test_one_that_does_not_answer_one_request_is_ejected_however_many_others_it_answers():
    async def scenario():
        farm = Farm("a:1", "b:1")
        async with farm.routed(step_timeout_s=3.0) as backend:
            await backend.open("s", SETTINGS)
            await backend.step("s", request(1, click()))
            hung = farm[backend.location("s")]
            hung.stuck_s = 11.9
            await asyncio.sleep(2)
            assert states(farm) == {"healthy": 2}
            hung.stuck_s = 12.1
            await asyncio.sleep(0.6)
            assert states(farm)["healthy"] == 1
            assert (await backend.step("s", request(2))).recovered is not None

    simulate(scenario())


class Hypocrite(Client):
    """Its canary sings, and no other session's frames are answered."""

    async def step(self, session_id: str, request: StepRequest) -> StepResult:
        if session_id.startswith("canary"):
            return await super().step(session_id, request)
        raise BackendUnavailable("UNAVAILABLE: real frames fail")


def ejections(farm: Farm) -> float:
    return farm.metrics.registry.get_sample_value("masklet_triton_ejections_total") or 0.0


def test_one_that_fails_again_soon_after_its_canary_is_used_less_and_less():
    async def scenario():
        farm = Farm("a:1", "b:1")
        make = farm.client
        farm.client = lambda address: Hypocrite(farm[address]) if address == "a:1" else make(address)  # type: ignore[method-assign]
        async with farm.routed() as backend:
            counts = []
            for number in range(600):
                await backend.open(f"s{number}", SETTINGS)
                await backend.step(f"s{number}", request(1, click()))
                await backend.close(f"s{number}")
                await asyncio.sleep(1)
                counts.append(ejections(farm))
            assert 6 <= counts[60] <= 10
            assert 10 <= counts[-1] <= 40
            farm.client = make  # type: ignore[method-assign]
            await asyncio.sleep(120)
            assert states(farm) == {"healthy": 2}, "the longest pause is shorter"

    simulate(scenario())


def test_one_that_was_away_or_proved_itself_is_used_at_once_when_it_is_back():
    async def scenario():
        farm = Farm("a:1")
        async with farm.routed():
            for number in range(1, 9):
                farm["a:1"].kill()
                await asyncio.sleep(6)
                assert (states(farm), ejections(farm)) == ({"ejected": 1}, number)
                farm["a:1"].start()
                await asyncio.sleep(4)
                assert states(farm) == {"healthy": 1}

    simulate(scenario())


def test_the_end_of_one_that_drains_is_no_ejection():
    async def scenario():
        farm = Farm("a:1", "b:1")
        async with farm.routed():
            farm["a:1"].ready = False
            await asyncio.sleep(2)
            farm["a:1"].kill()
            await asyncio.sleep(5)
            assert (states(farm), ejections(farm)) == ({"ejected": 1, "healthy": 1}, 0)

    simulate(scenario())


def test_canaries_that_are_given_up_are_closed_when_another_has_sung(monkeypatch):
    async def stuck(self: Client, session_id: str, request: StepRequest) -> StepResult:
        await asyncio.sleep(3600)
        raise AssertionError

    async def scenario():
        farm = Farm("a:1", "b:1")
        async with farm.routed(canary_timeout_s=1.0):
            with monkeypatch.context() as patched:
                patched.setattr(Client, "step", stuck)
                farm["a:1"].up = False
                await asyncio.sleep(3)
                farm["a:1"].up = True
                await asyncio.sleep(20)
                assert len(farm["a:1"].sessions) > 3
            await asyncio.sleep(10)
            assert (states(farm), farm["a:1"].sessions) == ({"healthy": 2}, set())

    simulate(scenario())


def test_one_without_traffic_is_asked_what_it_holds_every_two_seconds():
    async def scenario():
        farm = Farm("a:1")
        async with farm.routed() as backend:
            before = farm["a:1"].asked
            await asyncio.sleep(60)
            assert 20 <= farm["a:1"].asked - before <= 30
            await backend.open("s", SETTINGS)
            before = farm["a:1"].asked
            for seq in range(1, 61):
                await backend.step("s", request(seq, *([click()] if seq == 1 else [])))
                await asyncio.sleep(1)
            assert farm["a:1"].asked == before  # its answers say it

    simulate(scenario())


def test_one_that_drains_is_not_asked_what_it_holds():
    async def scenario():
        farm = Farm("a:1")
        async with farm.routed():
            farm["a:1"].ready = False
            await asyncio.sleep(1)
            before = farm["a:1"].asked
            await asyncio.sleep(20)
            assert (farm["a:1"].asked, states(farm)) == (before, {"draining": 1})

    simulate(scenario())


def test_one_too_busy_to_say_what_it_holds_is_not_ejected():
    async def scenario():
        farm = Farm("a:1")
        async with farm.routed(health_timeout_s=2.0) as backend:
            (link,) = backend._fleet.links()
            farm["a:1"].latency_s = 5.0
            await asyncio.sleep(60)
            assert backend._fleet.links() == [link]
            assert farm["a:1"].asked > 2

    simulate(scenario())


def test_one_that_says_nonsense_when_asked_is_not_given_up(monkeypatch):
    async def nonsense(_: Client) -> None:
        raise BackendError("noise")

    async def scenario():
        farm = Farm("a:1")
        async with farm.routed() as backend:
            (link,) = backend._fleet.links()
            with monkeypatch.context() as patched:
                patched.setattr(Client, "ask_stats", nonsense)
                await asyncio.sleep(10)
            await asyncio.sleep(10)
            assert (backend._fleet.links(), states(farm)) == ([link], {"healthy": 1})

    simulate(scenario())


async def surprise(_: Client) -> bool:
    raise RuntimeError("noise")


def test_one_that_breaks_unexpectedly_is_ejected_and_started_anew(monkeypatch, caplog):
    async def scenario():
        farm = Farm("a:1")
        async with farm.routed() as backend:
            await backend.open("s", SETTINGS)
            await backend.step("s", request(1, click()))
            with monkeypatch.context() as patched:
                patched.setattr(Client, "is_ready", surprise)
                await asyncio.sleep(1)
                assert states(farm) == {"ejected": 1}
                assert "a:1 is ejected (a:1: RuntimeError: noise)" in backend._fleet.why()
                await asyncio.sleep(20)
                assert sum(states(farm).values()) == 1
            await asyncio.sleep(5)
            assert states(farm) == {"healthy": 1}
            assert (await backend.step("s", request(2))).recovered is not None
            assert farm["a:1"].connections == 1

    simulate(scenario())
    broken = [one for one in caplog.records if one.message == "endpoint has broken and is started anew"]
    assert 3 <= len(broken) <= 15, "there is no pause"


def test_one_that_breaks_and_is_not_named_any_more_is_forgotten(monkeypatch):
    async def scenario():
        farm = Farm("a:1")
        async with farm.routed(Leaver()):
            monkeypatch.setattr(Client, "is_ready", surprise)
            await asyncio.sleep(5)
            assert sum(states(farm).values()) == 1
            await asyncio.sleep(20)
            assert states(farm) == {}

    simulate(scenario())


def test_a_dead_model_is_noticed_without_any_session():
    async def scenario():
        farm = Farm("a:1", "b:1")
        async with farm.routed():
            farm["a:1"].stub = False  # health stays green
            await asyncio.sleep(6)
            assert states(farm)["healthy"] == 1

    simulate(scenario())


class Leaver:
    """Names an address, not any more after 10 s."""

    async def watch(self) -> AsyncIterator[Found]:
        yield {"a:1": Standing.WANTED}
        await asyncio.sleep(10)
        yield {}


class Flicker:
    """Names an address, not any more after 10 s, and again after another second."""

    async def watch(self) -> AsyncIterator[Found]:
        yield {"a:1": Standing.WANTED}
        await asyncio.sleep(10)
        yield {}
        await asyncio.sleep(1)
        yield {"a:1": Standing.WANTED}


def test_an_address_named_again_while_it_is_being_left_is_used_again():
    async def scenario():
        farm = Farm("a:1")
        farm["a:1"].leaving_s = 3.0
        async with farm.routed(Flicker()) as backend:
            await asyncio.sleep(30)
            assert states(farm) == {"healthy": 1}
            await backend.open("s", SETTINGS)

    simulate(scenario())
