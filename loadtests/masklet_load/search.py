"""The largest number of streams that meets the SLO: doubling, then halving what is left.

A level that does not meet it is tried once more, and the better try counts: a neighbour on the machine is not the
service.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from masklet_load.report import Level, Verdict
from masklet_load.verdict import MET, MISSED, VOID

_RESOLUTION = 0.05
_REFUSED = ("sessions refused", "sessions never opened")


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
        level = await _better_of_two(streams, measure, levels)
        if level.verdict.outcome == VOID:
            return low, tuple(levels), Verdict(VOID, (f"at {streams} streams: {level.verdict.why[0]}",))
        low, high = (streams, high) if level.verdict.outcome == MET else (low, streams)
        streams = min(2 * low, most) if high > most else (low + high) // 2
    notes = [f"{most} streams, the most that were to be tried, still met the SLO"] if low == most else []
    if [level.streams for level in levels].count(low) > 1:
        notes.append(f"{low} streams met it in the second try")
    beyond = [why for level in levels if level.streams == high for why in level.verdict.why]
    if beyond and all(why.endswith(_REFUSED) for why in beyond):
        notes.append("the limit is what the server admits, not the SLO: see its --routing.admit_by_load")
    return low, tuple(levels), Verdict(MET, tuple(notes))


async def _better_of_two(streams: int, measure: Callable[[int], Awaitable[Level]], levels: list[Level]) -> Level:
    """The second try is only made if it matters. All tries are added to `levels`."""
    levels.append(first := await measure(streams))
    if first.verdict.outcome == MET:
        return first
    levels.append(second := await measure(streams))
    return first if second.verdict.outcome == VOID and first.verdict.outcome == MISSED else second
