"""Requests that make no sense: each is answered with value and limit, while another stream notices nothing."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tests.e2e.conftest import Bystander, Served
from tests.e2e.talk import HEIGHT, JPEG, WIDTH, Talk, box, click, opening

from masklet.codecs.frames import encode_frame
from masklet.codecs.masks import encode_mask
from masklet.session.tokens import ResumeClaim, TokenSigner
from masklet.types import FrameCodec, MaskEncoding
from masklet.v1 import mask_pb2, prompt_pb2
from masklet.v1 import segmentation_pb2 as pb


def jpeg_claiming(height: int, width: int) -> bytes:
    """A JPEG whose header claims another size than its scan has."""
    at = JPEG.index(b"\xff\xc0") + 5
    return JPEG[:at] + struct.pack(">HH", height, width) + JPEG[at + 4 :]


def square_mask(height: int, width: int) -> prompt_pb2.Prompt:
    mask = np.ones((height, width), np.bool_)
    wire = mask_pb2.Mask(
        encoding=mask_pb2.MASK_ENCODING_RLE, height=height, width=width, data=encode_mask(mask, MaskEncoding.RLE)
    )
    return prompt_pb2.Prompt(object_id=1, mask=wire)


LARGER = encode_frame(FrameCodec.JPEG, np.zeros((HEIGHT, WIDTH + 8, 3), np.uint8))
FIRST_MESSAGES: list[tuple[dict[str, Any], str, list[str]]] = [
    ({"frame": pb.Frame(payload=JPEG)}, "PROTOCOL_VIOLATION", ["`frame`", "`open`"]),
    ({}, "PROTOCOL_VIOLATION", ["request 1", "no message"]),
    ({"open": opening(codec=pb.FRAME_CODEC_AV1)}, "OPEN_INVALID", ["av1", "jpeg, png, rgb8"]),
    ({"open": opening(codec=99)}, "OPEN_INVALID", ["99", "jpeg"]),
    ({"open": opening(width=5000)}, "LIMIT_EXCEEDED", ["5000", "4096"]),
    ({"open": opening(height=0)}, "OPEN_INVALID", ["0 x 64"]),
]
FRAMES: dict[str, tuple[bytes, list[str]]] = {
    "truncated": (JPEG[: len(JPEG) // 2], [str(len(JPEG) // 2), "bytes", "cannot be decoded"]),
    "truncated header": (JPEG[:100], ["100 bytes", "cut off"]),
    "empty": (b"", ["empty"]),
    "no JPEG": (b"hello", ["5 bytes", "JPEG header"]),
    "another size": (LARGER, ["48 x 72", "48 x 64"]),
    "bomb": (jpeg_claiming(65535, 65535), ["65535 x 65535", "48 x 64"]),
}
PROMPTS: list[tuple[prompt_pb2.Prompt, str, list[str]]] = [
    (click(1, 64.5, 20), "PROMPT_INVALID", ["(64.5, 20.0)", "width 64", "height 48"]),
    (click(1, float("nan"), 20), "PROMPT_INVALID", ["nan", "width 64"]),
    (click(0), "PROMPT_INVALID", ["0", "1 to 2147483647"]),
    (click(1, times=10_000), "LIMIT_EXCEEDED", ["10000", "64"]),
    (box(1, 40, 10, 20, 30), "PROMPT_INVALID", ["(40.0, 10.0, 20.0, 30.0)", "x_min < x_max <= 64"]),
    (square_mask(HEIGHT, WIDTH + 1), "PROMPT_INVALID", ["[48, 65]", "[48, 64]"]),
    (prompt_pb2.Prompt(object_id=7), "PROMPT_INVALID", ["object 7", "no points, box or mask"]),
]


def says(text: str, words: list[str]) -> bool:
    return not [word for word in words if word not in text]


@pytest.mark.parametrize(("message", "reason", "words"), FIRST_MESSAGES)
async def test_a_bad_first_message_ends_the_stream(
    bystander: Bystander, talk: Talk, message: dict[str, Any], reason: str, words: list[str]
) -> None:
    await talk.send(**message)
    code, found, text = await talk.end()
    assert (code, found) == ("INVALID_ARGUMENT", reason)
    assert says(text, words), text


async def test_a_client_that_says_nothing_is_sent_away(bystander: Bystander, talk: Talk) -> None:
    code, reason, text = await talk.end()
    assert (code, reason) == ("DEADLINE_EXCEEDED", "IDLE_TIMEOUT")
    assert says(text, ["`open`", "1 s"])


@pytest.mark.parametrize(("payload", "words"), FRAMES.values(), ids=FRAMES)
async def test_a_bad_frame_is_named_and_the_next_one_answered(
    bystander: Bystander, talk: Talk, payload: bytes, words: list[str]
) -> None:
    await talk.open()
    bad = await talk.frame(payload)
    code, reason, text = await talk.refusal()
    assert (code, reason) == ("INVALID_ARGUMENT", "FRAME_INVALID")
    assert says(text, words), text
    dropped = (await talk.receive("dropped")).dropped
    assert (dropped.frame_seq, dropped.reason) == (bad, pb.DROP_REASON_DECODE_ERROR)
    good = await talk.frame()
    assert (await talk.receive("result")).result.frame_seq == good


async def test_a_frame_over_the_byte_limit_is_refused(bystander: Bystander, talk: Talk) -> None:
    await talk.open()
    await talk.frame(JPEG + bytes(8 * 1024 * 1024))
    assert says((await talk.refusal())[2], [str(len(JPEG) + 8 * 1024 * 1024), "8388608"])


@pytest.mark.parametrize(("prompt", "reason", "words"), PROMPTS)
async def test_a_bad_prompt_is_named_and_the_next_one_applied(
    bystander: Bystander, talk: Talk, prompt: prompt_pb2.Prompt, reason: str, words: list[str]
) -> None:
    await talk.open()
    await talk.send(prompt=prompt)
    code, found, text = await talk.refusal()
    assert (code, found) == ("INVALID_ARGUMENT", reason)
    assert says(text, words), text
    good = await talk.send(prompt=click(1))
    await talk.frame()
    assert (await talk.receive("prompt_applied")).prompt_applied.prompt_seq == good
    assert [one.object_id for one in (await talk.receive("result")).result.objects] == [1]


async def test_an_unknown_object_and_an_unknown_frame_are_named(bystander: Bystander, talk: Talk) -> None:
    await talk.open()
    await talk.send(remove_object=pb.RemoveObject(object_id=5))
    assert await talk.refusal() == ("NOT_FOUND", "OBJECT_UNKNOWN", "object 5 is not tracked; 0 are")
    await talk.send(prompt=click(1, frame_seq=77))
    code, reason, text = await talk.refusal()
    assert (code, reason) == ("NOT_FOUND", "FRAME_UNKNOWN")
    assert says(text, ["frame 77", "last 8 frames"])


async def test_a_gap_is_one_error_and_a_repeat_none(bystander: Bystander, talk: Talk) -> None:
    await talk.open()
    talk.seq += 3
    await talk.frame()
    code, reason, text = await talk.refusal()
    assert (code, reason) == ("OUT_OF_RANGE", "SEQUENCE_GAP")
    assert says(text, ["seq is 5", "expected 2"])
    talk.seq -= 1
    await talk.frame()
    assert (await talk.frame(), (await talk.receive("result")).result.frame_seq) == (6, 6)


async def test_one_object_too_many_is_refused(bystander: Bystander, talk: Talk) -> None:
    opened = await talk.open()
    for object_id in range(1, opened.limits.max_objects + 1):
        await talk.send(prompt=click(object_id))
    await talk.send(prompt=click(65))
    code, reason, text = await talk.refusal()
    assert (code, reason) == ("INVALID_ARGUMENT", "LIMIT_EXCEEDED")
    assert says(text, ["object 65", "64 objects"])


async def test_a_second_open_is_refused_and_the_stream_goes_on(bystander: Bystander, talk: Talk) -> None:
    await talk.open()
    await talk.send(open=opening())
    assert (await talk.refusal())[:2] == ("INVALID_ARGUMENT", "PROTOCOL_VIOLATION")
    await talk.send(ping=pb.Ping(nonce=3))
    assert (await talk.receive("pong")).pong.nonce == 3


async def test_bytes_that_are_no_message_end_the_call(bystander: Bystander, served: Served, talk: Talk) -> None:
    channel: Any = talk.channel
    talk.call = channel.stream_stream("/masklet.v1.SegmentationService/Track")()
    await talk.call.write(b"\xff\xff\xff")
    code, reason, text = await talk.end()
    assert (code, reason) == ("INVALID_ARGUMENT", "PROTOCOL_VIOLATION")
    assert says(text, ["3 bytes"])


STRANGER = TokenSigner([b"s" * 32])
Forge = Callable[[TokenSigner, ResumeClaim], bytes]


def changed(token: bytes, at: int) -> bytes:
    return token[:at] + bytes([token[at] ^ 1]) + token[at + 1 :]


TOKENS: dict[str, Forge] = {
    "made up": lambda ours, claim: b"let me in",
    "truncated": lambda ours, claim: ours.sign(claim, lifetime_s=60)[:-1],
    "without a signature": lambda ours, claim: ours.sign(claim, lifetime_s=60)[:-32],
    "changed claim": lambda ours, claim: changed(ours.sign(claim, lifetime_s=60), 4),
    "changed signature": lambda ours, claim: changed(ours.sign(claim, lifetime_s=60), -2),
    "foreign key": lambda ours, claim: STRANGER.sign(claim, lifetime_s=60),
    "foreign tenant": lambda ours, claim: ours.sign(replace(claim, tenant="acme"), lifetime_s=60),
}


@pytest.mark.parametrize("forge", TOKENS.values(), ids=TOKENS)
async def test_a_token_that_is_not_ours_resumes_nothing(
    bystander: Bystander, served: Served, talk: Talk, forge: Forge
) -> None:
    """Each names the bystander's session, which a good token would take away from it."""
    ours = served.server._context.signer
    session = served.server._context.live.get(bystander._talk.said[0].opened.session_id)
    assert session is not None
    shape, opened_ms = session.terms.shape, ours.wall_ms()
    claim = ResumeClaim(session.session_id, "", epoch=session.epoch, location="", shape=shape, opened_ms=opened_ms)
    assert ours.verify(ours.sign(claim, lifetime_s=60)) == claim
    await talk.send(open=opening(resume_token=forge(ours, claim)))
    code, reason, text = await talk.end()
    assert (code, reason) == ("PERMISSION_DENIED", "ACCESS_DENIED")
    assert "the resume token" in text
    await bystander.go_on(3)
