"""The books of one camera: every frame is due, sent, and then answered, dropped, or missing. No I/O."""

from __future__ import annotations

from masklet.v1 import segmentation_pb2 as pb
from masklet_load.tally import Frames, Tally

OPEN_SEQ = 1


class Ledger:
    """Frames by the number of their request in the session of now; times are seconds of the run.

    Requests are kept until a result says that they were used, so that they can be sent again on another connection.

    Attributes:
        pending: when the frames were due that are neither answered nor reported, by number.
        next_seq: number of the next request.
    """

    def __init__(self, tally: Tally, *, measure_from_s: float) -> None:
        self._tally, self._measure_from_s = tally, measure_from_s
        self._kept: dict[int, pb.TrackRequest] = {}
        self._latency_s: float | None = None
        self.pending: dict[int, float] = {}
        self.next_seq = OPEN_SEQ + 1

    def number(self, request: pb.TrackRequest) -> pb.TrackRequest:
        """Give a request its number, and keep it."""
        request.seq = self.next_seq
        self._kept[self.next_seq] = request
        self.next_seq += 1
        return request

    def frame(self, request: pb.TrackRequest, due_s: float) -> pb.TrackRequest:
        """The same for a frame, which now counts as sent."""
        numbered = self.number(request)
        self.pending[numbered.seq] = due_s
        self._frames(due_s).sent += 1
        return numbered

    def answered(self, seq: int, now_s: float, *, complete: bool = True) -> None:
        """A result, with all objects or not; what was sent up to that frame has been used."""
        due_s = self.pending.pop(seq, None)
        for used in [kept for kept in self._kept if kept <= seq]:
            del self._kept[used]
        if due_s is None:
            self._tally.measured.surplus += 1
            return
        latency_s = now_s - due_s
        self._frames(due_s).answered += 1
        self._frames(due_s).incomplete += not complete
        self._tally.moments.answered(due_s, latency_s)
        if due_s >= self._measure_from_s:
            self._tally.latency.record(latency_s)
            if self._latency_s is not None:
                self._tally.jitter.record(abs(latency_s - self._latency_s))
        self._latency_s = latency_s

    def dropped(self, seq: int, reason: str) -> None:
        """The server says that it is not going to answer."""
        due_s = self.pending.pop(seq, None)
        self._kept.pop(seq, None)
        if due_s is None:
            self._tally.measured.surplus += 1
            return
        self._frames(due_s).dropped[reason] += 1
        self._tally.moments.missed(due_s)

    def unsent(self, due_s: float, now_s: float) -> None:
        """A frame that was due and is never going to be sent."""
        self._frames(due_s).unsent += 1
        self._missed(due_s, now_s)

    def session_lost(self, now_s: float) -> None:
        """Nobody is going to answer what is pending; numbers begin anew."""
        for due_s in self.pending.values():
            self._frames(due_s).unanswered += 1
            self._missed(due_s, now_s)
        self._forget()

    def session_closed(self, now_s: float) -> None:
        """The server ended the session in good order: what is still pending was passed over in silence."""
        for due_s in self.pending.values():
            self._frames(due_s).unaccounted += 1
            self._missed(due_s, now_s)
        self._forget()

    def again(self, from_seq: int) -> list[pb.TrackRequest]:
        """Requests from a number on; a ping stands for each that needs no repeating, since no number may be missing."""
        numbers = range(max(from_seq, OPEN_SEQ + 1), self.next_seq)
        return [self._kept.get(seq) or pb.TrackRequest(seq=seq, ping=pb.Ping()) for seq in numbers]

    def _missed(self, due_s: float, now_s: float) -> None:
        """An answer that never came took at least as long as it was waited for."""
        self._tally.moments.missed(due_s)
        if due_s >= self._measure_from_s:
            self._tally.latency.record(now_s - due_s)

    def _frames(self, due_s: float) -> Frames:
        return self._tally.measured if due_s >= self._measure_from_s else self._tally.warm_up

    def _forget(self) -> None:
        self.pending.clear()
        self._kept.clear()
        self.next_seq = OPEN_SEQ + 1
