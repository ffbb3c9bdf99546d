"""Where endpoints come from: a fixed list, or names that are looked up again and again."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Protocol

_DNS = "dns:"
_LOG = logging.getLogger(__name__)

Resolve = Callable[[str, int], Awaitable[frozenset[str]]]


class Discovery(Protocol):
    """Says which addresses (host:port) there are."""

    def watch(self) -> AsyncIterator[frozenset[str]]:
        """All addresses, at once and then whenever they have changed. It never raises; it may end."""
        ...


class ListedEndpoints:
    """Addresses that do not change."""

    def __init__(self, addresses: Sequence[str]) -> None:
        self._addresses = frozenset(addresses)

    async def watch(self) -> AsyncIterator[frozenset[str]]:
        """The list, once."""
        yield self._addresses


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

    async def watch(self) -> AsyncIterator[frozenset[str]]:
        """Looks up for ever."""
        told: frozenset[str] | None = None
        while True:
            for name in self._known:
                await self._look_up(name)
            found = self._listed.union(*self._known.values())
            if found != told:
                told = found
                yield found
            await asyncio.sleep(self._period_s)

    async def _look_up(self, name: str) -> None:
        host, _, port = name.rpartition(":")
        try:
            found = await self._resolve(host.strip("[]"), int(port))
        except OSError as error:
            _LOG.warning("endpoint name not found, going on with what was known", extra={"name_": name, "why": error})
            return
        if found:
            self._known[name] = found


async def resolve_name(host: str, port: int) -> frozenset[str]:
    """All addresses of a name. Raises OSError."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return frozenset(_address(family, str(target[0]), port) for family, _, _, _, target in found)


def discover(endpoints: Sequence[str], *, dns_period_s: float) -> Discovery:
    """What `triton.endpoints` says: "host:port" is an address, "dns:host:port" a name to look up."""
    names = [endpoint.removeprefix(_DNS) for endpoint in endpoints if endpoint.startswith(_DNS)]
    listed = [endpoint for endpoint in endpoints if not endpoint.startswith(_DNS)]
    if not names:
        return ListedEndpoints(listed)
    return DnsEndpoints(names, listed=listed, period_s=dns_period_s)


def _address(family: int, host: str, port: int) -> str:
    return f"[{host}]:{port}" if family == socket.AF_INET6 else f"{host}:{port}"
