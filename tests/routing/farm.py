"""Tritons that are not there: servers with exact, instant banks that can be killed, drained, held up, brought back."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Any, Self

import numpy as np
from tests.routing.simulated import now_s

from masklet.backends.base import FIRST_EPOCH
from masklet.backends.fake import FakeBackend
from masklet.config import RoutingConfig
from masklet.errors import (
    AdmissionRefused,
    BackendUnavailable,
    BackendUncertain,
    MaskletError,
    SessionStateLost,
    SessionSuperseded,
)
from masklet.observability.metrics import Metrics
from masklet.routing.discovery import Discovery, ListedEndpoints
from masklet.routing.router import RoutedBackend
from masklet.types import (
    BackendStats,
    BankSummary,
    ImageArray,
    ModelDescription,
    Prompt,
    StepRequest,
    StepResult,
    TrackSettings,
)

SETTINGS = TrackSettings(history_frames=3)
ROUTING = RoutingConfig(checkpoint_every_frames=4, checkpoint_min_interval_s=0.5)


class Place:
    """One Triton, as its clients see it.

    Attributes:
        up: whether anything answers.
        stub: whether the model's process lives; health does not tell.
        ready: its health.
        max_sessions: banks it takes.
        measured: object-frames per second it was measured to make; 0: it was not.
        latency_s: of each call.
        leaving_s: how long a client takes to leave.
        steps: frame numbers, as they were carried out.
        lies: what exporting gives instead of the state.
        die_on: kills the model's process when it gets this frame.
        hangs_s: how long nothing has been answered, as far as its clients know.
        stuck_s: how long one request has not been answered, as far as its clients know.
        asked: how often clients asked what it holds.
        unheard: calls of each kind, so many from now on, that are answered with nonsense instead of being carried out.
        garbled: the same, of calls that are carried out.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self.backend = FakeBackend(clock=now_s)
        self.backend._entered = True
        self.up = self.stub = self.ready = True
        self.max_sessions = 100
        self.measured = 0.0
        self.latency_s = 0.001
        self.leaving_s = 0.0
        self.steps: list[int] = []
        self.lies: bytes | None = None
        self.die_on: int | None = None
        self.hangs_s = self.stuck_s = 0.0
        self.unheard: Counter[str] = Counter()
        self.garbled: Counter[str] = Counter()
        self.connections = 0
        self.asked = 0
        self.model = "fake"

    def kill(self) -> None:
        """kill -9: banks are gone, nothing answers."""
        self.up = False
        self.forget()

    def forget(self) -> None:
        self.backend = FakeBackend(clock=now_s)
        self.backend._entered = True

    def start(self) -> None:
        self.up = self.stub = self.ready = True

    @property
    def sessions(self) -> set[str]:
        return set(self.backend._banks)

    async def call(self) -> None:
        await asyncio.sleep(self.latency_s)
        if not self.up:
            raise BackendUnavailable(f"UNAVAILABLE: {self.address}")
        if not self.stub:
            raise BackendUnavailable(f"{self.address}: not healthy")

    @contextmanager
    def heard(self, call: str) -> Iterator[None]:
        """What is carried out inside is carried out, and answered, as `unheard` and `garbled` say."""
        for counts in (self.unheard, self.garbled):
            if counts[call] > 0:
                counts[call] -= 1
                if counts is self.garbled:
                    yield
                raise BackendUncertain(f"INTERNAL: {self.address} on {call}")
        yield


class Client:
    """A `RoutedTo` over a place, fenced by epochs; left in peace it closes its sessions, as `TritonBackend` does."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.epochs: dict[str, int] = {}
        self._stats = BackendStats(0, 0, 0, 0)
        self._answered_s = float("-inf")
        self._left = False

    async def __aenter__(self) -> Self:
        await self.ask_stats()
        self.place.connections += 1
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.place.connections -= 1
        self._left = True
        await asyncio.sleep(self.place.leaving_s)
        if error is not None:
            self.epochs.clear()
        for session_id in list(self.epochs):
            with suppress(MaskletError):
                await self.close(session_id)

    @property
    def max_sessions(self) -> int:
        return self.place.max_sessions

    @property
    def measured_capacity(self) -> float:
        if self._left:
            raise BackendUnavailable(f"{self.place.address} is not connected")
        return self.place.measured

    def reserve(self, session_id: str, objects: int) -> None:
        """Triton only counts."""

    def waiting_s(self) -> float:
        return self.place.hangs_s

    def oldest_s(self) -> float:
        return max(self.place.stuck_s, self.place.hangs_s)

    async def is_ready(self) -> bool:
        if not self.place.up:
            raise BackendUnavailable("UNAVAILABLE")
        return self.place.ready

    def describe(self) -> ModelDescription:
        return replace(self.place.backend.describe(), model=self.place.model)

    def stats(self) -> BackendStats:
        return self._stats

    def stats_age_s(self) -> float:
        return now_s() - self._answered_s

    async def ask_stats(self) -> BackendStats:
        self.place.asked += 1
        with self._answered():
            await self.place.call()
        return self._stats

    def location(self, session_id: str) -> str:
        return ""

    def begin(self, image: ImageArray) -> None:
        pass

    def disown(self, session_id: str) -> None:
        self.epochs.pop(session_id, None)

    async def open(self, session_id: str, settings: TrackSettings, *, epoch: int = FIRST_EPOCH) -> None:
        begin = partial(self.place.backend.open, session_id, settings, epoch=epoch)
        await self._begin("open", session_id, epoch, begin)

    async def import_state(self, session_id: str, state: bytes, *, epoch: int = FIRST_EPOCH) -> None:
        begin = partial(self.place.backend.import_state, session_id, state, epoch=epoch)
        await self._begin("import", session_id, epoch, begin)

    async def attach(self, session_id: str, epoch: int, *, location: str = "") -> BankSummary:
        """Carried out even if the caller is cancelled, who does not own the session then."""
        summary = await asyncio.shield(asyncio.ensure_future(self._attached(session_id, epoch)))
        self.epochs[session_id] = epoch
        return summary

    async def step(self, session_id: str, request: StepRequest) -> StepResult:
        with self._answered():
            await self._owned(session_id)
            if request.frame_seq == self.place.die_on:
                self.place.stub = False
                self.place.forget()
                await self.place.call()
            with self.place.heard("step"):
                result = await self.place.backend.step(session_id, request)
            self.place.steps.append(request.frame_seq)
            await self.place.call()  # killed now, the frame was carried out but nobody knows
        return result

    async def export_state(self, session_id: str) -> bytes:
        with self._answered():
            await self._owned(session_id)
        return self.place.lies or await self.place.backend.export_state(session_id)

    async def close(self, session_id: str) -> None:
        epoch = self.epochs.pop(session_id, None)
        if epoch is not None:
            with self._answered():
                await self.place.call()
                self.place.backend._owners.check(session_id, epoch)
                with self.place.heard("close"):
                    await self.place.backend.close(session_id)

    async def close_copy(self, session_id: str, epoch: int) -> None:
        if self.epochs.get(session_id, epoch) < epoch:
            del self.epochs[session_id]
        with suppress(SessionStateLost):
            with suppress(SessionSuperseded):
                await asyncio.shield(asyncio.ensure_future(self._attached(session_id, epoch)))
            with self._answered(), suppress(SessionSuperseded):
                await self.place.call()
                self.place.backend._owners.check(session_id, epoch)
                with self.place.heard("close"):
                    await self.place.backend.close(session_id)

    async def _attached(self, session_id: str, epoch: int) -> BankSummary:
        with self._answered():
            await self.place.call()
            if session_id not in self.place.sessions:
                self._check_starts()
            with self.place.heard("attach"):
                return await self.place.backend.attach(session_id, epoch)

    async def _begin(self, call: str, session_id: str, epoch: int, begin: Callable[[], Awaitable[None]]) -> None:
        """Carried out even if the caller is cancelled."""

        async def begun() -> None:
            try:
                with self._answered():
                    await self._room()
                    with self.place.heard(call):
                        await begin()
            except MaskletError as error:
                if not isinstance(error, BackendUncertain):
                    self.epochs.pop(session_id, None)
                raise

        self.epochs[session_id] = epoch
        await asyncio.shield(asyncio.ensure_future(begun()))

    @contextmanager
    def _answered(self) -> Iterator[None]:
        """Any answer, a refusal as well, says what the place holds."""
        try:
            yield
        except MaskletError as error:
            if not isinstance(error, BackendUnavailable):
                self._see()
            raise
        self._see()

    def _see(self) -> None:
        self._stats, self._answered_s = self.place.backend.stats(), now_s()

    async def _owned(self, session_id: str) -> None:
        epoch = self.epochs[session_id]
        await self.place.call()
        self.place.backend._owners.check(session_id, epoch)

    async def _room(self) -> None:
        await self.place.call()
        self._check_starts()
        if len(self.place.sessions) >= self.place.max_sessions:
            raise AdmissionRefused("full")

    def _check_starts(self) -> None:
        """One that drains starts no sequence, not even to say that it has no bank for it."""
        if not self.place.ready:
            raise BackendUnavailable("UNAVAILABLE: Server is stopping")


class Farm:
    """Some places, and routers over them."""

    def __init__(self, *names: str) -> None:
        self.places = {name: Place(name) for name in names}
        self.metrics = Metrics()

    def __getitem__(self, name: str) -> Place:
        return self.places[name]

    def client(self, address: str) -> Client:
        return Client(self.places[address])

    def holding(self, session_id: str) -> set[str]:
        """Where the session has a bank."""
        return {name for name, place in self.places.items() if session_id in place.sessions}

    @asynccontextmanager
    async def routed(
        self, discovery: Discovery | None = None, *, first_timeout_s: float = 30.0, **settings: Any
    ) -> AsyncIterator[RoutedBackend]:
        backend = RoutedBackend(
            discovery or ListedEndpoints(list(self.places)),
            self.client,
            replace(ROUTING, **settings),
            first_timeout_s=first_timeout_s,
            metrics=self.metrics,
            clock=now_s,
        )
        async with backend:
            await asyncio.sleep(1.0)  # all that are up are used
            yield backend


def request(seq: int, *prompts: Prompt, remove: Sequence[int] = ()) -> StepRequest:
    return StepRequest(seq, np.zeros((24, 32, 3), np.uint8), prompts, tuple(remove))


def click(object_id: int = 1, x: float = 4.0) -> Prompt:
    return Prompt.clicks(object_id, [(x, 12.0)])


def masks(result: StepResult) -> list[tuple[int, bytes]]:
    return [(one.object_id, one.mask.tobytes()) for one in result.objects]


async def undisturbed(requests: Sequence[StepRequest]) -> list[list[tuple[int, bytes]]]:
    """What a single backend that nothing happens to answers."""
    async with FakeBackend() as backend:
        await backend.open("s", SETTINGS)
        return [masks(await backend.step("s", one)) for one in requests]
