"""Facts nobody reports, sampled: what the backend holds, and how late the event loop is."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from masklet.observability.metrics import Metrics
from masklet.types import BackendStats

_LOG = logging.getLogger(__name__)


async def sample_forever(
    metrics: Metrics,
    stats: Callable[[], BackendStats],
    *,
    longest_wait_s: Callable[[], float] = lambda: 0.0,
    period_s: float = 1.0,
) -> None:
    """Samples every `period_s` seconds until cancelled; `stats` is a backend's, `longest_wait_s` the registry's.

    A backend that cannot say what it holds is logged, once until it can again; the rest is sampled nevertheless.
    """
    failing = False
    while True:
        started = time.monotonic()
        await asyncio.sleep(period_s)
        metrics.event_loop_lag.observe(max(0.0, time.monotonic() - started - period_s))
        metrics.time_since_last_result.set(longest_wait_s())
        try:
            metrics.observe_backend(stats())
            failing = False
        except Exception:
            if not failing:
                _LOG.exception("the backend cannot say what it holds")
            failing = True
