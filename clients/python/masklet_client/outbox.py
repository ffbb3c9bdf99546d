"""Requests on their way out: numbered without gaps, written by one task, pinged when idle."""

from __future__ import annotations

import asyncio
import time
from typing import Any, TypeAlias

import grpc.aio

from masklet.v1 import segmentation_pb2 as pb

Call: TypeAlias = "grpc.aio.StreamStreamCall[pb.TrackRequest, pb.TrackResponse]"

PING_INTERVAL_S = 15.0
_WAITING_REQUESTS = 2


class Outbox:
    """Numbers and writes requests. A cancelled `post` leaves no gap; a cancelled write would end the call."""

    def __init__(self, call: Call, *, ping_interval_s: float = PING_INTERVAL_S) -> None:
        """`call`: started, nothing written yet."""
        self._call = call
        self._ping_interval_s = ping_interval_s
        self._queue: asyncio.Queue[pb.TrackRequest | None] = asyncio.Queue(_WAITING_REQUESTS)
        self._turn = asyncio.Lock()
        self._next_seq = 1
        self._posted_s = time.monotonic()

    async def post(self, **body: Any) -> int:
        """Queue a request, one keyword of `TrackRequest.message`; returns its seq."""
        async with self._turn:
            seq = self._next_seq
            await self._queue.put(pb.TrackRequest(seq=seq, **body))
            self._next_seq += 1
            self._posted_s = time.monotonic()
            return seq

    async def finish(self) -> None:
        """No request follows."""
        async with self._turn:
            await self._queue.put(None)

    async def write(self) -> None:
        """Write what is posted until `finish`; once the call is over, throw it away: the reader knows why it ended."""
        over = False
        while (request := await self._queue.get()) is not None:
            try:
                if not over:
                    await send_request(self._call, request)
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError, grpc.aio.InternalError):
                over = True
        if not over and not self._call.done():
            await self._call.done_writing()

    async def keep_alive(self) -> None:
        """Ping whenever nothing was sent for the ping interval: proxies do not count HTTP/2 pings."""
        while True:
            idle_s = time.monotonic() - self._posted_s
            if idle_s >= self._ping_interval_s:
                await self.post(ping=pb.Ping())
                idle_s = 0.0
            await asyncio.sleep(self._ping_interval_s - idle_s)


async def send_request(call: Any, request: pb.TrackRequest) -> None:
    """`call.write`, but for what it does when the server ends the call while a write waits for room.

    It then overwrites the status that is about to arrive with INTERNAL "Internal error from Core", so that why the
    stream ended could not be told; hence the layer below, where there is one.
    """
    inner = getattr(call, "_cython_call", None)
    if inner is None or call.done():
        await call.write(request)
        return
    await call.wait_for_connection()
    await inner.send_serialized_message(request.SerializeToString())
