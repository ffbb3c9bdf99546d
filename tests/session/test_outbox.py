from __future__ import annotations

import asyncio

from masklet.session.messages import Pong, Result, Timing
from masklet.session.outbox import Outbox

RESULT = Result(1, None, (), Timing())


def is_waiting(task: asyncio.Task[None]) -> bool:
    return not task.done()


async def test_answers_leave_in_order_and_closing_lets_the_rest_out() -> None:
    outbox = Outbox(max_results=2, max_messages=4)
    outbox.put(Pong(1))
    outbox.put(Pong(2))
    outbox.close()
    taken = [await outbox.take(), await outbox.take(), await outbox.take()]
    assert [outgoing and outgoing.body for outgoing in taken] == [Pong(1), Pong(2), None]


async def test_results_have_a_bound_of_their_own() -> None:
    outbox = Outbox(max_results=1, max_messages=4)
    outbox.put(RESULT)
    await outbox.room_for_message()
    waiting = asyncio.create_task(outbox.room_for_result())
    await asyncio.sleep(0)
    assert is_waiting(waiting)
    await outbox.take()
    await asyncio.wait_for(waiting, 1)


async def test_messages_are_bounded_for_all() -> None:
    outbox = Outbox(max_results=5, max_messages=2)
    outbox.put(Pong(1))
    outbox.put(Pong(2))
    waits = [asyncio.create_task(outbox.room_for_message()), asyncio.create_task(outbox.room_for_result())]
    await asyncio.sleep(0)
    assert all(map(is_waiting, waits))
    await outbox.take()
    await asyncio.wait_for(asyncio.gather(*waits), 1)


async def test_taking_waits_for_the_next_answer() -> None:
    outbox = Outbox(max_results=1, max_messages=1)
    taking = asyncio.create_task(outbox.take())
    await asyncio.sleep(0)
    assert not taking.done()
    outbox.put(Pong(7), frame_received_s=1.5)
    taken = await asyncio.wait_for(taking, 1)
    assert taken is not None
    assert (taken.body, taken.frame_received_s) == (Pong(7), 1.5)
