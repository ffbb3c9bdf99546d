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
        max_streams: streams (`Health.Watch`, reflection) at a time; `Health.Check` is never refused here.
        stream_lasts_s: such a stream is ended after this long.
    """

    def __init__(self, *, request_timeout_s: float, max_streams: int, stream_lasts_s: float) -> None:
        self._request_timeout_s = request_timeout_s
        self._max_streams = max_streams
        self._stream_lasts_s = stream_lasts_s
        self._streams = 0

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
            call = self._stream(handler)
            return grpc.stream_stream_rpc_method_handler(call, response_serializer=handler.response_serializer)
        call = self._unary(handler)
        return grpc.stream_unary_rpc_method_handler(call, response_serializer=handler.response_serializer)

    def _unary(self, handler: Any) -> Callable[..., Any]:
        async def call(_: AsyncIterator[bytes], context: Any) -> Any:
            async with _told(context):
                return await handler.unary_unary(await self._request(handler, context), context)

        return call

    def _stream(self, handler: Any) -> Callable[..., Any]:
        async def call(_: AsyncIterator[bytes], context: Any) -> None:
            async with _told(context), self._place():
                if not handler.request_streaming:
                    await handler.unary_stream(await self._request(handler, context), context)
                    return
                async with aclosing(_requests(handler, context)) as requests:
                    async for response in handler.stream_stream(requests, context):
                        await context.write(response)

        return call

    async def _request(self, handler: Any, context: Any) -> Any:
        return parse_request(handler, await read_request(context, self._request_timeout_s))

    @asynccontextmanager
    async def _place(self) -> AsyncIterator[None]:
        """Raises AdmissionRefused without one, IdleTimeout once it was held for long enough."""
        if self._streams >= self._max_streams:
            message = f"{self._streams} streams of health and reflection are open, the limit is {self._max_streams}"
            raise AdmissionRefused(message, retry_after_s=_RETRY_AFTER_S)
        self._streams += 1
        try:
            async with asyncio.timeout(self._stream_lasts_s):
                yield
        except TimeoutError:
            raise IdleTimeout(f"the stream has lasted {self._stream_lasts_s:g} s; open another") from None
        finally:
            self._streams -= 1


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
