"""What of a request is picture and what is not, before it is parsed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import grpc.aio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from masklet.backends.fake import FakeBackend
from masklet.config import Config, LimitsConfig
from masklet.server.lifecycle import Server
from masklet.server.wire_size import BULK, small_bytes
from masklet.v1 import mask_pb2, prompt_pb2
from masklet.v1 import segmentation_pb2 as pb

TRACK = BULK["/masklet.v1.SegmentationService/Track"]
IMAGE = BULK["/masklet.v1.SegmentationService/SegmentImage"]
DATA = bytes(100_000)


def mask_prompt() -> prompt_pb2.Prompt:
    return prompt_pb2.Prompt(
        object_id=300,
        frame_seq=2**40,
        mask=mask_pb2.Mask(encoding=mask_pb2.MASK_ENCODING_RLE, height=900, width=900, data=DATA),
    )


def pointed(count: int) -> prompt_pb2.Prompt:
    return prompt_pb2.Prompt(points=prompt_pb2.Points(points=[prompt_pb2.Point()] * count))


@pytest.mark.parametrize(
    "request_", [pb.TrackRequest(seq=7, frame=pb.Frame(payload=DATA)), pb.TrackRequest(seq=7, prompt=mask_prompt())]
)
def test_pictures_and_masks_are_not_counted(request_: pb.TrackRequest) -> None:
    wire = request_.SerializeToString()
    assert small_bytes(wire, TRACK) == len(wire) - len(DATA) < 50


def test_nor_are_those_of_an_image() -> None:
    wire = pb.SegmentImageRequest(payload=DATA, prompts=[mask_prompt(), pointed(3), mask_prompt()]).SerializeToString()
    assert small_bytes(wire, IMAGE) == len(wire) - 3 * len(DATA) < 100


def test_all_else_is() -> None:
    for wire in (
        pb.TrackRequest(seq=7, prompt=pointed(50_000)).SerializeToString(),
        pb.TrackRequest(open=pb.Open(unanswered_seqs=range(2**40, 2**40 + 20_000))).SerializeToString(),
        bytes((8, 1)) * 50_000,  # a field again and again
        bytes((10, 0)) * 50_000,
    ):
        assert small_bytes(wire, TRACK) == len(wire)


def test_a_message_of_thousands_of_parts_is_all_small_but_for_its_first_parts() -> None:
    wire = bytes((8, 1)) * 5000 + pb.TrackRequest(frame=pb.Frame(payload=DATA)).SerializeToString()
    assert small_bytes(wire, TRACK) == len(wire)


@given(st.binary(max_size=200))
def test_any_bytes_are_counted(wire: bytes) -> None:
    assert 0 <= small_bytes(wire, TRACK) <= len(wire)


@pytest.mark.parametrize("cut", [1, 2, 3, 5, 20, 50_000])
def test_what_is_cut_off_is_counted(cut: int) -> None:
    wire = pb.TrackRequest(frame=pb.Frame(payload=DATA)).SerializeToString()[:cut]
    assert small_bytes(wire, TRACK) == cut


async def test_a_request_of_many_small_parts_is_refused_unparsed(config: Config, connect: Any, reason_of: Any) -> None:
    larger = replace(config, limits=LimitsConfig())
    async with Server(larger, backend=FakeBackend()) as server, connect(server.port) as client:
        talk = client.talk()
        await talk.open()
        await talk.send(prompt=pointed(200_000))
        error = await talk.failure()
    assert reason_of(error)[:2] == ("INVALID_ARGUMENT", "LIMIT_EXCEEDED")
    assert "bytes beside pictures and masks, the limit is 196608" in (error.details() or "")


async def test_a_mask_of_another_size_than_the_frames_is_not_decoded(
    client: Any, reason_of: Any, image: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[object] = []
    monkeypatch.setattr("masklet.server.requests.decode_mask", lambda *arguments: decoded.append(arguments))
    talk = client.talk()
    await talk.open()
    await talk.send(prompt=mask_prompt())
    said = (await talk.receive("error")).error.status
    assert said.message == "mask is [900, 900], the frame is [16, 24] [H, W]"
    sized = pb.SegmentImageRequest(
        codec=pb.FRAME_CODEC_PNG, payload=image, height=16, width=24, prompts=[mask_prompt()]
    )
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await client.tracker.SegmentImage(sized, timeout=10)
    assert caught.value.details() == said.message
    assert not decoded


async def test_a_mask_before_the_stream_is_open_is_not_decoded(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[object] = []
    monkeypatch.setattr("masklet.server.requests.decode_mask", lambda *arguments: decoded.append(arguments))
    talk = client.talk()
    await talk.send(prompt=mask_prompt())
    error = await talk.failure()
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT and "must be `open`" in (error.details() or "")
    assert not decoded
