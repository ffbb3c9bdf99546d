"""What is easily got wrong in a program: it is said at once, and nobody waits for ever."""

from __future__ import annotations

import asyncio
import gc
import inspect
import logging
from typing import Any

import grpc.aio
import numpy as np
import pytest

import masklet_client
from masklet.codecs.frames import encode_frame
from masklet.errors import (
    InvalidFrame,
    InvalidOpen,
    InvalidPrompt,
    LimitExceeded,
    ProtocolViolation,
    SessionClosed,
    UnknownFrame,
)
from masklet.types import ImageArray, Prompt
from masklet.v1.session_pb2 import CloseSessionRequest
from masklet.v1.session_pb2_grpc import SessionServiceStub
from masklet_client import Event, FrameCodec, Result, TrackStream, sync

from .conftest import SIZE, running

CLICK = [Prompt.clicks(1, [(20, 20)])]


async def test_a_stream_that_was_never_opened_says_so(address: str, frames: list[ImageArray]) -> None:
    async with masklet_client.connect(address) as client, asyncio.timeout(10):
        stream = client.track(SIZE, policy="block")
        for work in (stream.send(frames[0]), stream.click(1, (3, 3)), anext(stream), anext(stream.events())):
            with pytest.raises(ProtocolViolation, match="not open"):
                await work
        with pytest.raises(ProtocolViolation, match="not open"):
            stream.latest()


async def test_a_stream_is_opened_once(address: str) -> None:
    async with masklet_client.connect(address) as client, client.track(SIZE) as stream:
        with pytest.raises(ProtocolViolation, match="opened once"):
            await stream.__aenter__()


@pytest.mark.parametrize("in_flight", [0, -1])
async def test_follow_with_nothing_in_flight_is_refused(frames: list[ImageArray], in_flight: int) -> None:
    with pytest.raises(InvalidOpen, match=f"in_flight is {in_flight}"):
        await anext(masklet_client.connect().follow(frames, CLICK, in_flight=in_flight))


async def test_follow_of_no_pictures_names_what_came() -> None:
    for wrong in (np.zeros(9, np.uint8), b"\xff\xd8"):
        with pytest.raises(InvalidFrame, match="first frame is"):
            await anext(masklet_client.connect().follow([wrong], CLICK))  # type: ignore[list-item]


@pytest.mark.parametrize("prompts", [CLICK[0], {0: CLICK[0]}])
async def test_one_prompt_needs_no_list(address: str, frames: list[ImageArray], prompts: Any) -> None:
    async with masklet_client.connect(address) as client:
        assert [1 in result async for result in client.follow(frames, prompts)] == [True] * 10
        assert (await client.segment(frames[0], CLICK[0])).objects[0].object_id == 1


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ({-1: CLICK}, "for frame -1, must be"),
        ({"0": CLICK}, "for frame '0', must be"),
        ([(5, 5)], "have a tuple, must"),
    ],
)
async def test_what_is_said_of_no_frame_or_is_no_prompt_is_named(prompts: Any, message: str) -> None:
    with pytest.raises(InvalidPrompt, match=message):
        await anext(masklet_client.connect().follow([], prompts))


@pytest.mark.parametrize(
    "address",
    ["localhost", "http://localhost:50051", "localhost:65536", "localhost:115587", "a:0", "a:", ":1", "::1:5", "a:1,b"],
)
def test_what_is_no_address_is_named(address: str) -> None:
    """gRPC takes 115587 for 50051, and no port for 443."""
    with pytest.raises(InvalidOpen, match="must be HOST:PORT"):
        masklet_client.connect(address)


@pytest.mark.parametrize(
    "address", ["a:1", "[::1]:65535", "10.0.0.1:5", "unix:/tmp/x.sock", "dns:///a:5", "ipv4:1.2.3.4:5"]
)
def test_addresses_are_taken(address: str) -> None:
    assert masklet_client.connect(f"{address}, b:2").addresses == (address, "b:2")


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"policy": None}, "policy is None, must be one of: block, latest"),
        ({"codec": None}, "codec is None, must be one of"),
        ({"reconnect": True}, "reconnect is True, must be a `Reconnect` or None"),
        ({"jpeg_quality": "90"}, "jpeg_quality is '90', must be a number"),
        ({"jpeg_quality": None}, "jpeg_quality is None, must be a number"),
    ],
)
def test_options_of_another_kind_are_named(option: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidOpen, match=message):
        masklet_client.connect().track(SIZE, **option)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("jpeg_quality", 0),
        ("jpeg_quality", 100),
        ("max_conditioning_frames", -1),
        ("frame_rate_hz", -1.0),
        ("frame_rate_hz", 1e9),
        ("frame_rate_hz", float("nan")),
        ("max_staleness_s", -1.0),
        ("max_staleness_s", float("nan")),
        ("max_staleness_s", float("inf")),
    ],
)
def test_options_out_of_range_are_named(option: str, value: float) -> None:
    with pytest.raises(InvalidOpen, match=f"{option} is {value}"):
        masklet_client.connect().track(SIZE, **{option: value})  # type: ignore[arg-type]


def test_the_shape_of_an_image_is_no_size(frames: list[ImageArray]) -> None:
    with pytest.raises(InvalidOpen, match=r"must be \(height, width\)"):
        masklet_client.connect().track(frames[0].shape)


async def test_a_frame_of_too_many_bytes_does_not_end_the_stream() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (300, 400, 3), np.uint8)
    async with running(max_frame_bytes=100_000) as server:
        address = f"127.0.0.1:{server.port}"
        async with masklet_client.connect(address) as client, client.track((300, 400), codec="jpeg") as stream:
            await stream.click(1, (3, 3))
            with pytest.raises(LimitExceeded, match=r"frame has 360000 bytes, the server takes 100000"):
                await stream.send(bytes(360_000))
            await stream.send(noise // 64)
            assert (await anext(stream)).frame_index == 0


@pytest.mark.parametrize("how", ["send", "latest"])
async def test_an_error_that_was_caught_is_not_raised_again_on_leaving(
    address: str, frames: list[ImageArray], how: str
) -> None:
    async with masklet_client.connect(address) as client, client.track(SIZE) as stream:
        await _close_session(address, stream)
        with pytest.raises(SessionClosed):
            if how == "send":
                await stream.send(frames[0])
            else:
                stream.latest()


async def _close_session(address: str, stream: TrackStream) -> None:
    async with grpc.aio.insecure_channel(address) as channel:
        await SessionServiceStub(channel).CloseSession(CloseSessionRequest(session_id=stream.opened.session_id))
    async with asyncio.timeout(10):
        while not stream._inbox.ended:
            await asyncio.sleep(0.01)


async def test_a_prompt_with_a_mask_and_points_is_refused(address: str) -> None:
    both = Prompt(1, np.ones((1, 2), np.float32), np.ones(1, np.int32), mask=np.ones(SIZE, np.bool_))
    async with masklet_client.connect(address) as client, client.track(SIZE) as stream:
        with pytest.raises(InvalidPrompt, match="excludes points and box"):
            await stream.prompt(both)


@pytest.mark.parametrize(
    "prompt", [Prompt.clicks(1, [(5, 5)], [2]), Prompt.clicks(1, [(5, 5)], [1, 1]), Prompt.clicks(-1, [(5, 5)])]
)
async def test_bad_prompts_for_an_encoded_image_are_named(prompt: Prompt) -> None:
    with pytest.raises(InvalidPrompt):
        await masklet_client.connect().segment(b"\xff\xd8", [prompt], codec=FrameCodec.JPEG)


async def test_an_image_that_is_no_image_is_named() -> None:
    with pytest.raises(InvalidFrame, match=r"image is uint8 \[9\]"):
        await masklet_client.connect().segment(np.zeros(9, np.uint8), CLICK)


async def test_an_image_goes_to_the_first_server_that_is_there(address: str, frames: list[ImageArray]) -> None:
    async with masklet_client.connect(["127.0.0.1:1", address]) as client:
        assert len((await client.segment(frames[0], CLICK)).objects) == 1


@pytest.mark.parametrize("metadata", [("Authorization", "Bearer x"), ("a b", "x"), ("name", "\u00e9")])
def test_metadata_that_cannot_be_sent_is_named(metadata: tuple[str, str]) -> None:
    with pytest.raises(InvalidOpen, match=f"metadata .*{metadata[0]}"):
        masklet_client.connect(metadata=[metadata])


@pytest.mark.parametrize(
    ("one", "other"), [(masklet_client.Client, sync.Client), (masklet_client.TrackStream, sync.TrackStream)]
)
def test_the_twins_have_the_same_names(one: type, other: type) -> None:
    def names(kind: type) -> set[str]:
        return {name for name in dir(kind) if not name.startswith("_")}

    assert names(one) <= names(other)
    for name in names(one):
        mine, theirs = getattr(one, name), getattr(other, name)
        if inspect.isfunction(mine):
            assert list(inspect.signature(mine).parameters) == list(inspect.signature(theirs).parameters)


def test_a_callback_cannot_wait_for_its_own_loop(far_address: str, frames: list[ImageArray]) -> None:
    def heard(event: Event) -> None:
        if isinstance(event, Result):
            stream.click(2, (6, 6))

    with sync.connect(far_address) as client:
        stream = client.track(SIZE, on_event=heard)
        with pytest.raises(ProtocolViolation, match="`on_event` cannot wait"), stream:
            stream.click(1, (5, 5))
            stream.send(frames[0])
            next(stream)


def test_a_client_that_is_not_connected_says_so(far_address: str) -> None:
    client = sync.connect(far_address)
    with pytest.raises(ProtocolViolation, match="not connected"):
        client.describe()
    with client:
        assert client.address == far_address and client.describe().version
    with pytest.raises(ProtocolViolation, match="not connected"):
        client.describe()


def test_iterators_that_outlive_their_client_end_quietly(
    far_address: str, frames: list[ImageArray], caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder
) -> None:
    with caplog.at_level(logging.ERROR, "asyncio"), sync.connect(far_address) as client:
        results: Any = client.follow(frames * 5, CLICK)
        next(results)
        open_still = client.track(SIZE).__enter__()
    with pytest.raises(ProtocolViolation, match="not connected"):
        next(results)
    with pytest.raises(ProtocolViolation, match="not connected"):
        open_still.send(frames[0])
    del results, open_still
    gc.collect()
    assert not caplog.records
    assert not [warned for warned in recwarn if "never awaited" in str(warned.message)]


@pytest.mark.parametrize("frame", [None, [1, 2], "a.jpg"])
async def test_what_is_neither_array_nor_bytes_is_named(address: str, frame: object) -> None:
    async with masklet_client.connect(address) as client, client.track(SIZE) as stream:
        with pytest.raises(InvalidFrame, match=f"image is {type(frame).__name__}, must be an array"):
            await stream.send(frame)  # type: ignore[arg-type]
        with pytest.raises(InvalidFrame, match=f"image is {type(frame).__name__}, must be an array"):
            await client.segment(frame, [])  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [bytearray, memoryview])
async def test_other_kinds_of_bytes_are_taken(address: str, frames: list[ImageArray], kind: type) -> None:
    async with masklet_client.connect(address) as client, client.track(SIZE, codec="rgb8") as stream:
        assert (await stream.step(kind(frames[0].tobytes()))).frame_index == 0


async def test_numbers_that_are_no_seq_or_object_id_are_named(address: str) -> None:
    async with masklet_client.connect(address) as client, client.track(SIZE) as stream:
        for object_id in (-1, 0, 2**32):
            with pytest.raises(InvalidPrompt, match=f"object id {object_id} must be"):
                await stream.remove(object_id)
        with pytest.raises(UnknownFrame, match="frame_seq is -1"):
            await stream.click(1, (5, 5), frame_seq=-1)


@pytest.mark.parametrize("option", ["codec", "mask_encoding"])
async def test_choices_of_segment_are_named(address: str, frames: list[ImageArray], option: str) -> None:
    async with masklet_client.connect(address) as client:
        with pytest.raises(InvalidOpen, match=f"{option} is 'nope', must be one of"):
            await client.segment(b"x" if option == "codec" else frames[0], CLICK, **{option: "nope"})  # type: ignore[arg-type]


@pytest.mark.parametrize("option", [{"give_up_s": -1}, {"max_buffered_requests": 5000}, {"max_buffered_bytes": 0}])
def test_how_to_reconnect_is_checked(option: dict[str, Any]) -> None:
    ((name, value),) = option.items()
    with pytest.raises(InvalidOpen, match=f"{name} is {value}, must be"):
        masklet_client.Reconnect(**option)
    with pytest.raises(InvalidOpen, match=f"{name} is 'x', must be a number"):
        masklet_client.Reconnect(**dict.fromkeys(option, "x"))  # type: ignore[arg-type]


async def test_a_picture_whose_png_is_too_large_is_sent_as_jpeg(frames: list[ImageArray]) -> None:
    size = len(encode_frame(FrameCodec.JPEG, frames[0], quality=95)) + 200
    assert len(encode_frame(FrameCodec.PNG, frames[0])) > size
    async with running(max_frame_bytes=size) as server, masklet_client.connect(f"127.0.0.1:{server.port}") as client:
        assert (await client.segment(frames[0], CLICK)).objects[0].area_px > 0


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"label": 0.5}, "label is 0.5, must be 1"),
        ({"point": (3,)}, r"point is \(3,\), must be"),
        ({"point": None}, "point is None"),
        ({"object_id": "1"}, "object id '1' must be"),
        ({"object_id": 1.5}, "object id 1.5 must be"),
        ({"mode": "foo"}, "mode is 'foo', must be one of: refine, restart"),
    ],
)
async def test_what_is_no_click_is_named(address: str, wrong: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"object_id": 1, "point": (3, 3)} | wrong
    async with masklet_client.connect(address) as client, client.track(SIZE) as stream:
        with pytest.raises(InvalidPrompt, match=message):
            await stream.click(**given)
        with pytest.raises(InvalidPrompt, match="mask for object 1 has no pixel"):
            await stream.mask(1, np.zeros(SIZE, np.bool_))


@pytest.mark.parametrize("size", [64, None, (2**40, 5), (4.5, 5), (float("nan"), 5)])
def test_what_is_no_size_is_named(size: Any) -> None:
    with pytest.raises(InvalidOpen, match="size is"):
        masklet_client.connect().track(size)


async def test_leaving_early_says_nothing_of_prompts_without_a_frame(address: str, caplog: Any) -> None:
    async with masklet_client.connect(address) as client, client.track(SIZE) as stream:
        await stream.click(1, (3, 3))
    assert "refused" not in caplog.text
