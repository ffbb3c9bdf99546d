from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given, settings
from hypothesis import strategies as st

from masklet.codecs.masks import encode_mask
from masklet.config import LimitsConfig
from masklet.errors import InvalidFrame, InvalidOpen, InvalidPrompt, LimitExceeded, MaskletError, ProtocolViolation
from masklet.server.enums import DROP_POLICIES, FRAME_CODECS, MASK_ENCODINGS, PROFILES, PROMPT_MODES
from masklet.server.requests import ImageRequest, from_image_request, from_track_request
from masklet.session import messages as m
from masklet.types import DropPolicy, FrameCodec, MaskEncoding, Profile, Prompt, PromptMode
from masklet.v1 import mask_pb2, prompt_pb2
from masklet.v1 import segmentation_pb2 as pb

LIMITS = LimitsConfig(max_frame_height=64, max_frame_width=64, max_frame_pixels=2048, max_points_per_prompt=3)
POINT_LABELS = (prompt_pb2.POINT_LABEL_EXCLUDE, prompt_pb2.POINT_LABEL_INCLUDE)
UINT32 = st.integers(0, 2**32 - 1)
UINT64 = st.integers(0, 2**64 - 1)
FLOATS = st.floats(width=32, allow_nan=False)


def receive(request: pb.TrackRequest) -> m.ClientBody:
    message = from_track_request(request, LIMITS, received_s=1.25)
    assert (message.seq, message.received_s) == (request.seq, 1.25)
    return message.body


def refusal(request: pb.TrackRequest) -> MaskletError:
    body = receive(request)
    assert isinstance(body, m.Malformed)
    return body.error


def wire_prompt(prompt: Prompt, encoding: MaskEncoding = MaskEncoding.RLE) -> prompt_pb2.Prompt:
    """The inverse of the mapping, written by hand."""
    wire = prompt_pb2.Prompt(object_id=prompt.object_id, keep_old_points=prompt.keep_old_points)
    wire.mode = PROMPT_MODES.to_wire(prompt.mode)
    if prompt.mask is not None:
        height, width = prompt.mask.shape
        wire.mask.CopyFrom(mask_pb2.Mask(height=height, width=width, data=encode_mask(prompt.mask, encoding)))
        wire.mask.encoding = MASK_ENCODINGS.to_wire(encoding)
    elif prompt.box is not None:
        x_min, y_min, x_max, y_max = prompt.box.tolist()
        wire.box.CopyFrom(mask_pb2.Box(x_min=x_min, y_min=y_min, x_max=x_max, y_max=y_max))
    else:
        wire.points.SetInParent()
        for (x, y), label in zip(prompt.points.tolist(), prompt.labels.tolist(), strict=True):
            wire.points.points.add(
                x=x, y=y, label=prompt_pb2.PointLabel.Value(("POINT_LABEL_EXCLUDE", "POINT_LABEL_INCLUDE")[label])
            )
    return wire


def wire_open(body: m.Open) -> pb.Open:
    """The inverse of the mapping, written by hand."""
    staleness = Duration()
    staleness.FromNanoseconds(round((body.max_staleness_s or 0) * 1e9))
    return pb.Open(
        codec=FRAME_CODECS.to_wire(body.codec),
        height=body.size[0],
        width=body.size[1],
        target_frame_rate_hz=body.target_frame_rate_hz,
        mask_encoding=MASK_ENCODINGS.to_wire(body.mask_encoding),
        drop_policy=DROP_POLICIES.to_wire(body.drop_policy),
        max_staleness=None if body.max_staleness_s is None else staleness,
        profile=PROFILES.to_wire(body.profile) if body.profile else pb.PROFILE_UNSPECIFIED,
        resume_token=body.resume_token,
        with_logits=body.with_logits,
        corrections_as_conditioning=body.corrections_as_conditioning,
        max_conditioning_frames=body.max_conditioning_frames,
        last_server_seq=body.last_server_seq,
    )


def same(one: Prompt, other: Prompt) -> bool:
    def plain(prompt: Prompt) -> list[object]:
        box, mask = prompt.box, prompt.mask
        arrays = [prompt.points.tolist(), prompt.labels.tolist(), None if box is None else box.tolist()]
        return [prompt.object_id, *arrays, None if mask is None else mask.tolist(), prompt.keep_old_points, prompt.mode]

    return plain(one) == plain(other)


OPENS = st.builds(
    m.Open,
    codec=st.sampled_from(FrameCodec),
    size=st.tuples(UINT32, UINT32),
    target_frame_rate_hz=FLOATS,
    mask_encoding=st.sampled_from(MaskEncoding),
    drop_policy=st.sampled_from(DropPolicy),
    max_staleness_s=st.none() | st.integers(0, 1 << 20).map(lambda ticks: ticks / 512),
    profile=st.none() | st.sampled_from(Profile),
    resume_token=st.binary(max_size=9),
    with_logits=st.booleans(),
    corrections_as_conditioning=st.none() | st.booleans(),
    max_conditioning_frames=UINT32,
    last_server_seq=UINT64,
)
CLICKS = st.lists(st.tuples(FLOATS, FLOATS, st.sampled_from([0, 1])), max_size=3)


@given(OPENS, UINT64)
@settings(max_examples=60, deadline=None)
def test_any_open_round_trips(body: m.Open, seq: int) -> None:
    assert receive(pb.TrackRequest(seq=seq, open=wire_open(body))) == body


@given(st.binary(max_size=9), st.none() | st.integers(-(10**18), 10**19), st.booleans())
@settings(max_examples=60, deadline=None)
def test_any_frame_round_trips(payload: bytes, captured_ns: int | None, keyframe: bool) -> None:
    frame = pb.Frame(payload=payload, keyframe=keyframe)
    if captured_ns is not None:
        frame.capture_time.FromNanoseconds(captured_ns)
    assert receive(pb.TrackRequest(frame=frame)) == m.Frame(payload, captured_ns, keyframe)


@given(UINT32, CLICKS, st.booleans(), st.sampled_from(PromptMode), UINT64)
@settings(max_examples=60, deadline=None)
def test_any_clicks_round_trip(
    object_id: int, clicks: list[tuple[float, float, int]], keep: bool, mode: PromptMode, frame_seq: int
) -> None:
    places, labels = [(x, y) for x, y, _ in clicks], [label for _, _, label in clicks]
    prompt = Prompt.clicks(object_id, places, labels, keep_old_points=keep, mode=mode)
    wire = wire_prompt(prompt)
    wire.frame_seq = frame_seq
    body = receive(pb.TrackRequest(prompt=wire))
    assert isinstance(body, m.PromptFor)
    assert same(body.prompt, prompt)
    assert body.frame_seq == frame_seq
    assert [str(body.prompt.points.dtype), str(body.prompt.labels.dtype)] == ["float32", "int32"]


def test_frames_unanswered_are_counted_before_they_are_copied() -> None:
    error = refusal(pb.TrackRequest(open=pb.Open(codec=pb.FRAME_CODEC_PNG, unanswered_seqs=[1] * 4097)))
    assert isinstance(error, LimitExceeded)
    assert str(error) == "open.unanswered_seqs is 4097, at most 4096"


@pytest.mark.parametrize("kind", ["frame", "ping"])
def test_a_malformed_frame_is_known_to_be_one(kind: str) -> None:
    frame = pb.Frame(capture_time=Timestamp(nanos=-1))
    body = receive(pb.TrackRequest(frame=frame) if kind == "frame" else pb.TrackRequest())
    assert isinstance(body, m.Malformed)
    assert body.frame is (kind == "frame")


def test_a_box_round_trips() -> None:
    prompt = Prompt(3, box=np.array([1, 2, 30.5, 40], np.float32), mode=PromptMode.RESTART)
    body = receive(pb.TrackRequest(prompt=wire_prompt(prompt)))
    assert isinstance(body, m.PromptFor)
    assert same(body.prompt, prompt)


@pytest.mark.parametrize("encoding", [MaskEncoding.RLE, MaskEncoding.PNG, MaskEncoding.BITS])
def test_a_mask_round_trips(encoding: MaskEncoding) -> None:
    mask = np.zeros((9, 7), bool)
    mask[2:5, 1:6] = True
    body = receive(pb.TrackRequest(prompt=wire_prompt(Prompt(1, mask=mask), encoding)))
    assert isinstance(body, m.PromptFor)
    assert same(body.prompt, Prompt(1, mask=mask))


@pytest.mark.parametrize(
    ("request_", "body"),
    [
        (pb.TrackRequest(remove_object=pb.RemoveObject(object_id=4)), m.RemoveObject(4)),
        (pb.TrackRequest(reset=pb.Reset()), m.Reset()),
        (pb.TrackRequest(ping=pb.Ping(nonce=2**64 - 1)), m.Ping(2**64 - 1)),
        (pb.TrackRequest(close=pb.Close()), m.Close()),
    ],
)
def test_small_messages_round_trip(request_: pb.TrackRequest, body: m.ClientBody) -> None:
    assert receive(request_) == body


def test_every_kind_of_request_is_known() -> None:
    kinds = [field.name for field in pb.TrackRequest.DESCRIPTOR.oneofs[0].fields]
    requests = [pb.TrackRequest() for _ in kinds]
    for kind, request in zip(kinds, requests, strict=True):
        getattr(request, kind).SetInParent()
    errors = [body.error for body in map(receive, requests) if isinstance(body, m.Malformed)]
    assert [type(error) for error in errors] == [InvalidOpen, InvalidPrompt]


def test_what_a_client_leaves_out_is_the_default() -> None:
    body = receive(pb.TrackRequest(open=pb.Open(codec=pb.FRAME_CODEC_JPEG, height=2, width=3)))
    assert body == m.Open(FrameCodec.JPEG, (2, 3))


def prompt_request(**given: object) -> pb.TrackRequest:
    return pb.TrackRequest(seq=9, prompt=prompt_pb2.Prompt(object_id=1, **given))  # type: ignore[arg-type]


def clicks(*labels: int) -> prompt_pb2.Points:
    return prompt_pb2.Points(points=[prompt_pb2.Point(x=1, y=1, label=label) for label in labels])  # type: ignore[arg-type]


def mask(height: int, width: int, data: bytes = b"", encoding: int = 1) -> mask_pb2.Mask:
    return mask_pb2.Mask(encoding=encoding, height=height, width=width, data=data)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("request_", "error", "field"),
    [
        (pb.TrackRequest(seq=1), ProtocolViolation, "message"),
        (pb.TrackRequest(open=pb.Open(height=1, width=1)), InvalidOpen, "open.codec"),
        (pb.TrackRequest(open=pb.Open(codec=77)), InvalidOpen, "open.codec"),  # type: ignore[arg-type]
        (pb.TrackRequest(open=pb.Open(codec=1, profile=77)), InvalidOpen, "open.profile"),  # type: ignore[arg-type]
        (pb.TrackRequest(frame=pb.Frame(capture_time=Timestamp(seconds=2**62))), InvalidFrame, "frame.capture_time"),
        (pb.TrackRequest(frame=pb.Frame(capture_time=Timestamp(nanos=-1))), InvalidFrame, "frame.capture_time"),
        (prompt_request(), InvalidPrompt, "prompt.kind"),
        (prompt_request(points=clicks(1, 0)), InvalidPrompt, "prompt.points.points[1].label"),
        (prompt_request(points=clicks(1, 5)), InvalidPrompt, "prompt.points.points[1].label"),
        (prompt_request(points=clicks(1, 1, 1, 1)), LimitExceeded, "prompt.points"),
        (prompt_request(points=clicks(1), mode=9), InvalidPrompt, "prompt.mode"),
        (prompt_request(mask=mask(4, 4, encoding=0)), InvalidPrompt, "prompt.mask.encoding"),
        (prompt_request(mask=mask(4, 4, encoding=4)), InvalidPrompt, "prompt.mask.data"),
        (prompt_request(mask=mask(0, 4)), InvalidPrompt, "prompt.mask.data"),
        (prompt_request(mask=mask(4, 4, b"\xff\xfe")), InvalidPrompt, "prompt.mask.data"),
        (prompt_request(mask=mask(4, 4, b"", encoding=2)), InvalidPrompt, "prompt.mask.data"),
        (prompt_request(mask=mask(4, 4, b"1", encoding=3)), InvalidPrompt, "prompt.mask.data"),
        (prompt_request(mask=mask(2**32 - 1, 1)), LimitExceeded, "prompt.mask.height"),
        (prompt_request(mask=mask(1, 2**32 - 1)), LimitExceeded, "prompt.mask.width"),
        (prompt_request(mask=mask(64, 64)), LimitExceeded, "prompt.mask"),
    ],
)
def test_what_makes_no_sense_is_malformed(request_: pb.TrackRequest, error: type[MaskletError], field: str) -> None:
    refused = refusal(request_)
    assert (type(refused), refused.field) == (error, field)


@given(st.binary(max_size=64))
@settings(max_examples=200, deadline=None)
def test_no_bytes_at_all_get_an_exception_through(data: bytes) -> None:
    for make in (lambda: pb.TrackRequest.FromString(data), lambda: prompt_request(mask=mask(8, 8, data))):
        request = _parsed(make)
        assert request is None or isinstance(receive(request), m.ClientBody)


def _parsed(make: Callable[[], pb.TrackRequest]) -> pb.TrackRequest | None:
    try:
        return make()
    except Exception:  # not a message: gRPC refuses it before us
        return None


def image_request(**given: object) -> pb.SegmentImageRequest:
    return pb.SegmentImageRequest(codec=pb.FRAME_CODEC_PNG, payload=b"x", **given)  # type: ignore[arg-type]


def test_an_image_request_is_read() -> None:
    prompt = wire_prompt(Prompt.clicks(1, [(1, 2)]))
    wire = image_request(height=4, width=5, prompts=[prompt], with_logits=True, profile=pb.PROFILE_VOS)
    asked = from_image_request(wire, LIMITS)
    assert same(asked.prompts[0], Prompt.clicks(1, [(1, 2)]))
    rest = (FrameCodec.PNG, b"x", (4, 5), asked.prompts, MaskEncoding.RLE, True, Profile.VOS)
    assert asked == ImageRequest(*rest)


def test_an_image_needs_no_size_but_not_half_of_one() -> None:
    assert from_image_request(image_request(), LIMITS).size is None
    with pytest.raises(InvalidFrame, match="size is 4 x 0"):
        from_image_request(image_request(height=4), LIMITS)


def test_too_many_prompts_for_an_image_are_refused() -> None:
    with pytest.raises(LimitExceeded, match="prompts is 129, at most 128"):
        from_image_request(image_request(prompts=[prompt_pb2.Prompt()] * 129), LIMITS)


def test_masks_of_an_image_are_not_unpacked_beyond_what_they_may_take() -> None:
    prompts = [prompt_pb2.Prompt(object_id=number + 1, mask=bomb(4096, 4096)) for number in range(9)]
    request = image_request(prompts=prompts)
    assert request.ByteSize() < 1000
    with pytest.raises(LimitExceeded, match="prompts is 150994944 bytes of unpacked masks, at most 134217728"):
        from_image_request(request, LimitsConfig())


def bomb(height: int, width: int) -> mask_pb2.Mask:
    """Few bytes on the wire."""
    data = encode_mask(np.zeros((height, width), bool), MaskEncoding.RLE)
    return mask_pb2.Mask(height=height, width=width, data=data, encoding=mask_pb2.MASK_ENCODING_RLE)


def test_errors_name_the_prompt_of_an_image() -> None:
    with pytest.raises(InvalidPrompt) as caught:
        from_image_request(
            image_request(prompts=[wire_prompt(Prompt.clicks(1, [(1, 2)])), prompt_pb2.Prompt()]), LIMITS
        )
    assert caught.value.field == "prompts[1].kind"
