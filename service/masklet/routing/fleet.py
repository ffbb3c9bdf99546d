"""All endpoints: which there are, which can be used, and which one a session gets."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from types import TracebackType
from typing import Self

from masklet.backends.admission import check_room, usable_capacity
from masklet.backends.load import LoadMeter
from masklet.config import RoutingConfig
from masklet.errors import AdmissionRefused, BackendUnavailable, ConfigError, OverCapacity
from masklet.observability.metrics import Metrics
from masklet.routing.discovery import Discovery, Standing
from masklet.routing.endpoint import Endpoint, EndpointState
from masklet.routing.link import Link, RoutedTo
from masklet.types import ModelDescription

_RETRY_AFTER_S = 2.0
_COMING_BACK_S = 5.0  # a Triton that was not gone, but could not be reached, is back by then
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
        self.measure()  # discovery may name none for long, which is to be seen, too
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

    def endpoint(self, address: str) -> Endpoint | None:
        """Usable or not; None: no such address is known."""
        return self._endpoints.get(address)

    def is_awaited(self, address: str) -> bool:
        """Whether an endpoint cannot be used for so short a time that it may come, or come back, with its banks."""
        endpoint = self._endpoints.get(address)
        if endpoint is None or address in {link.address for link in self.links()}:
            return False
        if endpoint.state in _SERVING:
            return True  # it has failed just now
        limit_s = self._settings.canary_timeout_s if endpoint.error is None else _COMING_BACK_S
        return asyncio.get_running_loop().time() - endpoint.away_since_s < limit_s

    def choose(self, load: float | None, *, but: frozenset[Link] = frozenset()) -> Link:
        """The endpoint with the most room.

        Args:
            load: object-frames per second of the session to be placed; None: it was admitted before, and only needs
                room for its memory bank.
            but: links that have refused it already.

        Raises:
            BackendUnavailable: no endpoint can be used.
            AdmissionRefused: all that can be used have as many sessions as they take.
            OverCapacity: some take more sessions, but not so much load.
        """
        usable = [link for link in self.links() if link.takes_sessions]
        if not usable:
            raise BackendUnavailable(f"no Triton can be used: {self.why()}", retry_after_s=_RETRY_AFTER_S)
        roomy = [link for link in usable if link.free_sessions > 0]
        fitting = [link for link in roomy if link not in but and (load is None or self._fits(link, load))]
        if fitting:
            return min(fitting, key=self._fullness)
        text = f"all {len(usable)} Tritons are full: {self._fill(usable)}"
        if load is not None and any(self._capacity(link) for link in roomy):
            asked = f"{load:.1f} objects x frames/s are asked for, "
            raise OverCapacity(asked + text, retry_after_s=_RETRY_AFTER_S)
        raise AdmissionRefused(text, retry_after_s=_RETRY_AFTER_S)

    def check_placed(self, link: Link) -> None:
        """Raises OverCapacity if others were quicker and a session just opened there is too much."""
        capacity = self._capacity(link)
        if capacity and link.sessions > 1 and link.total_load > capacity:
            raise OverCapacity(f"{link.address} was filled by others", retry_after_s=_RETRY_AFTER_S)

    def reserve(self, link: Link, meter: LoadMeter, objects: int) -> None:
        """A session there is about to have so many objects. Raises OverCapacity if there is no room for them."""
        if link.sessions > 1:
            check_room(meter.load_with(objects) - meter.load, link.total_load, self._capacity(link))
        meter.objects = max(1, objects)

    async def wait_for(self, timeout_s: float, *, but: frozenset[Link] = frozenset()) -> Link:
        """A place for a session that was admitted before, see `choose`. Raises what that raised last."""
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    with suppress(BackendUnavailable, AdmissionRefused):
                        return self.choose(None, but=but)
                    await self.wait_changed()
        except TimeoutError:
            return self.choose(None, but=but)

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

    async def suspect(self, link: Link, error: BackendUnavailable) -> None:
        """It refused a session: one that drains says so and keeps what it has, any other has failed and is ejected."""
        with suppress(BackendUnavailable):
            if link.is_alive and not await link.backend.is_ready():
                link.draining = True
                return
        self.eject(link, str(error))

    def leave_behind(self, link: Link, session_id: str, epoch: int) -> None:
        """A copy of a session may be left there: it is closed when the endpoint can be used."""
        if endpoint := self._endpoints.get(link.address):
            endpoint.orphans.remember(session_id, epoch)

    def leave_alone(self, link: Link, session_id: str, epoch: int) -> None:
        """What was left behind there with this epoch is somebody else's now."""
        if endpoint := self._endpoints.get(link.address):
            endpoint.orphans.forget(session_id, epoch)

    async def sweep(self, link: Link, session_id: str) -> None:
        """Close a copy of the session that may be left there. Raises BackendUnavailable or BackendUncertain."""
        if endpoint := self._endpoints.get(link.address):
            await endpoint.orphans.close(link.backend, only=session_id)

    def touch(self) -> None:
        """Something has changed: whoever waits looks again."""
        found = next((link for link in self.links() if link.takes_sessions), None)
        if self._description is None and found:
            self._description = found.backend.describe()
        self._changed.set()
        self.measure()

    def measure(self) -> None:
        """Sets the metrics of states, and counts ejections."""
        states = Counter(endpoint.state for endpoint in self._endpoints.values())
        for state in EndpointState:
            self._metrics.triton_endpoints.labels(state).set(states[state])
        for endpoint in self._endpoints.values():
            self._metrics.triton_ejections.inc(endpoint.take_ejections())

    @property
    def load(self) -> float:
        """Object-frames per second of this service's sessions."""
        return sum(link.load for link in self.links())

    @property
    def capacity(self) -> float:
        """Object-frames per second that all endpoints take that take sessions; 0: there is no limit, or none."""
        return sum(self._capacity(link) for link in self.links() if link.takes_sessions)

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
            while not endpoint.is_retired:  # it may be named again while it is being left
                await self._run_once(endpoint)
        finally:
            del self._endpoints[endpoint.address], self._running[endpoint.address]
            self.touch()

    async def _run_once(self, endpoint: Endpoint) -> None:
        """Until it is retired, or has broken for a reason nobody thought of: discovery may never name it again."""
        try:
            await endpoint.run()
        except Exception:
            _LOG.exception("endpoint has broken and is started anew", extra={"endpoint": endpoint.address})
            await asyncio.sleep(self._settings.retry_max_s)

    def _capacity(self, link: Link) -> float:
        return usable_capacity(self._settings, link.backend.measured_capacity)

    def _fits(self, link: Link, load: float) -> bool:
        """By load; a session that would be alone there always does."""
        capacity = self._capacity(link)
        return not capacity or not link.sessions or link.total_load + load <= capacity

    def _fullness(self, link: Link) -> float:
        """0 to 1 (more if sessions were let in that moved there), by what is scarcer there."""
        capacity = self._capacity(link)
        sessions = 1.0 - link.free_sessions / link.backend.max_sessions
        return max(sessions, link.total_load / capacity if capacity else 0.0)

    def _fill(self, links: list[Link]) -> str:
        return "; ".join(self._filled(link) for link in links)[:1000]

    def _filled(self, link: Link) -> str:
        capacity = self._capacity(link)
        limit = f" of {capacity:.1f}" if capacity else ""
        free = f"{link.address} has {link.free_sessions} of {link.backend.max_sessions} sessions free"
        return f"{free}, load {link.total_load:.1f}{limit}"

    def _check_hopeless(self) -> None:
        for endpoint in self._endpoints.values():
            if isinstance(endpoint.error, ConfigError):
                raise endpoint.error


_SERVING = (EndpointState.HEALTHY, EndpointState.DRAINING)


def _because(endpoint: Endpoint) -> str:
    return f" ({endpoint.error})" if endpoint.error else ""
