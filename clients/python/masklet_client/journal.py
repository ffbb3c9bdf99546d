"""What was sent and is not settled: numbered, bounded, and written again from any point when a connection was lost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from masklet.errors import MaskletError
from masklet.v1 import prompt_pb2
from masklet.v1 import segmentation_pb2 as pb

_OPEN_SEQ = 1
_UNWRITTEN = 2
_KEPT_INDICES = 1024
_MOST_SKIPPED = 4096  # not reported yet, because nobody reads


class Journal:
    """Requests by seq. A frame's result settles everything sent before it; pings stand in for what needs no repeating.

    The numbers the caller sees never change. Those on the wire begin anew with a new session.

    Args:
        max_bytes: requests kept; more make `post` wait while a frame is unanswered.
        max_requests: the same, in requests.
        patience_s: how long a frame waits for those before it to be written, then it takes their place, or is left out
            itself if they were written and there is no room beside them; None: for ever.

    Attributes:
        pending: frames that are neither answered nor reported, with their place among all frames.
        skipped: others whose place was taken, and their places among all frames, to be reported; None: no more to come.
        hurried: whether nobody waits for answers any more.
        posted_s: when something was last posted, monotonic.
    """

    def __init__(self, *, max_bytes: int, max_requests: int, patience_s: float | None = None) -> None:
        self._max_bytes, self._max_requests, self._patience_s = max_bytes, max_requests, patience_s
        self._kept: dict[int, pb.TrackRequest] = {}
        self._byte_count = 0
        self._next_seq = self._cursor = self._first_seq = _OPEN_SEQ + 1
        self._prelude: list[pb.TrackRequest] = []  # until a frame after it is answered
        self._prelude_written = 0
        self._corrections: set[int] = set()
        self._carried_out: set[int] = set()
        self._indices: dict[int, int] = {}
        self._captured_ns: dict[int, int] = {}
        self._frames = 0
        self._offset = 0
        self._finishing = self._closed = False
        self._end: MaskletError | None = None
        self.hurried = False
        self._turn = asyncio.Lock()
        self._news = asyncio.Event()
        self.pending: dict[int, int] = {}
        self.skipped: asyncio.Queue[tuple[int, int] | None] = asyncio.Queue()
        self._stuck = False
        self.posted_s = time.monotonic()

    async def post(self, **body: Any) -> int:
        """Queue a request, one keyword of `TrackRequest.message`; returns its seq. Cancelled, it leaves no gap."""
        async with self._turn:
            request = pb.TrackRequest(**body)
            size, is_frame = request.ByteSize(), request.HasField("frame")
            taken = self._has_room(size) or await self._wait_for_room(size, is_frame)
            if self._end is not None:
                raise self._end
            seq, self._next_seq = self._next_seq, self._next_seq + 1
            self._keep(seq, request, size)
            if not taken:
                self._skip(seq)
            self.posted_s = time.monotonic()
            self._notify()
            return seq

    async def next(self) -> pb.TrackRequest | None:
        """The next request to be written, numbered as on the wire; None after `close`.

        `close` waits until all frames and corrections are settled, so that nothing can be lost with the connection
        after it.
        """
        while True:
            if self._prelude_written < len(self._prelude):
                self._prelude_written += 1
                return self._prelude[self._prelude_written - 1]
            if self._closed:
                return None
            if self._cursor < self._next_seq:
                seq, self._cursor = self._cursor, self._cursor + 1
                self._stuck = False
                self._notify()
                return self._wire(seq)
            if self._finishing and not self.pending and not self._corrections:
                self._closed = True
                return pb.TrackRequest(seq=self._next_seq - self._offset, close=pb.Close())
            await self._wait()

    def finish(self) -> None:
        """Nothing more is posted."""
        self._finishing = True
        self._notify()

    def hurry(self) -> None:
        """Close now: what was not written is thrown away, what was not answered not waited for."""
        self.hurried = True
        self._next_seq = self._cursor
        self.pending.clear()
        self._corrections.clear()
        self._prelude.clear()
        self.finish()

    def end(self, error: MaskletError) -> None:
        """Nothing is going to be written any more: posting raises `error`."""
        self._end = error
        self.skipped.put_nowait(None)
        self._notify()

    @property
    def finished(self) -> bool:
        """Whether `close` has been written, hence everything settled."""
        return self._closed

    def index_of(self, frame_seq: int) -> int | None:
        """Place of a frame among those sent; all but the last 1024 are forgotten."""
        return self._indices.get(frame_seq)

    def app_seq(self, wire_seq: int) -> int:
        """The caller's number for one on the wire; 0: it belongs to no request of the caller."""
        seq = wire_seq + self._offset
        return seq if seq >= self._first_seq else 0

    def answered(self, frame_seq: int) -> bool:
        """A frame has its result, and so everything before it took effect; False if that was known before."""
        for seq in [seq for seq in self._kept if seq <= frame_seq]:
            self._drop(seq)
        self._prelude.clear()
        self._corrections = {seq for seq in self._corrections if seq > frame_seq}
        return self.reported(frame_seq)

    def reported(self, frame_seq: int) -> bool:
        """A frame is not going to be answered; False if that was known before."""
        self._drop(frame_seq)
        known = self.pending.pop(frame_seq, None) is None
        self._notify()
        return not known

    def settled(self, seq: int, *, refused: bool) -> None:
        """A prompt took effect, or a request was refused, which is then not repeated.

        A correction takes effect at once, with all removals before it: only a new session is told of them again.
        """
        if seq in self._corrections and not refused:
            before = {at for at, kept in self._kept.items() if at < seq and kept.HasField("remove_object")}
            self._carried_out |= before | {seq}
        if refused and seq not in self.pending:
            self._drop(seq)
        self._corrections.discard(seq)
        self._notify()

    def unanswered_wire(self) -> list[int]:
        """The frames pending, as numbered on the wire."""
        return [seq - self._offset for seq in self.pending]

    def rewind(self, wire_seq: int) -> None:
        """The session goes on: write again from here."""
        self._cursor = max(self._first_seq, min(wire_seq + self._offset, self._next_seq))
        self._prelude_written = max(0, wire_seq - (_OPEN_SEQ + 1))
        self._closed = False
        self._notify()

    def restart(self, prelude: Sequence[prompt_pb2.Prompt], *, seen_frame: int = 0) -> None:
        """A new session: write `prelude` first, then everything not settled.

        Args:
            prelude: where the objects were last seen.
            seen_frame: seq of the frame they were seen on, with its corrections that were carried out; 0: on none.
        """
        for seq in [seq for seq in self._carried_out if self._corrects(seq, seen_frame)]:
            self._drop(seq)
        self._first_seq = self._cursor = min(self._kept, default=self._next_seq)
        requests = enumerate(prelude, _OPEN_SEQ + 1)
        self._prelude = [pb.TrackRequest(seq=seq, prompt=prompt) for seq, prompt in requests]
        self._prelude_written = 0
        self._carried_out.clear()
        self._offset = self._first_seq - (_OPEN_SEQ + 1 + len(prelude))
        self._closed = False
        self._notify()

    def lost_frames(self) -> list[int]:
        """Frames pending that cannot be written again, because a later frame was answered."""
        return [seq for seq in self.pending if seq not in self._kept]

    def prelude_object(self, wire_seq: int) -> int | None:
        """The object that a request written before all others of the session was about; None: it is another's."""
        place = wire_seq - (_OPEN_SEQ + 1)
        return self._prelude[place].prompt.object_id if 0 <= place < len(self._prelude) else None

    def captured_ns(self, frame_seq: int) -> int:
        """When one of the last 1024 frames was captured, as given to `post`; 0: forgotten."""
        return self._captured_ns.get(frame_seq, 0)

    def _corrects(self, seq: int, frame_seq: int) -> bool:
        request = self._kept.get(seq)
        return request is not None and frame_seq > 0 and request.prompt.frame_seq == frame_seq

    @property
    def _may_skip(self) -> bool:
        return self._patience_s is not None and self.skipped.qsize() < _MOST_SKIPPED

    def _skip(self, seq: int) -> None:
        self._drop(seq)
        self.skipped.put_nowait((seq, self.pending.pop(seq)))

    def _has_room(self, size: int) -> bool:
        unwritten = sum(seq >= self._cursor for seq in self._kept)
        return self._end is not None or (unwritten < _UNWRITTEN and self._fits(size))

    def _fits(self, size: int) -> bool:
        """What waits for no frame's answer waits for nothing: it always fits."""
        return not self.pending or (len(self._kept) < self._max_requests and self._byte_count + size <= self._max_bytes)

    async def _wait_for_room(self, size: int, is_frame: bool) -> bool:
        """False: there is none for this frame, which is to be left out."""
        if self._patience_s is not None and await self._makes_room(size, is_frame):
            return True
        if is_frame and self._may_skip:
            return False
        while not self._has_room(size):
            await self._wait()
        return True

    async def _makes_room(self, size: int, is_frame: bool) -> bool:
        """Whether there is room now that frames not written for so long are left out. Prompts just join those waiting.

        Patience is for one stall, not for each frame of it: a camera shall not be held up over and over.
        """
        if is_frame:
            with suppress(TimeoutError):
                async with asyncio.timeout(0 if self._stuck else self._patience_s):
                    while not self._has_room(size):
                        await self._wait()
                    return True
            if not self._may_skip:
                return False
            self._stuck = True
            for seq in [seq for seq in self._kept if seq >= self._cursor and seq in self.pending]:
                self._skip(seq)
        return self._fits(size)

    def _keep(self, seq: int, request: pb.TrackRequest, size: int) -> None:
        if request.HasField("ping"):
            return
        self._kept[seq] = request
        self._byte_count += size
        if request.HasField("frame"):
            self.pending[seq] = self._indices[seq] = self._frames
            self._captured_ns[seq] = request.frame.capture_time.ToNanoseconds()
            self._frames += 1
            while len(self._indices) > _KEPT_INDICES and (oldest := next(iter(self._indices))) not in self.pending:
                del self._indices[oldest], self._captured_ns[oldest]
        elif request.prompt.frame_seq:
            self._corrections.add(seq)

    def _drop(self, seq: int) -> None:
        request = self._kept.pop(seq, None)
        if request is not None:
            self._byte_count -= request.ByteSize()
            self._carried_out.discard(seq)

    def _wire(self, seq: int) -> pb.TrackRequest:
        """The request as written now: what is settled by now is a ping, so that no number is missing."""
        wire = pb.TrackRequest(ping=pb.Ping())
        if seq in self._kept and seq not in self._carried_out:
            wire.CopyFrom(self._kept[seq])
        wire.seq = seq - self._offset
        if wire.prompt.frame_seq:  # of a frame of a session lost: no frame has the number of `open`
            known = wire.prompt.frame_seq >= self._first_seq
            wire.prompt.frame_seq = wire.prompt.frame_seq - self._offset if known else _OPEN_SEQ
        return wire

    async def _wait(self) -> None:
        await self._news.wait()

    def _notify(self) -> None:
        self._news.set()
        self._news = asyncio.Event()
