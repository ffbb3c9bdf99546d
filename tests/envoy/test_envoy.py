"""Streams through the real Envoy: they last, they are resumed, and they find their front again."""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
from pathlib import Path
from typing import Any

import grpc
import pytest
from tests.e2e.talk import Talk, talk_to
from tests.envoy.pair import FRAME, Pair, answered, pair, until_result
from tests.envoy.proxy import CONFIGURATION, HOST, envoy_before, envoy_binary

from masklet.backends.triton_server import free_ports
from masklet.config import SessionConfig
from masklet.errors import BackendUnavailable
from masklet.types import StateOrigin
from masklet.v1 import segmentation_pb2 as pb
from masklet.v1 import session_pb2
from masklet.v1.session_pb2_grpc import SessionServiceStub
from masklet_client import Result, Resumed, connect
from masklet_client.call import FRONT_KEY, PING_INTERVAL_S


def test_envoy_takes_the_configuration() -> None:
    command = [str(envoy_binary()), "--mode", "validate", "-c", str(CONFIGURATION)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "deprecated" not in done.stderr.lower()


async def test_its_limits_fit_the_client_and_the_service(tmp_path: Path) -> None:
    async with envoy_before(free_ports(HOST, (0, 0)), tmp_path, healthy=0) as envoy:
        found = await asyncio.to_thread(envoy.in_force)
    manager, cluster = found["manager"], found["cluster"]
    idle_s = seconds(manager["stream_idle_timeout"])
    assert idle_s > 2 * PING_INTERVAL_S
    assert idle_s > SessionConfig().idle_timeout_s  # so that the service says first why a stream ends
    assert manager["common_http_protocol_options"]["max_stream_duration"] == "0s"
    (route,) = manager["route_config"]["virtual_hosts"][0]["routes"]
    assert (route["route"]["timeout"], "retry_policy" in route["route"]) == ("0s", False)
    for side in (manager["http2_protocol_options"], upstream(cluster)):
        window = side["initial_stream_window_size"]
        assert window == 1 << 20
        assert window * side["max_concurrent_streams"] == side["initial_connection_window_size"]


def upstream(cluster: dict[str, object]) -> dict[str, int]:
    (options,) = cluster["typed_extension_protocol_options"].values()  # type: ignore[attr-defined]
    found: dict[str, int] = options["explicit_http_config"]["http2_protocol_options"]
    return found


def seconds(duration: str) -> float:
    return float(duration.removesuffix("s"))


async def test_a_stream_outlives_the_idle_timeout_as_long_as_it_pings(tmp_path: Path) -> None:
    async with pair(tmp_path, stream_idle_timeout="1s") as both, talk_to(both.envoy.address) as talk:
        await talk.open()
        for _ in range(5):
            await asyncio.sleep(0.5)
            await talk.send(ping=pb.Ping())
            await talk.receive("pong")
        await talk.frame()
        await talk.receive("result")
        silent_s = time.monotonic()
        with pytest.raises(grpc.aio.AioRpcError, match="RST_STREAM"):
            await talk.read()
        assert time.monotonic() - silent_s < 10


async def test_a_frame_of_the_largest_size_passes(tmp_path: Path) -> None:
    async with pair(tmp_path) as both, talk_to(both.envoy.address) as talk:
        await talk.open(codec=pb.FRAME_CODEC_RGB8, height=1664, width=1664)
        await talk.frame(bytes(1664 * 1664 * 3))  # 7.9 of 8 MiB
        assert (await talk.receive("result")).result.frame_seq == talk.seq


async def test_streams_are_spread_evenly(tmp_path: Path) -> None:
    async with pair(tmp_path) as both:
        talks = [talk_to(both.envoy.address) for _ in range(6)]
        for talk in talks:
            await (await talk.__aenter__()).open()
        assert both.sessions() == [3, 3]
        for talk in talks:
            await talk.__aexit__(None, None, None)


async def test_a_cut_stream_goes_back_to_the_front_that_has_its_session(tmp_path: Path) -> None:
    async with pair(tmp_path) as both, both.tracking() as first, both.tracking() as second:
        streams = (first, second)
        for stream in streams:
            await stream.click(1, (10, 20))
            await answered(stream)
        assert both.sessions() == [1, 1]
        for line in both.lines:
            line.cut()
        for stream in streams:
            await answered(stream)
        assert both.resumed() == [1, 1]
        assert both.sessions() == [1, 1]  # nobody took over the other's


async def test_without_the_header_a_session_is_resumed_at_the_emptier_front(tmp_path: Path) -> None:
    async with pair(tmp_path) as both:
        assert await resumed_at(both, with_header=False) == ("other", "STATE_ORIGIN_INTACT")


async def test_with_the_header_a_session_is_resumed_at_its_own_front(tmp_path: Path) -> None:
    async with pair(tmp_path) as both:
        assert await resumed_at(both, with_header=True) == ("owner", "STATE_ORIGIN_INTACT")


async def resumed_at(both: Pair, *, with_header: bool) -> tuple[str, str]:
    """Where a session whose first connection is still open is resumed; the other front has no stream at all."""
    async with talk_to(both.envoy.address) as talk:
        opened, owner = await talk.open(), both.owner()
        header = dict(await talk.call.initial_metadata())[FRONT_KEY]
        async with talk_to(both.envoy.address) as again:
            if with_header:
                redial(again, header)
            granted = await again.open(resume_token=opened.resume_token, last_server_seq=1)
            again.seq = granted.next_seq - 1
            await again.frame()
            await again.receive("result")
        where = "owner" if both.resumed()[owner] else "other"
    return where, pb.StateOrigin.Name(granted.state_origin)


def redial(talk: Talk, front: str) -> None:
    """The same call, to that front."""
    talk.call.cancel()
    track: Any = talk.channel.stream_stream(
        "/masklet.v1.SegmentationService/Track",
        request_serializer=pb.TrackRequest.SerializeToString,
        response_deserializer=pb.TrackResponse.FromString,
    )
    talk.call = track(metadata=((FRONT_KEY, front),))


async def test_when_a_front_dies_its_session_goes_on_at_the_other(tmp_path: Path) -> None:
    async with pair(tmp_path) as both, both.tracking() as stream:
        await stream.click(1, (10, 20))
        before = [(await answered(stream))[1].box for _ in range(2)]
        owner = both.owner()
        both.fronts[owner].vanish()
        both.lines[owner].refusing = True
        both.lines[owner].cut()
        await stream.send(FRAME)
        events = [event async for event in until_result(stream)]
    (resumed,) = [event for event in events if isinstance(event, Resumed)]
    assert isinstance(events[-1], Result) and resumed.origin is StateOrigin.INTACT
    assert both.resumed()[1 - owner] == 1
    assert [*before, events[-1][1].box] == [(x, 14, x + 12, 26) for x in (4, 5, 6)]


async def test_a_front_that_drains_gets_no_new_streams_and_keeps_those_it_has(tmp_path: Path) -> None:
    async with pair(tmp_path, drain_delay_s=4.0) as both, both.tracking() as stream:
        await answered(stream)
        owner = both.owner()
        draining = asyncio.create_task(both.servers[owner].drain())
        await both.envoy.wait_healthy(1)
        async with both.tracking(), both.tracking(), both.tracking():
            assert both.sessions()[1 - owner] == 3
            await answered(stream)  # where it was
            assert both.sessions()[owner] == 1
        assert await draining
        await stream.send(FRAME)
        events = [event async for event in until_result(stream)]
        (resumed,) = [event for event in events if isinstance(event, Resumed)]
        assert (resumed.origin, resumed.attempts) == (StateOrigin.INTACT, 1)


async def test_without_any_front_callers_are_told_at_once_and_streams_go_on_later(tmp_path: Path) -> None:
    async with pair(tmp_path) as both, both.tracking() as stream:
        await answered(stream)
        for line in both.lines:
            line.refusing = True
            line.cut()
        await both.envoy.wait_healthy(0)
        began_s = time.monotonic()
        with pytest.raises(BackendUnavailable, match="no healthy upstream"):
            await connect(both.envoy.address, timeout_s=10).__aenter__()
        assert time.monotonic() - began_s < 5
        for line in both.lines:
            line.refusing = False
        await answered(stream)


async def test_operators_calls_do_not_pass_and_logs_hold_no_payload(tmp_path: Path) -> None:
    async with pair(tmp_path) as both, talk_to(both.envoy.address) as talk:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await SessionServiceStub(talk.channel).ListSessions(session_pb2.ListSessionsRequest())
        assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED
        await talk.open()
        await talk.frame(b"\x00secret\x00")
        await talk.close()
        entry = await logged(both, "/masklet.v1.SegmentationService/Track")
    assert (entry["grpc_status"], entry["front"].startswith(HOST)) == ("OK", True)
    assert "secret" not in both.envoy.log.read_text()


async def logged(both: Pair, path: str) -> dict[str, str]:
    """The entry of the access log for the call there was to `path`."""
    async with asyncio.timeout(15):
        while True:
            lines = both.envoy.log.read_text().splitlines()
            entries = [json.loads(line) for line in lines if line.startswith("{")]
            if found := [entry for entry in entries if entry["path"] == path]:
                return dict(found[0])
            await asyncio.sleep(0.1)
