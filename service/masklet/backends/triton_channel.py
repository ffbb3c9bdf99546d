"""Calls to the model in one Triton over gRPC, and when it answered last."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from tritonclient.grpc import InferInput, KeepAliveOptions
from tritonclient.grpc.aio import InferenceServerClient
from tritonclient.utils import InferenceServerException

from masklet.backends.triton_messages import Answer, Call
from masklet.backends.triton_tensors import ANSWER, CALL, MODEL
from masklet.errors import BackendError, BackendUnavailable, BackendUncertain

_KEEPALIVE = KeepAliveOptions(keepalive_time_ms=20_000, keepalive_timeout_ms=10_000)
_RETRY_S = 0.2
_HEALTH_TIMEOUT_S = 5.0
_LARGE_ANSWER = 1 << 20  # bytes; taken apart beside the event loop
_EXITING = "Server exiting"  # what health calls say after SIGTERM, while sequences are still served
_GONE = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED")
_GONE_WORDS = ("not healthy", "unknown model", "not ready", "no available versions", "not found")


class SequenceNotStarted(Exception):  # not of the error tree: no user sees it
    """Triton has no such sequence: it was never started there, or was idle for too long. The model may know it."""


class TritonChannel:
    """The connection to one Triton, from `connect` to `close`.

    Args:
        endpoint: host:port of its gRPC port.
    """

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint
        self._client: Any = None
        self._asked_s: dict[object, float] = {}
        self._answered_s = float("-inf")

    def connect(self) -> None:
        """Begin; nothing is sent yet."""
        self._client = InferenceServerClient(self._endpoint, keepalive_options=_KEEPALIVE)

    async def close(self) -> None:
        """End; what is on its way raises BackendUnavailable."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    def check(self) -> None:
        """Raises BackendUnavailable if it is not connected."""
        if self._client is None:
            raise BackendUnavailable(f"Triton at {self._endpoint} is not connected")

    async def wait_ready(self, within_s: float) -> None:
        """Until the model may be called. Raises BackendUnavailable after `within_s`."""
        deadline_s = time.monotonic() + within_s
        while True:
            self.check()
            try:
                if await self._client.is_model_ready(MODEL, client_timeout=max(1.0, within_s)):
                    return
                reason = f"its model {MODEL} is not ready"
            except InferenceServerException as error:
                reason = str(error)
            if time.monotonic() >= deadline_s:
                raise BackendUnavailable(f"Triton at {self._endpoint} cannot be used after {within_s:g} s: {reason}")
            await asyncio.sleep(_RETRY_S)

    async def is_ready(self) -> bool:
        """Whether it takes new sequences; one that drains does not. Raises BackendUnavailable if it does not say."""
        self.check()
        try:
            with self._while_open():
                return bool(await self._client.is_server_ready(client_timeout=_HEALTH_TIMEOUT_S))
        except InferenceServerException as error:
            if _EXITING in str(error.message()):
                return False
            raise BackendUnavailable(_text(error, self._endpoint)) from error

    def age_s(self) -> float:
        """How long ago the newest answer came, seconds."""
        return time.monotonic() - self._answered_s

    def waiting_s(self) -> float:
        """How long calls have been under way without any answer, seconds; 0: none are, or answers come."""
        return min(self.oldest_s(), self.age_s())

    def oldest_s(self) -> float:
        """How long the oldest call has been under way, whatever else was answered, seconds; 0: none is."""
        oldest_s = min(self._asked_s.values(), default=None)
        return 0.0 if oldest_s is None else time.monotonic() - oldest_s

    async def infer(self, sequence_id: str, call: Call, *, start: bool = False, end: bool = False) -> Answer:
        """What the model answers, its errors included.

        Raises:
            SequenceNotStarted: Triton knows no such sequence, and `start` is false.
            BackendUnavailable: Triton is gone, or not connected.
            BackendUncertain: it answered with something else; the model may have done what was asked.
        """
        self.check()
        is_large = bool(call.state) or bool(call.frame and not call.frame.shared)
        tensor = await asyncio.to_thread(_tensor, call) if is_large else _tensor(call)
        self.check()  # it may have been closed meanwhile
        asking = object()
        self._asked_s[asking] = time.monotonic()
        try:
            with self._while_open():
                reply = await self._client.infer(
                    MODEL, [tensor], sequence_id=sequence_id, sequence_start=start, sequence_end=end
                )
            self._answered_s = time.monotonic()
        except InferenceServerException as error:
            raise _translated(error, self._endpoint) from error
        finally:
            del self._asked_s[asking]
        try:
            content = _content(reply.get_response())
            if len(content) > _LARGE_ANSWER:
                return await asyncio.to_thread(Answer.from_bytes, content)
            return Answer.from_bytes(content)
        except BackendError as error:
            raise BackendUncertain(str(error)) from error

    @contextmanager
    def _while_open(self) -> Iterator[None]:
        """A call that the library cancels because the connection was closed raises BackendUnavailable."""
        try:
            yield
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if self._client is not None or (task is not None and task.cancelling()):
                raise
            raise BackendUnavailable(f"the connection to Triton at {self._endpoint} was closed") from None


def _tensor(call: Call) -> InferInput:
    content = np.frombuffer(call.to_bytes(), np.uint8)[None]
    tensor = InferInput(CALL.name, content.shape, "UINT8")
    tensor.set_data_from_numpy(content)
    return tensor


def _content(response: Any) -> bytes:
    """Of the one tensor there must be. Raises BackendError."""
    found = [(output.name, output.datatype) for output in response.outputs]
    if found != [(ANSWER.name, "UINT8")] or len(response.raw_output_contents) != 1:
        raise BackendError(f"Triton answered with tensors {found!r:.80}, must be one {ANSWER.name} of UINT8")
    content: bytes = response.raw_output_contents[0]
    return content


def _translated(error: InferenceServerException, endpoint: str) -> Exception:
    """Triton's own errors, which are not the model's."""
    message = str(error.message())
    if "must specify the START flag" in message:
        return SequenceNotStarted(message)
    if _status(error) in _GONE or any(word in message for word in _GONE_WORDS):
        return BackendUnavailable(_text(error, endpoint))
    return BackendUncertain(_text(error, endpoint))


def _status(error: InferenceServerException) -> str:
    return str(error.status()).removeprefix("StatusCode.")


def _text(error: InferenceServerException, endpoint: str) -> str:
    return f"Triton at {endpoint} failed: {_status(error)}: {str(error.message())[:300]}"
