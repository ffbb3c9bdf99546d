from __future__ import annotations

import asyncio
import logging
from typing import Any

import grpc.aio
import pytest

from masklet.backends.fake import FakeBackend, Fault
from masklet.config import Config
from masklet.errors import BackendError
from masklet.server import lifecycle
from masklet.server.lifecycle import Server
from masklet.types import ModelDescription
from masklet.v1 import segmentation_pb2 as pb
from masklet.v1 import session_pb2

DESCRIBE = "/masklet.v1.SegmentationService/DescribeModel"
TRACK = "/masklet.v1.SegmentationService/Track"


class BrokenBackend(FakeBackend):
    """Works until it is to describe itself a second time: the server does it once itself."""

    described = 0

    def describe(self) -> ModelDescription:
        self.described += 1
        if self.described > 1:
            raise ZeroDivisionError("secret path /etc/shadow")
        return super().describe()


@pytest.fixture
def backend() -> FakeBackend:
    return BrokenBackend()


async def describe(client: Any, *metadata: tuple[str, str]) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await client.tracker.DescribeModel(pb.DescribeModelRequest(), timeout=10, metadata=metadata)
    return caught.value


def correlation_id(error: grpc.aio.AioRpcError) -> str:
    metadata: Any = error.trailing_metadata()
    return str(dict(metadata)["x-request-id"])


async def test_a_bug_is_internal_and_shows_nothing(client: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        error = await describe(client)
    assert error.code() is grpc.StatusCode.INTERNAL
    assert "secret" not in str(error)
    assert "secret" in caplog.text
    error_id = (error.details() or "").rpartition("=")[2]
    assert error_id in caplog.text


async def test_failed_calls_are_logged_with_the_callers_correlation_id(
    client: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        error = await describe(client, ("x-request-id", "abc-1"))
    assert correlation_id(error) == "abc-1"
    (record,) = [vars(record) for record in caplog.records if record.message == "call failed"]
    assert (record["correlation_id"], record["method"], record["code"]) == ("abc-1", DESCRIBE, "INTERNAL")


@pytest.mark.parametrize("sent", ["", "x" * 129, "a b"])
async def test_a_bad_correlation_id_is_replaced(client: Any, sent: str) -> None:
    error = await describe(client, ("x-request-id", sent))
    assert len(correlation_id(error)) == 32


class CancelledBackend(FakeBackend):
    """Says after the start that it was cancelled, as a task of its own may be."""

    described = 0

    def describe(self) -> ModelDescription:
        self.described += 1
        if self.described > 1:
            raise asyncio.CancelledError
        return super().describe()


async def test_a_call_that_nobody_cancelled_gets_a_status(config: Config, connect: Any) -> None:
    async with Server(config, backend=CancelledBackend()) as server, connect(server.port) as client:
        error = await describe(client)
    assert error.code() is grpc.StatusCode.INTERNAL
    assert "error_id=" in (error.details() or "")


async def test_calls_are_counted_by_method_and_code(server: Server, client: Any) -> None:
    await describe(client)
    talk = client.talk()
    await talk.open()
    await talk.close()
    await talk.call.code()
    counts = {
        (sample.labels["method"], sample.labels["code"]): sample.value
        for sample in next(iter(server.metrics.rpcs.collect())).samples
        if sample.name.endswith("_total") and sample.value
    }
    assert counts == {(DESCRIBE, "INTERNAL"): 1.0, (TRACK, "OK"): 1.0}


async def refusal(client: Any) -> grpc.aio.AioRpcError | None:
    try:
        await client.tracker.DescribeModel(pb.DescribeModelRequest(), timeout=10)
    except grpc.aio.AioRpcError as error:
        return error
    return None


async def test_calls_beyond_their_limit_are_to_come_again_and_probes_are_answered(
    config: Config, connect: Any, reason_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifecycle, "_CALLS_PER_SESSION", 0)
    monkeypatch.setattr(lifecycle, "_CALLS_BESIDE", 3)
    async with Server(config, backend=FakeBackend()) as server, connect(server.port) as client, asyncio.timeout(20):
        talks = [client.talk() for _ in range(3)]
        for talk in talks:
            await talk.open()
        refused = await refusal(client)
        assert refused is not None
        assert reason_of(refused)[:2] == ("RESOURCE_EXHAUSTED", "ADMISSION_REFUSED")
        assert refused.details() == "3 calls are open, the limit is 3"
        assert await client.health() == "SERVING"
        await client.operator.ListSessions(session_pb2.ListSessionsRequest(), timeout=10)
        for talk in talks:
            talk.call.cancel()
        while await refusal(client) is not None:
            await asyncio.sleep(0.01)


async def test_a_backend_that_fails_on_a_frame_does_not_end_the_stream(config: Config, connect: Any) -> None:
    backend = FakeBackend([Fault(BackendError("no memory left"), step=1)])
    async with Server(config, backend=backend) as server, connect(server.port) as client:
        talk = client.talk()
        await talk.open()
        await talk.frame()
        good = await talk.frame()
        error, _dropped, result = await talk.close()
    assert (error.error.status.code, error.error.status.message) == (13, "no memory left")
    assert result.result.frame_seq == good


@pytest.mark.parametrize("method", ["Track", "SegmentImage"])
async def test_bytes_that_are_no_message_are_the_clients_fault(client: Any, reason_of: Any, method: str) -> None:
    kind = client.channel.stream_stream if method == "Track" else client.channel.unary_unary
    send = kind(f"/masklet.v1.SegmentationService/{method}")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        if method == "Track":
            await anext(aiter(send(iter([b"\xff\xff"]), timeout=10)))
        else:
            await send(b"\xff\xff", timeout=10)
    assert reason_of(caught.value)[:2] == ("INVALID_ARGUMENT", "PROTOCOL_VIOLATION")
