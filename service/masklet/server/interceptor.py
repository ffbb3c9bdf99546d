"""Around every call of ours: errors to status, a correlation id in the logs, a count by method and code."""

from __future__ import annotations

import asyncio
import logging
import re
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any, cast

import grpc
import grpc.aio
from grpc_status import rpc_status

from masklet.errors import Fault, MaskletError
from masklet.observability.metrics import Metrics
from masklet.server.status import public_error, to_status

CORRELATION_KEY = "x-request-id"
_CORRELATION_ID = re.compile(r"[!-~]{1,128}")
_LOG = logging.getLogger(__name__)


class CallInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # generic only in its stub
    """Wraps the calls of `masklet.v1`; health and reflection pass untouched.

    Args:
        metrics: where calls are counted.
        refusal: why calls are refused now; None: they are not.
    """

    def __init__(self, metrics: Metrics, *, refusal: Callable[[], MaskletError | None]) -> None:
        self._metrics = metrics
        self._refusal = refusal

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any]]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any]:
        """The method's handler, wrapped."""
        handler: Any = await continuation(handler_call_details)
        if handler is None or not handler_call_details.method.startswith("/masklet."):
            return cast("grpc.RpcMethodHandler[Any, Any]", handler)
        method = handler_call_details.method
        coders = {
            "request_deserializer": handler.request_deserializer,
            "response_serializer": handler.response_serializer,
        }
        if handler.response_streaming:
            return grpc.stream_stream_rpc_method_handler(self._stream(handler.stream_stream, method), **coders)
        return grpc.unary_unary_rpc_method_handler(self._unary(handler.unary_unary, method), **coders)

    def _unary(self, behaviour: Callable[..., Any], method: str) -> Callable[..., Any]:
        async def call(request: Any, context: Any) -> Any:
            async with self._call(method, context):
                return await behaviour(request, context)

        return call

    def _stream(self, behaviour: Callable[..., Any], method: str) -> Callable[..., Any]:
        # Writes instead of yielding: a cancelled write then closes the stream's generator here and now, and not
        # whenever the garbage collector finds it.
        async def call(requests: Any, context: Any) -> None:
            async with self._call(method, context), aclosing(behaviour(requests, context)) as responses:
                async for response in responses:
                    await context.write(response)

        return call

    @asynccontextmanager
    async def _call(self, method: str, context: Any) -> AsyncIterator[None]:
        correlation_id = _correlation_id(context)
        code = grpc.StatusCode.OK
        try:
            if refused := self._refusal():
                raise refused
            yield
        except asyncio.CancelledError:
            code = grpc.StatusCode.CANCELLED
            raise
        except Exception as error:
            shown = public_error(error)
            status = rpc_status.to_status(to_status(shown))
            code = status.code
            _log(shown, {"method": method, "code": code.name, "peer": context.peer(), "correlation_id": correlation_id})
            metadata = (*status.trailing_metadata, (CORRELATION_KEY, correlation_id))
            await context.abort(code, status.details, metadata)
        finally:
            self._metrics.rpcs.labels(method, code.name).inc()


def _correlation_id(context: Any) -> str:
    """The caller's, if it sent a sane one, else a new one."""
    sent = dict(context.invocation_metadata() or ()).get(CORRELATION_KEY, "")
    return sent if isinstance(sent, str) and _CORRELATION_ID.fullmatch(sent) else uuid.uuid4().hex


def _log(error: MaskletError, fields: dict[str, str]) -> None:
    level = logging.INFO if error.fault is Fault.CLIENT else logging.WARNING
    _LOG.log(level, "call failed", extra={**fields, "reason": error.reason, "error": str(error)})
