"""What a server says, and what is settled by it."""

from __future__ import annotations

import asyncio

import pytest
from google.protobuf.json_format import ParseDict

from masklet.errors import InvalidFrame, MaskletError, ProtocolViolation, SequenceGap
from masklet.server.status import to_status
from masklet.v1 import segmentation_pb2 as pb
from masklet_client.events import RequestFailed
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
