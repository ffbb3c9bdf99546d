"""The whole job in one loop: frames and prompts in, one result per frame out."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import aclosing
from itertools import islice
from queue import SimpleQueue
from typing import TYPE_CHECKING, Unpack

import numpy as np

from masklet.errors import InvalidFrame, InvalidOpen, InvalidPrompt, RequestError
from masklet.types import DropPolicy, ImageArray, Prompt
from masklet_client.events import Dropped, RequestFailed, Result, Resumed
from masklet_client.settings import StreamOptions
from masklet_client.stream import TrackStream

if TYPE_CHECKING:
    from masklet_client.client import Client

Frames = Iterable[ImageArray] | AsyncIterable[ImageArray]
Prompts = Prompt | Sequence[Prompt] | Mapping[int, Prompt | Sequence[Prompt]]
Answer = Result | Dropped

_LEAVE_S = 2.0
logger = logging.getLogger("masklet_client")


async def follow(
    client: Client, frames: Frames, prompts: Prompts, *, in_flight: int = 8, **options: Unpack[StreamOptions]
) -> AsyncGenerator[Result, None]:
    """Send all `frames` and yield the result of each, in order; policy "block" unless told otherwise.

    A plain iterable is read in a thread of its own, so it may be slow (a decoder, a camera). When the stream ends
    before it does, the frame being read is waited for; after two seconds without one the thread is left to itself, with
    a warning, and the source must not be closed under it.

    Args:
        client: connected.
        frames: [H, W, 3] uint8 RGB each, all of one size; the first one sets it.
        prompts: one or several for the first frame, or by frame index (from 0).
        in_flight: frames sent and not yet answered, at most.
        options: as in `StreamSettings`.

    Raises:
        InvalidOpen: `in_flight` is below 1, or an option is not offered.
        InvalidPrompt: `prompts` are none, or for a frame before the first.
        RequestError: a prompt for a frame that never came, a request the server refused, an object that a session
            begun anew did not take over (`Resumed.lost_objects`), or, with policy "block", a frame that is not
            answered. With `raise_request_errors=False` all but the first are passed over, with a warning in the log:
            `Result.frame_index` says which frame a result is of.
    """
    raises = options.setdefault("raise_request_errors", True)
    answers_all = options.setdefault("policy", DropPolicy.BLOCK) == DropPolicy.BLOCK
    missing: Dropped | None = None
    async with aclosing(follow_all(client, frames, prompts, in_flight=in_flight, **options)) as answers:
        async for answer in answers:
            if isinstance(answer, Resumed):
                if raises and answer.error:
                    raise answer.error
            elif isinstance(answer, Dropped):
                if answers_all:
                    logger.warning("frame %d is not answered: %s", answer.frame_index, answer.reason)
                    missing = missing or answer
            elif missing is not None and raises:
                break
            else:
                yield answer
    if missing is not None and raises:  # not at once: if the stream is about to break, that is the reason to be told
        raise RequestError(f"frame {missing.frame_index} (from 0) is not answered: {missing.reason}")


async def follow_all(
    client: Client, frames: Frames, prompts: Prompts, *, in_flight: int = 8, **options: Unpack[StreamOptions]
) -> AsyncGenerator[Answer | Resumed, None]:
    """As `follow`, but a `Dropped` for every frame that is not answered, and `Resumed` are no errors."""
    if in_flight < 1:
        raise InvalidOpen(f"in_flight is {in_flight}, must be at least 1", field="in_flight")
    options.setdefault("policy", DropPolicy.BLOCK)
    pending = _by_frame(prompts)
    async with aclosing(_each(frames)) as feed:
        first = await anext(feed, None)
        if first is not None:
            if np.ndim(first) != 3:
                raise InvalidFrame(
                    f"the first frame is {type(first).__name__} {list(np.shape(first))}, must be uint8 [H, W, 3]"
                )
            async with client.track((first.shape[0], first.shape[1]), **options) as stream:
                feeder = _Feeder(stream, pending, in_flight)
                async with aclosing(feeder.answers(first, feed)) as answers:
                    async for answer in answers:
                        yield answer


def _by_frame(prompts: Prompts) -> dict[int, Sequence[Prompt]]:
    by_frame = prompts if isinstance(prompts, Mapping) else {0: prompts}
    for index in by_frame:
        if not isinstance(index, int | np.integer) or index < 0:
            raise InvalidPrompt(f"prompts are for frame {index!r}, must be a whole number from 0")
    found: dict[int, Sequence[Prompt]] = {
        index: [some] if isinstance(some, Prompt) else list(some) for index, some in by_frame.items()
    }
    for index, some in found.items():
        if wrong := [one for one in some if not isinstance(one, Prompt)]:
            raise InvalidPrompt(f"prompts for frame {index} have a {type(wrong[0]).__name__}, must be `Prompt`s")
    return found


class _Feeder:
    """Sends frames, each after its prompts, while at most `in_flight` are unanswered."""

    def __init__(self, stream: TrackStream, prompts: dict[int, Sequence[Prompt]], in_flight: int) -> None:
        self._stream, self._prompts = stream, prompts
        self._window = asyncio.Semaphore(in_flight)

    async def answers(
        self, first: ImageArray, feed: AsyncIterator[ImageArray]
    ) -> AsyncGenerator[Answer | Resumed, None]:
        sending = asyncio.create_task(self._send_all(first, feed))
        try:
            async with aclosing(self._stream.events()) as events:
                async for event in events:
                    if isinstance(event, RequestFailed) and self._stream.settings.raise_request_errors:
                        raise event.error
                    if isinstance(event, Result | Dropped | Resumed):
                        if not isinstance(event, Resumed):
                            self._window.release()
                        yield event
            await sending
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)

    async def _send_all(self, first: ImageArray, feed: AsyncIterator[ImageArray]) -> None:
        count = 1
        try:
            await self._send(first, 0)
            async for frame in feed:
                await self._send(frame, count)
                count += 1
        except Exception:  # what was sent is still answered; a cancelled sender must not wait for a stalled server
            await self._stream.finish()
            raise
        await self._stream.finish()
        for index in sorted(self._prompts):
            raise RequestError(f"prompt for frame {index} never applied: the source has {count} frames")

    async def _send(self, frame: ImageArray, index: int) -> None:
        await self._window.acquire()
        for prompt in self._prompts.pop(index, ()):
            await self._stream.prompt(prompt)
        await self._stream.send(frame)


async def _each(frames: Frames) -> AsyncGenerator[ImageArray, None]:
    """Frames one by one; a plain iterable has one thread to itself."""
    if isinstance(frames, AsyncIterable):
        async for frame in frames:
            yield frame
        return
    reading = _Reading(iter(frames))
    try:
        while some := await reading.up_to_one():
            yield some[0]
    finally:
        await reading.leave()


class _Reading:
    """Reads frames when asked to, in a daemon thread: one that waits for a camera keeps no process from ending."""

    def __init__(self, iterator: Iterator[ImageArray]) -> None:
        self._iterator = iterator
        self._asked: SimpleQueue[Future[list[ImageArray]] | None] = SimpleQueue()
        self._ended: Future[None] = Future()
        self._ended.set_running_or_notify_cancel()  # nobody who stops waiting for it shall cancel it
        threading.Thread(target=self._run, name="masklet-frames", daemon=True).start()

    async def up_to_one(self) -> list[ImageArray]:
        """The next frame; [] after the last. Raises what the source raises."""
        answer: Future[list[ImageArray]] = Future()
        self._asked.put(answer)
        return await asyncio.wrap_future(answer)

    async def leave(self) -> None:
        """No more frames are wanted; waits for the one being read, but not for long."""
        self._asked.put(None)
        try:
            async with asyncio.timeout(_LEAVE_S):
                await asyncio.wrap_future(self._ended)
        except TimeoutError:
            logger.warning("the source of frames stalls for more than %g s: left to its thread", _LEAVE_S)

    def _run(self) -> None:
        while (answer := self._asked.get()) is not None:
            if answer.set_running_or_notify_cancel():
                try:
                    answer.set_result(list(islice(self._iterator, 1)))
                except BaseException as error:
                    answer.set_exception(error)
        self._ended.set_result(None)
