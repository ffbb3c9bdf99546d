"""When states are fetched, what is kept, and what gives way."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
from tests.routing.farm import SETTINGS, Client, Farm, click, request
from tests.routing.simulated import simulate

from masklet.routing.checkpoints import Checkpoints
from masklet.routing.replay import Base, LastAnswer, Replay
from masklet.types import ObjectMask, Prompt, PromptMode, StateOrigin, StepRequest, StepResult

FRAME_BYTES = 24 * 32 * 3


@pytest.fixture
def exports(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which sessions' states were fetched."""
    fetched: list[str] = []
    export = Client.export_state

    async def counted(self: Client, session_id: str) -> bytes:
        fetched.append(session_id)
        return await export(self, session_id)

    monkeypatch.setattr(Client, "export_state", counted)
    return fetched


async def run(plan: list[StepRequest], *, pause_s: float, **settings: object) -> Farm:
    farm = Farm("a:1")
    async with farm.routed(**settings) as backend:  # type: ignore[arg-type]
        await backend.open("s", SETTINGS)
        for one in plan:
            await backend.step("s", one)
            await asyncio.sleep(pause_s)
    return farm


def test_a_state_is_fetched_every_so_many_frames(exports):
    simulate(run([request(seq) for seq in range(1, 33)], pause_s=0.2, checkpoint_every_frames=8))
    assert len(exports) == 4


def test_a_prompt_and_a_removal_are_checkpointed_at_once(exports):
    plan = [request(1), request(2, click()), request(3), request(4, remove=[1]), request(5)]
    simulate(run(plan, pause_s=1.0, checkpoint_every_frames=1000))
    assert len(exports) == 2


def test_many_prompts_share_checkpoints(exports):
    plan = [request(seq, click(1, float(seq % 30))) for seq in range(1, 101)]
    simulate(run(plan, pause_s=0.05, checkpoint_every_frames=1000, checkpoint_min_interval_s=1.0))
    assert 4 <= len(exports) <= 7


def test_a_replay_that_grows_large_is_checkpointed_early(exports):
    plan = [request(seq) for seq in range(1, 41)]
    simulate(run(plan, pause_s=0.2, checkpoint_every_frames=1000, replay_bytes=10 * FRAME_BYTES))
    assert 6 <= len(exports) <= 8


def test_an_export_holds_up_one_frame_at_most():
    async def scenario() -> list[float]:
        farm = Farm("a:1")
        loop, took_s = asyncio.get_running_loop(), []
        async with farm.routed(checkpoint_every_frames=5, checkpoint_min_interval_s=0.0) as backend:
            await backend.open("s", SETTINGS)
            for seq in range(1, 21):
                before_s = loop.time()
                await backend.step("s", request(seq))
                took_s.append(round(loop.time() - before_s, 4))
        return took_s

    took_s = simulate(scenario())  # two calls of 1 ms a frame; an export is one more
    assert max(took_s) <= 0.0035
    assert sum(seconds > 0.0025 for seconds in took_s) == 3


def test_a_failing_export_is_not_tried_with_every_frame(exports):
    async def scenario() -> None:
        farm = Farm("a:1")
        async with farm.routed(checkpoint_every_frames=2, checkpoint_min_interval_s=1.0) as backend:
            await backend.open("s", SETTINGS)
            farm["a:1"].backend.export_state = fails  # type: ignore[method-assign,assignment]
            for seq in range(1, 41):
                await backend.step("s", request(seq))
                await asyncio.sleep(0.1)

    async def fails(_: str) -> bytes:
        from masklet.errors import BackendError

        raise BackendError("no")

    simulate(scenario())
    assert 3 <= len(exports) <= 6


def test_a_session_disowned_while_its_state_is_fetched_leaves_none_behind(exports):
    async def scenario() -> None:
        farm = Farm("a:1")
        async with farm.routed() as backend:
            await backend.open("s", SETTINGS)
            farm["a:1"].latency_s = 0.5
            await backend.step("s", request(1, click()))
            await asyncio.sleep(0.1)
            assert exports == ["s"]
            backend.disown("s")
            await asyncio.sleep(1)
            assert (len(backend._checkpoints), backend._checkpoints.byte_count) == (0, 0)

    simulate(scenario())


def test_states_beyond_the_budget_give_way_oldest_and_largest_first():
    now = [0.0]
    kept = Checkpoints(100, clock=lambda: now[0])
    for name, size in {"old": 20, "large": 60, "new": 20}.items():
        kept.put(name, bytes(size))
        now[0] += 1.0
    kept.put("more", bytes(30))
    assert (kept.get("large"), kept.byte_count) == (None, 70)
    now[0] += 1000.0
    kept.put("new", bytes(20))
    now[0] += 1.0
    kept.put("last", bytes(50))
    assert [name for name in ("old", "more", "new", "last") if kept.get(name)] == ["old", "new", "last"]


def test_a_newer_state_replaces_the_older_and_one_too_large_is_not_kept():
    kept = Checkpoints(100, clock=lambda: 0.0)
    assert kept.put("s", bytes(80))
    assert kept.put("s", bytes(90))
    assert (kept.byte_count, len(kept)) == (90, 1)
    assert not kept.put("s", bytes(101))
    assert (kept.byte_count, len(kept)) == (90, 1)  # the older is still good to replay on


def test_the_bytes_kept_are_exported_and_freed():
    farm = simulate(run([request(1, click()), request(2)], pause_s=1.0))
    assert farm.metrics.registry.get_sample_value("masklet_checkpoint_bytes") == 0
    assert farm.metrics.registry.get_sample_value("masklet_checkpoint_seconds_count") == 1


@pytest.mark.parametrize("bounds", [{"max_requests": 3, "max_bytes": 10**9}, {"max_requests": 99, "max_bytes": 7000}])
def test_a_replay_beyond_its_bounds_is_none_at_all(bounds):
    replay = Replay(Base.OPENING)
    for seq in range(1, 4):
        replay.add(request(seq), **bounds)
    assert (len(replay), replay.byte_count, replay.base) == (3, 3 * FRAME_BYTES, Base.OPENING)
    replay.add(request(4), **bounds)
    assert (len(replay), replay.byte_count, replay.base) == (0, 0, Base.NOTHING)


def test_masks_of_prompts_count_and_a_replay_that_is_lost_is_made_up_for_as_soon_as_is_allowed(exports: list[str]):
    masks = [Prompt(number, mask=np.ones((24, 32), np.bool_)) for number in range(1, 8)]
    bounds: dict[str, Any] = {"replay_bytes": 3 * FRAME_BYTES, "checkpoint_min_interval_s": 1.5}

    async def scenario() -> list[tuple[Base, int]]:
        found = []
        async with Farm("a:1").routed(**bounds) as backend:
            await backend.open("s", SETTINGS)
            for one in [request(1, click()), request(2, *masks), request(3)]:
                await backend.step("s", one)
                await asyncio.sleep(1.0)
                found.append((backend._sessions["s"].replay.base, len(exports)))
        return found

    assert simulate(scenario()) == [(Base.CHECKPOINT, 1), (Base.NOTHING, 1), (Base.CHECKPOINT, 2)]


def fast(frames: int) -> list[StepRequest]:
    return [request(1, click()), *map(request, range(2, frames + 1))]


def test_large_frames_are_not_checkpointed_more_often_than_others(exports: list[str]):
    bounds = {"replay_bytes": 2 * FRAME_BYTES, "checkpoint_min_interval_s": 0.5, "checkpoint_every_frames": 1000}
    simulate(run(fast(40), pause_s=0.1, **bounds))  # four seconds
    assert 7 <= len(exports) <= 9


def test_states_that_take_long_to_fetch_are_fetched_a_tenth_of_the_time_at_most(monkeypatch, exports: list[str]):
    export = Client.export_state

    async def slow(self: Client, session_id: str) -> bytes:
        await asyncio.sleep(0.3)
        return await export(self, session_id)

    monkeypatch.setattr(Client, "export_state", slow)
    simulate(run(fast(90), pause_s=0.1, checkpoint_every_frames=2, checkpoint_min_interval_s=0.5))  # ten seconds
    assert 3 <= len(exports) <= 4


def test_a_replay_that_is_full_before_its_next_checkpoint_lets_its_frames_go():
    async def scenario() -> None:
        farm = Farm("a:1", "b:1")
        bounds: dict[str, Any] = {"replay_bytes": 3 * FRAME_BYTES, "checkpoint_min_interval_s": 2.0}
        async with farm.routed(checkpoint_every_frames=1000, **bounds) as backend:
            await backend.open("s", SETTINGS)
            for one in fast(60):
                await backend.step("s", one)
                assert backend._sessions["s"].replay.byte_count <= 3 * FRAME_BYTES
                await asyncio.sleep(0.1)
            assert backend._sessions["s"].replay.base is Base.NOTHING
            farm[backend.location("s")].kill()
            assert (await backend.step("s", request(61))).recovered is StateOrigin.RESEEDED

    simulate(scenario())


def answer(seq: int, *object_ids: int, upside_down: bool = False) -> StepResult:
    masks = {one: np.full((24, 32), (one == 1) is not upside_down) for one in object_ids}
    return StepResult(seq, tuple(ObjectMask(one, mask, 1.0, 1.0) for one, mask in masks.items()))


def test_the_last_answer_knows_what_was_on_the_newest_frame():
    last = LastAnswer()
    assert last.as_request() is None
    last.note(request(1), answer(1, 1, 2))
    last.note(request(2), answer(2, 1, 2))
    last.note(StepRequest(1, None, (click(1), click(3))), answer(1, 1, 3, upside_down=True))
    last.note(StepRequest(2, None, (click(4),), remove=(2,)), answer(2, 4))
    seed = last.as_request()
    assert seed is not None and seed.frame_seq == 2
    assert [(prompt.object_id, prompt.mode) for prompt in seed.prompts] == [
        (1, PromptMode.RESTART),
        (3, PromptMode.RESTART),
        (4, PromptMode.RESTART),
    ]
    assert [bool(prompt.mask.all()) for prompt in seed.prompts if prompt.mask is not None] == [True, True, False]


def test_a_slow_fetch_at_one_place_does_not_hold_up_those_at_the_next():
    async def settled() -> tuple[float, float]:
        farm = Farm("a:1")
        async with farm.routed() as backend:
            await backend.open("s", SETTINGS)
            session = backend._sessions["s"]
            session.fetch_s = before = 15.0
            session.settle(session.link, session.move_epoch())
            return before, session.fetch_s

    assert simulate(settled()) == (15.0, 0.0)
