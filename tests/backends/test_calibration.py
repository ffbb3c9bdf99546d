"""What a model makes, measured by real steps on a clock of our own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from masklet.backends.calibration import measure_capacity
from masklet.backends.embedded import EmbeddedBackend
from masklet.config import ModelConfig, RoutingConfig
from masklet.engine import EncodedFrame, Engine, EngineSettings
from masklet.errors import MaskletError
from masklet.model import build
from masklet.types import StepRequest, StepResult

MODEL = ModelConfig(variant="mini", device="cpu", precision="float32", threads=1)


class TimedEngine(Engine):
    """A real engine whose steps take as long as `takes` says; `batches` are their sizes."""

    def __init__(self, takes: Callable[[int], float]) -> None:
        super().__init__(build("mini", seed=0), EngineSettings("cpu", "float32"))
        self.takes = takes
        self.now_s = 0.0
        self.batches: list[int] = []

    def step(
        self, requests: Sequence[tuple[str, StepRequest]], encoded: Sequence[EncodedFrame | None] = ()
    ) -> list[StepResult | MaskletError]:
        answers = super().step(requests, encoded)
        assert [len(answer.objects) for answer in answers if isinstance(answer, StepResult)] == [1] * len(requests)
        self.now_s += self.takes(len(requests))
        self.batches.append(len(requests))
        return answers


def measured(engine: TimedEngine, *, limit_s: float = 1.0, max_batch: int = 4) -> float:
    return measure_capacity(engine, max_batch=max_batch, limit_s=limit_s, clock=lambda: engine.now_s)


def test_one_by_one_where_a_batch_gains_nothing() -> None:
    assert measured(TimedEngine(lambda size: 0.02 * size)) == pytest.approx(50)


def test_what_batches_gain_counts() -> None:
    assert measured(TimedEngine(lambda size: 0.01 + 0.0001 * size)) == pytest.approx(4 / 0.0104)


def test_no_batch_counts_whose_frames_would_come_late() -> None:
    assert measured(TimedEngine(lambda size: 0.03 + 0.007 * size), limit_s=5.0) == pytest.approx(2 / 0.044)


def test_banks_are_full_before_time_is_taken() -> None:
    engine = TimedEngine(lambda size: 0.001)
    assert measured(engine, max_batch=1) == pytest.approx(1000)
    assert len(engine.batches) == 14


@pytest.mark.parametrize(("step_s", "frames"), [(5.0, 2), (0.3, 5)])
def test_a_slow_model_is_measured_in_bounded_time(step_s: float, frames: int) -> None:
    engine = TimedEngine(lambda size: step_s)
    assert measured(engine) == pytest.approx(1 / step_s)
    assert engine.batches == [1] * frames


def test_nothing_is_left_of_it() -> None:
    engine = TimedEngine(lambda size: 0.01)
    measured(engine)
    assert (engine.sessions, engine.bank_bytes) == ({}, 0)


async def test_the_embedded_backend_measures_if_that_is_wanted() -> None:
    quick = replace(MODEL, calibration_s=0.1)
    async with EmbeddedBackend(quick, routing=RoutingConfig(capacity_share=0.5)) as backend:
        assert backend.stats().capacity > 0
        assert backend.stats().sessions == 0


@pytest.mark.parametrize(
    ("config", "routing", "capacity"),
    [
        (replace(MODEL, calibration_s=0), RoutingConfig(), 0.0),
        (MODEL, RoutingConfig(capacity_object_frames_s=12.0), 12.0),
        (MODEL, RoutingConfig(admit_by_load=False), 0.0),
        (MODEL, None, 0.0),
    ],
    ids=["not wanted", "declared", "not limited", "by default"],
)
async def test_else_it_does_not(config: ModelConfig, routing: RoutingConfig | None, capacity: float, caplog) -> None:
    caplog.set_level("INFO")
    async with EmbeddedBackend(config, routing=routing) as backend:
        assert backend.stats().capacity == capacity
    assert "calibrated" not in caplog.text
