"""The embedded backend's own: its worker thread, its batches, its beginning and its end."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
import weakref
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.backends.contract import SETTINGS, click, frame

from masklet.backends.embedded import EmbeddedBackend
from masklet.config import ModelConfig
from masklet.errors import BackendError, BackendUnavailable, ConfigError, MaskletError, SessionStateLost, WeightsError
from masklet.model import build
from masklet.model.checkpoint import save_checkpoint
from masklet.types import BackendStats, StepRequest, StepResult

CONFIG = ModelConfig(variant="mini", device="cpu", precision="float32", threads=1)
NAMES = [f"s{number}" for number in range(8)]


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())  # another folder's server may run in this process
    yield
    assert not [thread for thread in set(threading.enumerate()) - before if thread.name == "masklet-engine"]


@pytest.fixture
async def backend() -> AsyncIterator[EmbeddedBackend]:
    """A backend with eight sessions of one object."""
    async with EmbeddedBackend(CONFIG) as entered:
        for name in NAMES:
            await entered.open(name, SETTINGS)
            await entered.step(name, frame(1, click()))
        yield entered


async def busy(backend: EmbeddedBackend, name: str) -> asyncio.Task[StepResult]:
    """Starts a step and returns as soon as the worker has taken it up."""
    before = backend.stats().batches
    task = asyncio.create_task(backend.step(name, frame(2)))
    while backend.stats().batches == before:
        await asyncio.sleep(0)
    return task


def since(before: BackendStats, now: BackendStats) -> tuple[int, int]:
    """Batches and steps."""
    return now.batches - before.batches, now.batched_steps - before.batched_steps


async def test_steps_that_wait_share_a_batch(backend):
    before = backend.stats()
    first = await busy(backend, NAMES[0])
    answers = await asyncio.gather(*(backend.step(name, frame(2)) for name in NAMES[1:]))
    assert since(before, backend.stats()) == (2, 8)
    assert [len(answer.objects) for answer in [await first, *answers]] == [1] * 8


async def test_no_batch_is_larger_than_configured():
    async with EmbeddedBackend(replace(CONFIG, max_batch=2)) as backend:
        for name in NAMES:
            await backend.open(name, SETTINGS)
        await asyncio.gather(*(backend.step(name, frame(1, click())) for name in NAMES))
        assert since(BackendStats(0, 0, 0, 0), backend.stats()) in [(4, 8), (5, 8)]


async def test_a_flood_from_one_session_costs_the_others_no_more_than_a_place_in_each_batch(backend):
    stop = asyncio.Event()

    async def flood() -> int:
        seq = 1
        while not stop.is_set():  # as a session works through what it was sent: the next as soon as one is answered
            seq += 1
            await backend.step("s0", frame(seq))
        return seq

    flooding = asyncio.create_task(flood())
    for seq in range(2, 22):
        before = backend.stats().batches
        await asyncio.gather(*(backend.step(name, frame(seq)) for name in NAMES[1:]))
        assert backend.stats().batches - before <= 3  # that under way, that of the first to come, that of the others
    stop.set()
    assert await flooding > 20


async def test_calls_for_one_session_keep_their_order(backend):
    first = await busy(backend, NAMES[0])
    calls = [
        backend.step("s1", frame(2)),
        backend.step("s1", frame(3, remove=(1,))),
        backend.close("s1"),
        backend.open("s1", SETTINGS),
        backend.step("s1", frame(1)),
        backend.step("s2", frame(2)),
        backend.export_state("s1"),
        backend.close("s1"),
    ]
    answers = await asyncio.gather(*calls)
    assert [len(answers[i].objects) for i in (0, 1, 4, 5)] == [1, 0, 0, 1]
    assert await first
    with pytest.raises(SessionStateLost):
        await backend.step("s1", frame(2))


async def test_a_queued_step_that_is_cancelled_is_not_run(backend):
    state = await backend.export_state("s1")
    first = await busy(backend, "s0")
    queued = asyncio.create_task(backend.step("s1", frame(2)))
    await asyncio.sleep(0)
    queued.cancel()
    with pytest.raises(asyncio.CancelledError):
        await queued
    assert (await first).objects
    assert await backend.export_state("s1") == state


async def test_a_running_step_that_is_cancelled_does_not_disturb_the_worker(backend):
    first = await busy(backend, "s0")
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert (await backend.step("s0", frame(3))).objects


async def test_a_request_that_breaks_the_engine_fails_alone(backend, caplog):
    broken = StepRequest(2, np.zeros((5, 5), np.uint8))  # not checked here: sessions do
    before = [await backend.export_state(name) for name in NAMES[:2]]
    first = await busy(backend, "s7")
    with caplog.at_level(logging.CRITICAL, "masklet.backends.embedded"):
        breaking = asyncio.create_task(backend.step("s0", broken))
        answered = await backend.step("s1", frame(2))
        with pytest.raises(BackendError, match="RuntimeError"):
            await breaking
    assert answered.objects
    assert await first
    assert await backend.export_state("s0") == before[0]
    assert await backend.export_state("s1") != before[1]


async def test_a_broken_batch_steps_nobody_twice(backend, caplog):
    await backend.import_state("twin", await backend.export_state("s1"))
    first = await busy(backend, "s7")
    with caplog.at_level(logging.CRITICAL, "masklet.backends.embedded"):
        broken = backend.step("s0", StepRequest(2, np.zeros((5, 5), np.uint8)))
        await asyncio.gather(backend.step("s1", frame(2)), broken, return_exceptions=True)
    await first
    await backend.step("twin", frame(2))
    assert await backend.export_state("s1") == await backend.export_state("twin")


async def test_leaving_finishes_the_step_in_hand_and_refuses_those_that_wait():
    backend = await EmbeddedBackend(CONFIG).__aenter__()
    for name in NAMES:
        await backend.open(name, SETTINGS)
    first = await busy(backend, NAMES[0])
    waiting = [asyncio.create_task(backend.step(name, frame(2))) for name in NAMES[1:]]
    await asyncio.sleep(0)
    await backend.__aexit__(None, None, None)
    answers = await asyncio.gather(first, *waiting, return_exceptions=True)
    assert isinstance(answers[0], StepResult)
    assert [type(answer) for answer in answers[1:]] == [BackendUnavailable] * 7
    with pytest.raises(BackendUnavailable):
        await backend.open("late", SETTINGS)


async def test_nothing_is_held_after_loading_or_after_leaving():
    backend = EmbeddedBackend(CONFIG)
    async with backend:
        assert backend.stats() == BackendStats(0, 0, 0, 0)
        await backend.open("s", SETTINGS)
        await backend.step("s", frame(1, click()))
        engine = weakref.ref(backend._engine)
    gc.collect()
    assert engine() is None
    assert (backend.stats().sessions, backend.stats().bank_bytes) == (0, 0)


async def test_it_can_be_entered_again_and_remembers_no_session():
    backend = EmbeddedBackend(CONFIG)
    for _ in range(2):
        async with backend:
            await backend.open("s", SETTINGS)
            assert (await backend.step("s", frame(1, click()))).objects


BAD: list[tuple[ModelConfig, type[MaskletError], str]] = [
    (replace(CONFIG, variant="sam3"), ConfigError, "sam3"),
    (replace(CONFIG, input_size=100), ConfigError, "100"),
    (replace(CONFIG, device="cuda:99"), ConfigError, "cuda:99"),
    (replace(CONFIG, device="abacus"), ConfigError, "abacus"),
    (replace(CONFIG, device="meta"), ConfigError, "meta"),
    (replace(CONFIG, precision="float8"), ConfigError, "float8"),
    (replace(CONFIG, memory_precision="int4"), ConfigError, "int4"),
    (replace(CONFIG, weights="/no/such/file.pt"), WeightsError, "/no/such/file.pt"),
]


@pytest.mark.parametrize(("config", "error", "named"), BAD)
async def test_what_cannot_be_loaded_is_said_on_entering(config, error, named):
    backend = EmbeddedBackend(config)
    with pytest.raises(error, match=named):
        await backend.__aenter__()
    with pytest.raises(BackendUnavailable):
        await backend.open("s", SETTINGS)
    with pytest.raises(BackendUnavailable, match="not loaded"):
        backend.describe()


async def test_any_other_failure_to_load_is_unavailability(caplog):
    caplog.set_level(logging.CRITICAL)
    with pytest.raises(BackendUnavailable, match=r"could not be loaded: .*seed"):
        await EmbeddedBackend(replace(CONFIG, seed="seed")).__aenter__()  # type: ignore[arg-type]


async def test_entering_may_be_cancelled():
    backend = EmbeddedBackend(CONFIG)
    entering = asyncio.create_task(backend.__aenter__())
    await asyncio.sleep(0.01)
    entering.cancel()
    with pytest.raises(asyncio.CancelledError):
        await entering
    async with backend:
        assert backend.describe().model == "mini"


async def test_it_says_what_runs(tmp_path: Path):
    path = tmp_path / "mini.safetensors"
    save_checkpoint(build("mini", seed=1).state_dict(), path)
    async with EmbeddedBackend(replace(CONFIG, weights=str(path), precision="bfloat16", input_size=96)) as backend:
        found = backend.describe()
    assert (found.model, found.backend, found.device, found.precision) == ("mini", "embedded", "cpu", "bfloat16")
    assert (found.input_size, found.trained, len(found.weights_sha256)) == (96, True, 64)
    async with EmbeddedBackend(CONFIG) as backend:
        assert (backend.describe().trained, backend.describe().weights_sha256) == (False, "")
