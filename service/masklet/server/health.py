"""The health service: grpc's own, whose watchers would cut each other off."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Collection
from typing import Any

from grpc_health.v1 import health


def health_service(services: Collection[str]) -> Any:
    """A servicer of `grpc.health.v1.Health`.

    The library's `Watch` forgets what the watchers of a service wait on when one of them leaves, and all others hear of
    nothing more.

    Args:
        services: the names whose watchers are told until they leave.
    """
    servicer = health.aio.HealthServicer()  # type: ignore[attr-defined]
    servicer._server_watchers = _Conditions(services)
    return servicer


class _Conditions(defaultdict[str, asyncio.Condition]):
    """What watchers wait on, by service; it stays for services that there are."""

    def __init__(self, services: Collection[str]) -> None:
        super().__init__(asyncio.Condition)
        self._services = frozenset(services)

    def __delitem__(self, service: str) -> None:
        if service not in self._services:
            super().__delitem__(service)
