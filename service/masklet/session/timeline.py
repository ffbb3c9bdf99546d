"""What a client has sent and is still to be done, in the order of `seq`.

Everything takes effect in that order: an edit sent after a frame does not touch the frame, however long it waits.
Only frames are ever dropped, and only under `LATEST`; what was said for a dropped frame goes on to the next.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass

from masklet.errors import LimitExceeded
from masklet.session.edits import Edit
from masklet.session.messages import Frame
from masklet.types import DropPolicy, MaskArray, Prompt


@dataclass(frozen=True, slots=True, eq=False)
class WaitingFrame:
    """A frame waiting for its turn; `received_s` on the stream's clock."""

    seq: int
    frame: Frame
    received_s: float


@dataclass(frozen=True, slots=True, eq=False)
class Correction:
    """A prompt for the answered frame `frame_seq`; `received_s` on the stream's clock."""

    seq: int
    prompt: Prompt
    frame_seq: int
    received_s: float


Entry = WaitingFrame | Correction | Edit


class Timeline:
    """A queue with one putter and one taker; bounded in frames by policy and in edits by a limit.

    Args:
        policy: LATEST: the oldest frame gives way; BLOCK: the putter waits for room.
        max_frames: frames that may wait.
        max_edits: edits that may wait for one frame.
    """

    def __init__(self, policy: DropPolicy, *, max_frames: int, max_edits: int) -> None:
        self._policy = policy
        self._max_frames = max_frames
        self._max_edits = max_edits
        self._entries: deque[Entry] = deque()
        self._frames: deque[WaitingFrame] = deque()
        self._finished = False
        self._filled = asyncio.Event()
        self._room = asyncio.Event()
        self._signal()

    def __len__(self) -> int:
        """Entries waiting for their turn."""
        return len(self._entries)

    def frame_seqs(self) -> set[int]:
        """Numbers of the frames waiting for their turn."""
        return {frame.seq for frame in self._frames}

    @property
    def frames_waiting(self) -> int:
        """Frames waiting for their turn."""
        return len(self._frames)

    @property
    def finished(self) -> bool:
        """Whether nothing more may be pushed."""
        return self._finished

    @property
    def first_frame(self) -> WaitingFrame | None:
        """The frame whose turn comes next."""
        return self._frames[0] if self._frames else None

    @property
    def mask_bytes(self) -> int:
        """Bytes of the mask prompts waiting."""
        return sum(mask.nbytes for entry in self._entries if (mask := _mask(entry)) is not None)

    def push_frame(self, frame: WaitingFrame) -> WaitingFrame | None:
        """Adds a frame; returns the one that gives way to it, if any."""
        dropped: WaitingFrame | None = None
        if self._policy is DropPolicy.LATEST and len(self._frames) >= self._max_frames:
            dropped = self._frames.popleft()
            self._entries.remove(dropped)
        self._entries.append(frame)
        self._frames.append(frame)
        self._signal()
        return dropped

    def push_edit(self, edit: Edit | Correction, *, folded: int) -> None:
        """Adds an edit; `folded` have had their turn and wait for a frame outside.

        Raises:
            LimitExceeded: too many wait for one frame. Under LATEST any frame may be dropped, so all edits waiting may
                end up on one; under BLOCK those since the last frame count, and all of them per frame waiting.
        """
        waiting = len(self._entries) - len(self._frames) + folded
        since_frame = self._count_since_frame() + (0 if self._frames else folded)
        allowed = self._max_edits * (1 if self._policy is DropPolicy.LATEST else 1 + len(self._frames))
        if since_frame >= self._max_edits or waiting >= allowed:
            raise LimitExceeded(
                f"{max(since_frame, min(waiting, self._max_edits))} prompts and removals wait for one frame,"
                f" the limit is {self._max_edits}",
                field="prompt",
            )
        self._entries.append(edit)
        self._signal()

    def finish(self) -> None:
        """No more to come; what waits is still handed out."""
        self._finished = True
        self._signal()

    async def wait_filled(self) -> None:
        """Waits until something waits, or nothing more will."""
        await self._filled.wait()

    async def wait_room(self) -> None:
        """Waits until a frame may be pushed; under LATEST always at once."""
        await self._room.wait()

    def pop(self) -> Entry | None:
        """The oldest entry, or None."""
        if not self._entries:
            return None
        entry = self._entries.popleft()
        if isinstance(entry, WaitingFrame):
            self._frames.popleft()
        self._signal()
        return entry

    def _count_since_frame(self) -> int:
        if not self._frames:
            return len(self._entries)
        newest = self._frames[-1]
        count = 0
        for entry in reversed(self._entries):
            if entry is newest:
                break
            count += 1
        return count

    def _signal(self) -> None:
        full = self._policy is DropPolicy.BLOCK and len(self._frames) >= self._max_frames
        for event, wanted in ((self._filled, bool(self._entries) or self._finished), (self._room, not full)):
            if wanted:
                event.set()
            else:
                event.clear()


def _mask(entry: Entry) -> MaskArray | None:
    if isinstance(entry, Correction):
        return entry.prompt.mask
    return entry.change.mask if isinstance(entry, Edit) and isinstance(entry.change, Prompt) else None
