"""The whole job in one loop: frames and prompts in, one result per frame out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from itertools import islice
from typing import TYPE_CHECKING, Unpack

from masklet.errors import RequestError
from masklet.types import DropPolicy, ImageArray, Prompt
from masklet_client.events import Dropped, RequestFailed, Result
from masklet_client.settings import StreamOptions
from masklet_client.stream import TrackStream

if TYPE_CHECKING:
    from masklet_client.client import Client

Frames = Iterable[ImageArray] | AsyncIterable[ImageArray]
Prompts = Sequence[Prompt] | Mapping[int, Sequence[Prompt]]
Answer = Result | Dropped


async def follow(
    client: Client, frames: Frames, prompts: Prompts, *, in_flight: int = 8, **options: Unpack[StreamOptions]
) -> AsyncGenerator[Result, None]:
    """Send all `frames` and yield the result of each, in order; policy "block" unless told otherwise.

    A plain iterable is read in a thread of its own, so it may be slow (a decoder, a camera).

    Args:
        client: connected.
        frames: [H, W, 3] uint8 RGB each, all of one size; the first one sets it.
        prompts: for the first frame, or by frame index (from 0).
        in_flight: frames sent and not yet answered, at most.
        options: as in `StreamSettings`.

    Raises:
        RequestError: a prompt for a frame that never came, or a request the server refused.
    """
    options.setdefault("raise_request_errors", True)
    async with aclosing(follow_all(client, frames, prompts, in_flight=in_flight, **options)) as answers:
        async for answer in answers:
            if isinstance(answer, Result):
                yield answer


async def follow_all(
    client: Client, frames: Frames, prompts: Prompts, *, in_flight: int = 8, **options: Unpack[StreamOptions]
) -> AsyncGenerator[Answer, None]:
    """As `follow`, with a `Dropped` for every frame that is not answered (policy "latest")."""
    options.setdefault("policy", DropPolicy.BLOCK)
    pending = dict(prompts) if isinstance(prompts, Mapping) else {0: prompts}
    async with aclosing(_each(frames)) as feed:
        first = await anext(feed, None)
        if first is not None:
            async with client.track((first.shape[0], first.shape[1]), **options) as stream:
                feeder = _Feeder(stream, pending, in_flight)
                async with aclosing(feeder.answers(first, feed)) as answers:
                    async for answer in answers:
                        yield answer


class _Feeder:
    """Sends frames, each after its prompts, while at most `in_flight` are unanswered."""

    def __init__(self, stream: TrackStream, prompts: dict[int, Sequence[Prompt]], in_flight: int) -> None:
        self._stream, self._prompts = stream, prompts
        self._window = asyncio.Semaphore(in_flight)

    async def answers(self, first: ImageArray, feed: AsyncIterator[ImageArray]) -> AsyncGenerator[Answer, None]:
        sending = asyncio.create_task(self._send_all(first, feed))
        try:
            async with aclosing(self._stream.events()) as events:
                async for event in events:
                    if isinstance(event, RequestFailed) and self._stream.settings.raise_request_errors:
                        raise event.error
                    if isinstance(event, Result | Dropped):
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
    """Frames one by one. A plain iterable has one thread to itself, which ends before it is closed."""
    if isinstance(frames, AsyncIterable):
        async for frame in frames:
            yield frame
        return
    iterator, loop = iter(frames), asyncio.get_running_loop()
    with ThreadPoolExecutor(1, "masklet-frames") as thread:
        while some := await loop.run_in_executor(thread, _up_to_one, iterator):
            yield some[0]


def _up_to_one(iterator: Iterator[ImageArray]) -> list[ImageArray]:
    return list(islice(iterator, 1))
