"""How much load a session is, how much a backend takes, and who is refused."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import numpy as np
import pytest
from tests.backends.contract import click, frame
from tests.routing.farm import Farm

from masklet.backends.admission import Admission, needs_measuring, usable_capacity
from masklet.backends.base import Backend
from masklet.backends.embedded import EmbeddedBackend
from masklet.backends.fake import FakeBackend
from masklet.backends.load import LoadMeter
from masklet.config import Config, ModelConfig, RoutingConfig
from masklet.config_file import load_config
from masklet.errors import BackendError, ConfigError, OverCapacity
from masklet.routing.discovery import ListedEndpoints
from masklet.routing.router import RoutedBackend
from masklet.types import ObjectMask, StepResult, TrackSettings

TEN = RoutingConfig(capacity_object_frames_s=10.0, reserved_object_frames_s=2.0)
MODEL = ModelConfig(variant="mini", device="cpu", precision="float32", threads=1)


@dataclass
class Clock:
    now_s: float = 100.0

    def __call__(self) -> float:
        return self.now_s


def at(frame_rate_hz: float) -> TrackSettings:
    return TrackSettings(frame_rate_hz=frame_rate_hz)


def answered(objects: int, *, revised: bool = False) -> StepResult:
    mask = np.ones((4, 4), bool)
    return StepResult(1, tuple(ObjectMask(number, mask, 1.0, 1.0) for number in range(objects)), revised=revised)


@pytest.mark.parametrize(
    ("settings", "measured", "capacity"),
    [
        (RoutingConfig(), 100.0, 70.0),
        (RoutingConfig(capacity_share=0.5), 100.0, 50.0),
        (RoutingConfig(capacity_object_frames_s=30.0), 100.0, 30.0),
        (RoutingConfig(), 0.0, 0.0),
        (RoutingConfig(admit_by_load=False, capacity_object_frames_s=30.0), 100.0, 0.0),
    ],
)
def test_what_is_declared_wins_over_a_share_of_what_was_measured(
    settings: RoutingConfig, measured: float, capacity: float
) -> None:
    assert usable_capacity(settings, measured) == capacity


def test_nothing_is_measured_where_it_does_not_count() -> None:
    assert needs_measuring(RoutingConfig())
    assert not needs_measuring(RoutingConfig(admit_by_load=False))
    assert not needs_measuring(TEN)


@pytest.mark.parametrize("value", ["-1", "nan", "inf"])
@pytest.mark.parametrize("key", ["routing.capacity_object_frames_s", "routing.capacity_share", "model.calibration_s"])
def test_a_capacity_that_is_none_is_refused_by_name(key: str, value: str) -> None:
    with pytest.raises(ConfigError, match=key):
        load_config(None, {}, {key: value})


def test_a_named_rate_is_reserved_for_each_object() -> None:
    clock = Clock()
    meter = LoadMeter(2.0, frame_rate_hz=5.0, clock=clock)
    assert (meter.load, meter.load_with(3)) == (5.0, 15.0)
    meter.note(answered(3))
    assert meter.load == 15.0
    meter.note(answered(1, revised=True))  # a correction lists only what it corrects
    assert meter.load == 15.0


def test_more_than_was_said_counts_in_full() -> None:
    clock = Clock()
    meter = LoadMeter(2.0, frame_rate_hz=5.0, clock=clock)
    for _ in range(400):
        clock.now_s += 0.1
        meter.note(answered(1))
    assert 9.5 < meter.load < 10.5
    clock.now_s += 60
    assert meter.load == 5.0


def test_a_session_nobody_works_with_reserves_nothing() -> None:
    clock = Clock()
    meter = LoadMeter(2.0, frame_rate_hz=5.0, forgotten_after_s=30.0, clock=clock)
    clock.now_s += 29
    assert meter.load == 5.0
    clock.now_s += 2
    assert meter.load == 0.0


def test_those_who_were_admitted_before_are_let_in_and_count() -> None:
    admission = Admission(TEN, clock=Clock())
    for number in range(8):
        admission.take(str(number), at(2.0))
    assert admission.load == 16.0
    with pytest.raises(OverCapacity, match=r"^2.0 objects x frames/s more are asked for; 16.0 of 10.0 are taken\."):
        admission.admit("new", TrackSettings())


@pytest.mark.parametrize(("objects", "load"), [(0, 2.0), (1, 2.0), (4, 8.0)])
def test_those_who_were_admitted_elsewhere_count_with_all_their_objects(objects: int, load: float) -> None:
    admission = Admission(TEN, clock=Clock())
    admission.take("one", at(2.0), objects)
    assert admission.load == load
    admission.take("one", at(2.0), 7)  # it is here already
    assert admission.load == load


async def fake() -> Backend:
    return FakeBackend(routing=TEN)


async def embedded() -> Backend:
    return EmbeddedBackend(MODEL, routing=TEN)


async def routed() -> Backend:
    farm = Farm("a:1")
    return RoutedBackend(ListedEndpoints(["a:1"]), farm.client, TEN)


@pytest.fixture(params=[fake, embedded, routed], ids=lambda make: make.__name__)
async def backend(request: pytest.FixtureRequest) -> AsyncIterator[Backend]:
    make: Callable[[], object] = request.param
    async with await make() as entered:  # type: ignore[misc]
        yield entered


async def test_a_backend_takes_as_much_as_it_has_room_for(backend: Backend) -> None:
    await backend.open("one", at(6.0))
    await backend.open("two", TrackSettings())
    assert (backend.stats().load, backend.stats().capacity) == (8.0, 10.0)
    with pytest.raises(OverCapacity, match=r"^3.0 objects x frames/s") as caught:
        await backend.open("three", at(3.0))
    assert caught.value.retry_after_s
    assert backend.stats().sessions == 2
    await backend.open("three", TrackSettings())


async def test_a_session_that_ends_makes_room(backend: Backend) -> None:
    await backend.open("one", at(6.0))
    await backend.open("two", at(4.0))
    with pytest.raises(OverCapacity):
        await backend.open("three", at(6.0))
    await backend.close("one")
    await backend.open("three", at(6.0))
    assert backend.stats().load == 10.0


async def test_one_that_is_alone_may_ask_for_more_than_there_is(backend: Backend) -> None:
    await backend.open("one", at(60.0))
    backend.reserve("one", 5)
    with pytest.raises(OverCapacity):
        await backend.open("two", TrackSettings())


async def test_an_imported_session_is_let_in_with_its_load(backend: Backend) -> None:
    await backend.open("one", at(6.0))
    await backend.step("one", frame(1, click()))
    await backend.import_state("two", await backend.export_state("one"))
    assert backend.stats().sessions == 2


async def test_an_embedded_backend_counts_the_objects_of_a_state_it_imports() -> None:
    async with await embedded() as backend:
        await backend.open("one", at(2.0))
        await backend.step("one", frame(1, click(1), click(2), click(3)))
        assert backend.stats().load == 6.0
        await backend.import_state("two", await backend.export_state("one"))
        assert backend.stats().load == 12.0


async def test_objects_are_added_as_long_as_there_is_room(backend: Backend) -> None:
    await backend.open("one", at(3.0))
    await backend.open("two", at(3.0))
    backend.reserve("one", 2)
    assert backend.stats().load == 9.0
    with pytest.raises(OverCapacity, match=r"9.0 of 10.0"):
        backend.reserve("two", 2)
    backend.reserve("two", 1)
    await backend.step("one", frame(1, click()))  # one object came, not two
    backend.reserve("two", 2)


async def test_an_open_that_fails_reserves_nothing(backend: Backend) -> None:
    await backend.open("one", at(3.0))
    with pytest.raises(BackendError, match="already open"):
        await backend.open("one", at(3.0))
    assert backend.stats().load == 3.0
    await backend.close("one")
    assert backend.stats().load == 0.0


async def test_a_model_of_unknown_capacity_refuses_nobody() -> None:
    async with FakeBackend(routing=Config().routing) as backend:
        for number in range(50):
            await backend.open(str(number), at(1000.0))
        assert (backend.stats().load, backend.stats().capacity) == (50_000.0, 0.0)
