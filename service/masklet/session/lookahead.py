"""Decodes frames in an executor, the next one ahead of its turn."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any

from masklet.codecs.frames import decode_frame
from masklet.session.timeline import WaitingFrame
from masklet.types import FrameCodec, ImageArray, Size


@dataclass(frozen=True, slots=True, eq=False)
class Decoded:
    """A frame's pixels, or why there are none, and what was begun of it; times include waiting for a thread."""

    image: ImageArray | None
    error: Exception | None
    started_s: float
    ended_s: float
    begun: Future[Any] | None = None


class Lookahead:
    """Decodes one frame ahead, and has the backend begin on it.

    The frame ahead may still be dropped, and its decoding is then wasted; so that an overloaded stream wastes no more
    than one decoding per frame answered, the next starts only after the next `decode`.
    """

    def __init__(
        self,
        codec: FrameCodec,
        size: Size,
        *,
        clock: Callable[[], float],
        begin: Callable[[ImageArray], Future[Any] | None],
    ) -> None:
        self._codec = codec
        self._size = size
        self._clock = clock
        self._begin = begin
        self._ahead: tuple[WaitingFrame, asyncio.Task[Decoded]] | None = None

    def start(self, frame: WaitingFrame | None) -> None:
        """Starts decoding `frame`, if there is one and none is ahead."""
        if frame is not None and self._ahead is None:
            self._ahead = frame, asyncio.create_task(self._prepare(frame))

    async def decode(self, frame: WaitingFrame) -> Decoded:
        """The frame's pixels, at once if it is the one ahead."""
        ahead, self._ahead = self._ahead, None
        if ahead is None:
            return await self._decode(frame)
        if ahead[0] is not frame:
            _give_up(ahead[1])
            return await self._decode(frame)
        return await ahead[1]

    async def stop(self) -> None:
        """Gives up the frame ahead."""
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            _give_up(ahead[1])
            await asyncio.wait([ahead[1]])

    async def _prepare(self, frame: WaitingFrame) -> Decoded:
        decoded = await self._decode(frame)
        return decoded if decoded.image is None else replace(decoded, begun=self._begin(decoded.image))

    async def _decode(self, frame: WaitingFrame) -> Decoded:
        started_s = self._clock()
        image, error = None, None
        try:
            image = await asyncio.to_thread(decode_frame, self._codec, frame.frame.payload, self._size)
        except Exception as failure:  # kept for the frame's turn: nobody may be waiting yet
            error = failure
        return Decoded(image, error, started_s, self._clock())


def _give_up(ahead: asyncio.Task[Decoded]) -> None:
    if not ahead.cancel() and not ahead.cancelled() and (begun := ahead.result().begun) is not None:
        begun.cancel()
