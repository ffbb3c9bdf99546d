"""All endpoints: which there are, which can be used, and which one a session gets."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from types import TracebackType
from typing import Self

from masklet.config import RoutingConfig
from masklet.errors import AdmissionRefused, BackendUnavailable, ConfigError
from masklet.observability.metrics import Metrics
from masklet.routing.discovery import Discovery, Standing
from masklet.routing.endpoint import Endpoint, EndpointState
from masklet.routing.link import Link, RoutedTo
from masklet.types import ModelDescription

_RETRY_AFTER_S = 2.0
_LOG = logging.getLogger(__name__)


class Fleet:
    """The endpoints that discovery names. Entering it starts connecting, leaving it closes everything.

    Args:
        discovery: names them.
        make_backend: a backend for an address, not entered yet.
        settings: times and capacities.
        metrics: where states and capacity go.
        drain: moves the sessions of a link elsewhere, as far as that is possible now.
    """

    def __init__(
        self,
        discovery: Discovery,
        make_backend: Callable[[str], RoutedTo],
        settings: RoutingConfig,
        *,
        metrics: Metrics,
        drain: Callable[[Link], Awaitable[None]],
    ) -> None:
        self._discovery = discovery
        self._make_backend = make_backend
        self._settings = settings
        self._metrics = metrics
        self._drain = drain
        self._endpoints: dict[str, Endpoint] = {}
        self._running: dict[str, asyncio.Task[None]] = {}
        self._following: asyncio.Task[None] | None = None
        self._description: ModelDescription | None = None
        self._changed = asyncio.Event()

    async def __aenter__(self) -> Self:
        """Does not wait for any endpoint."""
        self._following = asyncio.create_task(self._follow())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leaves all endpoints."""
        tasks = [task for task in (self._following, *self._running.values()) if task]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        self._description = None

    @property
    def description(self) -> ModelDescription | None:
        """What runs there; None before the first endpoint was usable."""
        return self._description

    def links(self) -> list[Link]:
        """Connections that serve sessions, those that drain included."""
        links = [endpoint.link for endpoint in self._endpoints.values() if endpoint.state in _SERVING]
        return [link for link in links if link is not None and link.is_alive]

    def choose(self, load: float, *, but: frozenset[Link] = frozenset()) -> Link:
        """The endpoint with the most room.

        Args:
            load: object-frames per second of the session to be placed.
            but: links that have refused it already.

        Raises:
            BackendUnavailable: no endpoint can be used.
            AdmissionRefused: all that can be used are full.
        """
        usable = [link for link in self.links() if link.takes_sessions]
        if not usable:
            raise BackendUnavailable(f"no Triton can be used: {self.why()}", retry_after_s=_RETRY_AFTER_S)
        fitting = [link for link in usable if link not in but and self._fits(link, load)]
        if not fitting:
            raise AdmissionRefused(
                f"all {len(usable)} Tritons are full: {self._fill(usable)}", retry_after_s=_RETRY_AFTER_S
            )
        return min(fitting, key=self._fullness)

    async def wait_for(self, load: float, timeout_s: float, *, but: frozenset[Link] = frozenset()) -> Link:
        """Like `choose`, but waits for room. Raises what `choose` raised last, after `timeout_s`."""
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    with suppress(BackendUnavailable, AdmissionRefused):
                        return self.choose(load, but=but)
                    await self.wait_changed()
        except TimeoutError:
            return self.choose(load, but=but)

    async def wait_usable(self, timeout_s: float) -> None:
        """Until a first endpoint can be used. Raises BackendUnavailable, or ConfigError if trying again is no use."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while self._description is None:
                    self._check_hopeless()
                    await self.wait_changed()
                return
        raise BackendUnavailable(f"no Triton can be used after {timeout_s:g} s: {self.why()}")

    async def wait_changed(self) -> None:
        """Until any endpoint's state has changed, or a session has left one."""
        self._changed.clear()
        await self._changed.wait()

    def eject(self, link: Link, why: str) -> None:
        """The breaker: nothing is sent there until it has shown again that it works."""
        if link.is_alive:
            _LOG.warning("endpoint ejected", extra={"endpoint": link.address, "sessions": len(link.loads), "why": why})
        link.fail(why)
        self.touch()

    def leave_behind(self, link: Link, session_id: str, epoch: int) -> None:
        """A copy of a session may be left there: it is closed before the endpoint is used again."""
        if endpoint := self._endpoints.get(link.address):
            endpoint.remember_orphan(session_id, epoch)

    async def sweep(self, link: Link, session_id: str) -> None:
        """Close a copy of the session that may be left there. Raises BackendUnavailable."""
        if endpoint := self._endpoints.get(link.address):
            await endpoint.close_orphans(link.backend, only=session_id)

    def touch(self) -> None:
        """Something has changed: whoever waits looks again."""
        found = next((link for link in self.links() if link.takes_sessions), None)
        if self._description is None and found:
            self._description = found.backend.describe()
        self._changed.set()
        self.measure()

    def measure(self) -> None:
        """Sets the metrics of states, load and capacity."""
        states = Counter(endpoint.state for endpoint in self._endpoints.values())
        for state in EndpointState:
            self._metrics.triton_endpoints.labels(state).set(states[state])
        links = self.links()
        self._metrics.session_load.set(sum(link.load for link in links))
        usable = sum(link.takes_sessions for link in links)
        self._metrics.session_capacity.set(usable * self._settings.capacity_object_frames_s)

    def why(self) -> str:
        """Why endpoints cannot be used, one after the other."""
        if not self._endpoints:
            return "none is known"
        reasons = (f"{one.address} is {one.state}{_because(one)}" for one in self._endpoints.values())
        return "; ".join(reasons)[:1000]

    async def _follow(self) -> None:
        async for found in self._discovery.watch():
            _LOG.info("endpoints", extra={"addresses": ",".join(sorted(found))})
            for address, standing in sorted(found.items()):
                if address in self._endpoints or standing is not Standing.HELD:
                    self._admit(address).stand(standing)
            for address, endpoint in self._endpoints.items():
                if address not in found:
                    endpoint.retire()
            self.touch()

    def _admit(self, address: str) -> Endpoint:
        if address in self._endpoints:
            return self._endpoints[address]
        endpoint = self._endpoints[address] = Endpoint(
            address,
            self._make_backend,
            self._settings,
            expected=lambda: self._description,
            changed=self.touch,
            drain=self._drain,
        )
        self._running[address] = asyncio.create_task(self._run(endpoint))
        return endpoint

    async def _run(self, endpoint: Endpoint) -> None:
        try:
            await endpoint.run()
        except Exception:
            _LOG.exception("endpoint given up", extra={"endpoint": endpoint.address})
        finally:
            del self._endpoints[endpoint.address], self._running[endpoint.address]
            self.touch()

    def _fits(self, link: Link, load: float) -> bool:
        capacity = self._settings.capacity_object_frames_s
        return link.free_sessions > 0 and (not capacity or link.load + load <= capacity)

    def _fullness(self, link: Link) -> float:
        """0 to 1, by what is scarcer there."""
        capacity = self._settings.capacity_object_frames_s
        sessions = 1.0 - link.free_sessions / link.backend.max_sessions
        return max(sessions, link.load / capacity if capacity else 0.0)

    def _fill(self, links: list[Link]) -> str:
        limit = f" of {self._settings.capacity_object_frames_s:g}" if self._settings.capacity_object_frames_s else ""
        parts = (
            f"{link.address} has {link.free_sessions} of {link.backend.max_sessions} sessions free, "
            f"load {link.load:.1f}{limit}"
            for link in links
        )
        return "; ".join(parts)[:1000]

    def _check_hopeless(self) -> None:
        for endpoint in self._endpoints.values():
            if isinstance(endpoint.error, ConfigError):
                raise endpoint.error


_SERVING = (EndpointState.HEALTHY, EndpointState.DRAINING)


def _because(endpoint: Endpoint) -> str:
    return f" ({endpoint.error})" if endpoint.error else ""
