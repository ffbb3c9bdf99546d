"""The last messages written to a client, in case the connection they went through turns out to be dead."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from masklet.session.messages import Dropped, Result, ServerBody

MESSAGE_BYTES = 256
"""What a message without masks counts as."""
LOST_FRAMES = 4096
"""Frames whose answers fell out that are remembered by number; a client may name as many itself."""


@dataclass(frozen=True, slots=True, eq=False)
class Outgoing:
    """One numbered answer; `frame_received_s` is set for the first answer to a frame that was never written before."""

    server_seq: int
    body: ServerBody
    frame_received_s: float | None = None


class Ring:
    """Bounded by count and bytes; the oldest fall out. Frames whose answers did are remembered by number.

    Attributes:
        byte_count: what is held, about.
    """

    def __init__(self, *, max_messages: int, max_bytes: int) -> None:
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._kept: deque[Outgoing] = deque()
        self._lost: deque[tuple[int, int]] = deque(maxlen=LOST_FRAMES)
        self.byte_count = 0

    def __len__(self) -> int:
        """Messages held."""
        return len(self._kept)

    def add(self, outgoing: Outgoing) -> None:
        """A message was written."""
        self._kept.append(outgoing)
        self.byte_count += body_bytes(outgoing.body)
        while len(self._kept) > self._max_messages or self.byte_count > self._max_bytes:
            oldest = self._kept.popleft()
            self.byte_count -= body_bytes(oldest.body)
            frame_seq = frame_told(oldest.body)
            if frame_seq is not None:
                self._lost.append((oldest.server_seq, frame_seq))

    def take_after(self, server_seq: int) -> tuple[list[Outgoing], list[int]]:
        """Empties the ring.

        Returns:
            The messages after `server_seq`, to be written again, and the frames whose answers after it have fallen out.
        """
        again = [Outgoing(one.server_seq, one.body) for one in self._kept if one.server_seq > server_seq]
        lost = [frame_seq for answered_by, frame_seq in self._lost if answered_by > server_seq]
        self._kept.clear()
        self._lost.clear()
        self.byte_count = 0
        return again, lost


def frame_told(body: ServerBody) -> int | None:
    """The frame that a message is the first word about, if it is one."""
    if isinstance(body, Result):
        return None if body.revised else body.frame_seq
    return body.frame_seq if isinstance(body, Dropped) else None


def body_bytes(body: ServerBody) -> int:
    """About how much memory a message holds."""
    if not isinstance(body, Result):
        return MESSAGE_BYTES
    logits = sum(found.logits.nbytes for found in body.objects if found.logits is not None)
    return logits + sum(len(found.mask) + MESSAGE_BYTES for found in body.objects) + MESSAGE_BYTES
