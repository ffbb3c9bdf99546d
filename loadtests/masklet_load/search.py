"""The largest number of streams that meets the SLO: doubling, then halving what is left.

A level that misses is tried once more, and what comes out then counts: a neighbour on the machine is not the service.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from masklet_load.report import Level, Verdict
from masklet_load.verdict import MET, VOID

_RESOLUTION = 0.05


async def find_capacity(
    measure: Callable[[int], Awaitable[Level]], *, first: int, most: int
) -> tuple[int, tuple[Level, ...], Verdict]:
    """Capacity, all levels tried, and whether the result is valid.

    Args:
        measure: tries a number of streams.
        first: number tried first.
        most: number tried at most.
    """
    low, high, levels = 0, most + 1, list[Level]()
    streams = min(first, most)
    while high - low > max(1, int(low * _RESOLUTION)):
        level = await measure(streams)
        levels.append(level)
        if level.verdict.outcome != MET:
            level = await measure(streams)
            levels.append(level)
        if level.verdict.outcome == VOID:
            return low, tuple(levels), Verdict(VOID, (f"at {streams} streams: {level.verdict.why[0]}",))
        low, high = (streams, high) if level.verdict.outcome == MET else (low, streams)
        streams = min(2 * low, most) if high > most else (low + high) // 2
    note = (f"{most} streams, the most that were to be tried, still met the SLO",) if low == most else ()
    return low, tuple(levels), Verdict(MET, note)
