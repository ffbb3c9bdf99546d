"""One connection with one call of `Track`, down to the stubs: nothing between the generator and the wire."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc.aio

from masklet.errors import BackendUnavailable, MaskletError, ProtocolViolation
from masklet.v1 import segmentation_pb2 as pb
from masklet.v1.segmentation_pb2_grpc import SegmentationServiceStub
from masklet_client.call import send_request
from masklet_client.status import error_from_rpc

OPEN_TIMEOUT_S = 10.0
_OPTIONS = (
    ("grpc.use_local_subchannel_pool", 1),  # a connection each, as cameras have
    ("grpc.max_receive_message_length", 64 * 1024 * 1024),
    ("grpc.enable_retries", 0),
)


class Link:
    """A call over a connection of its own; `open` comes first, `close` last."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._channel = grpc.aio.insecure_channel(address, options=_OPTIONS)
        self._call: Any = SegmentationServiceStub(self._channel).Track()  # type: ignore[call-arg]
        self._cut = False

    async def open(self, wanted: pb.Open) -> pb.TrackResponse:
        """The answer to `open`. Raises what the server refused it with, or BackendUnavailable."""
        try:
            async with asyncio.timeout(OPEN_TIMEOUT_S):
                await self.write(pb.TrackRequest(seq=1, open=wanted))  # refused meanwhile: reading says why
                response = await self.read()
        except TimeoutError:
            raise BackendUnavailable(f"{self.address} did not answer `open` within {OPEN_TIMEOUT_S:g} s") from None
        if response is None or not response.HasField("opened"):
            raise ProtocolViolation(f"{self.address} did not answer `open` with `opened`")
        return response

    async def write(self, request: pb.TrackRequest) -> bool:
        """Send; False if the call is over: the reader knows why."""
        try:
            await send_request(self._call, request)
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError, grpc.aio.InternalError):
            return False
        return True

    async def read(self) -> pb.TrackResponse | None:
        """The next response; None at the end in good order. Raises the error that the call ended with."""
        try:
            response = await self._call.read()
        except grpc.aio.AioRpcError as error:
            raise error_from_rpc(error, self.address) from error
        except asyncio.InvalidStateError as error:
            raise MaskletError(f"the call to {self.address} broke: {error}") from error
        except asyncio.CancelledError:
            if self._cut and not _cancelled():
                raise BackendUnavailable(f"the connection to {self.address} was cut on purpose") from None
            raise
        return response if isinstance(response, pb.TrackResponse) else None

    def cut(self) -> None:
        """Break the call off without a word, as a lost connection does."""
        self._cut = True
        self._call.cancel()

    async def close(self) -> None:
        """Leave nothing behind."""
        self._cut = True
        self._call.cancel()
        await self._channel.close(None)


def _cancelled() -> bool:
    """Whether it is this task that is to end, not only the call."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
