"""A session on a farm of Tritons, followed through what happens to them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from tests.routing.farm import SETTINGS, Farm, click, masks, request, undisturbed

from masklet.routing.link import Link
from masklet.routing.router import RoutedBackend
from masklet.types import StateOrigin, StepRequest, StepResult

PLAN = [request(1, click()), *(request(seq) for seq in range(2, 7)), request(7, click(2, 20.0)), *map(request, (8, 9))]


async def follow(
    backend: RoutedBackend, plan: Sequence[StepRequest], events: dict[int, Callable[[], None]] | None = None
) -> list[StepResult]:
    """Steps at ten frames a second; `events` happen before the frame of that number."""
    results = []
    for one in plan:
        if events and one.frame_seq in events:
            events[one.frame_seq]()
        results.append(await backend.step("s", one))
        await asyncio.sleep(0.1)
    return results


def origins(results: Sequence[StepResult]) -> dict[int, StateOrigin]:
    return {result.frame_seq: result.recovered for result in results if result.recovered}


def home(farm: Farm) -> str:
    (name,) = farm.holding("s")
    return name


@asynccontextmanager
async def opened(farm: Farm, **settings: Any) -> AsyncIterator[RoutedBackend]:
    """Over the whole farm, with the session open."""
    async with farm.routed(**settings) as backend:
        await backend.open("s", SETTINGS)
        yield backend


async def are_undisturbed(results: Sequence[StepResult], plan: Sequence[StepRequest] = PLAN) -> bool:
    """Whether masks are those of a run in which nothing happens; `results` answer a stretch of the plan."""
    first = [one.frame_seq for one in plan].index(results[0].frame_seq)
    expected = (await undisturbed(plan))[first : first + len(results)]
    return [masks(result) for result in results] == expected


def links(backend: RoutedBackend) -> dict[str, Link]:
    """After an ejection, the same address is another link."""
    return {link.address: link for link in backend._fleet.links()}
