"""The engine in this process: one worker thread owns it and batches whatever sessions have ready.

On a CPU, while the worker is busy, a second thread encodes the frames that wait behind it: most of a frame's work needs
no memory, and two threads with work of their own use two cores better than two that share each product.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch

from masklet.backends.admission import Admission, needs_measuring
from masklet.backends.base import FIRST_EPOCH
from masklet.backends.calibration import measure_capacity
from masklet.backends.ownership import Owners
from masklet.config import ModelConfig, RoutingConfig
from masklet.engine import EncodedFrame, Engine
from masklet.engine.load import load_engine
from masklet.errors import BackendError, BackendUnavailable, MaskletError
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

_LOG = logging.getLogger(__name__)


@dataclass(slots=True)
class _Call:
    """Something to be done by the worker; steps (those with a request) may share a batch."""

    session_id: str
    run: Callable[[Engine], Any] | None = None
    request: StepRequest | None = None
    done: Future[Any] = field(default_factory=Future)


class EmbeddedBackend:
    """`Backend` over an `Engine` of this process. Nothing is loaded before it is entered.

    Args:
        config: which network runs, and how.
        routing: how much load is taken; None: any.
    """

    def __init__(self, config: ModelConfig, *, routing: RoutingConfig | None = None) -> None:
        self._config = config
        self._routing = routing or RoutingConfig(admit_by_load=False)
        self._admission = Admission(self._routing)
        self._calls: deque[_Call] = deque()
        self._wake = threading.Condition()
        self._stopping = False
        self._worker: threading.Thread | None = None
        self._engine: Engine | None = None
        self._encoder: ThreadPoolExecutor | None = None
        self._threads = 1
        self._stepping = self._shared = False
        self._description: ModelDescription | None = None
        self._batches = self._batched_steps = 0
        self._owners = Owners()

    async def __aenter__(self) -> Self:
        """Load the weights and run two frames, so that the first client does not pay for it."""
        started: Future[ModelDescription] = Future()
        started.set_running_or_notify_cancel()
        self._stopping = False
        self._worker = threading.Thread(target=self._work, args=(started,), name="masklet-engine", daemon=True)
        self._worker.start()
        try:
            self._description = await asyncio.wrap_future(started)
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Finish the batch in hand, refuse the rest, free the model."""
        await self._stop()

    async def _stop(self) -> None:
        with self._wake:
            self._stopping = True
            self._wake.notify()
        if self._worker is not None:
            await asyncio.to_thread(self._worker.join)
        if self._encoder is not None:
            await asyncio.to_thread(self._encoder.shutdown, cancel_futures=True)
        self._worker = self._engine = self._encoder = None
        self._owners = Owners()
        self._admission.clear()

    def describe(self) -> ModelDescription:
        """What runs here."""
        if self._description is None:
            raise BackendUnavailable("the embedded engine is not loaded yet")
        return self._description

    def stats(self) -> BackendStats:
        """What is held here."""
        engine = self._engine
        return BackendStats(
            sessions=len(engine.sessions) if engine else 0,
            bank_bytes=engine.bank_bytes if engine else 0,
            batches=self._batches,
            batched_steps=self._batched_steps,
            load=self._admission.load,
            capacity=self._admission.capacity,
        )

    async def open(self, session_id: str, settings: TrackSettings, *, epoch: int = FIRST_EPOCH) -> None:
        """Start an empty memory bank. Raises OverCapacity if there is no room for its load."""
        admitted = self._admission.admit(session_id, settings)
        try:
            await self._begin(session_id, epoch, lambda engine: engine.open(session_id, settings))
        except BaseException:
            if admitted:
                self._admission.remove(session_id)
            raise

    def reserve(self, session_id: str, objects: int) -> None:
        """The session is about to have so many objects. Raises OverCapacity."""
        self._admission.reserve(session_id, objects)

    async def attach(self, session_id: str, epoch: int, *, location: str = "") -> BankSummary:
        """Own a session that is open here. There is one owner, this backend, so only the epoch is checked."""

        def own(engine: Engine) -> BankSummary:
            self._owners.attach(session_id, epoch)
            return engine.summary(session_id)

        summary: BankSummary = await self._submit(_Call(session_id, run=own))
        return summary

    def location(self, session_id: str) -> str:
        """Nothing to be said: there is one place."""
        return ""

    def disown(self, session_id: str) -> None:
        """Nothing to do: sessions end with this process."""

    def begin(self, image: ImageArray) -> Future[EncodedFrame] | None:
        """Encode a frame before its turn, on a CPU while the engine is busy; else it is sooner done in its turn."""
        engine, encoder = self._engine, self._encoder
        if engine is None or encoder is None or self._stopping or not self._stepping:
            return None
        return encoder.submit(engine.encode, image)

    async def step(self, session_id: str, request: StepRequest) -> StepResult:
        """Track one frame, or correct one."""
        result: StepResult = await self._submit(_Call(session_id, request=request))
        self._admission.note(session_id, result)
        return result

    async def export_state(self, session_id: str) -> bytes:
        """The session's whole state."""
        state: bytes = await self._submit(_Call(session_id, run=lambda engine: engine.export_state(session_id)))
        return state

    async def import_state(self, session_id: str, state: bytes, *, epoch: int = FIRST_EPOCH) -> None:
        """Open a session with an exported state."""
        await self._begin(session_id, epoch, lambda engine: engine.import_state(session_id, state))

    async def close(self, session_id: str) -> None:
        """Forget a session."""

        def end(engine: Engine) -> None:
            engine.close(session_id)
            self._owners.remove(session_id)

        self._admission.remove(session_id)
        await self._submit(_Call(session_id, run=end))

    async def _begin(self, session_id: str, epoch: int, start: Callable[[Engine], None]) -> None:
        def begin(engine: Engine) -> tuple[TrackSettings, int]:
            start(engine)
            self._owners.add(session_id, epoch)
            session = engine.sessions[session_id]
            return session.settings, len(session.objects)

        self._admission.take(session_id, *await self._submit(_Call(session_id, run=begin)))

    async def _submit(self, call: _Call) -> Any:
        with self._wake:
            if self._stopping or self._worker is None or not self._worker.is_alive():
                raise BackendUnavailable("the embedded engine is not running")
            self._calls.append(call)
            self._wake.notify()
        return await asyncio.wrap_future(call.done)

    def _work(self, started: Future[ModelDescription]) -> None:
        """The worker thread."""
        try:
            engine, description = load_engine(self._config)
            warm_up(engine)
            if needs_measuring(self._routing):
                self._admission.measured = calibrate(engine, self._config)
        except MaskletError as error:
            started.set_exception(error)
            return
        except Exception as error:
            _LOG.exception("the engine could not be loaded")
            reason = f"{type(error).__name__}: {error}"
            started.set_exception(BackendUnavailable(f"the embedded engine could not be loaded: {reason}"))
            return
        self._threads, self._shared = torch.get_num_threads(), False
        self._encoder = _encoder(engine, self._threads) if self._config.encode_ahead else None
        self._engine = engine
        started.set_result(description)
        while batch := self._next_calls():
            if batch[0].request is None:
                self._run_one(engine, batch[0])
            else:
                self._run_steps(engine, batch)
        self._refuse_waiting()

    def _next_calls(self) -> list[_Call]:
        """One call that is not a step, or all steps that wait, up to the batch limit; empty when stopping.

        Calls for one session keep their order: a step behind another call of its session waits for the next turn.
        """
        with self._wake:
            self._wake.wait_for(lambda: self._stopping or self._calls)
            if self._stopping:
                return []
            if self._calls[0].request is None:
                return [self._calls.popleft()]
            batch: list[_Call] = []
            skipped: deque[_Call] = deque()
            seen: set[str] = set()
            while self._calls and len(batch) < self._config.max_batch:
                call = self._calls.popleft()
                (skipped if call.request is None or call.session_id in seen else batch).append(call)
                seen.add(call.session_id)
            self._calls.extendleft(reversed(skipped))
            return batch

    def _run_one(self, engine: Engine, call: _Call) -> None:
        if not call.done.set_running_or_notify_cancel():
            return
        try:
            assert call.run is not None
            call.done.set_result(call.run(engine))
        except MaskletError as error:
            call.done.set_exception(error)
        except Exception as error:
            call.done.set_exception(failed(error))

    def _run_steps(self, engine: Engine, batch: list[_Call]) -> None:
        live = [call for call in batch if call.done.set_running_or_notify_cancel()]
        if not live:
            return
        self._batches += 1
        self._batched_steps += len(live)
        requests = [(call.session_id, call.request) for call in live if call.request is not None]
        self._stepping = True
        self._share_cores(any(request.begun is not None for _, request in requests))
        answers = step_together(engine, requests, [_encoded(request.begun) for _, request in requests])
        self._stepping = False
        for call, answer in zip(live, answers, strict=True):
            if isinstance(answer, MaskletError):
                call.done.set_exception(answer)
            else:
                call.done.set_result(answer)

    def _share_cores(self, shared: bool) -> None:
        """Leave the encoder its half of torch's threads while frames are begun there, and take all otherwise.

        Three threads on two cores spend half of their time waiting for each other.
        """
        if self._encoder is not None and shared != self._shared:
            torch.set_num_threads(self._threads - self._threads // 2 if shared else self._threads)
            self._shared = shared

    def _refuse_waiting(self) -> None:
        with self._wake:
            while self._calls:
                call = self._calls.popleft()
                if call.done.set_running_or_notify_cancel():
                    call.done.set_exception(BackendUnavailable("the embedded engine was stopped"))


def _encoder(engine: Engine, threads: int) -> ThreadPoolExecutor | None:
    """A thread that encodes with half of torch's threads; None where that does not help: on a GPU, or one core."""
    if engine.device.type != "cpu" or threads < 2:
        return None
    encoder = ThreadPoolExecutor(1, "masklet-encoder", torch.set_num_threads, (threads // 2,))
    encoder.submit(torch.get_num_threads).result()  # it has started
    torch.set_num_threads(threads)  # of this thread, and of all that start after it
    return encoder


def _encoded(begun: Future[Any] | None) -> EncodedFrame | None:
    """What was begun, if it was begun in time and did not fail; then the frame is encoded with the others."""
    if begun is None or begun.cancel():
        return None
    found = None if begun.exception() else begun.result()
    return found if isinstance(found, EncodedFrame) else None


def step_together(
    engine: Engine, requests: Sequence[tuple[str, StepRequest]], encoded: Sequence[EncodedFrame | None] = ()
) -> list[StepResult | MaskletError]:
    """One batch; if it breaks, its requests one by one, so that one of them cannot take the others along."""
    try:
        return engine.step(requests, encoded)
    except Exception as error:
        if len(requests) == 1:
            return [failed(error)]
    return [answer for request in requests for answer in step_together(engine, [request])]


def failed(error: Exception) -> BackendError:
    """What is said when the engine breaks; call it where the error was caught."""
    _LOG.exception("engine failed")
    return BackendError(f"the engine failed on this request: {type(error).__name__}: {error}")


def warm_up(engine: Engine) -> None:
    """Run two frames of one object and forget them: allocations and kernel choices happen here."""
    size = engine.network.config.input_size
    image = np.zeros((size, size, 3), np.uint8)
    engine.open("warm-up", TrackSettings())
    middle = [(size / 2, size / 2)]
    with torch.inference_mode():
        engine.step([("warm-up", StepRequest(1, image, (Prompt.clicks(1, middle),)))])
        engine.step([("warm-up", StepRequest(2, image))])
    engine.close("warm-up")


def calibrate(engine: Engine, config: ModelConfig) -> float:
    """Object-frames per second that the engine makes; 0 if the configuration does not want it measured."""
    if not config.calibration_s:
        return 0.0
    measured = measure_capacity(engine, max_batch=config.max_batch, limit_s=config.calibration_s)
    _LOG.info("calibrated", extra={"object_frames_s": round(measured, 1)})
    return measured
