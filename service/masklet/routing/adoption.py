"""Finding a session that another front has opened, at one of many endpoints."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress

from masklet.errors import BackendError, BackendUnavailable, MaskletError, SessionStateLost, SessionSuperseded
from masklet.routing.endpoint import EndpointState
from masklet.routing.fleet import Fleet
from masklet.routing.link import Link
from masklet.types import BankSummary

_RETRY_AFTER_S = 2.0
_ANSWER_TIMEOUT_S = 5.0
_COMING_TIMEOUT_S = 4.0  # with that for answers, less than a client waits
_COMING = (EndpointState.CONNECTING, EndpointState.PROBATION)
_LOG = logging.getLogger(__name__)

_Found = tuple[Link, BankSummary]


async def adopt(fleet: Fleet, session_id: str, epoch: int, *, location: str) -> _Found:
    """Own a session wherever it is.

    All endpoints are asked, also where `location` is right: after a failure a copy of old may be left somewhere. The
    copy that has seen most frames is taken, of equals that at `location`; then others are closed. An endpoint at
    `location` that is being tried is waited for. One that is slow may have the newest copy: nothing is taken then.

    Raises:
        SessionStateLost: none of them has it.
        SessionSuperseded: it has a later owner.
        BackendUnavailable: no endpoint can be used, one did not say, or that at `location` may be back soon.
    """
    await _tried(fleet, location)
    links = fleet.links()
    if not links:
        raise BackendUnavailable(f"no Triton can be used: {fleet.why()}", retry_after_s=_RETRY_AFTER_S)
    answers = await asyncio.gather(*(_attach(fleet, link, session_id, epoch) for link in links), return_exceptions=True)
    found = [answer for answer in answers if not isinstance(answer, BaseException)]
    failures = [answer for answer in answers if isinstance(answer, BaseException)]
    late = _late(links, answers, location)
    superseded = any(isinstance(one, SessionSuperseded) for one in failures)
    newest = None if late or superseded else max(found, key=lambda one: _worth(one, location), default=None)
    for link, _ in found:
        if newest is None:
            link.backend.disown(session_id)  # it may be the one: whoever is asked again finds it
        elif link is not newest[0]:
            await _close(link, session_id)
    if newest is None:
        if fleet.is_awaited(location):
            text = f"{location}, where session {session_id} was, is not connected to"
            failures.append(BackendUnavailable(text, retry_after_s=_RETRY_AFTER_S))
        raise late or _not_found(failures, session_id, len(links))
    return newest


async def _tried(fleet: Fleet, location: str) -> None:
    """Until an endpoint that is being tried can be used, or cannot; not for long."""
    with suppress(TimeoutError):
        async with asyncio.timeout(_COMING_TIMEOUT_S):
            while (found := fleet.endpoint(location)) and found.state in _COMING and fleet.is_awaited(location):
                await fleet.wait_changed()


async def _attach(fleet: Fleet, link: Link, session_id: str, epoch: int) -> _Found:
    try:
        async with asyncio.timeout(_ANSWER_TIMEOUT_S):
            try:
                return link, await link.backend.attach(session_id, epoch)
            except BackendUnavailable as error:
                await fleet.suspect(link, error)
                if link.is_alive:  # it drains: what it has it would have found
                    raise SessionStateLost(f"{link.address} has no session {session_id}, and drains") from error
                raise
    except TimeoutError:
        message = f"{link.address} did not say within {_ANSWER_TIMEOUT_S:g} s whether it has session {session_id}"
        raise BackendError(message) from None  # slow, which is no reason to eject it


def _late(links: list[Link], answers: Sequence[_Found | BaseException], location: str) -> BackendUnavailable | None:
    """If that at `location` can be used and did not say: it may well have the session."""
    for link, answer in zip(links, answers, strict=True):
        if link.address == location and isinstance(answer, BackendError) and not isinstance(answer, BackendUnavailable):
            return BackendUnavailable(str(answer), retry_after_s=_RETRY_AFTER_S)
    return None


def _worth(found: _Found, location: str) -> tuple[int, bool]:
    link, summary = found
    return summary.last_frame_seq, link.address == location


def _not_found(failures: list[BaseException], session_id: str, asked: int) -> BaseException:
    """Of what the endpoints said: their own failures say more than that they do not have it."""
    if any(isinstance(one, SessionSuperseded) for one in failures):
        return SessionSuperseded(f"session {session_id} has a later owner")
    others = [one for one in failures if not isinstance(one, SessionStateLost)]
    if not others:
        return SessionStateLost(f"session {session_id} is at none of {asked} Tritons")
    if isinstance(others[0], BackendError):  # it may well be there: asked again, it may say so
        return BackendUnavailable(str(others[0]), retry_after_s=_RETRY_AFTER_S)
    return others[0]


async def _close(link: Link, session_id: str) -> None:
    _LOG.warning("a copy of a session is closed", extra={"session": session_id, "endpoint": link.address})
    with suppress(MaskletError):
        await link.backend.close(session_id)
