"""The two ports: gRPC for clients, HTTP for Prometheus. Port 0 means any free one; what was bound is reported."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import grpc.aio
from prometheus_client import CollectorRegistry, start_http_server

from masklet.config import LimitsConfig
from masklet.errors import ConfigError
from masklet.session.intake import MAX_WAITING_MASK_BYTES

_PACKED_PIXELS = 8  # of a mask, in a byte
_NO_COMPRESSION = 1  # a bit for each algorithm: a message would be unpacked in full before its size is looked at
_KEEPALIVE_S = 30.0
_KEEPALIVE_TIMEOUT_S = 10.0
_MIN_CLIENT_PING_S = 5.0


def grpc_server(
    limits: LimitsConfig,
    interceptors: Sequence[grpc.aio.ServerInterceptor],  # type: ignore[type-arg]
    *,
    max_calls: int,
    max_connection_calls: int,
    max_small_bytes: int,
) -> grpc.aio.Server:
    """A server that is not listening yet, with the limits of the transport set from `limits`.

    Args:
        limits: what clients may ask for.
        interceptors: around every call.
        max_calls: the outer fence, beyond which probes of health are refused, too; interceptors refuse others before.
        max_connection_calls: of one connection at a time; further ones wait there.
        max_small_bytes: of a request, pictures and masks not counted.
    """
    options = {
        "grpc.max_receive_message_length": max_request_bytes(limits, max_small_bytes=max_small_bytes),
        "grpc.max_concurrent_streams": max_connection_calls,
        "grpc.compression_enabled_algorithms_bitset": _NO_COMPRESSION,
        "grpc.max_send_message_length": -1,  # our own answers; objects and frame size bound them
        "grpc.keepalive_time_ms": round(_KEEPALIVE_S * 1000),
        "grpc.keepalive_timeout_ms": round(_KEEPALIVE_TIMEOUT_S * 1000),
        "grpc.http2.min_recv_ping_interval_without_data_ms": round(_MIN_CLIENT_PING_S * 1000),
        "grpc.keepalive_permit_without_calls": 1,
        "grpc.so_reuseport": 0,  # else a second server on the port silently takes half of the streams
    }
    return grpc.aio.server(interceptors=interceptors, options=list(options.items()), maximum_concurrent_rpcs=max_calls)


def max_request_bytes(limits: LimitsConfig, *, max_small_bytes: int) -> int:
    """No request allowed has more bytes; what is not allowed may have fewer, and is refused where it is told why."""
    mask_pixels = max(limits.max_frame_pixels, MAX_WAITING_MASK_BYTES)
    return limits.max_frame_bytes + mask_pixels // _PACKED_PIXELS + max_small_bytes


def bind_grpc(server: grpc.aio.Server, host: str, port: int) -> int:
    """Binds `host`:`port` and returns the port.

    Raises:
        ConfigError: it is in use, or not ours to bind.
    """
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        return server.add_insecure_port(address)
    except RuntimeError as error:
        raise ConfigError(
            f"cannot listen on {address} (server.host, server.port): in use, or no address of this machine",
            field="server.port",
        ) from error


@asynccontextmanager
async def metrics_endpoint(host: str, port: int, registry: CollectorRegistry) -> AsyncIterator[int]:
    """Serves `registry` for Prometheus at http://host:port/metrics within the block; yields the port.

    Raises:
        ConfigError: the address is in use, not ours to bind, or none.
    """
    try:
        httpd, thread = start_http_server(port, host, registry)
    except (OSError, UnicodeError) as error:  # the latter: it cannot be a host name
        why = getattr(error, "strerror", None) or str(error)
        raise ConfigError(
            f"cannot serve metrics on {host}:{port} (server.metrics_host, server.metrics_port): {why}",
            field="server.metrics_port",
        ) from error
    try:
        yield httpd.server_port
    finally:
        await asyncio.to_thread(httpd.shutdown)
        httpd.server_close()
        thread.join()
