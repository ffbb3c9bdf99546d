"""What is to be seen of the endpoints before there are any."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from tests.routing.farm import ROUTING, Farm

from masklet.observability.metrics import Metrics
from masklet.routing.discovery import Found
from masklet.routing.endpoint import EndpointState
from masklet.routing.fleet import Fleet
from masklet.routing.link import Link


class SilentDiscovery:
    """Waits for an API server that never answers."""

    async def watch(self) -> AsyncIterator[Found]:
        await asyncio.Event().wait()
        yield {}


async def nothing(link: Link) -> None:
    raise AssertionError(link)


async def test_without_a_word_from_discovery_no_triton_is_exported_as_none():
    metrics = Metrics()
    async with Fleet(SilentDiscovery(), Farm().client, ROUTING, metrics=metrics, drain=nothing):
        found = {
            state: metrics.registry.get_sample_value("masklet_triton_endpoints", {"state": state})
            for state in EndpointState
        }
    assert found == dict.fromkeys(EndpointState, 0.0)
