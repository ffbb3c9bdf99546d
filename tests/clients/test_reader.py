"""What a server says, and what is settled by it."""

from __future__ import annotations

import asyncio

import pytest
from google.protobuf.json_format import ParseDict

from masklet.errors import InvalidFrame, LimitExceeded, MaskletError, ProtocolViolation, SequenceGap
from masklet.server.status import to_status
from masklet.v1 import prompt_pb2
from masklet.v1 import segmentation_pb2 as pb
from masklet_client.events import RequestFailed, Result
from masklet_client.inbox import Inbox
from masklet_client.journal import Journal
from masklet_client.reader import Reader


def refusal(seq: int, error: MaskletError) -> pb.TrackResponse:
    return pb.TrackResponse(server_seq=1, error=pb.RequestError(request_seq=seq, status=to_status(error)))


@pytest.mark.parametrize(
    ("error", "settled"),
    [(SequenceGap("seq is 4"), True), (ProtocolViolation("not now"), True), (InvalidFrame("no JPEG"), False)],
)
async def test_a_frame_that_was_not_even_taken_keeps_no_stream_from_being_closed(error: MaskletError, settled: bool):
    """One that was taken and could not be decoded is reported by `dropped` as well."""
    journal, inbox = Journal(max_bytes=1000, max_requests=10), Inbox(10)
    reader = Reader(journal, inbox, on_event=None, resumes=True)
    seq = await journal.post(frame=pb.Frame(payload=b"x"))
    assert await journal.next()
    await reader.take(refusal(seq, error))
    (failed,) = reader.failures
    assert isinstance(failed, RequestFailed) and type(failed.error) is type(error)
    assert (seq not in journal.pending) is settled
    journal.finish()
    if settled:
        async with asyncio.timeout(30):
            closing = await journal.next()
        assert closing is not None and closing.HasField("close")


async def test_what_only_a_newer_server_says_is_named() -> None:
    journal = Journal(max_bytes=1000, max_requests=10)
    reader = Reader(journal, Inbox(10), on_event=None, resumes=True)
    seq = await journal.post(frame=pb.Frame(payload=b"x"))
    assert await journal.next()
    dropped = ParseDict({"serverSeq": 1, "dropped": {"frameSeq": seq, "reason": 99}}, pb.TrackResponse())
    with pytest.raises(MaskletError, match=r"dropped\.reason is 99"):
        await reader.take(dropped)
    result = ParseDict({"serverSeq": 2, "result": {"frameSeq": seq, "objects": [{"state": 99}]}}, pb.TrackResponse())
    with pytest.raises(MaskletError, match=r"object\.state is 99"):
        await reader.take(result)


def answer(number: int, frame_seq: int, areas: dict[int, int], *, revised: bool = False) -> pb.TrackResponse:
    found = [pb.ObjectResult(object_id=key, area_px=area, state=pb.OBJECT_STATE_VISIBLE) for key, area in areas.items()]
    for one in found:
        one.box.x_max = one.box.y_max = one.area_px
    return pb.TrackResponse(server_seq=number, result=pb.Result(frame_seq=frame_seq, objects=found, revised=revised))


async def test_a_session_begun_anew_knows_of_corrections_of_the_newest_frame() -> None:
    journal = Journal(max_bytes=1000, max_requests=10)
    reader = Reader(journal, Inbox(10), on_event=None, resumes=True)
    older, newest = await journal.post(frame=pb.Frame()), await journal.post(frame=pb.Frame())
    await reader.take(answer(1, older, {1: 1, 2: 2}))
    await reader.take(answer(2, newest, {1: 3, 2: 4}))
    await reader.take(answer(3, newest, {2: 5, 3: 6}, revised=True))
    await reader.take(answer(4, older, {1: 7}, revised=True))
    prompts, missing = reader.reseeding()
    assert [(prompt.object_id, prompt.box.x_max) for prompt in prompts] == [(1, 3), (2, 5), (3, 6)]
    assert not missing and reader.newest_frame == newest


async def test_an_object_that_a_session_begun_anew_refuses_is_named() -> None:
    journal, inbox = Journal(max_bytes=1000, max_requests=10), Inbox(10)
    reader = Reader(journal, inbox, on_event=None, resumes=True)
    await journal.post(frame=pb.Frame())
    journal.restart([prompt_pb2.Prompt(object_id=4), prompt_pb2.Prompt(object_id=7)])
    await reader.take(refusal(3, LimitExceeded("2 objects, the limit is 1")))
    event = inbox.take()
    assert isinstance(event, RequestFailed) and event.request_seq == 0 and isinstance(event.error, LimitExceeded)
    assert str(event.error) == "object 7 is not followed any further: 2 objects, the limit is 1"


async def test_a_result_has_the_capture_time_that_was_given_whatever_the_server_remembers() -> None:
    journal, inbox = Journal(max_bytes=1000, max_requests=10), Inbox(10)
    reader = Reader(journal, inbox, on_event=None, resumes=True)
    frame = pb.Frame()
    frame.capture_time.FromNanoseconds(123_456_789_000)
    await reader.take(answer(1, await journal.post(frame=frame), {}))
    event = inbox.take()
    assert isinstance(event, Result) and event.capture_time_ns == 123_456_789_000
