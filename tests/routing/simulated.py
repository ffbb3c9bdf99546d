"""An event loop whose time passes at once when there is nothing to do but wait."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

_T = TypeVar("_T")
_REAL_WAIT_S = 5.0  # with nothing at all to wait for, a test has hung


class _Skipping(selectors.DefaultSelector):
    """Instead of waiting it moves the clock on."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 1000.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(_REAL_WAIT_S if timeout is None else 0)
        if not ready:
            assert timeout is not None, "nothing will ever happen"
            self.now_s += timeout
        return ready


class SimulatedLoop(asyncio.SelectorEventLoop):
    """Sleeps and timeouts take no time; `time()` is as if they did."""

    def __init__(self) -> None:
        self._skipping = _Skipping()
        super().__init__(self._skipping)

    def time(self) -> float:
        return self._skipping.now_s


def simulate(scenario: Coroutine[Any, Any, _T]) -> _T:
    """Run it in simulated time."""
    with asyncio.Runner(loop_factory=SimulatedLoop) as runner:
        return runner.run(scenario)


def now_s() -> float:
    """The running loop's time, the clock of what is tested."""
    return asyncio.get_running_loop().time()
