"""Waiting for a server to be ready, by the standard gRPC health protocol."""

from __future__ import annotations

import asyncio

import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from masklet.errors import BackendUnavailable
from masklet_client.address import parse_addresses

_PAUSE_S = 0.2
_CHECK_TIMEOUT_S = 2.0
_CHANNEL_OPTIONS = (("grpc.use_local_subchannel_pool", 1),)


async def wait_until_serving(address: str, *, timeout_s: float) -> None:
    """Return once the server at `address` says SERVING.

    Raises:
        BackendUnavailable: it does not say so within `timeout_s`; the message tells what it said last.
        InvalidOpen: `address` is not host:port.
    """
    (address,) = parse_addresses([address])
    last = "nothing"
    try:
        async with asyncio.timeout(timeout_s):
            while (last := await _status(address)) != "SERVING":
                await asyncio.sleep(_PAUSE_S)
    except TimeoutError:
        raise BackendUnavailable(f"{address} was not ready within {timeout_s:g} s: {last}") from None


async def _status(address: str) -> str:
    """What the server says over a fresh connection: one made while it was still starting may be stuck."""
    async with grpc.aio.insecure_channel(address, options=_CHANNEL_OPTIONS) as channel:
        try:
            call = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=_CHECK_TIMEOUT_S)
            answer = await call
        except grpc.aio.AioRpcError as error:
            return f"{error.code().name}: {error.details()}"
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))
