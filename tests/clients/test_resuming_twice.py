"""Fronts that are killed and connections lost at the worst moment: nothing said is lost or takes effect twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from tests.clients.test_resuming import FRAME, front, kinds, rest, tracking
from tests.fronts import Front, Shared
from tests.lines import line_to

from masklet.backends.fake import FakeBackend, Hold
from masklet.types import StateOrigin
from masklet_client import Event, Result, Resumed, TrackStream


@asynccontextmanager
async def two_fronts(tmp_path: Path) -> AsyncIterator[tuple[TrackStream, Callable[[], None], str]]:
    """A stream at one of two fronts over one backend, what kills that front, and the address of the other."""
    keys = tmp_path / "keys"
    keys.write_text("ab" * 32)
    async with FakeBackend() as inner:
        shared = Shared(inner)
        killed = Front(shared)
        async with (
            front(killed, resume_key_file=str(keys)) as first,
            front(Front(shared), resume_key_file=str(keys)) as second,
            line_to(first.port) as line,
            tracking(line.address, f"127.0.0.1:{second.port}") as stream,
        ):

            def kill() -> None:
                killed.vanish()
                line.refusing = True
                line.cut()

            yield stream, kill, f"127.0.0.1:{second.port}"


async def test_another_front_goes_on_when_one_is_killed(tmp_path: Path) -> None:
    async with two_fronts(tmp_path) as (stream, kill, heir):
        await stream.click(1, (10, 20))
        await stream.send(FRAME)
        await anext(stream)
        kill()
        await stream.send(FRAME)
        events = await rest(stream)
        (resumed,) = kinds(events, Resumed)
        assert isinstance(resumed, Resumed)
        assert (resumed.origin, resumed.address) == (StateOrigin.INTACT, heir)
        (result,) = (event for event in events if isinstance(event, Result))
        assert result[1].box == (5, 14, 17, 26)


async def test_a_connection_lost_again_before_a_new_session_has_its_objects() -> None:
    def on_event(event: Event) -> None:
        if isinstance(event, Resumed) and event.origin is StateOrigin.RESEEDED:
            line.cut()

    async with (
        front() as first,
        line_to(first.port) as line,
        front() as second,
        tracking(line.address, on_event=on_event) as stream,
    ):
        await stream.click(1, (10, 20))
        await stream.click(2, (40, 20))
        await stream.send(FRAME)
        await anext(stream)
        line.port = second.port
        line.cut()
        later = await stream.send(FRAME)
        events = await rest(stream)
    origins = [event.origin for event in kinds(events, Resumed) if isinstance(event, Resumed)]
    assert origins == [StateOrigin.RESEEDED, StateOrigin.INTACT]
    (result,) = (event for event in events if isinstance(event, Result))
    assert (result.frame_seq, [found.object_id for found in result]) == (later, [1, 2])
    assert stream.failures == ()


async def test_a_front_that_dies_before_a_new_sessions_first_answer_leaves_its_objects_to_the_next(
    tmp_path: Path,
) -> None:
    keys = tmp_path / "keys"
    keys.write_text("ab" * 32)
    async with FakeBackend([Hold(asyncio.Event(), step=1)]) as inner:
        shared = Shared(inner)
        killed, heir = Front(shared), Front(shared)
        async with (
            front() as first,
            front(killed, resume_key_file=str(keys)) as second,
            front(heir, resume_key_file=str(keys)) as third,
            line_to(first.port) as line,
            line_to(third.port) as spare,
            tracking(line.address, spare.address) as stream,
        ):
            spare.refusing = True  # an attempt that fails moves on, and the heir must not be the first to be found
            spare.cut()
            await stream.click(1, (10, 20))
            await stream.click(2, (40, 20))
            await stream.send(FRAME)
            await anext(stream)
            line.port = second.port
            line.cut()
            later = await stream.send(FRAME)
            async with asyncio.timeout(30):
                while not inner.steps_started:
                    await asyncio.sleep(0.01)
            killed.vanish()
            line.refusing, spare.refusing = True, False
            line.cut()
            events = await rest(stream)
    origins = [event.origin for event in kinds(events, Resumed) if isinstance(event, Resumed)]
    assert origins == [StateOrigin.RESEEDED, StateOrigin.INTACT]
    (result,) = (event for event in events if isinstance(event, Result))
    assert (result.frame_seq, [found.object_id for found in result]) == (later, [1, 2])
    assert stream.failures == ()


async def test_a_correction_applied_by_one_front_is_not_applied_by_the_next(tmp_path: Path) -> None:
    async with two_fronts(tmp_path) as (stream, kill, _):
        await stream.click(1, (10, 20))
        await stream.click(2, (40, 20))
        frame_seq = await stream.send(FRAME)
        await anext(stream)
        await stream.remove(2)
        await stream.click(1, (14, 20), frame_seq=frame_seq)
        assert (await anext(stream)).revised
        kill()
        later = await stream.send(FRAME)
        events = await rest(stream)
    resumed, result = events  # no second revision, no refused removal
    assert isinstance(resumed, Resumed) and isinstance(result, Result)
    assert (result.frame_seq, [(found.object_id, found.box) for found in result]) == (later, [(1, (9, 14, 21, 26))])
    assert stream.failures == ()
