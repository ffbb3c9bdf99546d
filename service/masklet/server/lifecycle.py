"""From a configuration to a running service and back: start, ready, drain, stop."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

import masklet
from masklet.backends.base import Backend
from masklet.config import Config, ServerConfig, SessionConfig
from masklet.config_file import check_config
from masklet.errors import BackendUnavailable, MaskletError
from masklet.observability.metrics import Metrics
from masklet.observability.sampler import sample_forever
from masklet.observability.tracing import Tracing, make_tracing
from masklet.server.choice import make_backend
from masklet.server.endpoints import bind_grpc, grpc_server, metrics_endpoint
from masklet.server.health import health_service
from masklet.server.interceptor import CallInterceptor
from masklet.server.operator import SessionServicer
from masklet.server.probes import ProbeInterceptor
from masklet.server.servicer import SegmentationServicer
from masklet.server.signals import first_signal
from masklet.session.context import StreamContext
from masklet.session.registry import SessionRegistry
from masklet.session.tokens import TokenSigner, read_keys
from masklet.types import ModelDescription
from masklet.v1 import segmentation_pb2, session_pb2
from masklet.v1.segmentation_pb2_grpc import add_SegmentationServiceServicer_to_server
from masklet.v1.session_pb2_grpc import add_SessionServiceServicer_to_server

_SEGMENTATION = segmentation_pb2.DESCRIPTOR.services_by_name["SegmentationService"]
_SESSION = session_pb2.DESCRIPTOR.services_by_name["SessionService"]
SEGMENTATION_SERVICE = _SEGMENTATION.full_name
SESSION_SERVICE = _SESSION.full_name
_WATCHED = frozenset({"", SEGMENTATION_SERVICE})
_LOADING_RETRY_S = 2.0
_STOP_GRACE_S = 1.0  # for calls that are all but done, and for streams to free their sessions
_UNREAD_GRACE_S = 1.0  # the stream itself is to find out first: it says more
_CALLS_PER_SESSION = 4  # a stream, one that takes its place, and some that are not open yet
_PROBES = 512  # and operators, and calls that are just being refused
_PROBE_STREAMS = 32
_PROBE_STREAM_S = 600.0
_POINT_BYTES = 16  # of a point in a prompt, on the wire
_SMALL_BYTES = 64 * 1024  # of all else that is no picture
_CALLS_BESIDE = 64  # images, descriptions
_LOG = logging.getLogger(__name__)


class Server:
    """The service: entering it loads the model and listens, leaving it stops at once. `drain` comes before leaving.

    The gRPC port answers from the start, so that probes see NOT_SERVING and clients a retryable error while the model
    is being loaded.

    Args:
        config: where to listen, which backend, which limits.
        backend: used instead of the one `config.server.backend` names.
        tracing: used instead of what `config.tracing` says.

    Attributes:
        config: as given.
        port: the gRPC port, once bound.
        metrics_port: the metrics port, once bound.
        metrics: what is exported.
        registry: the sessions.
        ready: whether calls are accepted.
    """

    def __init__(self, config: Config, *, backend: Backend | None = None, tracing: Tracing | None = None) -> None:
        check_config(config)
        self.config = config
        self.metrics = Metrics()
        self.metrics.begin_calls(_methods(config.server))
        self.metrics.drain_timeout.set(config.server.drain_delay_s + config.server.drain_timeout_s)
        self._backend = backend or make_backend(config, metrics=self.metrics)
        self.registry = SessionRegistry(config.limits.max_sessions, metrics=self.metrics)
        self._context = StreamContext(
            self._backend,
            self.registry,
            config.limits,
            config.session,
            self.metrics,
            signer=_signer(config.session),
            tracing=tracing or make_tracing(config.tracing, self.metrics),
        )
        self.port = 0
        self.metrics_port = 0
        self.ready = False
        self._health = health_service(_WATCHED)
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Start. Raises ConfigError, WeightsError or BackendUnavailable."""
        server = self.config.server
        async with AsyncExitStack() as stack:
            metrics = metrics_endpoint(server.metrics_host, server.metrics_port, self.metrics.registry)
            self.metrics_port = await stack.enter_async_context(metrics)
            await stack.enter_async_context(self._context.tracing)
            await stack.enter_async_context(self._listening())
            await stack.enter_async_context(self._backend)
            stack.push_async_callback(self._end_streams)
            await stack.enter_async_context(_background(self._sample()))
            self._describe_build()
            await self._set_health(health_pb2.HealthCheckResponse.SERVING)
            self._stack = stack.pop_all()
        self.ready = True
        self.metrics.ready.set(1)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop at once; streams still open end with UNAVAILABLE or are cut."""
        await self._stack.aclose()
        self.ready = False

    def describe(self) -> ModelDescription:
        """What runs here."""
        return self._backend.describe()

    async def drain(self) -> bool:
        """Health off, no new sessions, all streams sent away; True if all ended within `drain_timeout_s`."""
        timeout_s = self.config.server.drain_timeout_s
        self.metrics.begin_drain()
        _LOG.info("draining", extra={"sessions": len(self.registry), "timeout_s": timeout_s})
        await self._health.enter_graceful_shutdown()
        await asyncio.sleep(self.config.server.drain_delay_s)
        self.registry.drain(timeout_s)
        ended = await self.registry.wait_empty(timeout_s + _STOP_GRACE_S)
        level, said = (logging.INFO, "drained") if ended else (logging.WARNING, "drain timed out")
        _LOG.log(level, said, extra={"sessions_left": len(self.registry)})
        return ended

    @asynccontextmanager
    async def _listening(self) -> AsyncIterator[None]:
        config = self.config
        read_timeout_s = config.session.idle_timeout_s + _UNREAD_GRACE_S
        max_calls = _CALLS_PER_SESSION * config.limits.max_sessions + _CALLS_BESIDE
        points = config.limits.max_points_per_prompt * config.limits.max_prompts_per_frame
        max_small_bytes = _SMALL_BYTES + _POINT_BYTES * points
        calls = CallInterceptor(
            self.metrics,
            refusal=self._refusal,
            max_calls=max_calls,
            max_small_bytes=max_small_bytes,
            request_timeout_s=config.session.idle_timeout_s,
            read_timeout_s=read_timeout_s,
        )
        probes = ProbeInterceptor(
            request_timeout_s=config.session.first_message_timeout_s,
            max_watches=max(_PROBE_STREAMS, config.limits.max_sessions + _CALLS_BESIDE),
            max_streams=_PROBE_STREAMS,
            stream_lasts_s=_PROBE_STREAM_S,
        )
        self._grpc = grpc_server(
            config.limits,
            [calls, probes],
            max_calls=max_calls + _PROBES,
            max_connection_calls=config.limits.max_sessions + _CALLS_BESIDE,
            max_small_bytes=max_small_bytes,
        )
        self._add_services()
        await self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)
        self.port = bind_grpc(self._grpc, config.server.host, config.server.port)
        await self._grpc.start()
        _LOG.debug("listening", extra={"port": self.port, "metrics_port": self.metrics_port})
        try:
            yield
        finally:
            await self._grpc.stop(None)

    def _add_services(self) -> None:
        config = self.config
        context = self._context
        names = [SEGMENTATION_SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME]
        add_SegmentationServiceServicer_to_server(SegmentationServicer(context), self._grpc)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._grpc)
        if config.server.session_service:
            add_SessionServiceServicer_to_server(SessionServicer(self.registry), self._grpc)
            names.append(SESSION_SERVICE)
        if config.server.reflection:
            reflection.enable_server_reflection(names, self._grpc)

    async def _sample(self) -> None:
        await sample_forever(self.metrics, self._backend.stats, longest_wait_s=self.registry.longest_wait_s)

    def _refusal(self) -> MaskletError | None:
        if self.ready:
            return None
        return BackendUnavailable("the model is still being loaded", retry_after_s=_LOADING_RETRY_S)

    async def _set_health(self, status: Any) -> None:
        for service in _WATCHED:
            await self._health.set(service, status)

    async def _end_streams(self) -> None:
        """Streams free their sessions in the backend, so they end before it does."""
        await self._grpc.stop(_STOP_GRACE_S if self.registry.draining else None)
        await self._context.live.aclose()
        await self.registry.wait_empty(_STOP_GRACE_S)

    def _describe_build(self) -> None:
        model = self._backend.describe()
        self.metrics.describe_build(model, version=masklet.__version__)


async def serve(config: Config, *, ready: Callable[[Server], None] | None = None) -> None:
    """Serves until SIGTERM or SIGINT, then drains and returns; a second signal exits at once.

    `ready` is called once calls are accepted. Raises ConfigError, WeightsError or BackendUnavailable if that never
    comes.
    """
    serving, asked, server = asyncio.current_task(), asyncio.Event(), Server(config)

    def ask(received: signal.Signals) -> None:
        _LOG.info("signal received", extra={"signal": received.name})
        asked.set()
        if serving and not server.ready:
            serving.cancel()

    try:
        await asyncio.sleep(0)  # a signal during the imports cancels here, not halfway through the start of gRPC
        with first_signal(ask):
            async with server:
                if ready:
                    ready(server)
                await asked.wait()
                await server.drain()
    except asyncio.CancelledError:
        if not asked.is_set():
            raise


def _methods(config: ServerConfig) -> list[str]:
    """Full names of the methods of ours that are served."""
    services = [_SEGMENTATION, _SESSION] if config.session_service else [_SEGMENTATION]
    return [f"/{service.full_name}/{method.name}" for service in services for method in service.methods]


def _signer(config: SessionConfig) -> TokenSigner:
    return TokenSigner(read_keys(Path(config.resume_key_file)) if config.resume_key_file else ())


@asynccontextmanager
async def _background(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    task = asyncio.create_task(work)
    task.add_done_callback(_report)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


def _report(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()):
        _LOG.error("background task failed", exc_info=error)
