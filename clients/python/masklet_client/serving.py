"""Waiting for a server to be ready, by the standard gRPC health protocol."""

from __future__ import annotations

import asyncio

import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from masklet.errors import BackendUnavailable

_PAUSE_S = 0.2


async def wait_until_serving(address: str, *, timeout_s: float) -> None:
    """Return once the server at `address` says SERVING.

    Raises:
        BackendUnavailable: it does not say so within `timeout_s`; the message tells what it said last.
    """
    last = "nothing"
    options = (("grpc.use_local_subchannel_pool", 1), ("grpc.max_reconnect_backoff_ms", 500))
    async with grpc.aio.insecure_channel(address, options=options) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            async with asyncio.timeout(timeout_s):
                while (last := await _status(stub)) != "SERVING":
                    await asyncio.sleep(_PAUSE_S)
        except TimeoutError:
            raise BackendUnavailable(f"{address} was not ready within {timeout_s:g} s: {last}") from None


async def _status(stub: health_pb2_grpc.HealthStub) -> str:
    try:
        answer = await stub.Check(health_pb2.HealthCheckRequest())
    except grpc.aio.AioRpcError as error:
        return f"{error.code().name}: {error.details()}"
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))
