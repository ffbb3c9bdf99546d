"""Around the calls of health and reflection: they must not take the places of others, nor each other's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any, cast

import grpc
import grpc.aio
from grpc_status import rpc_status

from masklet.errors import AdmissionRefused, IdleTimeout, MaskletError
from masklet.server.raw_call import EOF, abort, parse_request, read_request
from masklet.server.status import to_status

_RETRY_AFTER_S = 1.0


class ProbeInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # generic only in its stub
    """Wraps all calls but those of `masklet.v1`.

    Args:
        request_timeout_s: how long the request of a call may take to come.
        max_watches: streams of `Health.Watch` at a time; `Health.Check` is never refused here.
        max_streams: all other streams (reflection) at a time.
        stream_lasts_s: such a stream is ended after this long.
    """

    def __init__(self, *, request_timeout_s: float, max_watches: int, max_streams: int, stream_lasts_s: float) -> None:
        self._request_timeout_s = request_timeout_s
        self._stream_lasts_s = stream_lasts_s
        self._watches = _Places("watches of health", max_watches)
        self._streams = _Places("streams of reflection", max_streams)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any]]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any]:
        """The method's handler, wrapped."""
        handler: Any = await continuation(handler_call_details)
        if handler is None or handler_call_details.method.startswith("/masklet."):
            return cast("grpc.RpcMethodHandler[Any, Any]", handler)
        if handler.response_streaming:
            is_health = handler_call_details.method.startswith("/grpc.health.")
            call = self._stream(handler, self._watches if is_health else self._streams)
            return grpc.stream_stream_rpc_method_handler(call, response_serializer=handler.response_serializer)
        call = self._unary(handler)
        return grpc.stream_unary_rpc_method_handler(call, response_serializer=handler.response_serializer)

    def _unary(self, handler: Any) -> Callable[..., Any]:
        async def call(_: AsyncIterator[bytes], context: Any) -> Any:
            async with _told(context):
                return await handler.unary_unary(await self._request(handler, context), context)

        return call

    def _stream(self, handler: Any, places: _Places) -> Callable[..., Any]:
        async def call(_: AsyncIterator[bytes], context: Any) -> None:
            async with _told(context), places.taken(self._stream_lasts_s):
                if not handler.request_streaming:
                    await handler.unary_stream(await self._request(handler, context), context)
                    return
                async with aclosing(_requests(handler, context)) as requests:
                    async for response in handler.stream_stream(requests, context):
                        await context.write(response)

        return call

    async def _request(self, handler: Any, context: Any) -> Any:
        return parse_request(handler, await read_request(context, self._request_timeout_s))


class _Places:
    """So many streams of a kind at a time."""

    def __init__(self, name: str, most: int) -> None:
        self._name, self._most, self._open = name, most, 0

    @asynccontextmanager
    async def taken(self, lasts_s: float) -> AsyncIterator[None]:
        """Raises AdmissionRefused without a place, IdleTimeout once it was held for `lasts_s` seconds."""
        if self._open >= self._most:
            message = f"{self._open} {self._name} are open, the limit is {self._most}"
            raise AdmissionRefused(message, retry_after_s=_RETRY_AFTER_S)
        self._open += 1
        try:
            async with asyncio.timeout(lasts_s):
                yield
        except TimeoutError:
            raise IdleTimeout(f"the stream has lasted {lasts_s:g} s; open another") from None
        finally:
            self._open -= 1


async def _requests(handler: Any, context: Any) -> AsyncGenerator[Any, None]:
    while (request := await context.read()) is not EOF:
        yield parse_request(handler, request)


@asynccontextmanager
async def _told(context: Any) -> AsyncIterator[None]:
    try:
        yield
    except MaskletError as error:
        status = rpc_status.to_status(to_status(error))
        await abort(context, status.code, status.details, status.trailing_metadata)
