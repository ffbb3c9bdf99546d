"""How much a model makes on this machine: a short run of real steps, as sessions would ask for them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np

from masklet.engine import Engine
from masklet.types import Prompt, StepRequest, TrackSettings

STEP_LIMIT_S = 0.05
"""Longest step that counts: a frame may have to wait for one step and then for its own, within 100 ms."""
_FILLING = 7  # frames until a memory bank is full
_TIMED = 7
_GAIN = 1.05  # a doubled batch must make this much more to be worth another doubling


def measure_capacity(
    engine: Engine, *, max_batch: int, limit_s: float, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Objects times frames per second that the engine makes, with full memory banks and one object a session.

    The batch is doubled as long as that makes more and a step takes no longer than `STEP_LIMIT_S`.

    Args:
        engine: nobody else uses it meanwhile.
        max_batch: sessions in one batch at most.
        limit_s: the run ends after about so many seconds, but never before its second frame.
        clock: seconds.
    """
    crowd = _Crowd(engine, clock, ends_s=clock() + limit_s)
    try:
        return _best(crowd, max_batch)
    finally:
        crowd.leave()


def _best(crowd: _Crowd, max_batch: int) -> float:
    best, size = 0.0, 1
    while size <= max_batch and not (best and crowd.is_over):
        step_s = crowd.step_time_s(size)
        if step_s is None or (size > 1 and step_s > STEP_LIMIT_S):
            break
        made, before = size / step_s, best
        best = max(made, before)
        if made < before * _GAIN:
            break
        size *= 2
    return best


class _Crowd:
    """Sessions with one object each, of frames as large as the model's input."""

    def __init__(self, engine: Engine, clock: Callable[[], float], *, ends_s: float) -> None:
        side = engine.network.config.input_size
        self._engine = engine
        self._clock = clock
        self._ends_s = ends_s
        self._image = np.random.default_rng(0).integers(0, 255, (side, side, 3), np.uint8)
        self._click = Prompt.clicks(1, [(side / 2, side / 2)])
        self._frames: dict[str, int] = {}

    def step_time_s(self, size: int) -> float | None:
        """The median step of so many sessions; None: there was no time for it."""
        newcomers = [f"calibration-{number}" for number in range(len(self._frames), size)]
        for name in newcomers:
            self._engine.open(name, TrackSettings())
            self._frames[name] = 0
        for _ in range(_FILLING):
            self._step(newcomers)
            if self.is_over:
                break
        if self.is_over and size > 1:
            return None
        taken = [self._step(self._frames)]
        while len(taken) < _TIMED and not self.is_over:
            taken.append(self._step(self._frames))
        return statistics.median(taken)

    def leave(self) -> None:
        """Close all sessions."""
        for name in self._frames:
            self._engine.close(name)

    @property
    def is_over(self) -> bool:
        """Whether the time is up."""
        return self._clock() >= self._ends_s

    def _step(self, names: list[str] | dict[str, int]) -> float:
        """One frame for each, in seconds."""
        requests = []
        for name in names:
            prompts = () if self._frames[name] else (self._click,)
            self._frames[name] += 1
            requests.append((name, StepRequest(self._frames[name], self._image, prompts)))
        started_s = self._clock()
        self._engine.step(requests)
        return self._clock() - started_s
