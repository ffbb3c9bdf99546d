"""Decodes frames in an executor, the next one ahead of its turn."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from masklet.codecs.frames import decode_frame
from masklet.session.timeline import WaitingFrame
from masklet.types import FrameCodec, ImageArray, Size


@dataclass(frozen=True, slots=True, eq=False)
class Decoded:
    """A frame's pixels, or why there are none; the time includes waiting for an executor thread."""

    image: ImageArray | None
    error: Exception | None
    started_s: float
    ended_s: float


class Lookahead:
    """Decodes one frame ahead.

    The frame ahead may still be dropped, and its decoding is then wasted; so that an overloaded stream wastes no more
    than one decoding per frame answered, the next starts only after the next `decode`.
    """

    def __init__(self, codec: FrameCodec, size: Size, *, clock: Callable[[], float]) -> None:
        self._codec = codec
        self._size = size
        self._clock = clock
        self._ahead: tuple[WaitingFrame, asyncio.Task[Decoded]] | None = None

    def start(self, frame: WaitingFrame | None) -> None:
        """Starts decoding `frame`, if there is one and none is ahead."""
        if frame is not None and self._ahead is None:
            self._ahead = frame, asyncio.create_task(self._decode(frame))

    async def decode(self, frame: WaitingFrame) -> Decoded:
        """The frame's pixels, at once if it is the one ahead."""
        ahead, self._ahead = self._ahead, None
        if ahead is None:
            return await self._decode(frame)
        if ahead[0] is not frame:
            ahead[1].cancel()
            return await self._decode(frame)
        return await ahead[1]

    async def stop(self) -> None:
        """Gives up the frame ahead."""
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            ahead[1].cancel()
            await asyncio.wait([ahead[1]])

    async def _decode(self, frame: WaitingFrame) -> Decoded:
        started_s = self._clock()
        image, error = None, None
        try:
            image = await asyncio.to_thread(decode_frame, self._codec, frame.frame.payload, self._size)
        except Exception as failure:  # kept for the frame's turn: nobody may be waiting yet
            error = failure
        return Decoded(image, error, started_s, self._clock())
