"""The life of one endpoint: connected to, tried, used, drained or ejected, and tried again."""

from __future__ import annotations

import asyncio
import logging
import random
import uuid
from collections.abc import Awaitable, Callable
from contextlib import suppress
from enum import StrEnum

from masklet.backends.base import FIRST_EPOCH
from masklet.config import RoutingConfig
from masklet.errors import BackendError, BackendUnavailable, MaskletError
from masklet.routing.discovery import Standing
from masklet.routing.link import Link, RoutedTo, same_model, sing
from masklet.routing.orphans import Orphans
from masklet.types import ModelDescription

_UNREACHABLE_LOOKS = 2  # a look at the health that fails once may be a lost packet
_STALE_S = 2.0  # only answers say what others have opened and closed there
_STUCK = 4  # times `step_timeout_s`, after which one request alone is reason enough
_PROVEN_S = 60.0  # one that fails sooner after its canary is worth less than its canary says
_LONGEST_PAUSE_S = 30.0
_LOG = logging.getLogger(__name__)


class EndpointState(StrEnum):
    """What an endpoint is good for."""

    CONNECTING = "connecting"  # never worked so far
    PROBATION = "probation"  # answers, and has to show that it works
    HEALTHY = "healthy"
    EJECTED = "ejected"  # failed, and is tried again
    DRAINING = "draining"  # serves what it has


class Endpoint:
    """One address. `run` it for as long as it is wanted.

    Args:
        address: host:port.
        make_backend: a backend for the address, not entered yet; a fresh one for each connection.
        settings: times.
        expected: what the fleet runs, once it is known; another model is not used.
        changed: called when the state has changed.
        drain: moves sessions away from a link that drains.

    Attributes:
        state: what it is good for.
        link: the connection while there is one.
        error: why there is none.
        orphans: sessions that may have been left behind there: closed when it can be used.
        standing: what discovery says is wanted of it.
        away_since_s: by the loop's clock, when it was last no longer usable, or not usable yet.
    """

    def __init__(
        self,
        address: str,
        make_backend: Callable[[str], RoutedTo],
        settings: RoutingConfig,
        *,
        expected: Callable[[], ModelDescription | None],
        changed: Callable[[], None],
        drain: Callable[[Link], Awaitable[None]],
    ) -> None:
        self.address = address
        self.state = EndpointState.CONNECTING
        self.link: Link | None = None
        self.error: MaskletError | None = None
        self.orphans = Orphans(address)
        self.standing = Standing.WANTED
        self.away_since_s = asyncio.get_running_loop().time()
        self._make_backend = make_backend
        self._settings = settings
        self._expected = expected
        self._changed = changed
        self._drain = drain
        self._retired = asyncio.Event()
        self._leaving: set[asyncio.Task[None]] = set()
        self._ejections = 0

    @property
    def is_retired(self) -> bool:
        """Whether discovery no longer names it."""
        return self._retired.is_set()

    def retire(self) -> None:
        """Discovery no longer names it: it is drained, then `run` returns."""
        self._retired.set()

    def stand(self, standing: Standing) -> None:
        """Discovery names it, with this standing; new sessions stop at once, those it has move at the next look."""
        self._retired.clear()
        self.standing = standing
        if self.link is not None and standing is not Standing.WANTED:
            self.link.draining = True

    def take_ejections(self) -> int:
        """How often it has failed while it served, since this was asked last; the end of one that drains is none."""
        taken, self._ejections = self._ejections, 0
        return taken

    async def run(self) -> None:
        """Connects and watches, again and again, until retired and empty, or cancelled.

        Any error is unexpected; the endpoint is ejected then, and may be run again.
        """
        pause_s = soon_s = least_s = self._settings.retry_min_s
        longest_s = max(_LONGEST_PAUSE_S, self._settings.retry_max_s)
        try:
            while not self.is_retired:
                link = await self._connect()
                if link is not None:
                    proven = await self._served_s(link) >= _PROVEN_S
                    pause_s = soon_s = least_s if proven else min(2 * soon_s, longest_s)
                else:
                    soon_s = least_s  # it was away, which is reason enough for its failure before
                await self._pause(pause_s * random.uniform(0.5, 1.0))
                pause_s = min(2 * pause_s, self._settings.retry_max_s)
        except Exception as error:
            self._break(error)
            raise
        finally:
            if self.link is not None:
                self._leave(self.link)
            if self._leaving:
                await asyncio.wait(self._leaving)
            await self.orphans.wait_closed()

    async def _connect(self) -> Link | None:
        """A link that has shown that it works, or None; `error` says why."""
        backend = self._make_backend(self.address)
        refused = await self._within_time(backend.__aenter__())
        if refused is None:
            link = self.link = Link(self.address, backend)
            link.draining = self.standing is not Standing.WANTED
            self._become(EndpointState.PROBATION)
            refused = await self._within_time(self._try(link)) or await self._sweep(backend)
            if refused is None:
                self.error = None
                self._become(EndpointState.HEALTHY)
                return link
            link.fail(str(refused))
            self._leave(link)
        self._refuse(refused)
        return None

    async def _within_time(self, work: Awaitable[object]) -> MaskletError | None:
        """What came of it, if not success."""
        try:
            async with asyncio.timeout(self._settings.canary_timeout_s):
                await work
        except MaskletError as error:
            return error
        except TimeoutError:
            return self._too_slow(self._settings.canary_timeout_s)
        except Exception as error:  # one endpoint's surprise must not end the search for it
            _LOG.exception("endpoint failed", extra={"endpoint": self.address})
            return self._surprise(error)
        return None

    async def _try(self, link: Link) -> None:
        self._check_model(link.backend.describe())
        canary = f"canary-{uuid.uuid4().hex}"
        self.orphans.remember(canary, FIRST_EPOCH + 1)
        await sing(link.backend, canary)
        self.orphans.forget(canary, FIRST_EPOCH + 1)

    def _check_model(self, found: ModelDescription) -> None:
        expected = self._expected()
        if expected is not None and not same_model(found, expected):
            raise BackendError(
                f"{self.address} runs {found.model} {found.weights_sha256[:12]} at {found.input_size} px in "
                f"{found.precision}, the others {expected.model} {expected.weights_sha256[:12]} at "
                f"{expected.input_size} px in {expected.precision}"
            )

    async def _served_s(self, link: Link) -> float:
        """Watches the link to its end; how long that took, seconds."""
        clock = asyncio.get_running_loop().time
        began_s = clock()
        await self._watch(link)
        self._leave(link)
        return clock() - began_s

    async def _watch(self, link: Link) -> None:
        """Returns when the link has failed, or when the endpoint is retired and empty."""
        unreachable = 0
        while link.is_alive:
            try:
                ready = await self._looked(link)
                unreachable = 0
            except BackendUnavailable as error:
                ready, unreachable = not link.draining, unreachable + 1
                if unreachable >= _UNREACHABLE_LOOKS:
                    link.fail(str(error))
                    continue
            leaving = self.is_retired or not ready or self.standing is Standing.LEAVING
            link.draining = leaving or self.standing is Standing.HELD
            self._become(EndpointState.DRAINING if link.draining else EndpointState.HEALTHY)
            self._check_progress(link)
            if leaving and link.loads:
                await self._drained(link)
            if self.is_retired and not link.loads:
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(self._settings.health_period_s):
                    await link.failed.wait()

    async def _drained(self, link: Link) -> None:
        """Returns when its sessions have been moved, as far as possible, or the link has failed meanwhile."""
        draining = asyncio.ensure_future(self._drain(link))
        try:
            while link.is_alive and not draining.done():
                await asyncio.wait([draining], timeout=self._settings.health_period_s)
                self._check_progress(link)
        finally:
            draining.cancel()

    async def _looked(self, link: Link) -> bool:
        try:
            async with asyncio.timeout(self._settings.health_timeout_s):
                ready = await link.backend.is_ready()
        except TimeoutError:
            raise self._too_slow(self._settings.health_timeout_s) from None
        if ready and self.orphans:
            refused = await self._sweep(link.backend)
            if refused is not None:
                raise refused
        if ready and not link.draining:
            await self._count(link.backend)
        return ready

    async def _sweep(self, backend: RoutedTo) -> BackendUnavailable | None:
        """Close what may be left behind, as much as can be in the time of a look; what came of it, if it failed."""
        try:
            async with asyncio.timeout(self._settings.health_timeout_s):
                await self.orphans.close(backend)
        except TimeoutError:
            pass  # the next look goes on; if it hangs, `_check_progress` tells
        except BackendUnavailable as error:
            return error
        return None

    async def _count(self, backend: RoutedTo) -> None:
        """Ask what it holds, if no answer has said so lately and none is awaited. Raises BackendUnavailable."""
        if backend.waiting_s() or backend.stats_age_s() < _STALE_S:
            return
        try:
            async with asyncio.timeout(self._settings.health_timeout_s):
                await backend.ask_stats()
        except TimeoutError:
            pass  # busy with others, or it hangs: `_check_progress` tells
        except BackendUnavailable:
            raise
        except MaskletError as error:
            _LOG.warning("endpoint does not say what it holds", extra={"endpoint": self.address, "why": str(error)})

    def _break(self, error: Exception) -> None:
        """After something unexpected: whatever link there is has failed."""
        surprise = self._surprise(error)
        if self.link is not None:
            self.link.fail(str(surprise))
        self._refuse(surprise)

    def _leave(self, link: Link) -> None:
        """Frees the connection in the background: it may take seconds if the other side is gone."""
        if not link.is_alive:
            self.error = BackendUnavailable(link.failure)
            self._become(EndpointState.EJECTED)
        error = None if link.is_alive else self.error
        link.fail("the connection was closed")
        self.link = None
        task = asyncio.create_task(_left(link, error))
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)
        self._changed()

    def _refuse(self, error: MaskletError) -> None:
        self.error = error
        _LOG.info("endpoint not usable", extra={"endpoint": self.address, "why": str(error)})
        if self.state is not EndpointState.CONNECTING:
            self._become(EndpointState.EJECTED)
        self._changed()

    def _become(self, state: EndpointState) -> None:
        if state is not self.state:
            why = self.link.failure if self.link else ""
            level = logging.WARNING if state is EndpointState.EJECTED else logging.INFO
            _LOG.log(level, "endpoint %s", state, extra={"endpoint": self.address, "why": why})
            if self.state in (EndpointState.HEALTHY, EndpointState.DRAINING) and state is EndpointState.EJECTED:
                self.away_since_s = asyncio.get_running_loop().time()
                self._ejections += self.state is EndpointState.HEALTHY
            self.state = state
        self._changed()

    def _surprise(self, error: Exception) -> BackendUnavailable:
        return BackendUnavailable(f"{self.address}: {type(error).__name__}: {error}")

    def _too_slow(self, timeout_s: float) -> BackendUnavailable:
        return BackendUnavailable(f"{self.address} did not answer within {timeout_s:g} s")

    def _check_progress(self, link: Link) -> None:
        """The breaker opens if an answer does not come: a model that hangs does not show in its server's health."""
        limit_s = self._settings.step_timeout_s
        if link.backend.waiting_s() > limit_s:
            link.fail(f"{self.address} has answered none of its requests for {limit_s:g} s")
        elif link.backend.oldest_s() > _STUCK * limit_s:
            link.fail(f"{self.address} has not answered one of its requests for {_STUCK * limit_s:g} s")

    async def _pause(self, pause_s: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(pause_s):
                await self._retired.wait()


async def _left(link: Link, error: MaskletError | None) -> None:
    try:
        await link.backend.__aexit__(type(error) if error else None, error, None)
    except MaskletError as error:
        _LOG.warning("endpoint not left in peace", extra={"endpoint": link.address, "why": str(error)})
