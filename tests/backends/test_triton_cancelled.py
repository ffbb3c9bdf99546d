"""What a client of Triton knows: sessions whose caller left, or that were lost, and how old its count of them is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.backends.contract import SETTINGS, frame
from tests.backends.liar import Liar, response, serving, small_model

from masklet.backends import triton_frames
from masklet.backends.triton import TritonBackend
from masklet.backends.triton_messages import Answer, Call
from masklet.backends.triton_model import TritonModel
from masklet.backends.triton_tensors import Operation
from masklet.errors import AdmissionRefused, SessionStateLost
from masklet.types import BackendStats


class Listener(Liar):
    """Knows what has reached it."""

    def __init__(self, model: TritonModel) -> None:
        super().__init__(model)
        self.model = model
        self.heard: list[Operation] = []

    async def ModelInfer(self, request, context):
        self.heard.append(Call.from_bytes(request.raw_input_contents[0]).operation)
        return await super().ModelInfer(request, context)

    async def hears(self, operation: Operation) -> None:
        async with asyncio.timeout(10):
            while operation not in self.heard:
                await asyncio.sleep(0.01)


@pytest.fixture
async def listener(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Listener, TritonBackend]]:
    monkeypatch.setattr(triton_frames, "SHARED_MEMORY", tmp_path)
    servicer = Listener(small_model())
    async with serving(servicer) as endpoint, TritonBackend(endpoint) as backend:
        yield servicer, backend


async def opening_left(servicer: Listener, backend: TritonBackend) -> None:
    """OPEN has reached it, is not answered, and nobody waits for that any more."""
    servicer.hold.clear()
    opening = asyncio.create_task(backend.open("s", SETTINGS))
    await servicer.hears(Operation.OPEN)
    opening.cancel()
    await asyncio.wait([opening])
    assert opening.cancelled()


async def test_attaching_waits_for_an_opening_on_its_way(listener):
    servicer, backend = listener
    await opening_left(servicer, backend)
    attaching = asyncio.create_task(backend.attach("s", 2))
    await asyncio.sleep(0.1)
    assert Operation.ATTACH not in servicer.heard  # it might overtake, and find nothing
    servicer.hold.set()
    await attaching
    await backend.close("s")
    assert servicer.model.stats().sessions == 0


async def test_closing_waits_for_an_opening_on_its_way(listener):
    servicer, backend = listener
    await opening_left(servicer, backend)
    closing = asyncio.create_task(backend.close("s"))
    await asyncio.sleep(0.1)
    assert Operation.CLOSE not in servicer.heard
    servicer.hold.set()
    await closing
    assert servicer.model.stats().sessions == 0


async def test_an_opening_refused_when_nobody_waits_is_forgotten(listener):
    servicer, backend = listener
    refusal = Answer(BackendStats(0, 0, 0, 0), AdmissionRefused("full")).to_bytes()
    servicer.lie = lambda _: response(refusal)
    await opening_left(servicer, backend)
    servicer.hold.set()
    with pytest.raises(AdmissionRefused):  # a lie, and with it the opening's answer is here
        await backend.attach("s", 2)
    servicer.lie = None
    with pytest.raises(SessionStateLost):
        await backend.step("s", frame(1))
    servicer.model.close()
    await backend.open("s", SETTINGS)


async def test_a_session_found_lost_may_be_opened_again(listener):
    servicer, backend = listener
    await backend.open("s", SETTINGS)
    servicer.model.close()  # it forgets idle ones
    with pytest.raises(SessionStateLost):
        await backend.attach("s", 2)
    await backend.open("s", SETTINGS)
    assert servicer.model.stats().sessions == 1


async def test_what_is_held_is_as_old_as_the_newest_answer(listener):
    servicer, backend = listener
    await backend.open("s", SETTINGS)
    await asyncio.sleep(0.1)
    assert 0.1 <= backend.stats_age_s() < 10
    servicer.model.close()  # all sessions, and nobody says so
    assert backend.stats().sessions == 1
    before_s = backend.stats_age_s()
    await backend.ask_stats()
    assert backend.stats_age_s() < before_s
    assert backend.stats().sessions == 0
