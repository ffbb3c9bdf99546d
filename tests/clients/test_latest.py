"""With policy "latest" nobody is held up by who reads slowly or not at all, and a slow reader sees what is new."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from masklet.errors import InvalidFrame, RequestError
from masklet.types import DropReason
from masklet_client import Dropped, PromptApplied, Reconnect, Result, connect
from masklet_client.events import Event, Timing
from masklet_client.inbox import Inbox

from .conftest import SIZE

FRAME = np.zeros((*SIZE, 3), np.uint8)
GIVE_UP_S = 30.0


def result(number: int, *, revised: bool = False) -> Result:
    return Result(number, number, 0, 0, (), Timing(0, 0, 0, 0), revised)


async def filled(*events: Event, fresh: int | None = 2, limit: int = 5) -> tuple[Inbox, int]:
    inbox = Inbox(limit, fresh=fresh)
    async with asyncio.timeout(GIVE_UP_S):
        overtaken = [await inbox.put(event) for event in events]
    return inbox, sum(overtaken)


def taken(inbox: Inbox) -> list[tuple[str, int]]:
    found = []
    while (event := inbox.take()) is not None:
        found.append((type(event).__name__, getattr(event, "frame_seq", 0)))
    return found


async def test_of_unread_results_the_newest_are_kept_and_the_others_reported_in_their_place() -> None:
    applied = PromptApplied(1, 2, 1)
    inbox, overtaken = await filled(result(2), applied, result(3), result(4, revised=True), result(5), result(6))
    assert overtaken == 2
    assert taken(inbox) == [
        ("Dropped", 2), ("PromptApplied", 2), ("Dropped", 3), ("Result", 4), ("Result", 5), ("Result", 6)
    ]  # fmt: skip
    assert not await inbox.put(result(7)) and taken(inbox) == [("Result", 7)]


async def test_reports_nobody_reads_hold_nobody_up_and_stay_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("masklet_client.inbox._MOST_DROPPED", 10)
    drops = [Dropped(number, number, DropReason.QUEUE_FULL) for number in range(2, 40)]
    inbox, overtaken = await filled(PromptApplied(1, 2, 1), *drops, *(result(number) for number in range(40, 60)))
    assert overtaken == 18
    assert taken(inbox) == [
        ("PromptApplied", 2), *(("Dropped", number) for number in range(48, 58)), ("Result", 58), ("Result", 59)
    ]  # fmt: skip


async def test_other_events_still_wait_for_room() -> None:
    inbox, _ = await filled(*(PromptApplied(number, 2, 1) for number in range(5)))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await inbox.put(PromptApplied(5, 2, 1))


async def test_without_fresh_whoever_sends_waits_for_room_and_the_reader_does_not() -> None:
    inbox, overtaken = await filled(*(result(number) for number in range(7)), fresh=None)
    assert overtaken == 0
    waiting = asyncio.create_task(inbox.wait_for_room())
    for _ in range(3):
        await asyncio.sleep(0)
        assert not waiting.done()
        inbox.take()
    await asyncio.wait_for(waiting, GIVE_UP_S)


async def test_a_slow_reader_sees_what_is_new_and_what_it_missed(address: str) -> None:
    arrived: list[Event] = []
    async with (
        connect(address) as client,
        client.track(SIZE, policy="latest", codec="rgb8", on_event=arrived.append) as stream,
    ):
        for count in range(1, 41):
            await stream.send(FRAME)
            async with asyncio.timeout(GIVE_UP_S):
                while len(arrived) < count:
                    await asyncio.sleep(0.005)
        first = await anext(stream)
        assert first.frame_index >= 40 - 4
        assert stream.dropped >= first.frame_index


async def test_callbacks_go_on_if_nobody_reads(address: str) -> None:
    """Far more frames than are kept, with a journal that holds few."""
    seen: set[int] = set()

    def note(event: Event) -> None:
        if isinstance(event, Result | Dropped):
            seen.add(event.frame_index)

    kept = Reconnect(max_buffered_requests=8)
    async with (
        connect(address) as client,
        client.track(SIZE, policy="latest", codec="rgb8", on_event=note, reconnect=kept) as stream,
        asyncio.timeout(GIVE_UP_S),
    ):
        for _ in range(600):
            await stream.send(FRAME)
        while len(seen) < 600:
            await asyncio.sleep(0.01)


async def test_step_gives_the_result_of_its_frame_and_goes_on_after_one_that_has_none(address: str) -> None:
    async with connect(address) as client, client.track(SIZE, policy="block", codec="png") as stream:
        await stream.click(1, (10, 20))
        await stream.send(FRAME)
        async with asyncio.timeout(GIVE_UP_S):
            assert (await stream.step(FRAME)).frame_index == 1
            with pytest.raises((InvalidFrame, RequestError), match=r"frame|payload"):
                await stream.step(b"no picture")
            assert (await stream.step(FRAME)).frame_index == 3
