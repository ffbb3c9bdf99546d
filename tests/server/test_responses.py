from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from google.protobuf.message import Message

from masklet.errors import InvalidFrame
from masklet.server.responses import to_description, to_image_response, to_track_response
from masklet.server.status import to_status
from masklet.session import messages as m
from masklet.types import (
    DropPolicy,
    DropReason,
    FrameCodec,
    MaskEncoding,
    ModelDescription,
    ObjectState,
    Profile,
    StateOrigin,
)
from masklet.v1 import mask_pb2
from masklet.v1 import segmentation_pb2 as pb

LIMITS = m.Limits(1, 2, 3, 4, 5, 6, 7, 11, 8, 9.5, 10.25)
TIMING = m.Timing(0.001, 0.002, 0.003, 0.004)
LOGITS = np.arange(6, dtype=np.float32).reshape(2, 3)
OBJECT = m.ObjectResult(
    7, ObjectState.REAPPEARED, MaskEncoding.RLE, (4, 5), b"mask", (1, 2, 3, 4), 9, 1.5, 0.5, logits=LOGITS
)
BODIES: dict[str, m.ServerBody] = {
    "opened": m.Opened("s", LIMITS, StateOrigin.RESTORED, b"t", 9, DropPolicy.BLOCK, Profile.VOS, MaskEncoding.BITS),
    "result": m.Result(
        3, 1_700_000_000_123_456_789, (OBJECT,), TIMING, revised=True, recovered=StateOrigin.RESTORED, recovery_s=1.5
    ),
    "dropped": m.Dropped(3, DropReason.STALE),
    "prompt_applied": m.PromptApplied(1, 2, 3),
    "error": m.RequestFailed(4, InvalidFrame("bad", field="frame.payload")),
    "go_away": m.GoAway(b"t", 2.5),
    "pong": m.Pong(5),
    "token_renewed": m.TokenRenewed(b"new"),
}


def respond(body: m.ServerBody) -> pb.TrackResponse:
    return to_track_response(m.ServerMessage(11, 12, body), wall_s=1000.0)


def unset_fields(message: Message) -> list[str]:
    """Names of fields, at any depth, that are empty or zero though the value mapped was full; oneof kinds apart."""
    found = []
    given = {field.name: value for field, value in message.ListFields()}
    for field in message.DESCRIPTOR.fields:
        if field.name not in given and not field.containing_oneof:
            found.append(field.full_name)
        values: Any = given.get(field.name, ())
        for value in values if field.is_repeated else [values]:
            if isinstance(value, Message) and value.DESCRIPTOR.file.package == "masklet.v1":
                found += unset_fields(value)
    return found


@pytest.mark.parametrize("kind", [field.name for field in pb.TrackResponse.DESCRIPTOR.oneofs[0].fields])
def test_every_kind_of_answer_fills_every_field(kind: str) -> None:
    response = respond(BODIES[kind])
    assert response.WhichOneof("message") == kind
    assert (response.server_seq, response.acked_seq) == (11, 12)
    assert unset_fields(response) == []


def test_every_kind_of_body_is_mapped() -> None:
    assert {type(body) for body in BODIES.values()} == set(m.ServerBody.__args__)


def test_opened_carries_what_was_granted() -> None:
    opened = respond(BODIES["opened"]).opened
    limits = opened.limits
    assert (opened.session_id, opened.resume_token, opened.next_seq) == ("s", b"t", 9)
    assert (opened.state_origin, opened.drop_policy) == (pb.STATE_ORIGIN_RESTORED, pb.DROP_POLICY_BLOCK)
    assert (opened.profile, opened.mask_encoding) == (pb.PROFILE_VOS, mask_pb2.MASK_ENCODING_BITS)
    numbers = [getattr(limits, field.name) for field in limits.DESCRIPTOR.fields[:8]]
    assert numbers == [1, 2, 3, 4, 5, 6, 7, 8]
    assert limits.idle_timeout.ToMilliseconds() == 9500
    assert limits.resume_ttl.ToMilliseconds() == 10250


def test_result_carries_masks_times_and_scores() -> None:
    result = respond(BODIES["result"]).result
    (item,) = result.objects
    assert (result.frame_seq, result.revised) == (3, True)
    assert result.capture_time.ToNanoseconds() == 1_700_000_000_123_456_789
    times = [result.timing.queue, result.timing.decode, result.timing.inference, result.timing.encode]
    assert [time.ToMicroseconds() for time in times] == [1000, 2000, 3000, 4000]
    assert (item.object_id, item.state, item.area_px) == (7, pb.OBJECT_STATE_REAPPEARED, 9)
    assert (item.object_score, item.predicted_iou) == (1.5, 0.5)
    assert item.mask == mask_pb2.Mask(encoding=mask_pb2.MASK_ENCODING_RLE, height=4, width=5, data=b"mask")
    assert item.box == mask_pb2.Box(x_min=1, y_min=2, x_max=3, y_max=4)
    assert (item.logits.height, item.logits.width) == (2, 3)
    assert np.frombuffer(item.logits.data, "<f4").tolist() == [0, 1, 2, 3, 4, 5]


def test_what_is_not_there_is_unset() -> None:
    bare = m.ObjectResult(1, ObjectState.ABSENT, MaskEncoding.NONE, (4, 5), b"", None, 0, -3.0, 0.0)
    result = respond(m.Result(1, None, (bare,), TIMING)).result
    assert not result.HasField("capture_time")
    present = [name for name in ("mask", "box", "logits") if result.objects[0].HasField(name)]
    assert present == []


def test_small_bodies_carry_their_numbers() -> None:
    assert respond(BODIES["dropped"]).dropped == pb.Dropped(frame_seq=3, reason=pb.DROP_REASON_STALE)
    applied = respond(BODIES["prompt_applied"]).prompt_applied
    assert applied == pb.PromptApplied(prompt_seq=1, frame_seq=2, object_id=3)
    assert respond(BODIES["pong"]).pong.nonce == 5
    assert respond(BODIES["token_renewed"]).token_renewed.resume_token == b"new"


def test_go_away_names_the_time_of_day() -> None:
    away = respond(BODIES["go_away"]).go_away
    assert (away.resume_token, away.deadline.ToMilliseconds()) == (b"t", 1_002_500)


def test_a_failed_request_carries_its_status() -> None:
    failed = respond(BODIES["error"]).error
    assert failed.request_seq == 4
    assert failed.status == to_status(InvalidFrame("bad", field="frame.payload"))


def test_an_image_is_answered_like_a_frame() -> None:
    response = to_image_response([OBJECT], TIMING)
    assert unset_fields(response) == []
    assert response.objects == respond(BODIES["result"]).result.objects


def test_the_description_is_complete() -> None:
    model = ModelDescription("tiny", "ab", True, 1024, "embedded", "cpu", "float32")
    codecs = (FrameCodec.JPEG, FrameCodec.RGB8)
    described = to_description(model, LIMITS, codecs=codecs, version="1")
    assert unset_fields(described) == []
    assert list(described.codecs) == [pb.FRAME_CODEC_JPEG, pb.FRAME_CODEC_RGB8]
    assert len(described.mask_encodings) == len(MaskEncoding)
    assert (described.model, described.weights_sha256, described.input_size) == ("tiny", "ab", 1024)
    assert (described.backend, described.device, described.precision) == ("embedded", "cpu", "float32")
