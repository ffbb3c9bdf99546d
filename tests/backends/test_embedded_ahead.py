"""Frames that are encoded before their turn."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tests.backends.contract import SETTINGS, click, frame

from masklet.backends.embedded import EmbeddedBackend
from masklet.config import ModelConfig
from masklet.engine import EncodedFrame, Engine
from masklet.types import StepRequest, StepResult

CONFIG = ModelConfig(variant="mini", device="cpu", precision="float32", threads=2)


@pytest.fixture(autouse=True)
def threads_as_before() -> Any:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
async def backend() -> AsyncIterator[EmbeddedBackend]:
    async with EmbeddedBackend(CONFIG) as entered:
        for name in ("s", "twin"):
            await entered.open(name, SETTINGS)
            await entered.step(name, frame(1, click()))
        yield entered


class Gate:
    """Holds the engine in its next step until it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reached, self.opened = threading.Event(), threading.Event()
        self.taken: list[int] = []
        self.threads: list[int] = []
        step = Engine.step

        def held(engine: Engine, requests: Any, encoded: Any = ()) -> Any:
            self.taken.append(sum(item is not None for item in encoded))
            self.threads.append(torch.get_num_threads())
            self.reached.set()
            assert self.opened.wait(20)
            return step(engine, requests, encoded)

        monkeypatch.setattr(Engine, "step", held)


async def stepping(backend: EmbeddedBackend, gate: Gate) -> asyncio.Task[StepResult]:
    task = asyncio.create_task(backend.step("s", frame(2)))
    await asyncio.to_thread(gate.reached.wait, 20)
    return task


def picture(seq: int) -> np.ndarray:
    image = frame(seq).image
    assert image is not None
    return image


async def test_nothing_is_begun_while_the_engine_is_idle(backend: EmbeddedBackend) -> None:
    assert backend.begin(picture(2)) is None


async def test_a_frame_begun_is_answered_as_if_it_had_not_been(
    backend: EmbeddedBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch)
    first = await stepping(backend, gate)
    begun = backend.begin(picture(3))
    assert begun is not None
    done: EncodedFrame = await asyncio.wrap_future(begun)  # during the step before
    assert done.pixels.shape[0] == 3
    gate.opened.set()
    await first
    found = await backend.step("s", replace(frame(3), with_logits=True, begun=begun))
    for seq in (2, 3):
        expected = await backend.step("twin", replace(frame(seq), with_logits=True))
    assert gate.taken == [0, 1, 0, 0]
    assert gate.threads == [2, 1, 2, 2]  # the encoder has the other one
    logits, expected_logits = found.objects[0].logits, expected.objects[0].logits
    assert logits is not None and expected_logits is not None
    np.testing.assert_allclose(logits, expected_logits, atol=1e-4)
    assert found.objects[0].object_score == pytest.approx(expected.objects[0].object_score, abs=1e-4)


async def test_begun_and_other_frames_share_a_batch(backend: EmbeddedBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(monkeypatch)
    first = await stepping(backend, gate)
    begun = backend.begin(picture(9))
    assert begun is not None
    await asyncio.wrap_future(begun)
    both = [
        asyncio.create_task(backend.step("s", replace(frame(9), with_logits=True, begun=begun))),
        asyncio.create_task(backend.step("twin", replace(frame(2), with_logits=True))),
    ]
    await asyncio.sleep(0)
    gate.opened.set()
    await first
    answers = await asyncio.gather(*both)
    assert gate.taken == [0, 1]
    assert [answer.frame_seq for answer in answers] == [9, 2]


@pytest.mark.parametrize("fault", ["not started", "failed", "something else"])
async def test_what_was_not_begun_after_all_is_encoded_in_its_turn(backend: EmbeddedBackend, fault: str) -> None:
    begun: Future[Any] = Future()
    if fault != "not started":
        begun.set_running_or_notify_cancel()
    if fault == "failed":
        begun.set_exception(MemoryError())
    if fault == "something else":
        begun.set_result(1)
    assert (await backend.step("s", replace(frame(2), begun=begun))).objects


@pytest.mark.parametrize("config", [replace(CONFIG, threads=1), replace(CONFIG, encode_ahead=False)])
async def test_one_core_begins_nothing_and_who_does_not_want_it(config: ModelConfig) -> None:
    async with EmbeddedBackend(config) as backend:
        assert backend._encoder is None


async def test_its_thread_ends_with_the_backend() -> None:
    async with EmbeddedBackend(CONFIG) as backend:
        assert [thread for thread in threading.enumerate() if thread.name.startswith("masklet-encoder")]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("masklet-encoder")]
    assert backend.begin(picture(1)) is None


async def test_threads_that_start_later_have_all_cores() -> None:
    async with EmbeddedBackend(CONFIG):
        assert await asyncio.to_thread(torch.get_num_threads) == 2


def test_a_request_says_nothing_of_it_by_default() -> None:
    assert StepRequest(1, None).begun is None
