"""Checkpoints are counted by what became of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from tests.routing.farm import SETTINGS, Farm, click, request
from tests.routing.simulated import simulate

from masklet.errors import BackendError


def counted(
    sessions: int, *, export: Callable[[str], Coroutine[Any, Any, bytes]] | None = None, **settings: Any
) -> Farm:
    """A farm after one prompt in each of some sessions, each fetched once."""

    async def scenario() -> Farm:
        farm = Farm("a:1")
        async with farm.routed(checkpoint_every_frames=1000, **settings) as backend:
            if export is not None:
                farm["a:1"].backend.export_state = export  # type: ignore[method-assign,assignment]
            for name in (f"s{number}" for number in range(sessions)):
                await backend.open(name, SETTINGS)
                await backend.step(name, request(1, click()))
                await asyncio.sleep(1.0)
        return farm

    return simulate(scenario())


def outcomes(farm: Farm) -> dict[str, float | None]:
    sample = farm.metrics.registry.get_sample_value
    names = ("kept", "evicted", "refused", "failed")
    return {name: found for name in names if (found := sample("masklet_checkpoints_total", {"outcome": name}))}


def test_states_that_were_fetched_are_kept():
    farm = counted(3)
    assert outcomes(farm) == {"kept": 3}
    assert farm.metrics.registry.get_sample_value("masklet_checkpoint_bytes_limit") == 512 * 1024 * 1024


def test_states_that_give_way_to_others_are_evicted():
    size = counted_bytes()
    assert outcomes(counted(3, checkpoint_bytes=size)) == {"kept": 3, "evicted": 2}


def test_a_state_above_the_whole_budget_is_refused():
    assert outcomes(counted(1, checkpoint_bytes=1)) == {"refused": 1}


def test_a_state_that_cannot_be_fetched_has_failed():
    async def fails(_: str) -> bytes:
        raise BackendError("no")

    assert outcomes(counted(1, export=fails)) == {"failed": 1}


def counted_bytes() -> int:
    """Of one session's state."""

    async def scenario() -> int:
        farm = Farm("a:1")
        async with farm.routed() as backend:
            await backend.open("s0", SETTINGS)
            await backend.step("s0", request(1, click()))
            return len(await backend.export_state("s0"))

    return simulate(scenario())
