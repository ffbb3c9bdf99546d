from __future__ import annotations

import pytest

from masklet.errors import ProtocolViolation, SequenceGap
from masklet.session.messages import Close, Frame, Open, Ping, Reset
from masklet.session.protocol import TRANSITIONS, StreamEvent, StreamProtocol, StreamState
from masklet.types import FrameCodec

OPEN = Open(FrameCodec.JPEG, (4, 4))
WORK = ("frame", "prompt", "remove_object", "reset", "ping", "malformed")
EXPECTED: dict[tuple[str, str], str] = {
    ("awaiting_open", "open"): "streaming",
    ("awaiting_open", "half_close"): "closing",
    ("streaming", "close"): "closing",
    ("streaming", "half_close"): "closing",
    ("streaming", "drain"): "draining",
    ("draining", "close"): "closing",
    ("draining", "half_close"): "closing",
    ("draining", "drain"): "draining",
    ("closing", "drain"): "closing",
    **{(state, work): state for state in ("streaming", "draining") for work in WORK},
    **{(state, "end"): "closed" for state in ("awaiting_open", "streaming", "draining", "closing", "closed")},
}


@pytest.mark.parametrize("event", StreamEvent)
@pytest.mark.parametrize("state", StreamState)
def test_every_state_and_event(state: StreamState, event: StreamEvent) -> None:
    protocol = StreamProtocol()
    protocol.state = state
    following = EXPECTED.get((state.value, event.value))
    if following is None:
        with pytest.raises(ProtocolViolation):
            protocol.handle(event)
        assert protocol.state is state
    else:
        protocol.handle(event)
        assert protocol.state.value == following


def test_the_table_holds_nothing_else() -> None:
    assert {(state.value, event.value): after.value for (state, event), after in TRANSITIONS.items()} == EXPECTED


def test_the_complaint_names_what_was_expected() -> None:
    with pytest.raises(ProtocolViolation, match="`frame`, must be `open`"):
        StreamProtocol().receive(1, Frame(b"x"))


def streaming() -> StreamProtocol:
    protocol = StreamProtocol()
    protocol.receive(1, OPEN)
    return protocol


def test_a_gap_gives_one_error_and_the_sequence_goes_on_from_there() -> None:
    protocol = streaming()
    with pytest.raises(SequenceGap, match="seq is 4, expected 2"):
        protocol.receive(4, Ping())
    assert protocol.receive(5, Ping())
    assert protocol.acked_seq == 5


def test_a_repeat_is_ignored_and_counted() -> None:
    protocol = streaming()
    assert protocol.receive(2, Ping())
    assert not protocol.receive(2, Close())
    assert not protocol.receive(1, OPEN)
    assert (protocol.repeats, protocol.acked_seq, protocol.state) == (2, 2, StreamState.STREAMING)


def test_a_message_out_of_sequence_does_not_change_the_state() -> None:
    protocol = streaming()
    with pytest.raises(SequenceGap):
        protocol.receive(9, Close())
    assert protocol.state is StreamState.STREAMING


def test_an_illegal_message_uses_up_its_seq() -> None:
    protocol = streaming()
    with pytest.raises(ProtocolViolation, match="once"):
        protocol.receive(2, OPEN)
    assert protocol.receive(3, Reset())


def test_seq_0_is_no_repeat_but_a_mistake() -> None:
    with pytest.raises(ProtocolViolation, match="seq is 0"):
        streaming().receive(0, Ping())


def test_a_seq_that_leaves_no_room_for_the_next_is_refused_and_not_taken_note_of() -> None:
    protocol = streaming()
    with pytest.raises(ProtocolViolation, match="seq is 9223372036854775808, at most 9223372036854775807"):
        protocol.receive(2**63, Ping())
    assert protocol.receive(2, Ping())
