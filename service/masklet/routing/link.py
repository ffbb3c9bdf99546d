"""One connection to an endpoint, from the moment it has shown that it works to its first failure."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Protocol

import numpy as np

from masklet.backends.base import Backend
from masklet.backends.load import LoadMeter
from masklet.errors import BackendError
from masklet.types import BackendStats, ModelDescription, Prompt, StepRequest, TrackSettings

_CANARY_SIDE = 32


class RoutedTo(Backend, Protocol):
    """A backend that sessions are routed to. Left with an error, it waits for nothing: requests under way fail."""

    @property
    def max_sessions(self) -> int:
        """Memory banks it takes, of all its clients."""
        ...

    @property
    def measured_capacity(self) -> float:
        """Objects times frames per second that it was measured to make; 0: not measured."""
        ...

    async def is_ready(self) -> bool:
        """Whether it takes new sessions; one that drains does not. Raises BackendUnavailable if it does not answer."""
        ...

    def waiting_s(self) -> float:
        """How long requests have been under way without any answer, seconds; 0: none are, or answers come."""
        ...

    def oldest_s(self) -> float:
        """How long the oldest request has been under way, whatever else was answered, seconds; 0: none is."""
        ...

    def stats_age_s(self) -> float:
        """How long ago the newest answer came, and `stats` with it, seconds."""
        ...

    async def close_copy(self, session_id: str, epoch: int) -> None:
        """Close a session whose owners are all below `epoch`; asked again after an answer was lost, it is carried on.

        A session that is lost, or has a later owner, is no error. Raises BackendUnavailable or BackendUncertain.
        """
        ...

    async def ask_stats(self) -> BackendStats:
        """What it holds for all its clients, asked now. Raises BackendUnavailable or BackendError."""
        ...


class Link:
    """Sessions are pinned to links, not to addresses: after a failure the same address is another link.

    Attributes:
        address: host:port.
        backend: entered.
        draining: it serves what it has, and takes nothing new.
        failed: set at the first failure; nothing is sent there any more.
        loads: what is pinned here, by session id.
    """

    def __init__(self, address: str, backend: RoutedTo) -> None:
        self.address = address
        self.backend = backend
        self.draining = False
        self.failed = asyncio.Event()
        self.failure = ""
        self.loads: dict[str, LoadMeter] = {}
        self._began = backend.stats()

    def stats(self) -> BackendStats:
        """What is held there now, and what was done since the link was made."""
        now, began = self.backend.stats(), self._began
        batches, steps = now.batches - began.batches, now.batched_steps - began.batched_steps
        return replace(now, batches=batches, batched_steps=steps)

    @property
    def is_alive(self) -> bool:
        """Whether requests of its sessions may be sent."""
        return not self.failed.is_set()

    @property
    def takes_sessions(self) -> bool:
        """Whether it is neither failed nor draining."""
        return self.is_alive and not self.draining

    @property
    def load(self) -> float:
        """Object-frames per second of what is pinned here by this service."""
        return sum(meter.load for meter in self.loads.values())

    @property
    def total_load(self) -> float:
        """Object-frames per second of everything there: others may be using it too, which its own count says."""
        return max(self.load, self.backend.stats().load)

    @property
    def sessions(self) -> int:
        """Memory banks there, those of others included."""
        return max(len(self.loads), self.backend.stats().sessions)

    @property
    def free_sessions(self) -> int:
        """Memory banks it still takes."""
        return self.backend.max_sessions - self.sessions

    def fail(self, why: str) -> None:
        """The breaker opens; the first reason stays."""
        if self.is_alive:
            self.failure = why
            self.failed.set()


async def sing(backend: Backend, name: str) -> None:
    """The canary: a session of this name and two tiny frames, opened and closed, as a proof of life.

    Raises:
        MaskletError: it failed, and may be left there.
    """
    image = np.zeros((_CANARY_SIDE, _CANARY_SIDE, 3), np.uint8)
    middle = Prompt.clicks(1, [(_CANARY_SIDE / 2, _CANARY_SIDE / 2)])
    await backend.open(name, TrackSettings())
    for request in (StepRequest(1, image, (middle,)), StepRequest(2, image)):
        found = [one.object_id for one in (await backend.step(name, request)).objects]
        if found != [1]:
            raise BackendError(f"the canary's frame {request.frame_seq} has objects {found!r:.80}, must be [1]")
    await backend.close(name)  # not in a `finally`: whoever gave up waiting, or saw it fail, leaves the backend


def same_model(one: ModelDescription, other: ModelDescription) -> bool:
    """Whether sessions may move between them: network, weights, size and precision."""
    return (one.model, one.weights_sha256, one.input_size, one.precision) == (
        other.model,
        other.weights_sha256,
        other.input_size,
        other.precision,
    )
