"""One call of `Track`: opened, written from a journal, read message by message, pinged when idle."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import grpc.aio

from masklet.errors import BackendUnavailable, MaskletError, ProtocolViolation
from masklet.v1 import segmentation_pb2 as pb
from masklet_client.journal import Journal
from masklet_client.status import error_from_rpc, lost_on_the_way

Call: TypeAlias = "grpc.aio.StreamStreamCall[pb.TrackRequest, pb.TrackResponse]"

PING_INTERVAL_S = 15.0
_PINGS_PER_TIMEOUT = 3
FRONT_KEY = "x-masklet-front"
"""Metadata by which a proxy in front of several servers says, and is told, which of them has a session."""


class CallFailed(Exception):  # not of the error tree: nobody outside sees it
    """A call ended with `error`; `on_the_way`: for all we know the server never said so."""

    def __init__(self, error: MaskletError, *, on_the_way: bool) -> None:
        super().__init__(str(error))
        self.error, self.on_the_way = error, on_the_way


class TrackCall:
    """A call on its way; `open` comes first, then `run`, then `stop`.

    Attributes:
        front: what a proxy calls the server behind it, once opened; "": there is no proxy, or it has said so before.
    """

    def __init__(self, call: Call, address: str, *, ping_interval_s: float = PING_INTERVAL_S) -> None:
        """`call`: started, nothing written yet; `ping_interval_s`: shorter if the server's idle timeout is short."""
        self._call, self.address, self._ping_interval_s = call, address, ping_interval_s
        self.front = ""

    async def open(self, wanted: pb.Open, *, timeout_s: float) -> pb.TrackResponse:
        """The answer to `open`. Raises CallFailed."""
        try:
            async with asyncio.timeout(timeout_s):
                await send_request(self._call, pb.TrackRequest(seq=1, open=wanted))
                response = await self._call.read()
        except TimeoutError:
            message = f"{self.address} did not answer `open` within {timeout_s:g} s"
            raise CallFailed(BackendUnavailable(message), on_the_way=True) from None
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError, grpc.aio.InternalError) as error:
            raise await self._failed(error) from error
        kind = response.WhichOneof("message") if isinstance(response, pb.TrackResponse) else "nothing"
        if not isinstance(response, pb.TrackResponse) or kind != "opened":
            refusal = ProtocolViolation(f"{self.address} answered `open` with {kind}")
            raise CallFailed(refusal, on_the_way=kind == "nothing")
        if (idle_timeout_s := response.opened.limits.idle_timeout.ToNanoseconds() / 1e9) > 0:
            self._ping_interval_s = min(self._ping_interval_s, idle_timeout_s / _PINGS_PER_TIMEOUT)
        self.front = str(dict(await self._call.initial_metadata()).get(FRONT_KEY, ""))
        return response

    async def run(self, journal: Journal, take: Callable[[pb.TrackResponse], Awaitable[None]]) -> None:
        """Write what the journal has and hand on what comes back, until the server ends the call. Raises CallFailed."""
        others = [asyncio.create_task(self._write(journal)), asyncio.create_task(self._keep_alive(journal))]
        try:
            while isinstance(response := await self._call.read(), pb.TrackResponse):
                await take(response)
        except grpc.aio.AioRpcError as error:
            raise await self._failed(error) from error
        finally:
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

    def stop(self) -> None:
        """Cut it off, if it has not ended."""
        self._call.cancel()

    async def _failed(self, error: BaseException) -> CallFailed:
        if not isinstance(error, grpc.aio.AioRpcError):  # the call was over before it was written to: ask it why
            try:
                await self._call.read()
            except grpc.aio.AioRpcError as cause:
                error = cause
            except (asyncio.InvalidStateError, grpc.aio.UsageError):
                pass
        if isinstance(error, grpc.aio.AioRpcError):
            return CallFailed(error_from_rpc(error, self.address), on_the_way=lost_on_the_way(error))
        return CallFailed(BackendUnavailable(f"the call to {self.address} broke: {error!r}"), on_the_way=True)

    async def _write(self, journal: Journal) -> None:
        """Once the call is over, nothing more is written: the reader knows why it ended."""
        try:
            while (request := await journal.next()) is not None:
                await send_request(self._call, request)
            if not self._call.done():
                await self._call.done_writing()
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError, grpc.aio.InternalError):
            return

    async def _keep_alive(self, journal: Journal) -> None:
        """Ping whenever nothing was sent for the ping interval: proxies do not count HTTP/2 pings."""
        while True:
            idle_s = time.monotonic() - journal.posted_s
            if idle_s >= self._ping_interval_s:
                await journal.post(ping=pb.Ping())
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
