"""Around every call of ours: errors to status, a correlation id in the logs, a count by method and code."""

from __future__ import annotations

import asyncio
import logging
import re
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any, cast

import grpc
import grpc.aio
from grpc_status import rpc_status

from masklet.errors import AdmissionRefused, Fault, IdleTimeout, LimitExceeded, MaskletError
from masklet.observability.metrics import Metrics
from masklet.server.raw_call import EOF, abort, is_cancelled, parse_request, read_request
from masklet.server.status import public_error, to_status
from masklet.server.wire_size import BULK, small_bytes

CORRELATION_KEY = "x-request-id"
_CORRELATION_ID = re.compile(r"[!-~]{1,128}")
_RETRY_AFTER_S = 1.0
_OPERATORS = "/masklet.v1.SessionService/"
_LOG = logging.getLogger(__name__)


class CallInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # generic only in its stub
    """Wraps the calls of `masklet.v1`; all others pass untouched.

    Args:
        metrics: where calls are counted.
        refusal: why calls are refused now; None: they are not.
        max_calls: at a time; operators' are not counted.
        max_small_bytes: of a request, pictures and masks not counted.
        request_timeout_s: how long the request of a call that has one may take to come.
        read_timeout_s: how long an answer on a stream may wait for a client that does not read.
    """

    def __init__(
        self,
        metrics: Metrics,
        *,
        refusal: Callable[[], MaskletError | None],
        max_calls: int,
        max_small_bytes: int,
        request_timeout_s: float,
        read_timeout_s: float,
    ) -> None:
        self._metrics = metrics
        self._refusal = refusal
        self._max_calls = max_calls
        self._max_small_bytes = max_small_bytes
        self._calls = 0
        self._request_timeout_s = request_timeout_s
        self._read_timeout_s = read_timeout_s

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any]]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any]:
        """The method's handler, wrapped."""
        handler: Any = await continuation(handler_call_details)
        if handler is None or not handler_call_details.method.startswith("/masklet."):
            return cast("grpc.RpcMethodHandler[Any, Any]", handler)
        # Requests are read and parsed inside the wrapper, single ones too: gRPC would wait for them for ever, and bytes
        # that cannot be parsed are an error of ours.
        if handler.response_streaming:
            call = self._stream(handler, handler_call_details.method)
            return grpc.stream_stream_rpc_method_handler(call, response_serializer=handler.response_serializer)
        call = self._unary(handler, handler_call_details.method)
        return grpc.stream_unary_rpc_method_handler(call, response_serializer=handler.response_serializer)

    def _unary(self, handler: Any, method: str) -> Callable[..., Any]:
        async def call(_: AsyncIterator[bytes], context: Any) -> Any:
            async with self._call(method, context):
                request = await read_request(context, self._request_timeout_s)
                with self._metrics.rpc_seconds.labels(method).time():
                    return await handler.unary_unary(self._parse(handler, method, request), context)

        return call

    def _stream(self, handler: Any, method: str) -> Callable[..., Any]:
        # Reads and writes instead of iterating and yielding: grpc leaves both its generators to the garbage collector,
        # while a stream cancelled here has let go of everything when `call` ends.
        async def call(_: AsyncIterator[bytes], context: Any) -> None:
            async with (
                self._call(method, context),
                aclosing(self._requests(handler, method, context)) as requests,
                aclosing(handler.stream_stream(requests, context)) as responses,
            ):
                async for response in responses:
                    await self._write(response, context)

        return call

    async def _write(self, response: Any, context: Any) -> None:
        """Raises IdleTimeout if nobody reads: the call would otherwise keep its place on the server for ever."""
        try:
            async with asyncio.timeout(self._read_timeout_s):
                await context.write(response)
        except TimeoutError:
            raise IdleTimeout(f"no answer was read for {self._read_timeout_s:g} s") from None

    async def _requests(self, handler: Any, method: str, context: Any) -> AsyncGenerator[Any, None]:
        while (request := await context.read()) is not EOF:
            yield self._parse(handler, method, request)

    def _parse(self, handler: Any, method: str, request: bytes) -> Any:
        """Raises LimitExceeded before a message that would take long is parsed, ProtocolViolation if it is none."""
        limit = self._max_small_bytes
        if len(request) > limit and (small := small_bytes(request, BULK.get(method, {}))) > limit:
            raise LimitExceeded(f"a request has {small} bytes beside pictures and masks, the limit is {limit}")
        return parse_request(handler, request)

    @asynccontextmanager
    async def _call(self, method: str, context: Any) -> AsyncIterator[None]:
        correlation_id = _correlation_id(context)
        code = grpc.StatusCode.OK
        counted = 0 if method.startswith(_OPERATORS) else 1
        self._calls += counted
        try:
            if refused := self._refusal():
                raise refused
            if counted and self._calls > self._max_calls:
                message = f"{self._calls - 1} calls are open, the limit is {self._max_calls}"
                raise AdmissionRefused(message, retry_after_s=_RETRY_AFTER_S)
            yield
        except (Exception, asyncio.CancelledError) as error:
            if isinstance(error, asyncio.CancelledError) and is_cancelled():
                code = grpc.StatusCode.CANCELLED
                raise
            shown = public_error(error)
            status = rpc_status.to_status(to_status(shown))
            code = status.code
            _log(shown, {"method": method, "code": code.name, "peer": context.peer(), "correlation_id": correlation_id})
            metadata = (*status.trailing_metadata, (CORRELATION_KEY, correlation_id))
            await abort(context, code, status.details, metadata)
        finally:
            self._calls -= counted
            self._metrics.rpcs.labels(method, code.name).inc()


def _correlation_id(context: Any) -> str:
    """The caller's, if it sent a sane one, else a new one."""
    sent = dict(context.invocation_metadata() or ()).get(CORRELATION_KEY, "")
    return sent if isinstance(sent, str) and _CORRELATION_ID.fullmatch(sent) else uuid.uuid4().hex


def _log(error: MaskletError, fields: dict[str, str]) -> None:
    level = logging.INFO if error.fault is Fault.CLIENT else logging.WARNING
    _LOG.log(level, "call failed", extra={**fields, "reason": error.reason, "error": str(error)})
