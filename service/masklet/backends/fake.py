"""A backend without a network: masks that can be worked out by hand, for tests of servers and clients.

What an object looks like on the frame it was prompted on:

- clicks: a disc around the last include click, radius an eighth of the frame's shorter side (at least half a pixel);
  exclude clicks alone give nothing
- a box: the box, filled: pixels whose centre lies inside
- a mask: that mask

On each frame after that it has moved one pixel to the right. Once none of it is left, the object is absent (score -1,
predicted IoU 0), else it is present (score 1, predicted IoU 1). Histories, unknown objects, errors and exported states
behave as `masklet.backends.base` says. `mode` makes no difference: a prompt always settles the mask.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from masklet.backends.admission import Admission
from masklet.backends.base import FIRST_EPOCH
from masklet.backends.fake_bank import Bank, pack, unpack
from masklet.backends.ownership import Owners
from masklet.config import RoutingConfig
from masklet.errors import BackendError, BackendUnavailable, MaskletError, SessionStateLost
from masklet.types import (
    BackendStats,
    BankSummary,
    ImageArray,
    ModelDescription,
    StepRequest,
    StepResult,
    TrackSettings,
)


@dataclass(frozen=True, slots=True)
class Delay:
    """Step number `step` of the backend, from 1 over all sessions (None: each one), takes `seconds` longer."""

    seconds: float
    step: int | None = None


@dataclass(frozen=True, slots=True)
class Fault:
    """Step number `step` of the backend, from 1 over all sessions (None: each one), raises `error`."""

    error: MaskletError
    step: int | None = None


@dataclass(frozen=True, slots=True)
class Hold:
    """Step number `step` of the backend, from 1 over all sessions (None: each one), waits until `release` is set."""

    release: asyncio.Event
    step: int | None = None


Cue = Delay | Fault | Hold


class FakeBackend:
    """An exact, instant backend; `script` makes it slow or faulty.

    Args:
        script: cues, obeyed in the order listed; a step that raises or is cancelled leaves its session as it was.
        input_size: model input size claimed; logits are of a quarter of it.
        routing: how much load is taken, if that is declared; nothing is measured here. None: any.
        clock: seconds, for the load.
    """

    def __init__(
        self,
        script: Sequence[Cue] = (),
        *,
        input_size: int = 64,
        routing: RoutingConfig | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._script = tuple(script)
        self._input_size = input_size
        self._admission = Admission(routing or RoutingConfig(), clock=clock)
        self._banks: dict[str, Bank] = {}
        self._owners = Owners()
        self._steps_started = 0
        self._steps_done = 0
        self._entered = False

    async def __aenter__(self) -> Self:
        """Ready at once."""
        self._entered = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Forgets all sessions."""
        self._entered = False
        self._banks.clear()
        self._owners = Owners()
        self._admission.clear()

    @property
    def steps_started(self) -> int:
        """Steps begun, all sessions."""
        return self._steps_started

    def describe(self) -> ModelDescription:
        """Says that it is a fake."""
        return ModelDescription(
            model="fake",
            weights_sha256="",
            trained=False,
            input_size=self._input_size,
            backend="fake",
            device="cpu",
            precision="float32",
        )

    def stats(self) -> BackendStats:
        """Each step counts as a batch of one."""
        held = sum(bank.byte_count for bank in self._banks.values())
        load, capacity = self._admission.load, self._admission.capacity
        return BackendStats(len(self._banks), held, self._steps_done, self._steps_done, load, capacity)

    async def open(self, session_id: str, settings: TrackSettings, *, epoch: int = FIRST_EPOCH) -> None:
        """Starts an empty bank. Raises BackendError if the id is already open, OverCapacity without room for it."""
        self._check_free(session_id)
        self._admission.admit(session_id, settings)
        self._banks[session_id] = Bank(settings)
        self._owners.add(session_id, epoch)

    def reserve(self, session_id: str, objects: int) -> None:
        """The session is about to have so many objects. Raises OverCapacity."""
        self._admission.reserve(session_id, objects)

    async def attach(self, session_id: str, epoch: int, *, location: str = "") -> BankSummary:
        """Owns a session that is open here. Raises SessionStateLost or SessionSuperseded."""
        bank = self._bank(session_id)
        self._owners.attach(session_id, epoch)
        ids, frames = tuple(sorted(bank.objects)), tuple(bank.history)
        return BankSummary(bank.last_seq, ids, frames, settings=bank.settings)

    def location(self, session_id: str) -> str:
        """Nothing to be said: there is one place."""
        return ""

    def disown(self, session_id: str) -> None:
        """Nothing to do: sessions end with this backend."""

    def begin(self, image: ImageArray) -> None:
        """Nothing is begun: there is nothing to be had from it."""

    async def step(self, session_id: str, request: StepRequest) -> StepResult:
        """Tracks one frame, or corrects one; see `Backend.step` for errors."""
        self._bank(session_id)
        self._steps_started += 1
        await self._perform(self._steps_started)
        bank = self._bank(session_id).copy()  # committed only if nothing raises
        result = bank.step(request, logits_size=self._input_size // 4)
        self._banks[session_id] = bank
        self._admission.note(session_id, result)
        self._steps_done += 1
        return result

    async def export_state(self, session_id: str) -> bytes:
        """The whole state. Raises SessionStateLost if the session is not open here."""
        return pack(self._bank(session_id))

    async def import_state(self, session_id: str, state: bytes, *, epoch: int = FIRST_EPOCH) -> None:
        """Opens a session with an exported state. Raises BackendError if the id is open or the state is not one."""
        self._check_free(session_id)
        bank = self._banks[session_id] = unpack(state)
        self._owners.add(session_id, epoch)
        self._admission.take(session_id, bank.settings, objects=len(bank.objects))

    async def close(self, session_id: str) -> None:
        """Forgets a session; an unknown one is no error."""
        self._banks.pop(session_id, None)
        self._owners.remove(session_id)
        self._admission.remove(session_id)

    async def _perform(self, number: int) -> None:
        for cue in self._script:
            if cue.step not in (None, number):
                continue
            if isinstance(cue, Delay):
                await asyncio.sleep(cue.seconds)
            elif isinstance(cue, Hold):
                await cue.release.wait()
            else:
                raise cue.error
        if not self._entered:
            raise BackendUnavailable("the backend was left during the step")

    def _bank(self, session_id: str) -> Bank:
        if not self._entered:
            raise BackendUnavailable("the backend was not entered, or was left")
        bank = self._banks.get(session_id)
        if bank is None:
            raise SessionStateLost(f"session {session_id} is not open here; {len(self._banks)} are")
        return bank

    def _check_free(self, session_id: str) -> None:
        if not self._entered:
            raise BackendUnavailable("the backend was not entered, or was left")
        if session_id in self._banks:
            raise BackendError(f"session {session_id} is already open")
