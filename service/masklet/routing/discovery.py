"""Where endpoints come from: a fixed list, names that are looked up again and again, or the Kubernetes API."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from enum import StrEnum
from typing import Protocol

_DNS = "dns:"
_KUBERNETES = "k8s:"
_LOG = logging.getLogger(__name__)

Resolve = Callable[[str, int], Awaitable[frozenset[str]]]


class Standing(StrEnum):
    """What those who run an endpoint want of it."""

    WANTED = "wanted"  # takes sessions
    HELD = "held"  # keeps the sessions it has, takes no new ones
    LEAVING = "leaving"  # is about to end: sessions move away


Found = Mapping[str, Standing]  # by address, host:port


class Discovery(Protocol):
    """Says which addresses (host:port) there are."""

    def watch(self) -> AsyncIterator[Found]:
        """All addresses, at once and then whenever something has changed. It never raises; it may end."""
        ...


class ListedEndpoints:
    """Addresses that do not change."""

    def __init__(self, addresses: Sequence[str]) -> None:
        self._addresses = frozenset(addresses)

    async def watch(self) -> AsyncIterator[Found]:
        """The list, once."""
        yield _wanted(self._addresses)


class DnsEndpoints:
    """All addresses of some names, besides addresses that do not change.

    A look-up that fails, or finds nothing, leaves what was known: the name service is not to take streams down.

    Args:
        names: "host:port", looked up.
        listed: addresses taken as they are.
        period_s: pause between look-ups.
        resolve: finds the addresses of (host, port); raises OSError.
    """

    def __init__(
        self,
        names: Sequence[str],
        *,
        listed: Sequence[str] = (),
        period_s: float = 5.0,
        resolve: Resolve | None = None,
    ) -> None:
        self._known: dict[str, frozenset[str]] = {name: frozenset() for name in names}
        self._listed = frozenset(listed)
        self._period_s = period_s
        self._resolve = resolve or resolve_name

    async def watch(self) -> AsyncIterator[Found]:
        """Looks up for ever."""
        told: frozenset[str] | None = None
        while True:
            for name in self._known:
                await self._look_up(name)
            found = self._listed.union(*self._known.values())
            if found != told:
                told = found
                yield _wanted(found)
            await asyncio.sleep(self._period_s)

    async def _look_up(self, name: str) -> None:
        host, _, port = name.rpartition(":")
        try:
            found = await self._resolve(host.strip("[]"), int(port))
        except (OSError, UnicodeError) as error:  # the latter: no host name at all, say with an empty part
            _LOG.warning("endpoint name not found, going on with what was known", extra={"name_": name, "why": error})
            return
        if found:
            self._known[name] = found


def split_endpoints(endpoints: Sequence[str]) -> tuple[list[str], list[str]]:
    """Those that `discover` takes, and those of Kubernetes ("k8s:...")."""
    theirs = [endpoint for endpoint in endpoints if endpoint.startswith(_KUBERNETES)]
    return [endpoint for endpoint in endpoints if endpoint not in theirs], theirs


class JoinedEndpoints:
    """What several discoveries find. Of an address that several name, the one who wants least of it is believed."""

    def __init__(self, parts: Sequence[Discovery]) -> None:
        self._parts = parts

    async def watch(self) -> AsyncGenerator[Found, None]:
        """Watches all, for ever."""
        found: dict[int, Found] = {}
        changes: asyncio.Queue[None] = asyncio.Queue(1)

        async def follow(number: int, part: Discovery) -> None:
            async for found[number] in part.watch():
                if changes.empty():
                    changes.put_nowait(None)

        tasks = [asyncio.create_task(follow(number, part)) for number, part in enumerate(self._parts)]
        try:
            while True:
                await changes.get()
                yield _joined(list(found.values()))
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)


async def resolve_name(host: str, port: int) -> frozenset[str]:
    """All addresses of a name. Raises OSError."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return frozenset(_address(family, str(target[0]), port) for family, _, _, _, target in found)


def discover(endpoints: Sequence[str], *, dns_period_s: float) -> Discovery:
    """What `triton.endpoints` says: "host:port" is an address, "dns:host:port" a name to look up.

    Those of Kubernetes are `masklet.routing.kubernetes`'s, see `split_endpoints`.
    """
    names = [endpoint.removeprefix(_DNS) for endpoint in endpoints if endpoint.startswith(_DNS)]
    listed = [endpoint for endpoint in endpoints if not endpoint.startswith(_DNS)]
    if not names:
        return ListedEndpoints(listed)
    return DnsEndpoints(names, listed=listed, period_s=dns_period_s)


def _joined(parts: Sequence[Found]) -> Found:
    order = list(Standing)
    joined: dict[str, Standing] = {}
    for address, standing in sorted(item for part in parts for item in part.items()):
        joined[address] = max(standing, joined.get(address, standing), key=order.index)
    return joined


def _wanted(addresses: frozenset[str]) -> Found:
    return dict.fromkeys(sorted(addresses), Standing.WANTED)


def _address(family: int, host: str, port: int) -> str:
    return f"[{host}]:{port}" if family == socket.AF_INET6 else f"{host}:{port}"
