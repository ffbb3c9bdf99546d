"""The Triton backend over a real Triton: owners, cancellation, batches, transports, death."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import urllib.request
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.backends.contract import SETTINGS, click, frame
from tests.backends.triton_process import CONFIG, READY_S, options, running_triton

from masklet.backends import triton_frames
from masklet.backends.base import Backend
from masklet.backends.embedded import EmbeddedBackend
from masklet.backends.triton import TritonBackend
from masklet.backends.triton_server import TritonServer
from masklet.config import RoutingConfig
from masklet.errors import (
    BackendError,
    BackendUnavailable,
    ConfigError,
    OverCapacity,
    SessionStateLost,
    SessionSuperseded,
)
from masklet.routing.discovery import ListedEndpoints
from masklet.routing.router import RoutedBackend
from masklet.types import StepRequest, StepResult

pytestmark = pytest.mark.triton
NOBODY = "127.0.0.1:9"  # the discard port: nothing listens


@pytest.fixture
async def backend() -> AsyncIterator[TritonBackend]:
    async with TritonBackend(running_triton().endpoint) as entered:
        yield entered


def with_logits(seq: int, *prompts) -> StepRequest:
    return StepRequest(seq, frame(seq).image, prompts, with_logits=True, with_pointers=True)


async def three_frames(backend: Backend, name: str) -> list[StepResult]:
    await backend.open(name, SETTINGS)
    requests = [with_logits(1, click(), click(2, 40, 10)), with_logits(2), with_logits(3)]
    return [await backend.step(name, request) for request in requests]


def numbers(results: list[StepResult]) -> list[tuple[object, ...]]:
    """All that is in them, to be compared exactly."""
    found: list[tuple[object, ...]] = []
    for one in (one for result in results for one in result.objects):
        arrays = [array.tobytes() for array in (one.mask, one.logits, one.pointer) if array is not None]
        found.append((one.object_id, one.object_score, one.predicted_iou, *arrays))
    return found


async def test_answers_equal_the_embedded_engine_s_bit_for_bit(backend):
    async with EmbeddedBackend(CONFIG) as embedded:
        assert numbers(await three_frames(backend, "same")) == numbers(await three_frames(embedded, "same"))
        assert backend.describe().weights_sha256 == embedded.describe().weights_sha256


async def test_a_state_moves_between_embedded_and_triton(backend):
    async with EmbeddedBackend(CONFIG) as embedded:
        await three_frames(backend, "here")
        await embedded.import_state("there", await backend.export_state("here"))
        there = await embedded.step("there", with_logits(4))
        assert numbers([await backend.step("here", with_logits(4))]) == numbers([there])


async def test_it_says_what_runs(backend):
    found = backend.describe()
    assert (found.model, found.backend, found.device, found.input_size) == (CONFIG.variant, "triton", "cpu", 64)
    assert backend.facts.max_sessions == 256


async def test_it_says_what_it_was_measured_to_make(backend):
    assert backend.measured_capacity > 0
    assert backend.stats().capacity == backend.measured_capacity


async def test_it_counts_the_load_of_all_its_clients(backend):
    before = backend.stats().load
    async with TritonBackend(running_triton().endpoint) as other:
        await other.open("loaded", replace(SETTINGS, frame_rate_hz=1000.0))
        await other.step("loaded", frame(1, click(), click(2, 40, 10)))
        await backend.ask_stats()
        assert 1990 < backend.stats().load - before < 2010
    await backend.ask_stats()
    assert backend.stats().load < before + 10


async def test_sessions_are_admitted_by_what_it_was_measured_to_make():
    discovery = ListedEndpoints([running_triton().endpoint])
    async with RoutedBackend(discovery, TritonBackend, RoutingConfig(capacity_share=1.0)) as routed:
        capacity = routed.stats().capacity
        half = replace(SETTINGS, frame_rate_hz=0.4 * capacity)  # or all but: it may not have forgotten other tests yet
        for name in ("first", "second"):
            await routed.open(name, half)
        with pytest.raises(OverCapacity, match=f"of {capacity:.1f}"):
            await routed.open("third", half)
        await routed.close("first")
        await routed.open("third", half)


@pytest.mark.parametrize("transport", ["raw", "shm", "auto"])
async def test_lossless_transports_give_the_same_answers(backend, transport):
    async with TritonBackend(running_triton().endpoint, transport=transport) as other:
        assert numbers(await three_frames(other, transport)) == numbers(await three_frames(backend, "reference"))


async def test_jpeg_is_lossy_but_close():
    async with TritonBackend(running_triton().endpoint, transport="jpeg") as backend:
        assert [len(result.objects) for result in await three_frames(backend, "jpeg")] == [2, 2, 2]


async def test_frames_go_raw_where_memory_is_not_shared(backend, tmp_path, monkeypatch):
    shared = numbers(await three_frames(backend, "shared"))
    monkeypatch.setattr(triton_frames, "SHARED_MEMORY", tmp_path)  # Triton does not look there
    async with TritonBackend(running_triton().endpoint) as other:
        assert numbers(await three_frames(other, "raw")) == shared
        assert not list(tmp_path.iterdir())


async def test_a_moment_without_room_for_frames_is_over_when_it_is_over(monkeypatch, caplog):
    async with TritonBackend(running_triton().endpoint, transport="shm") as backend:
        reference = numbers(await three_frames(backend, "plenty"))
        backend._slots.close()
        with monkeypatch.context() as full:
            full.setattr(os, "posix_fallocate", _no_room)
            assert numbers(await three_frames(backend, "none")) == reference
        assert caplog.text.count("sending it raw") == 1 and not backend._slots._free
        assert numbers(await three_frames(backend, "again")) == reference
        assert backend._slots._free


def _no_room(*_: object) -> None:
    raise OSError(errno.ENOSPC, "no room")


async def test_memory_that_must_be_shared_but_is_not_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(triton_frames, "SHARED_MEMORY", tmp_path)
    with pytest.raises(ConfigError, match=r"'shm', but .* does not see this host's shared memory"):
        await TritonBackend(running_triton().endpoint, transport="shm").__aenter__()


async def test_nothing_is_left_in_shared_memory(tmp_path, backend):
    await three_frames(backend, "left")
    ours = set(backend._slots._free)
    assert ours
    await backend.__aexit__(None, None, None)
    assert not any((triton_frames.SHARED_MEMORY / slot.name).exists() for slot in ours)


async def test_streams_share_batches(backend):
    names = [f"shared-{number}" for number in range(8)]
    for name in names:
        await backend.open(name, SETTINGS)
    before = backend.stats()

    async def follow(name: str) -> None:
        for seq in range(1, 7):
            await backend.step(name, frame(seq, *([click()] if seq == 1 else [])))

    await asyncio.gather(*map(follow, names))
    batches = backend.stats().batches - before.batches
    assert backend.stats().batched_steps - before.batched_steps == 48
    assert batches <= 32, f"48 steps took {batches} batches"


async def test_a_higher_epoch_fences_the_owner_of_old(backend):
    await three_frames(backend, "fenced")
    async with TritonBackend(running_triton().endpoint) as other:
        await other.attach("fenced", 2)
        for call in (backend.step("fenced", frame(4)), backend.export_state("fenced")):
            with pytest.raises(SessionSuperseded):
                await call
        await backend.close("fenced")  # no error, and not the new owner's loss
        assert len((await other.step("fenced", frame(4))).objects) == 2
        assert len((await other.step("fenced", frame(5))).objects) == 2


async def test_a_session_that_was_disowned_outlives_its_backend():
    async with TritonBackend(running_triton().endpoint) as first:
        before = numbers(await three_frames(first, "handed"))
        first.disown("handed")
        with pytest.raises(SessionStateLost):
            await first.step("handed", frame(4))
    async with TritonBackend(running_triton().endpoint) as second:
        await second.attach("handed", 2)
        assert [found[0] for found in numbers([await second.step("handed", with_logits(4))])] == [1, 2]
        assert before


async def test_opening_another_owner_s_session_is_refused_and_does_not_disturb_it(backend):
    await three_frames(backend, "taken")
    async with TritonBackend(running_triton().endpoint) as other:
        with pytest.raises(BackendError, match="already open"):
            await other.open("taken", SETTINGS)
        with pytest.raises(SessionStateLost):
            await other.step("taken", frame(4))
    assert len((await backend.step("taken", frame(4))).objects) == 2


async def test_a_step_whose_waiter_left_is_finished_and_the_next_one_waits(backend):
    undisturbed = numbers(await three_frames(backend, "undisturbed"))
    await backend.open("left", SETTINGS)
    await backend.step("left", with_logits(1, click(), click(2, 40, 10)))
    leaving = asyncio.create_task(backend.step("left", with_logits(2)))
    while not backend._sending:
        await asyncio.sleep(0)
    leaving.cancel()
    last = await backend.step("left", with_logits(3))
    assert leaving.cancelled()
    assert numbers([last]) == undisturbed[-2:]


async def test_a_step_cancelled_before_it_was_sent_is_not_run(backend):
    await backend.open("queued", SETTINGS)
    first = asyncio.create_task(backend.step("queued", frame(1)))
    second = asyncio.create_task(backend.step("queued", frame(2, click())))
    await asyncio.sleep(0)
    second.cancel()
    await asyncio.wait([first, second])
    assert (await backend.step("queued", frame(3))).objects == ()


async def test_what_is_held_is_on_triton_s_metrics_port(backend):
    await three_frames(backend, "measured")
    url = f"http://127.0.0.1:{running_triton().metrics_port}/metrics"
    text = (await asyncio.to_thread(urllib.request.urlopen, url, timeout=10)).read().decode()
    gauges = dict(line.rsplit(" ", 1) for line in text.splitlines() if line.startswith("masklet_triton"))
    labels = '{model="sam2_track",version="1"}'
    assert float(gauges[f"masklet_triton_sessions{labels}"]) == 1
    assert float(gauges[f"masklet_triton_bank_bytes{labels}"]) > 0
    assert float(gauges['masklet_triton_batches_total{model="sam2_track",streams="1",version="1"}']) >= 3


async def test_no_triton_is_said_after_the_time_granted():
    with pytest.raises(BackendUnavailable, match=r"Triton at 127.0.0.1:9 cannot be used after 0.3 s"):
        await TritonBackend(NOBODY, connect_timeout_s=0.3).__aenter__()


def stub_of(server: TritonServer) -> int:
    """The process id of the Python model's process."""
    children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
    threads = Path(f"/proc/{server.process.pid}/task").iterdir()
    found = {int(pid) for thread in threads for pid in (thread / "children").read_text().split()}
    (stub,) = found | set(map(int, children))
    return stub


@pytest.mark.slow
async def test_a_dead_model_and_a_dead_triton_are_unavailable(tmp_path, monkeypatch):
    monkeypatch.setattr(TritonServer, "_watch", lambda self, pid: None)  # it would not outlive its model for long
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(TritonServer(options(tmp_path)))
        server.wait_ready(READY_S)
        backend = await TritonBackend(server.endpoint).__aenter__()
        await three_frames(backend, "doomed")
        os.kill(stub_of(server), signal.SIGKILL)
        with pytest.raises(BackendUnavailable, match="not healthy"):
            await asyncio.wait_for(backend.step("doomed", frame(4)), 30)
        server.process.kill()
        with pytest.raises(BackendUnavailable, match="UNAVAILABLE"):
            await asyncio.wait_for(backend.step("doomed", frame(5)), 30)
        await asyncio.wait_for(backend.__aexit__(None, None, None), 30)
    assert not [path for path in server._regions if path.exists()]
    assert server._regions


async def test_results_are_of_the_frame_asked_for(backend):
    (result,) = (await three_frames(backend, "asked"))[-1:]
    assert (result.frame_seq, result.objects[0].mask.dtype) == (3, np.dtype(bool))


async def test_a_model_that_forgets_sooner_than_sessions_end_is_warned_about(caplog):
    async with TritonBackend(running_triton().endpoint) as backend:
        forgets_s = backend.facts.idle_timeout_s
    async with TritonBackend(running_triton().endpoint, quiet_s=forgets_s - 1):
        assert "idle_timeout_s" not in caplog.text
    async with TritonBackend(running_triton().endpoint, quiet_s=forgets_s):
        assert f"forgets sessions after triton.idle_timeout_s = {forgets_s:g} s" in caplog.text
