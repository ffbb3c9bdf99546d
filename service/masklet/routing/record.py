"""One session as the router knows it."""

from __future__ import annotations

import asyncio

from masklet.backends.base import FIRST_EPOCH
from masklet.backends.load import LoadMeter
from masklet.routing.link import Link
from masklet.routing.replay import Base, LastAnswer, Replay
from masklet.types import StateOrigin, StepRequest, StepResult, TrackSettings

_MOVES_PER_EPOCH = 1 << 16


class RoutedSession:
    """A session, where it is, and what it takes to have it elsewhere.

    The epochs backends see are above those of the session's owners, with room below each for moves: every move raises
    the epoch, so that a copy left behind is refused, and every new owner raises it above all moves before.

    Attributes:
        session_id: its id, everywhere.
        settings: how it is tracked.
        link: where it is; one that has failed: nowhere.
        lock: held by whoever talks to the backend about this session.
        meter: its load.
        replay: what happened since its checkpoint.
        last: its newest answer.
        owner: the epoch of its owner, as that knows it.
        epoch: the highest used so far, for its bank or to close one that was left behind.
        origin: what its owner has not been told yet.
        recovery_s: how long that took.
        lost_s: since when it is nowhere; None: it is somewhere.
        left_epoch: the one that closes the bank that was lost last.
        doubted: links that gave no clear answer since it was somewhere last.
        unclear: restores in a row that ended without a clear answer.
        checkpoint: the task that fetches its state.
        fetched_s: when fetching its state began last, whatever came of it.
        fetch_s: how long that took.
        closed: nobody wants it any more.
    """

    def __init__(self, session_id: str, settings: TrackSettings, link: Link, *, meter: LoadMeter, base: Base) -> None:
        self.session_id = session_id
        self.settings = settings
        self.link = link
        self.lock = asyncio.Lock()
        self.meter = meter
        self.replay = Replay(base)
        self.last = LastAnswer()
        self.own(FIRST_EPOCH)
        self.origin: StateOrigin | None = None
        self.recovery_s = 0.0
        self.lost_s: float | None = None
        self.left_epoch = 0
        self.doubted: frozenset[Link] = frozenset()
        self.unclear = 0
        self.checkpoint: asyncio.Task[None] | None = None
        self.fetched_s = float("-inf")
        self.fetch_s = 0.0
        self.closed = False

    @property
    def is_placed(self) -> bool:
        """Whether it is where it was last seen, as far as is known."""
        return self.lost_s is None and self.link.is_alive

    def own(self, epoch: int) -> None:
        """It has an owner of this epoch from the beginning."""
        self.owner = epoch
        self.epoch = owner_epoch(epoch)

    def move_epoch(self) -> int:
        """The epoch of a copy elsewhere: above this one's, below the next owner's."""
        return self.epoch + 1

    def note(self, request: StepRequest, result: StepResult) -> None:
        """A frame was answered."""
        self.last.note(request, result)
        self.meter.note(result)

    def settle(self, link: Link, epoch: int) -> None:
        """It lives there now; the load goes with it."""
        self.leave()
        self.link, self.epoch, self.lost_s = link, epoch, None
        self.doubted, self.unclear, self.fetch_s = frozenset(), 0, 0.0
        link.loads[self.session_id] = self.meter

    def leave(self) -> None:
        """Its load is no longer counted where it was."""
        self.link.loads.pop(self.session_id, None)


def owner_epoch(epoch: int) -> int:
    """The epoch backends see when an owner of this epoch attaches."""
    return epoch * _MOVES_PER_EPOCH
