"""The stream protocol as a table: (state, event) -> state, no I/O.

    state           open       frame prompt remove   ping   close      half_close  drain     end
                               reset malformed
    AWAITING_OPEN   STREAMING  -                     -      -          CLOSING     -         CLOSED
    STREAMING       -          STREAMING             same   CLOSING    CLOSING     DRAINING  CLOSED
    DRAINING        -          DRAINING              same   CLOSING    CLOSING     same      CLOSED
    CLOSING         -          -                     -      -          -           same      CLOSED
    CLOSED          -          -                     -      -          -           -         same

An illegal event (`-`) leaves the state unchanged. In DRAINING frames and edits are legal but refused: the client
cannot know yet. An error before `opened` ends the stream, since nothing living could carry the answer.

Requests bear a `seq` that rises by one from 1. After a gap the next one expected is the received seq + 1, so that one
gap gives one error; a repeat (seq at or below the last) is ignored and counted. A message that is refused, for
a gap or as illegal, still uses up its seq.
"""

from __future__ import annotations

from enum import StrEnum

from masklet.errors import ProtocolViolation, SequenceGap
from masklet.session.messages import (
    ClientBody,
    Close,
    Frame,
    Malformed,
    Open,
    Ping,
    PromptFor,
    RemoveObject,
    Reset,
)


class StreamState(StrEnum):
    """Where a stream is in its life."""

    AWAITING_OPEN = "awaiting_open"
    STREAMING = "streaming"
    DRAINING = "draining"
    CLOSING = "closing"
    CLOSED = "closed"


class StreamEvent(StrEnum):
    """What can happen to a stream: a request, or one of the last three."""

    OPEN = "open"
    FRAME = "frame"
    PROMPT = "prompt"
    REMOVE = "remove_object"
    RESET = "reset"
    PING = "ping"
    CLOSE = "close"
    MALFORMED = "malformed"
    HALF_CLOSE = "half_close"
    DRAIN = "drain"
    END = "end"


_WORK = (
    StreamEvent.FRAME,
    StreamEvent.PROMPT,
    StreamEvent.REMOVE,
    StreamEvent.RESET,
    StreamEvent.PING,
    StreamEvent.MALFORMED,
)

TRANSITIONS: dict[tuple[StreamState, StreamEvent], StreamState] = {
    (StreamState.AWAITING_OPEN, StreamEvent.OPEN): StreamState.STREAMING,
    (StreamState.AWAITING_OPEN, StreamEvent.HALF_CLOSE): StreamState.CLOSING,
    **{(StreamState.STREAMING, event): StreamState.STREAMING for event in _WORK},
    (StreamState.STREAMING, StreamEvent.CLOSE): StreamState.CLOSING,
    (StreamState.STREAMING, StreamEvent.HALF_CLOSE): StreamState.CLOSING,
    (StreamState.STREAMING, StreamEvent.DRAIN): StreamState.DRAINING,
    **{(StreamState.DRAINING, event): StreamState.DRAINING for event in _WORK},
    (StreamState.DRAINING, StreamEvent.CLOSE): StreamState.CLOSING,
    (StreamState.DRAINING, StreamEvent.HALF_CLOSE): StreamState.CLOSING,
    (StreamState.DRAINING, StreamEvent.DRAIN): StreamState.DRAINING,
    (StreamState.CLOSING, StreamEvent.DRAIN): StreamState.CLOSING,
    **{(state, StreamEvent.END): StreamState.CLOSED for state in StreamState},
}
"""Every legal event and where it leads."""

FIRST_SEQ = 1
"""Of `open`."""
MAX_SEQ = 2**63 - 1
"""Of requests and answers: the next one must fit into 64 bits, and a memory bank keeps them with a sign."""

_EVENTS: dict[type[ClientBody], StreamEvent] = {
    Open: StreamEvent.OPEN,
    Frame: StreamEvent.FRAME,
    PromptFor: StreamEvent.PROMPT,
    RemoveObject: StreamEvent.REMOVE,
    Reset: StreamEvent.RESET,
    Ping: StreamEvent.PING,
    Close: StreamEvent.CLOSE,
    Malformed: StreamEvent.MALFORMED,
}


def check_open_seq(seq: int) -> None:
    """Raises ProtocolViolation if `open` may not have this number, on a resumed stream neither."""
    if seq != FIRST_SEQ:
        raise ProtocolViolation(f"seq of `open` is {seq}, must be {FIRST_SEQ}", field="seq")


def check_seq(seq: int) -> None:
    """Raises ProtocolViolation if no request may have this number."""
    if seq == 0:
        raise ProtocolViolation("seq is 0, must rise by one from 1", field="seq")
    if seq > MAX_SEQ:
        raise ProtocolViolation(f"seq is {seq}, at most {MAX_SEQ}", field="seq")


def event_of(body: ClientBody) -> StreamEvent:
    """The event that a request is."""
    return _EVENTS[type(body)]


class StreamProtocol:
    """One stream's state and sequence.

    Attributes:
        state: where the stream is.
        acked_seq: the highest request seq received.
        repeats: requests ignored as repeats.
    """

    def __init__(self) -> None:
        self.state = StreamState.AWAITING_OPEN
        self.acked_seq = 0
        self.repeats = 0

    @classmethod
    def opened(cls, *, acked_seq: int) -> StreamProtocol:
        """After `open`, with everything up to `acked_seq` received."""
        protocol = cls()
        protocol.handle(StreamEvent.OPEN)
        protocol.acked_seq = acked_seq
        return protocol

    def receive(self, seq: int, body: ClientBody) -> bool:
        """Takes note of a request; False: a repeat, to be ignored.

        Raises:
            SequenceGap: requests are missing before this one.
            ProtocolViolation: the request is not legal now.
        """
        check_seq(seq)
        expected = self.acked_seq + 1
        if seq < expected:
            self.repeats += 1
            return False
        self.acked_seq = seq
        if seq > expected:
            raise SequenceGap(f"seq is {seq}, expected {expected}; the request is not used", field="seq")
        self.handle(event_of(body))
        return True

    def handle(self, event: StreamEvent) -> None:
        """Goes to the next state.

        Raises:
            ProtocolViolation: the event is not legal in this state, which stays.
        """
        following = TRANSITIONS.get((self.state, event))
        if following is None:
            raise ProtocolViolation(_complaint(self.state, event))
        self.state = following


def _complaint(state: StreamState, event: StreamEvent) -> str:
    if state is StreamState.AWAITING_OPEN:
        return f"the first message is `{event}`, must be `open`"
    if event is StreamEvent.OPEN:
        return "`open` may be sent once, as the first message"
    return f"`{event}` is not allowed while the stream is {state.replace('_', ' ')}"
