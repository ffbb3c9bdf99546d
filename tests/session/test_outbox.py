from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from masklet.errors import IdleTimeout, SessionSuperseded
from masklet.session.messages import Dropped, Pong, Result, Timing
from masklet.session.outbox import Outbox
from masklet.session.ring import Outgoing, Ring, body_bytes
from masklet.types import DropReason

RESULT = Result(1, None, (), Timing())


def attached(*, max_results: int = 9, max_messages: int = 99, ring: int = 99) -> Outbox:
    """With taker number 1."""
    kept = Ring(max_messages=ring, max_bytes=1 << 20)
    outbox = Outbox(kept, max_results=max_results, max_messages=max_messages)
    outbox.attach(0)
    return outbox


def is_waiting(task: asyncio.Task[None]) -> bool:
    return not task.done()


async def test_answers_leave_in_order_and_closing_lets_the_rest_out() -> None:
    outbox = attached(max_results=2, max_messages=4)
    outbox.put(Pong(1))
    outbox.put(Pong(2))
    outbox.close()
    taken = [await outbox.take(1), await outbox.take(1), await outbox.take(1)]
    assert [outgoing and outgoing.body for outgoing in taken] == [Pong(1), Pong(2), None]


async def test_results_have_a_bound_of_their_own() -> None:
    outbox = attached(max_results=1, max_messages=4)
    outbox.put(RESULT)
    await outbox.room_for_message()
    waiting = asyncio.create_task(outbox.room_for_result())
    await asyncio.sleep(0)
    assert is_waiting(waiting)
    await outbox.take(1)
    await asyncio.wait_for(waiting, 1)


async def test_messages_are_bounded_for_all() -> None:
    outbox = attached(max_results=5, max_messages=2)
    outbox.put(Pong(1))
    outbox.put(Pong(2))
    waits = [asyncio.create_task(outbox.room_for_message()), asyncio.create_task(outbox.room_for_result())]
    await asyncio.sleep(0)
    assert all(map(is_waiting, waits))
    await outbox.take(1)
    await asyncio.wait_for(asyncio.gather(*waits), 1)


async def test_taking_waits_for_the_next_answer() -> None:
    outbox = attached(max_results=1, max_messages=1)
    taking = asyncio.create_task(outbox.take(1))
    await asyncio.sleep(0)
    assert not taking.done()
    outbox.put(Pong(7), frame_received_s=1.5)
    taken = await asyncio.wait_for(taking, 1)
    assert taken is not None
    assert (taken.body, taken.frame_received_s) == (Pong(7), 1.5)


async def numbers(outbox: Outbox, taker: int) -> list[int]:
    outbox.end_stream(taker)
    taken = []
    while (outgoing := await outbox.take(taker)) is not None:
        taken.append(outgoing.server_seq)
    return taken


async def test_a_new_taker_gets_again_what_it_has_not_seen_and_then_the_rest() -> None:
    outbox = attached()
    for nonce in range(6):
        outbox.put(Pong(nonce))
    for _ in range(4):
        await outbox.take(1)
    taker, lost = outbox.attach(2)
    assert (await numbers(outbox, taker), lost) == ([3, 4, 5, 6], [])


async def test_an_older_taker_is_fenced_even_while_it_waits() -> None:
    outbox = attached()
    taking = asyncio.create_task(outbox.take(1))
    await asyncio.sleep(0)
    outbox.attach(0)
    with pytest.raises(SessionSuperseded):
        await asyncio.wait_for(taking, 1)
    assert not outbox.detach(1)


async def test_without_a_taker_there_is_always_room() -> None:
    outbox = attached(max_results=1, max_messages=1)
    for _ in range(3):
        outbox.put(RESULT)
    waiting = [asyncio.create_task(wait()) for wait in (outbox.room_for_message, outbox.room_for_result)]
    await asyncio.sleep(0)
    assert not any(task.done() for task in waiting)
    outbox.detach(1)
    done, _ = await asyncio.wait(waiting, timeout=1)
    assert done == set(waiting)


async def test_a_stream_ends_after_what_waits_and_with_its_error() -> None:
    outbox = attached()
    outbox.put(Pong(1))
    outbox.end_stream(1, IdleTimeout("too long"))
    assert await outbox.take(1)
    with pytest.raises(IdleTimeout):
        await outbox.take(1)


async def test_numbers_go_on_after_what_the_client_has_seen_elsewhere() -> None:
    outbox = Outbox(Ring(max_messages=9, max_bytes=9999), max_results=1, max_messages=1)
    taker, _ = outbox.attach(41)
    outbox.put(Pong(1))
    assert await numbers(outbox, taker) == [42]


@given(
    bodies=st.lists(st.sampled_from(["result", "revised", "dropped", "pong"]), max_size=40),
    max_messages=st.integers(0, 10),
    max_bytes=st.integers(0, 3000),
    seen=st.integers(0, 40),
)
def test_a_ring_keeps_within_its_bounds_and_knows_every_frame_it_lost(
    bodies: list[str], max_messages: int, max_bytes: int, seen: int
) -> None:
    ring = Ring(max_messages=max_messages, max_bytes=max_bytes)
    written = [Outgoing(seq, made(kind, seq)) for seq, kind in enumerate(bodies, 1)]
    for one in written:
        ring.add(one)
        assert len(ring) <= max_messages
        assert ring.byte_count <= max_bytes
    again, lost = ring.take_after(seen)
    told = {one.server_seq for one in again} | set(lost)
    assert [one.server_seq for one in again] == sorted(told - set(lost))
    assert {seq for seq, kind in enumerate(bodies, 1) if kind in ("result", "dropped") and seq > seen} <= told
    assert (len(ring), ring.byte_count, min(told, default=seen + 1) > seen) == (0, 0, True)
    assert sum(body_bytes(one.body) for one in again) <= max_bytes


def made(kind: str, seq: int) -> Result | Dropped | Pong:
    if kind == "pong":
        return Pong(seq)
    if kind == "dropped":
        return Dropped(seq, DropReason.STALE)
    return replace(RESULT, frame_seq=seq, revised=kind == "revised")
