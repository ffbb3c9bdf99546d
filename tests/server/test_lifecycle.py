from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import socket
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import grpc.aio
import pytest
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from masklet.backends.fake import FakeBackend, Hold
from masklet.config import Config, SessionConfig
from masklet.errors import BackendUnavailable, ConfigError, WeightsError
from masklet.observability.sampler import sample_forever
from masklet.server.choice import make_backend
from masklet.server.lifecycle import SEGMENTATION_SERVICE, SESSION_SERVICE, Server
from masklet.types import BackendStats, StepRequest, StepResult
from masklet.v1 import segmentation_pb2 as pb
from masklet.v1 import session_pb2


class SlowBackend(FakeBackend):
    """Loads until told otherwise; then fails if given an error."""

    def __init__(self, error: Exception | None = None) -> None:
        super().__init__()
        self.loaded = asyncio.Event()
        self.error = error

    async def __aenter__(self) -> Self:
        await self.loaded.wait()
        if self.error:
            raise self.error
        return await super().__aenter__()


def server_config(config: Config, **given: Any) -> Config:
    return dataclasses.replace(config, server=dataclasses.replace(config.server, **given))


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield taken.getsockname()[1]


async def listening(server: Server) -> None:
    async with asyncio.timeout(5):
        while not server.port:
            await asyncio.sleep(0.01)


async def test_health_follows_loading_serving_and_draining(config: Config, connect: Any) -> None:
    backend = SlowBackend()
    server = Server(config, backend=backend)
    starting = asyncio.create_task(server.__aenter__())
    await listening(server)
    async with connect(server.port) as client:
        loading = [await client.health(), await client.health(SEGMENTATION_SERVICE)]
        backend.loaded.set()
        await starting
        serving = [await client.health(), await client.health(SEGMENTATION_SERVICE)]
        await server.drain()
        draining = [await client.health(), await client.health(SEGMENTATION_SERVICE)]
        await server.__aexit__(None, None, None)
    assert [loading, serving, draining] == [["NOT_SERVING"] * 2, ["SERVING"] * 2, ["NOT_SERVING"] * 2]


async def test_calls_while_loading_may_be_retried(config: Config, connect: Any, reason_of: Any) -> None:
    backend = SlowBackend()
    server = Server(config, backend=backend)
    starting = asyncio.create_task(server.__aenter__())
    await listening(server)
    async with connect(server.port) as client:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.tracker.DescribeModel(pb.DescribeModelRequest(), timeout=10)
        backend.loaded.set()
        await starting
        await client.tracker.DescribeModel(pb.DescribeModelRequest(), timeout=10)
    await server.__aexit__(None, None, None)
    assert reason_of(caught.value)[:2] == ("UNAVAILABLE", "BACKEND_UNAVAILABLE")


async def test_a_backend_that_does_not_load_frees_the_ports(config: Config) -> None:
    backend = SlowBackend(WeightsError("no such file"))
    backend.loaded.set()
    server = Server(config, backend=backend)
    with pytest.raises(WeightsError):
        await server.__aenter__()
    for port in (server.port, server.metrics_port):
        with pytest.raises(OSError):
            await asyncio.open_connection("127.0.0.1", port)


async def reflected(client: Any) -> set[str]:
    stub = reflection_pb2_grpc.ServerReflectionStub(client.channel)
    call = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]), timeout=10)
    answers = [answer async for answer in call]
    return {service.name for answer in answers for service in answer.list_services_response.service}


async def test_reflection_lists_all_services(client: Any) -> None:
    expected = {SEGMENTATION_SERVICE, SESSION_SERVICE, "grpc.health.v1.Health"}
    assert await reflected(client) == expected | {"grpc.reflection.v1alpha.ServerReflection"}


async def test_services_can_be_switched_off(config: Config, connect: Any) -> None:
    config = server_config(config, session_service=False, reflection=False)
    async with Server(config) as server, connect(server.port) as client:
        for call in (client.operator.ListSessions(session_pb2.ListSessionsRequest(), timeout=10), reflected(client)):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call
            assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def scrape(port: int) -> str:
    with contextlib.closing(urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10)) as page:
        text: str = page.read().decode()
        return text


async def test_a_scrape_shows_what_a_stream_did(server: Server, client: Any) -> None:
    talk = client.talk()
    await talk.open()
    await talk.frame()
    await talk.close()
    text = await asyncio.to_thread(scrape, server.metrics_port)
    assert 'masklet_frames_received_total{codec="png"} 1.0' in text
    assert "masklet_frame_latency_seconds_count 1.0" in text
    assert 'masklet_build_info{backend="fake"' in text
    assert f'masklet_rpcs_total{{code="OK",method="/{SEGMENTATION_SERVICE}/Track"}} 1.0' in text


class BadStatsBackend(FakeBackend):
    """Cannot say what it holds."""

    def stats(self) -> BackendStats:
        raise BackendUnavailable("gone")


async def test_sampling_that_fails_is_logged_and_harms_nothing(
    config: Config, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sample_forever, "__kwdefaults__", {"period_s": 0.01})
    async with Server(config, backend=BadStatsBackend()) as server:
        async with asyncio.timeout(5):
            while "cannot say what it holds" not in caplog.text:
                await asyncio.sleep(0.01)
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        assert not writer.is_closing()
        writer.close()


@pytest.mark.parametrize("key", ["port", "metrics_port"])
async def test_an_occupied_port_is_named(config: Config, taken_port: int, key: str) -> None:
    with pytest.raises(ConfigError, match=rf"127\.0\.0\.1:{taken_port} .*server\.{key}") as caught:
        await Server(server_config(config, **{key: taken_port})).__aenter__()
    assert caught.value.field == f"server.{key}"


async def test_two_servers_do_not_share_a_port(config: Config, server: Server) -> None:
    with pytest.raises(ConfigError, match="cannot listen"):
        await Server(server_config(config, port=server.port)).__aenter__()


async def test_an_ipv6_address_is_served(config: Config) -> None:
    async with Server(server_config(config, host="::1")) as server:
        _, writer = await asyncio.open_connection("::1", server.port)
        assert writer.get_extra_info("peername")[:2] == ("::1", server.port)
        writer.close()
        await writer.wait_closed()


async def test_draining_sends_streams_away_and_refuses_new_ones(server: Server, client: Any, reason_of: Any) -> None:
    talk = client.talk()
    await talk.open()
    draining = asyncio.create_task(server.drain())
    away = (await talk.receive("go_away")).go_away
    failures = [reason_of(await stream.failure())[:2] for stream in (talk, client.talk())]
    assert failures == [("UNAVAILABLE", "SERVER_DRAINING")] * 2
    assert away.HasField("deadline")
    assert await draining


async def test_frames_accepted_before_a_drain_are_answered(config: Config, connect: Any) -> None:
    release = asyncio.Event()
    backend = FakeBackend([Hold(release)])
    async with Server(config, backend=backend) as server, connect(server.port) as client:
        talk = client.talk()
        await talk.open()
        frame = await talk.frame()
        await talk.settle()
        draining = asyncio.create_task(server.drain())
        await talk.receive("go_away")
        release.set()
        assert (await talk.receive("result")).result.frame_seq == frame
        assert await draining


async def test_a_stream_that_does_not_end_is_ended_by_the_deadline(
    config: Config, connect: Any, reason_of: Any
) -> None:
    config, backend = server_config(config, drain_timeout_s=0.2), FakeBackend([Hold(asyncio.Event())])
    async with Server(config, backend=backend) as server, connect(server.port) as client:
        talk = client.talk()
        await talk.open()
        await talk.frame()
        await talk.settle()
        assert await server.drain()
        assert reason_of(await talk.failure())[:2] == ("UNAVAILABLE", "SERVER_DRAINING")


async def test_a_drain_that_takes_too_long_says_so(config: Config, connect: Any, caplog: Any) -> None:
    class Deaf(FakeBackend):
        async def step(self, session_id: str, request: StepRequest) -> StepResult:
            while not release.is_set():
                with contextlib.suppress(asyncio.CancelledError):
                    await release.wait()
            return await super().step(session_id, request)

    release = asyncio.Event()
    config = server_config(config, drain_timeout_s=0.2)
    async with Server(config, backend=Deaf()) as server, connect(server.port) as client:
        talk = client.talk()
        await talk.open()
        await talk.frame()
        await talk.settle()
        assert not await server.drain()
        assert [record.sessions_left for record in caplog.records if record.message == "drain timed out"] == [1]
        release.set()


async def test_leaving_ends_streams_and_closes_both_ports(config: Config, connect: Any) -> None:
    backend = FakeBackend()
    async with Server(config, backend=backend) as server, connect(server.port) as client:
        await client.talk().open()
    assert (len(server.registry), backend.stats().sessions) == (0, 0)
    for port in (server.port, server.metrics_port):
        with pytest.raises(OSError):
            await asyncio.open_connection("127.0.0.1", port)


def test_a_configuration_out_of_range_is_refused(config: Config) -> None:
    with pytest.raises(ConfigError, match="drain_timeout_s is -1"):
        Server(server_config(config, drain_timeout_s=-1))


def test_a_backend_that_is_not_there_is_named(config: Config) -> None:
    with pytest.raises(ConfigError, match="'nowhere', which this version does not have"):
        make_backend(server_config(config, backend="nowhere"))


async def test_a_resume_key_that_is_too_short_is_named_before_anything_starts(config: Config, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("abcd\n")
    session = SessionConfig(resume_key_file=str(keys))
    with pytest.raises(ConfigError, match="line 1: the key has 2 bytes, at least 32"):
        Server(dataclasses.replace(config, session=session))


async def test_the_longest_wait_for_a_result_is_exported(config: Config, connect: Any) -> None:
    backend = FakeBackend([Hold(asyncio.Event())])
    async with Server(config, backend=backend) as server, connect(server.port) as client:
        talk = client.talk()
        await talk.open()
        await talk.frame()
        async with asyncio.timeout(20):
            while not (waited := server.metrics.registry.get_sample_value("masklet_time_since_last_result_seconds")):
                await asyncio.sleep(0.05)
        assert 0 < waited < 20
