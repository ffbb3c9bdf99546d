"""Replays a scenario as a client would: through a stream, frame by frame, over any backend."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import Future
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, Self

import numpy as np

from masklet.backends.base import FIRST_EPOCH, Backend
from masklet.config import LimitsConfig, SessionConfig
from masklet.errors import BackendError
from masklet.observability.metrics import Metrics
from masklet.session.context import StreamContext
from masklet.session.messages import (
    ClientBody,
    ClientMessage,
    Dropped,
    Frame,
    ObjectResult,
    Open,
    PromptFor,
    RemoveObject,
    RequestFailed,
    Result,
    ServerMessage,
)
from masklet.session.registry import SessionRegistry
from masklet.session.stream import SessionStream
from masklet.types import (
    BackendStats,
    BankSummary,
    DropPolicy,
    FloatArray,
    FrameCodec,
    ImageArray,
    MaskEncoding,
    ModelDescription,
    StepRequest,
    StepResult,
    TrackSettings,
)
from masklet.verification.scenario import Event, Scenario

UNLIMITED_CONDITIONING_FRAMES = 64
_Answer = tuple[ObjectResult, FloatArray]
"""What was said about an object, and its pointer."""


@dataclass(slots=True)
class Differences:
    """Largest absolute differences from the recorded answers, over a scenario.

    Attributes:
        logits: of low-resolution logits.
        object_score: of object scores.
        pointer: of object pointers.
        missing: recorded answers of tracked frames that this build did not give.
    """

    logits: float = 0.0
    object_score: float = 0.0
    pointer: float = 0.0
    missing: int = 0


class ObservedBackend:
    """A backend that keeps the object pointers of the newest step, and sets what the stream protocol cannot say.

    The scenarios were recorded without hole filling and on videos of known length.
    """

    def __init__(self, inner: Backend, video_frames: int) -> None:
        self._inner = inner
        self._video_frames = video_frames
        self.pointers: dict[int, FloatArray] = {}

    async def __aenter__(self) -> Self:
        """Nothing: the inner backend is entered by its owner."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing."""

    def describe(self) -> ModelDescription:
        """Of the inner backend."""
        return self._inner.describe()

    def stats(self) -> BackendStats:
        """Of the inner backend."""
        return self._inner.stats()

    async def open(self, session_id: str, settings: TrackSettings, *, epoch: int = FIRST_EPOCH) -> None:
        """Open with the settings of the recording."""
        exact = replace(settings, fill_hole_area=0, video_frames=self._video_frames)
        await self._inner.open(session_id, exact, epoch=epoch)

    def reserve(self, session_id: str, objects: int) -> None:
        """Of the inner backend."""
        self._inner.reserve(session_id, objects)

    async def attach(self, session_id: str, epoch: int, *, location: str = "") -> BankSummary:
        """Of the inner backend."""
        return await self._inner.attach(session_id, epoch, location=location)

    def location(self, session_id: str) -> str:
        """Of the inner backend."""
        return self._inner.location(session_id)

    def disown(self, session_id: str) -> None:
        """Of the inner backend."""
        self._inner.disown(session_id)

    def begin(self, image: ImageArray) -> Future[Any] | None:
        """Of the inner backend."""
        return self._inner.begin(image)

    async def step(self, session_id: str, request: StepRequest) -> StepResult:
        """Step, and keep the pointers."""
        result = await self._inner.step(session_id, replace(request, with_pointers=True))
        self.pointers = {o.object_id: o.pointer for o in result.objects if o.pointer is not None}
        return result

    async def export_state(self, session_id: str) -> bytes:
        """Of the inner backend."""
        return await self._inner.export_state(session_id)

    async def import_state(self, session_id: str, state: bytes, *, epoch: int = FIRST_EPOCH) -> None:
        """Of the inner backend."""
        await self._inner.import_state(session_id, state, epoch=epoch)

    async def close(self, session_id: str) -> None:
        """Of the inner backend."""
        await self._inner.close(session_id)


@dataclass(slots=True)
class Replay:
    """One scenario on its way through a stream."""

    scenario: Scenario
    backend: ObservedBackend
    differences: Differences = field(default_factory=Differences)
    seq: int = 0
    compared: set[str] = field(default_factory=set)

    async def run(self) -> Differences:
        """Send everything, one answer at a time.

        Raises:
            BackendError: a frame was not answered, or a prompt refused.
            ConfigError: the recording lacks an answer.
        """
        registry, limits = SessionRegistry(1), LimitsConfig(max_frame_bytes=64 * 2**20)
        lasting = SessionConfig(idle_timeout_s=3600, resume_ttl_s=0)
        context = StreamContext(self.backend, registry, limits, lasting, Metrics())
        requests = _Requests()
        async with aclosing(SessionStream(context, peer="verify").run(requests)) as answers:
            self._send(requests, self._open())
            for frame in range(len(self.scenario.frames)):
                await self._frame(frame, requests, answers)
        recorded = {key.rsplit("/", 1)[0] for key in self.scenario.answers if key.startswith("tracked/")}
        self.differences.missing = len(recorded - self.compared)
        return self.differences

    def _open(self) -> Open:
        scenario = self.scenario
        return Open(
            codec=FrameCodec.RGB8,
            size=(scenario.image_size, scenario.image_size),
            mask_encoding=MaskEncoding.NONE,
            drop_policy=DropPolicy.BLOCK,
            profile=scenario.profile,
            with_logits=True,
            corrections_as_conditioning=scenario.corrections_as_conditioning,
            max_conditioning_frames=scenario.max_conditioning_frames or UNLIMITED_CONDITIONING_FRAMES,
        )

    async def _frame(self, frame: int, requests: _Requests, answers: AsyncIterator[ServerMessage]) -> None:
        for event in self.scenario.events_of(frame, after=False):
            self._remove(event, requests)
            for prompt in event.prompts:
                self._send(requests, PromptFor(prompt, frame_seq=0))
        self._send(requests, Frame(self.scenario.frames[frame].tobytes()))
        self._compare("tracked", frame, self._told(await _result(answers)))
        self._compare("corrected", frame, await self._corrected(frame, requests, answers))

    async def _corrected(
        self, frame: int, requests: _Requests, answers: AsyncIterator[ServerMessage]
    ) -> dict[int, _Answer]:
        """What is said in the end about the objects corrected on the frame just answered.

        Each prompt is a correction of its own, with its own result; a removal has none.
        """
        frame_seq, corrected = self.seq, dict[int, _Answer]()
        for event in self.scenario.events_of(frame, after=True):
            self._remove(event, requests)
            for object_id in event.remove:
                corrected.pop(object_id, None)
            for prompt in event.prompts:
                self._send(requests, PromptFor(prompt, frame_seq))
                told = self._told(await _result(answers))
                if prompt.object_id not in told:
                    raise BackendError(f"object {prompt.object_id} is not in the answer to its correction")
                corrected[prompt.object_id] = told[prompt.object_id]
        return corrected

    def _remove(self, event: Event, requests: _Requests) -> None:
        """Carried out, and not answered, with whatever is sent next."""
        for object_id in event.remove:
            self._send(requests, RemoveObject(object_id))

    def _send(self, requests: _Requests, body: ClientBody) -> None:
        self.seq += 1
        requests.put(ClientMessage(self.seq, body, time.monotonic()))

    def _told(self, result: Result) -> dict[int, _Answer]:
        """By object id."""
        return {found.object_id: (found, self.backend.pointers[found.object_id]) for found in result.objects}

    def _compare(self, kind: str, frame: int, answers: Mapping[int, _Answer]) -> None:
        for object_id, (answer, pointer) in answers.items():
            key = f"{kind}/{frame}/{object_id}"
            expected = {name: self.scenario.answer(f"{key}/{name}") for name in ("logits", "object_score", "pointer")}
            assert answer.logits is not None
            found = self.differences
            found.logits = max(found.logits, _largest(answer.logits, expected["logits"]))
            found.object_score = max(found.object_score, _largest(answer.object_score, expected["object_score"]))
            found.pointer = max(found.pointer, _largest(pointer, expected["pointer"]))
            self.compared.add(key)


class _Requests:
    """An async iterator of requests that is fed as the replay goes."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[ClientMessage] = asyncio.Queue()

    def put(self, message: ClientMessage) -> None:
        self._queue.put_nowait(message)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ClientMessage:
        return await self._queue.get()


async def _result(answers: AsyncIterator[ServerMessage]) -> Result:
    """The next result; what else is answered on the way must not be a refusal."""
    async for message in answers:
        if isinstance(message.body, Result):
            return message.body
        if isinstance(message.body, RequestFailed):
            raise message.body.error
        if isinstance(message.body, Dropped):
            raise BackendError(f"frame {message.body.frame_seq} was dropped: {message.body.reason}")
    raise BackendError("the stream ended before the scenario did")


def _largest(answer: FloatArray | float, expected: FloatArray) -> float:
    """NaN counts as infinitely far, and so does another shape."""
    if np.shape(answer) != expected.shape:
        return float("inf")
    return float(np.nan_to_num(np.abs(np.asarray(answer, np.float32) - expected), nan=np.inf, posinf=np.inf).max())
