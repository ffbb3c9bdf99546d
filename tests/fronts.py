"""One backend seen from several fronts, as one Triton is: calls bear their front's epoch, old ones are refused."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from masklet.backends.base import FIRST_EPOCH, Backend
from masklet.backends.ownership import Owners
from masklet.errors import SessionStateLost, SessionSuperseded
from masklet.types import (
    BackendStats,
    BankSummary,
    ImageArray,
    ModelDescription,
    StepRequest,
    StepResult,
    TrackSettings,
)


class Shared:
    """The backend behind all fronts; the test enters and leaves it."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.owners = Owners()


class Front:
    """A front's own `Backend`: leaving it closes nothing but the sessions it still owns."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._inner = shared.backend
        self._epochs: dict[str, int] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for session_id in list(self._epochs):
            await self.close(session_id)

    def describe(self) -> ModelDescription:
        return self._inner.describe()

    def stats(self) -> BackendStats:
        return self._inner.stats()

    def location(self, session_id: str) -> str:
        return "here"

    def begin(self, image: ImageArray) -> None:
        pass

    def disown(self, session_id: str) -> None:
        self._epochs.pop(session_id, None)

    def vanish(self) -> None:
        """As if the front's process were killed: its sessions stay in the shared backend."""
        self._epochs.clear()

    async def open(self, session_id: str, settings: TrackSettings, *, epoch: int = FIRST_EPOCH) -> None:
        await self._inner.open(session_id, settings)
        self._shared.owners.add(session_id, epoch)
        self._epochs[session_id] = epoch

    def reserve(self, session_id: str, objects: int) -> None:
        self._inner.reserve(session_id, objects)

    async def attach(self, session_id: str, epoch: int, *, location: str = "") -> BankSummary:
        assert location == "here"
        self._shared.owners.attach(session_id, epoch)
        self._epochs[session_id] = epoch
        return await self._inner.attach(session_id, epoch)

    async def step(self, session_id: str, request: StepRequest) -> StepResult:
        self._check(session_id)
        return await self._inner.step(session_id, request)

    async def export_state(self, session_id: str) -> bytes:
        self._check(session_id)
        return await self._inner.export_state(session_id)

    async def import_state(self, session_id: str, state: bytes, *, epoch: int = FIRST_EPOCH) -> None:
        await self._inner.import_state(session_id, state)
        self._shared.owners.add(session_id, epoch)
        self._epochs[session_id] = epoch

    async def close(self, session_id: str) -> None:
        try:
            self._check(session_id)
        except (SessionStateLost, SessionSuperseded):
            return
        finally:
            self._epochs.pop(session_id, None)
        self._shared.owners.remove(session_id)
        await self._inner.close(session_id)

    def _check(self, session_id: str) -> None:
        if session_id not in self._epochs:
            raise SessionStateLost(f"session {session_id} is not this front's")
        self._shared.owners.check(session_id, self._epochs[session_id])
