"""What an interceptor does to a call that gRPC hands over as it comes: read one request in time, say how it ended."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from masklet.errors import IdleTimeout, ProtocolViolation

EOF: Any = grpc.aio.EOF  # type: ignore[attr-defined]
"""What reading gives after the last request."""
_ABORT_TIMEOUT_S = 1.0


async def read_request(context: Any, timeout_s: float) -> bytes:
    """The request of a call that has one, as it came.

    Raises:
        IdleTimeout: it has not come in full within `timeout_s` seconds.
        ProtocolViolation: the call ended without one.
    """
    try:
        async with asyncio.timeout(timeout_s):
            request = await context.read()
    except TimeoutError:
        raise IdleTimeout(f"the request has not come in full within {timeout_s:g} s") from None
    if request is EOF:
        raise ProtocolViolation("the call has no request, must have one")
    return bytes(request)


def parse_request(handler: Any, request: bytes) -> Any:
    """The message that `handler` takes. Raises ProtocolViolation if it is none."""
    try:
        return handler.request_deserializer(request)
    except DecodeError as error:
        raise ProtocolViolation(f"a request of {len(request)} bytes is not what the method takes: {error}") from error


async def abort(context: Any, code: grpc.StatusCode, details: str, metadata: Any) -> None:
    """Ends the call. The status waits in the transport behind answers that nobody reads; the call must not."""
    try:
        async with asyncio.timeout(_ABORT_TIMEOUT_S):
            await context.abort(code, details, metadata)
    except TimeoutError:
        raise asyncio.CancelledError from None


def is_cancelled() -> bool:
    """Whether somebody wants the running task to end."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
