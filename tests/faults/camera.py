"""A camera: one stream at a fixed rate through the client library, which resumes; and what became of its frames."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from tests.backends.contract import SIZE, click, picture
from tests.faults.fleet import MODEL

import masklet_client
from masklet.backends.embedded import EmbeddedBackend
from masklet.config import SessionConfig
from masklet.errors import MaskletError
from masklet.types import StateOrigin, StepRequest, TrackSettings
from masklet_client import Dropped, Reconnect, Result, Resumed, TrackStream

PICTURES = 20
PATIENT = Reconnect(give_up_s=90.0)


@dataclass(slots=True)
class Account:
    """Frames by number, from 0, and what became of them.

    Attributes:
        sent: how many.
        masks: those answered: object 1's mask.
        dropped: the others that were reported: why.
        origins: how often its memory was recovered or its session resumed, by what it then came from.
        gaps_s: between each result and the one before.
        error: what the stream ended with, if not in peace.
    """

    sent: int = 0
    masks: dict[int, bytes] = field(default_factory=dict)
    dropped: dict[int, str] = field(default_factory=dict)
    origins: Counter[StateOrigin] = field(default_factory=Counter)
    resumed: Counter[StateOrigin] = field(default_factory=Counter)
    gaps_s: list[float] = field(default_factory=list)
    error: str = ""

    @property
    def missing(self) -> list[int]:
        """Frames that were neither answered nor reported."""
        return sorted(set(range(self.sent)) - self.masks.keys() - self.dropped.keys())

    @property
    def lost(self) -> bool:
        """Whether the session did not last: its memory was begun anew."""
        begun_anew = {StateOrigin.RESEEDED, StateOrigin.NEW}
        return bool(self.error) or bool(begun_anew & (self.origins.keys() | self.resumed.keys()))


class Camera:
    """Sends frames of a moving square, with a click on the first."""

    def __init__(self, stream: TrackStream) -> None:
        self._stream = stream
        self._before_s = time.monotonic()
        self._news = asyncio.Event()
        self.account = Account()
        self.reading = asyncio.create_task(self._read())

    async def send(self, frames: int, *, rate_hz: float = 0.0) -> None:
        """So many more frames, each when it is due; those of a rate of 0 as soon as they are taken."""
        began_s = time.monotonic()
        for number in range(frames):
            if rate_hz:
                await asyncio.sleep(began_s + number / rate_hz - time.monotonic())
            if self.account.sent == 0:
                await self._stream.prompt(click())
            self.account.sent += 1
            await self._stream.send(picture((self.account.sent - 1) % PICTURES))

    async def told(self, frames: int) -> None:
        """Until so many have been answered, or reported as dropped."""
        async with asyncio.timeout(100):
            while len(self.account.masks) + len(self.account.dropped) < frames:
                assert not self.reading.done(), self.account.error
                self._news.clear()
                await self._news.wait()

    async def _read(self) -> None:
        try:
            async for event in self._stream.events():
                if isinstance(event, Result):
                    self._note(event)
                elif isinstance(event, Dropped):
                    self.account.dropped[event.frame_index] = event.reason
                elif isinstance(event, Resumed):
                    self.account.resumed[event.origin] += 1
                self._news.set()
        except MaskletError as error:
            self.account.error = f"{type(error).__name__}: {error}"

    def _note(self, result: Result) -> None:
        now_s = time.monotonic()
        if self.account.masks:
            self.account.gaps_s.append(now_s - self._before_s)
        self._before_s = now_s
        self.account.masks[result.frame_index] = result[1].mask.tobytes()
        if result.recovered:
            self.account.origins[result.recovered] += 1


@asynccontextmanager
async def camera(addresses: str | Sequence[str], *, policy: str = "block", **options: Any) -> AsyncIterator[Camera]:
    """One that is on; at the end everything sent is accounted for."""
    chosen = {"codec": "rgb8", "policy": policy, "reconnect": PATIENT, **options}
    client = masklet_client.connect(addresses, timeout_s=60)
    async with client, client.track(SIZE, **chosen) as stream:
        one = Camera(stream)
        try:
            yield one
            await stream.finish()
            async with asyncio.timeout(100):
                await one.reading
        finally:
            one.reading.cancel()


async def undisturbed(account: Account) -> dict[int, bytes]:
    """The masks of an engine that nothing happens to, for the frames that were answered.

    With the policy "block", frames are dropped only because their answer was lost: they were tracked like the others.
    """
    found = {}
    settings = TrackSettings(history_frames=SessionConfig().history_frames)
    async with EmbeddedBackend(MODEL) as backend:
        await backend.open("s", settings)
        for number in range(account.sent):
            image, prompts = np.ascontiguousarray(picture(number % PICTURES)), (click(),) if number == 0 else ()
            result = await backend.step("s", StepRequest(number + 1, image, prompts))
            found[number] = result.objects[0].mask.tobytes()
    return {number: found[number] for number in account.masks}
