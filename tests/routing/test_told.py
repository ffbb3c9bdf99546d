"""Through the whole service, over real gRPC: a client whose session is recovered is told, and loses no frame."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio
import pytest
from google.rpc import error_details_pb2, status_pb2
from tests.e2e.talk import Talk, click, talk_to
from tests.routing.farm import ROUTING, Farm

from masklet.backends.fake import FakeBackend
from masklet.config import Config, ServerConfig
from masklet.routing.discovery import ListedEndpoints
from masklet.routing.router import RoutedBackend
from masklet.server.lifecycle import Server
from masklet.types import StateOrigin
from masklet.v1 import segmentation_pb2 as pb
from masklet_client.wire import result_from_proto

CONFIG = Config(server=ServerConfig(port=0, metrics_port=0))


@pytest.fixture
def farm() -> Farm:
    return Farm("a:1", "b:1")


@pytest.fixture
async def server(farm: Farm) -> AsyncIterator[Server]:
    backend = RoutedBackend(ListedEndpoints(list(farm.places)), farm.client, ROUTING, clock=time.monotonic)
    async with Server(CONFIG, backend=backend) as entered:
        yield entered


async def masks_of(talk: Talk, frames: int) -> list[pb.Result]:
    """Answers to so many frames, one after the other; the first is clicked on."""
    results = []
    for number in range(frames):
        if number == 0:
            await talk.send(prompt=click(1))
        await talk.frame()
        response = await talk.read()
        while response is not None and response.WhichOneof("message") != "result":
            response = await talk.read()
        assert response is not None
        results.append(response.result)
    return results


async def test_a_client_is_told_once_and_its_masks_go_on(farm, server):
    async with Server(CONFIG, backend=FakeBackend()) as calm, talk_to(f"127.0.0.1:{calm.port}") as talk:
        await talk.open()
        expected = await masks_of(talk, 6)
    async with talk_to(f"127.0.0.1:{server.port}") as talk:
        opened = await talk.open()
        results = await masks_of(talk, 3)
        (name,) = farm.holding(opened.session_id)
        farm[name].kill()
        talk_on = [await anext_result(talk) for _ in range(3)]
    found = results + talk_on
    assert [result.objects[0].mask for result in found] == [result.objects[0].mask for result in expected]
    assert [result.recovered for result in found] == [0, 0, 0, pb.STATE_ORIGIN_RESTORED, 0, 0]
    told = result_from_proto(found[3], 4, 3, 0)
    assert told.recovered is StateOrigin.RESTORED
    assert 0 < told.recovery_s < 20


async def anext_result(talk: Talk) -> pb.Result:
    await talk.frame()
    return (await talk.receive("result")).result


async def test_with_no_triton_left_new_streams_are_unavailable_and_told_when_to_come_back(farm, server):
    for place in farm.places.values():
        place.kill()
    for _ in range(2):
        async with talk_to(f"127.0.0.1:{server.port}") as talk:
            await talk.send(open=pb.Open(codec=pb.FRAME_CODEC_JPEG, height=48, width=64))
            code, reason, message = await refused(talk)
            assert (code, reason) == ("UNAVAILABLE", "BACKEND_UNAVAILABLE")
            assert "no Triton can be used" in message


async def refused(talk: Talk) -> tuple[str, str, str]:
    """The status, without the details that say when to come back."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        while await talk.read() is not None:
            pass
    trailing: Any = caught.value.trailing_metadata()
    status = status_pb2.Status.FromString(dict(trailing)["grpc-status-details-bin"])
    kinds = {detail.TypeName(): detail for detail in status.details}
    assert "google.rpc.RetryInfo" in kinds
    info = error_details_pb2.ErrorInfo()
    kinds["google.rpc.ErrorInfo"].Unpack(info)
    return caught.value.code().name, info.reason, status.message
