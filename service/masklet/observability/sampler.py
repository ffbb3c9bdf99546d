"""Facts nobody reports, sampled: what the backend holds, and how late the event loop is."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from masklet.observability.metrics import Metrics
from masklet.types import BackendStats


async def sample_forever(
    metrics: Metrics,
    stats: Callable[[], BackendStats],
    *,
    longest_wait_s: Callable[[], float] = lambda: 0.0,
    period_s: float = 1.0,
) -> None:
    """Samples every `period_s` seconds until cancelled; `stats` is a backend's, `longest_wait_s` the registry's."""
    while True:
        started = time.monotonic()
        await asyncio.sleep(period_s)
        metrics.event_loop_lag.observe(max(0.0, time.monotonic() - started - period_s))
        metrics.observe_backend(stats())
        metrics.time_since_last_result.set(longest_wait_s())
