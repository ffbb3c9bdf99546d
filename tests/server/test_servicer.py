from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

import grpc.aio
import numpy as np
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2
from grpc_status import rpc_status

import masklet
from masklet.backends.base import FIRST_EPOCH
from masklet.backends.fake import FakeBackend, Hold
from masklet.codecs.masks import decode_mask, encode_mask
from masklet.config import Config, SessionConfig
from masklet.errors import BackendUncertain
from masklet.server.endpoints import max_request_bytes
from masklet.server.lifecycle import Server
from masklet.types import MaskEncoding, TrackSettings
from masklet.v1 import mask_pb2, prompt_pb2
from masklet.v1 import segmentation_pb2 as pb


async def test_an_object_is_tracked_from_click_to_close(client: Any) -> None:
    talk = client.talk()
    await talk.open()
    prompt_seq = await talk.click(5, 4, 4)
    frames = [await talk.frame() for _ in range(3)]
    applied, *results = await talk.close()
    assert applied.prompt_applied == pb.PromptApplied(prompt_seq=prompt_seq, frame_seq=frames[0], object_id=5)
    assert [response.result.frame_seq for response in results] == frames
    assert [response.server_seq for response in results] == [3, 4, 5]
    masks = [one(response.result.objects) for response in results]
    assert masks[0].any()
    assert [np.array_equal(np.roll(masks[0], step, axis=1), mask) for step, mask in enumerate(masks)] == [True] * 3
    assert (await talk.call.code()).name == "OK"


def one(objects: Any) -> Any:
    (item,) = objects
    return decode_mask(item.mask.data, MaskEncoding.RLE, (item.mask.height, item.mask.width))


async def test_opened_names_the_limits_of_the_configuration(client: Any, config: Config) -> None:
    opened = await client.talk().open()
    assert opened.session_id
    assert opened.limits.max_frame_bytes == config.limits.max_frame_bytes
    assert opened.next_seq == 2


async def test_a_mask_prompt_comes_back_on_its_frame(client: Any) -> None:
    talk, mask = client.talk(), np.zeros((16, 24), bool)
    mask[3:9, 5:11] = True
    await talk.open()
    wire = mask_pb2.Mask(encoding=mask_pb2.MASK_ENCODING_RLE, height=16, width=24)
    wire.data = encode_mask(mask, MaskEncoding.RLE)
    await talk.send(prompt=prompt_pb2.Prompt(object_id=1, mask=wire))
    await talk.frame()
    _, response = await talk.close()
    assert np.array_equal(one(response.result.objects), mask)


async def test_a_first_message_other_than_open_ends_the_stream(client: Any, reason_of: Any) -> None:
    talk = client.talk()
    await talk.send(ping=pb.Ping())
    assert reason_of(await talk.failure())[:2] == ("INVALID_ARGUMENT", "PROTOCOL_VIOLATION")


async def test_an_open_that_makes_no_sense_ends_the_stream(client: Any, reason_of: Any) -> None:
    talk = client.talk()
    await talk.send(open=pb.Open(height=16, width=24))
    assert reason_of(await talk.failure()) == ("INVALID_ARGUMENT", "OPEN_INVALID", "open.codec")


async def test_a_corrupt_frame_and_a_bad_prompt_do_not_end_the_stream(client: Any) -> None:
    talk = client.talk()
    await talk.open()
    bad_frame = await talk.frame(b"not a PNG")
    bad_prompt = await talk.send(prompt=prompt_pb2.Prompt(object_id=1))
    good_frame = await talk.frame()
    error, dropped, refused, result = await talk.close()
    assert error.error.request_seq == dropped.dropped.frame_seq == bad_frame
    assert refused.error.request_seq == bad_prompt
    assert refused.error.status.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert result.result.frame_seq == good_frame


async def test_a_frame_of_an_impossible_time_is_an_error_and_dropped(client: Any, image: bytes) -> None:
    talk = client.talk()
    await talk.open()
    bad = await talk.send(frame=pb.Frame(payload=image, capture_time=Timestamp(nanos=-1)))
    good = await talk.frame()
    error, dropped, result = [await talk.receive(kind) for kind in ("error", "dropped", "result")]
    assert "capture_time is 0 s and -1 ns" in error.error.status.message
    assert error.error.request_seq == dropped.dropped.frame_seq == bad
    assert result.result.frame_seq == good


@pytest.mark.parametrize(
    ("seq", "last_server_seq", "refused"),
    [(2**64 - 1, 0, ("PROTOCOL_VIOLATION", "seq")), (1, 2**64 - 1, ("LIMIT_EXCEEDED", "open.last_server_seq"))],
)
async def test_numbers_that_leave_no_room_for_the_next_open_nothing(
    client: Any, server: Server, reason_of: Any, seq: int, last_server_seq: int, refused: tuple[str, str]
) -> None:
    talk = client.talk()
    wanted = pb.Open(codec=pb.FRAME_CODEC_PNG, height=16, width=24, last_server_seq=last_server_seq)
    await talk.call.write(pb.TrackRequest(seq=seq, open=wanted))
    assert reason_of(await talk.failure()) == ("INVALID_ARGUMENT", *refused)
    assert len(server.registry) == 0


async def test_a_removal_of_an_impossible_object_names_its_field(client: Any) -> None:
    talk = client.talk()
    await talk.open()
    await talk.send(remove_object=pb.RemoveObject(object_id=0))
    info = error_details_pb2.ErrorInfo()
    (await talk.receive("error")).error.status.details[0].Unpack(info)
    assert info.metadata["field"] == "remove_object.object_id"


async def test_a_cancelled_stream_leaves_no_session(config: Config, connect: Any) -> None:
    config = dataclasses.replace(config, session=SessionConfig(resume_ttl_s=0.0))
    backend = FakeBackend([Hold(asyncio.Event())])
    async with Server(config, backend=backend) as server, connect(server.port) as client:
        talk = client.talk()
        await talk.open()
        await talk.frame()
        assert len(server.registry) == backend.stats().sessions == 1
        talk.call.cancel()
        assert await server.registry.wait_empty(5)
        await until(lambda: backend.stats().sessions == 0)
        cancelled = server.metrics.rpcs.labels("/masklet.v1.SegmentationService/Track", "CANCELLED")
        await until(lambda: next(iter(cancelled.collect())).samples[0].value == 1)


class Line:
    """A TCP line to a port that can be cut."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.writers: list[asyncio.StreamWriter] = []
        self.pumps: list[asyncio.Task[None]] = []

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.target)
        self.writers += [writer, far_writer]
        ends = ((reader, far_writer), (far_reader, writer))
        self.pumps += [asyncio.create_task(self.pump(source, sink)) for source, sink in ends]

    async def pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while chunk := await source.read(65536):
            sink.write(chunk)

    async def cut(self) -> None:
        for writer in self.writers:
            writer.transport.abort()
        await asyncio.wait(self.pumps)


async def test_a_client_whose_line_is_cut_leaves_no_session_but_for_a_while(config: Config, connect: Any) -> None:
    config = dataclasses.replace(config, session=SessionConfig(resume_ttl_s=0.5))
    async with Server(config) as server:
        await cut_line(server, connect)


async def cut_line(server: Server, connect: Any) -> None:
    line = Line(server.port)
    listener = await asyncio.start_server(line.carry, "127.0.0.1", 0)
    async with listener, connect(listener.sockets[0].getsockname()[1]) as client:
        talk = client.talk()
        await talk.open()
        for _ in range(20):
            await talk.frame()
        listener.close()
        await line.cut()
        assert await server.registry.wait_empty(5)
        assert (await talk.failure()).code() is grpc.StatusCode.UNAVAILABLE


async def until(condition: Any) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.01)


async def test_a_stream_too_many_is_told_when_to_come_back(config: Config, connect: Any, reason_of: Any) -> None:
    config = dataclasses.replace(config, limits=dataclasses.replace(config.limits, max_sessions=1))
    async with Server(config) as server, connect(server.port) as client:
        first, second = client.talk(), client.talk()
        await first.open()
        await second.send(open=pb.Open(codec=pb.FRAME_CODEC_PNG, height=16, width=24))
        error = await second.failure()
    assert reason_of(error)[:2] == ("RESOURCE_EXHAUSTED", "ADMISSION_REFUSED")
    details = {detail.TypeName() for detail in rpc_status.from_call(error).details}
    assert details == {"google.rpc.ErrorInfo", "google.rpc.QuotaFailure", "google.rpc.RetryInfo"}


async def test_an_oversize_message_ends_its_own_stream_only(client: Any, config: Config) -> None:
    victim, bystander = client.talk(), client.talk()
    await victim.open()
    await bystander.open()
    await victim.frame(b"x" * (max_request_bytes(config.limits, max_small_bytes=1 << 20) + 1))
    error = await victim.failure()
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "larger than max" in (error.details() or "")
    await bystander.frame()
    assert (await bystander.receive("result")).result.frame_seq == 2


async def test_a_frame_just_over_the_limit_is_only_refused(client: Any, config: Config) -> None:
    talk = client.talk()
    await talk.open()
    await talk.frame(b"x" * (config.limits.max_frame_bytes + 1))
    assert "100001 bytes, the limit is 100000" in (await talk.receive("error")).error.status.message


async def test_an_image_is_segmented(client: Any, server: Server, image: bytes) -> None:
    box = mask_pb2.Box(x_min=2, y_min=3, x_max=10, y_max=9)
    prompts = [prompt_pb2.Prompt(object_id=7, box=box)]
    request = pb.SegmentImageRequest(codec=pb.FRAME_CODEC_PNG, payload=image, prompts=prompts)
    response = await client.tracker.SegmentImage(request, timeout=10)
    assert (response.objects[0].object_id, response.objects[0].area_px) == (7, 48)
    assert one(response.objects)[3:9, 2:10].all()
    assert len(server.registry) == 0


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"codec": 2, "payload": b"x"}, ("INVALID_ARGUMENT", "FRAME_INVALID", "")),
        ({"payload": b"x"}, ("INVALID_ARGUMENT", "FRAME_INVALID", "codec")),
        ({"codec": 2, "payload": b"x", "height": 1}, ("INVALID_ARGUMENT", "FRAME_INVALID", "height")),
    ],
)
async def test_an_image_that_makes_no_sense_is_refused(
    client: Any, reason_of: Any, given: dict[str, Any], expected: tuple[str, str, str]
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await client.tracker.SegmentImage(pb.SegmentImageRequest(**given), timeout=10)
    assert reason_of(caught.value)[:2] == expected[:2]
    assert expected[2] in reason_of(caught.value)[2]


async def test_the_model_is_described(client: Any, config: Config) -> None:
    described = await client.tracker.DescribeModel(pb.DescribeModelRequest(), timeout=10)
    assert (described.backend, described.version, described.trained) == ("fake", masklet.__version__, False)
    assert pb.FRAME_CODEC_JPEG in described.codecs
    assert described.limits.max_frame_bytes == config.limits.max_frame_bytes


@pytest.mark.parametrize("seq", [0, 2, 9, 2**63 - 1, 2**64 - 1])
async def test_open_is_request_1(client: Any, reason_of: Any, seq: int) -> None:
    talk = client.talk()
    await talk.call.write(pb.TrackRequest(seq=seq, open=pb.Open(codec=pb.FRAME_CODEC_PNG, height=16, width=24)))
    error = await talk.failure()
    assert reason_of(error) == ("INVALID_ARGUMENT", "PROTOCOL_VIOLATION", "seq")
    assert error.details() == f"seq of `open` is {seq}, must be 1"


async def test_a_staleness_of_0_is_none(client: Any) -> None:
    talk = client.talk()
    wanted = pb.Open(codec=pb.FRAME_CODEC_PNG, height=16, width=24, drop_policy=pb.DROP_POLICY_LATEST)
    wanted.max_staleness.SetInParent()
    await talk.send(open=wanted)
    await talk.receive("opened")
    frame = await talk.frame()
    assert (await talk.receive("result")).result.frame_seq == frame


async def test_answers_lost_after_close_are_sent_again(config: Config, connect: Any) -> None:
    """Over, for the server, with the answers in a connection that turns out to be dead."""
    async with Server(config, backend=FakeBackend()) as server, connect(server.port) as client:
        talk = client.talk()
        opened = await talk.open()
        frames = [await talk.frame() for _ in range(3)]
        sent = await talk.close()
        assert len(server.registry) == 0
        again, wanted = client.talk(), pb.Open(codec=pb.FRAME_CODEC_PNG, height=16, width=24)
        wanted.drop_policy, wanted.resume_token = pb.DROP_POLICY_BLOCK, opened.resume_token
        wanted.last_server_seq, wanted.unanswered_seqs[:] = 2, frames[1:]
        await again.send(open=wanted)
        assert (await again.receive("opened")).opened.next_seq == talk.seq + 1
        rest = [await again.receive("result") for _ in frames[1:]]
        assert [one.result for one in rest] == [one.result for one in sent[1:]]
        assert await again.call.read() is grpc.aio.EOF  # type: ignore[attr-defined]
        assert await again.call.code() is grpc.StatusCode.OK


class UnclearBackend(FakeBackend):
    """Opens a session; the first time its answer is lost."""

    opened = 0

    async def open(self, session_id: str, settings: TrackSettings, *, epoch: int = FIRST_EPOCH) -> None:
        await super().open(session_id, settings, epoch=epoch)
        self.opened += 1
        if self.opened == 1:
            raise BackendUncertain("Triton's answer was lost")


@pytest.mark.parametrize("call", ["stream", "image"])
async def test_where_the_answer_to_an_opening_is_lost_a_client_is_told_to_try_again(
    config: Config, connect: Any, reason_of: Any, image: bytes, call: str
) -> None:
    async def begin(client: Any) -> None:
        if call == "stream":
            await client.talk().open()
        else:
            await client.tracker.SegmentImage(click_on(image), timeout=10)

    async with Server(config, backend=UnclearBackend()) as server, connect(server.port) as client:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await begin(client)
        assert reason_of(caught.value) == ("UNAVAILABLE", "BACKEND_UNAVAILABLE", "")
        status = rpc_status.from_call(caught.value)  # type: ignore[arg-type]
        assert any(one.Is(error_details_pb2.RetryInfo.DESCRIPTOR) for one in status.details)
        assert server._backend.stats().sessions == 0  # the one that was opened all the same is closed
        await begin(client)


def click_on(image: bytes) -> pb.SegmentImageRequest:
    points = prompt_pb2.Points(points=[prompt_pb2.Point(x=4, y=4, label=prompt_pb2.POINT_LABEL_INCLUDE)])
    prompts = [prompt_pb2.Prompt(object_id=1, points=points)]
    return pb.SegmentImageRequest(codec=pb.FRAME_CODEC_PNG, payload=image, prompts=prompts)
