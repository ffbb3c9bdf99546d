"""A Triton that lies: a server that speaks its protocol and answers with garbage. A clear error, no crash."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc
import numpy as np
import pytest
from tests.backends.contract import SETTINGS, click, frame
from tests.backends.liar import Liar, Lie, response, serving, small_model
from tritonclient.grpc import service_pb2

from masklet.backends.triton import TritonBackend
from masklet.backends.triton_messages import Answer
from masklet.errors import BackendError, BackendUnavailable, BackendUncertain
from masklet.types import BackendStats, ObjectMask, StepResult

STATS = BackendStats(0, 0, 0, 0)


@pytest.fixture
async def liar() -> AsyncIterator[tuple[Liar, TritonBackend]]:
    servicer = Liar(small_model())
    async with serving(servicer) as endpoint, TritonBackend(endpoint) as backend:
        await backend.open("s", SETTINGS)
        await backend.step("s", frame(1, click()))
        yield servicer, backend
        servicer.hold.set()
        servicer.lie = None


def answering(result: StepResult | None) -> Lie:
    return lambda _: response(Answer(STATS, result=result).to_bytes())


def mask(*shape: int) -> ObjectMask:
    return ObjectMask(1, np.zeros(shape, bool), 1.0, 1.0)


LIES: dict[str, tuple[Lie, str]] = {
    "nothing": (lambda _: response(b""), "too short"),
    "noise": (lambda _: response(b"noise" * 100), "no header"),
    "half": (lambda true: response(true.raw_output_contents[0][:60]), "no header"),
    "no tensor": (lambda _: service_pb2.ModelInferResponse(), "answered with tensors"),
    "another tensor": (lambda true: response(b"x", name="MASKS"), "MASKS"),
    "another type": (lambda true: response(b"x", kind="FP32"), "FP32"),
    "no result": (answering(None), "without a result"),
    "another frame": (answering(StepResult(7, ())), "answered frame 7"),
    "a revision": (answering(StepResult(2, (), revised=True)), "frame 2 was asked for"),
    "another size": (answering(StepResult(2, (mask(4, 4),))), "masks are"),
    "one id twice": (answering(StepResult(2, (mask(48, 64), mask(48, 64)))), "ids must rise"),
}


@pytest.mark.parametrize(("lie", "said"), LIES.values(), ids=LIES)
async def test_a_lie_is_an_unclear_answer_and_the_session_goes_on(liar, lie, said):
    servicer, backend = liar
    servicer.lie = lie
    with pytest.raises(BackendUncertain, match=said):
        await backend.step("s", frame(2))
    servicer.lie = None
    assert len((await backend.step("s", frame(3))).objects) == 1


async def test_no_state_is_a_backend_error(liar):
    servicer, backend = liar
    servicer.lie = answering(None)
    with pytest.raises(BackendError, match="exported no state"):
        await backend.export_state("s")


STATUSES = [
    (grpc.StatusCode.UNAVAILABLE, BackendUnavailable),
    (grpc.StatusCode.DEADLINE_EXCEEDED, BackendUnavailable),
    (grpc.StatusCode.INTERNAL, BackendUncertain),
    (grpc.StatusCode.INVALID_ARGUMENT, BackendUncertain),
]


@pytest.mark.parametrize(("status", "kind"), STATUSES)
async def test_triton_s_own_errors_are_told_apart(liar, status, kind):
    servicer, backend = liar
    servicer.lie = status
    with pytest.raises(BackendError, match=r"Triton at .*says the liar") as caught:
        await backend.step("s", frame(2))
    assert type(caught.value) is kind


async def test_a_triton_that_never_answers_the_first_call_is_unavailable(liar, monkeypatch):
    servicer, backend = liar
    monkeypatch.setattr("masklet.backends.triton._ANSWER_TIMEOUT_S", 0.2)
    servicer.hold.clear()
    with pytest.raises(BackendUnavailable, match=r"did not answer within 0.2 s"):
        await asyncio.wait_for(TritonBackend(backend._endpoint).__aenter__(), 10)


async def test_a_slow_triton_is_waited_for_and_leaving_ends_the_wait(liar, monkeypatch):
    servicer, backend = liar
    monkeypatch.setattr("masklet.backends.triton._LEAVING_S", 0.2)
    servicer.hold.clear()
    waiting = asyncio.create_task(backend.step("s", frame(2)))
    await asyncio.sleep(0.1)
    assert not waiting.done()
    await asyncio.wait_for(backend.__aexit__(None, None, None), 10)
    with pytest.raises(BackendUnavailable, match="was closed"):
        await waiting
