"""What a backend is: the place where sessions' memory banks live and frames become masks."""

from __future__ import annotations

from concurrent.futures import Future
from types import TracebackType
from typing import Any, Protocol, Self

from masklet.types import (
    BackendStats,
    BankSummary,
    ImageArray,
    ModelDescription,
    StepRequest,
    StepResult,
    TrackSettings,
)

FIRST_EPOCH = 1  # of the owner that opened or imported a session


class Backend(Protocol):
    """Keeps one memory bank per session and turns frames into masks.

    An async context manager: entering loads the model (or connects), leaving frees everything. Calls for different
    sessions may run at the same time and may share a batch; calls for one session must not overlap.
    A call that raises leaves the session as it was; after BackendUncertain nobody knows.
    """

    async def __aenter__(self) -> Self:
        """Get ready. Raises WeightsError, ConfigError or BackendUnavailable."""
        ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Free everything; unfinished steps raise BackendUnavailable."""
        ...

    def describe(self) -> ModelDescription:
        """What runs here."""
        ...

    def stats(self) -> BackendStats:
        """What is held here."""
        ...

    async def open(self, session_id: str, settings: TrackSettings, *, epoch: int = FIRST_EPOCH) -> None:
        """Start an empty memory bank, owned with this epoch.

        Raises:
            AdmissionRefused: there is no room for one more; OverCapacity: none for its load.
            BackendError: the id is already open.
        """
        ...

    def reserve(self, session_id: str, objects: int) -> None:
        """The session is about to have so many objects; a session that is not open is no error.

        Raises:
            OverCapacity: there is no room for the load of more objects.
        """
        ...

    async def attach(self, session_id: str, epoch: int, *, location: str = "") -> BankSummary:
        """Own a session that is open there; whoever owned it before is refused from now on.

        Args:
            session_id: an open session.
            epoch: above every earlier owner's; opening or importing is epoch 1.
            location: what `location` said to the owner before, if known.

        Returns:
            What the session's bank holds.

        Raises:
            SessionStateLost: the session is not open there.
            SessionSuperseded: it has an owner of this epoch or a later one.
        """
        ...

    def location(self, session_id: str) -> str:
        """Where the session lives, for another front to attach: at most 64 characters; "" if that says nothing."""
        ...

    def disown(self, session_id: str) -> None:
        """Leave a session to whoever attaches to it: leaving the backend will not close it."""
        ...

    def begin(self, image: ImageArray) -> Future[Any] | None:
        """Begin on a frame before its turn, where that helps: with what needs no session's memory.

        Args:
            image: [H, W, 3] uint8 RGB.

        Returns:
            To be given to `step` with the frame, as `StepRequest.begun`; cancel it if the frame is not going to come.
            None: nothing was begun.
        """
        ...

    async def step(self, session_id: str, request: StepRequest) -> StepResult:
        """Track one frame, or correct one.

        Raises:
            SessionStateLost: the session is not open here.
            SessionSuperseded: another backend attached to it.
            UnknownFrame: a correction of a frame that is not in the history window.
            UnknownObject: a removal of an object that is not tracked.
            BackendError: anything else.
        """
        ...

    async def export_state(self, session_id: str) -> bytes:
        """The session's whole state, settings included; `import_state` of it goes on bit for bit.

        Raises:
            SessionStateLost: the session is not open here.
        """
        ...

    async def import_state(self, session_id: str, state: bytes, *, epoch: int = FIRST_EPOCH) -> None:
        """Open a session with an exported state, owned with this epoch. Its load is let in: it was admitted before.

        Raises:
            BackendError: the id is already open, or the state is not an exported state of this model.
        """
        ...

    async def close(self, session_id: str) -> None:
        """Forget a session. Closing an unknown session does nothing."""
        ...
