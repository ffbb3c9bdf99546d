"""One camera: frames at fixed times, come what may; over as many connections as that takes.

Frames are due from the planned start of the visit on. Those due before its first session is open are never sent and
count as unsent, so that an outage at the opening shows. Two things are excused, and nothing is due meanwhile:

- an opening that takes at most `OPENING_GRACE_S` seconds from the planned start, failed tries included, since every
  connection takes its time; it shows in the times `opening` and `first_mask`. If it takes longer, all of it counts;
- the pause after a refusal, since refusals are counted and judged by themselves. The grace begins anew after it.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass

from masklet.errors import (
    AccessDenied,
    AdmissionRefused,
    MaskletError,
    SessionError,
    SessionExpired,
    SessionNotFound,
)
from masklet.v1 import segmentation_pb2 as pb
from masklet_client.status import error_from_status
from masklet_load.clip import Clip
from masklet_load.ledger import Ledger
from masklet_load.link import Link
from masklet_load.requests import click_request, close_request, drop_reason, frame_request, open_request, origin
from masklet_load.scenario import Scenario
from masklet_load.schedule import Visit
from masklet_load.tally import Tally

OPENING_GRACE_S = 1.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 2.0


@dataclass(frozen=True, slots=True)
class Run:
    """What all cameras of a run share.

    Attributes:
        scenario: what to do.
        addresses: servers; cameras begin at different ones and go on to the next when one fails.
        clip: what to send.
        start_s: when the run begins, by the monotonic clock, which all processes of a machine share.
    """

    scenario: Scenario
    addresses: Sequence[str]
    clip: Clip
    start_s: float

    def now_s(self) -> float:
        """Seconds since the run began."""
        return time.monotonic() - self.start_s


class Camera:
    """One visit of one camera, from its planned opening to its end; everything is counted in `tally`."""

    def __init__(self, run: Run, visit: Visit, tally: Tally) -> None:
        self._run, self._visit, self._tally = run, visit, tally
        self._ledger = Ledger(tally, measure_from_s=run.scenario.warm_up_s)
        self._random = random.Random(f"{run.scenario.seed} {visit.number}")
        self._turn = visit.number  # which address is tried next
        self._opened = False
        self._wanted_s = visit.start_s  # since when the first session is waited for
        self._frame = 0
        self._token = b""
        self._going = self._closing = self._fresh = False
        self._server_seq = 0
        self._lost_s: float | None = None
        self._answered = False
        self._first_mask_due = True
        self._asked: dict[int, float] = {}

    async def live(self) -> None:
        """Returns when the visit is over, or `drain_s` after its end at the latest."""
        self._tally.sessions["planned"] += 1
        limit_s = self._run.start_s + self._visit.end_s + self._run.scenario.drain_s
        try:
            async with asyncio.timeout_at(limit_s):
                await asyncio.sleep(max(0.0, self._visit.start_s - self._run.now_s()))
                while (link := await self._connect()) is not None:
                    if await self._serve(link):
                        break
        except TimeoutError:
            if self._opened:
                self._tally.sessions["cut off after drain_s"] += 1
        self._settle()

    def _settle(self) -> None:
        """Count what is left."""
        now_s = self._run.now_s()
        self._ledger.session_lost(now_s)
        if not self._opened:
            self._tally.sessions["never opened"] += 1
        if self._answered and self._first_mask_due:
            self._tally.sessions["without a mask"] += 1
        self._pass_over(self._visit.end_s, excused=False)

    def _pass_over(self, until_s: float, *, excused: bool) -> None:
        """Frames due before `until_s` are not going to be sent; those excused were not due."""
        now_s = self._run.now_s()
        while (due_s := self._due_s(self._frame)) < min(until_s, self._visit.end_s):
            if not excused:
                self._ledger.unsent(due_s, now_s)
            self._frame += 1

    async def _connect(self) -> Link | None:
        """A call with an open session; None if there is none before the visit's end, or it is not wanted again."""
        pause_s = _FIRST_PAUSE_S
        while self._run.now_s() < self._visit.end_s or self._ledger.pending:
            address = self._run.addresses[self._turn % len(self._run.addresses)]
            link = Link(address)
            try:
                await self._open(link)
                return link
            except BaseException as error:
                await link.close()
                if not isinstance(error, MaskletError):
                    raise
                wait_s = self._refused(error, pause_s)
                if wait_s is None:
                    return None
            self._turn += wait_s > 0  # where the session was unknown, a new one may well be welcome
            await asyncio.sleep(wait_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        return None

    async def _open(self, link: Link) -> None:
        begun_s = self._run.now_s()
        wanted = open_request(self._run.scenario, self._run.clip.size)
        if self._token:
            wanted.resume_token, wanted.last_server_seq = self._token, self._server_seq
            wanted.unanswered_seqs.extend(list(self._ledger.pending)[:4096])
        response = await link.open(wanted)
        now_s, opened = self._run.now_s(), response.opened
        self._tally.opening.record(now_s - begun_s)
        self._fresh = not self._token
        kind = "opened" if self._fresh else f"resumed {origin(opened.state_origin)}"
        self._tally.sessions[kind] += 1
        self._token, self._server_seq, self._going = opened.resume_token, response.server_seq, False
        self._next_seq = opened.next_seq
        self._answered_open(0.0)
        self._opened = True

    def _answered_open(self, wait_s: float) -> None:
        """A server opened the first session, or refused it and is asked again in `wait_s`: what was due until then."""
        if self._opened:
            return
        now_s = self._run.now_s()
        self._pass_over(now_s, excused=now_s - self._wanted_s <= OPENING_GRACE_S)
        self._wanted_s = now_s + wait_s
        self._pass_over(self._wanted_s, excused=True)

    def _refused(self, error: MaskletError, pause_s: float) -> float | None:
        """Counts a refusal; how long to wait before the next try, None: there is none."""
        self._tally.reasons[f"open: {error.reason}"] += 1
        wait_s = max(error.retry_after_s or 0.0, pause_s * self._random.uniform(0.5, 1.0))
        if isinstance(error, AdmissionRefused):
            self._tally.sessions["refused"] += 1
            if error.retry_after_s is not None:
                self._tally.retry_after_s[error.retry_after_s] += 1
            if not self._run.scenario.retry_refused:
                self._answered_open(math.inf)
                return None
            self._answered_open(wait_s)
        if self._token and isinstance(error, SessionError | AccessDenied):
            gone = isinstance(error, SessionExpired | SessionNotFound) and self._closing
            self._lose_session(count=not gone)
            return None if self._closing else 0.0
        return wait_s

    def _lose_session(self, *, count: bool = True) -> None:
        self._token, self._server_seq = b"", 0
        self._asked.clear()
        self._ledger.session_lost(self._run.now_s())
        self._tally.sessions["lost"] += count

    async def _serve(self, link: Link) -> bool:
        """Send and receive until the call ends; whether the visit is over with it."""
        began_s = self._run.now_s()
        others = [asyncio.create_task(self._send(link)), asyncio.create_task(self._cut(link))]
        try:
            return await self._receive(link)
        except MaskletError as error:
            self._broke(error)
            return False
        finally:
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)
            await link.close()
            self._tally.presence.append((began_s, self._run.now_s()))

    async def _receive(self, link: Link) -> bool:
        while (response := await link.read()) is not None:
            self._take(response)
        if self._closing:
            self._tally.sessions["closed"] += 1
            self._ledger.session_closed(self._run.now_s())
            return True
        self._broke(MaskletError("the stream ended before it was closed"))
        return False

    def _broke(self, error: MaskletError) -> None:
        self._tally.reasons[f"stream: {error.reason}"] += 1
        self._tally.sessions["connections lost"] += 1
        self._lost_s = self._run.now_s() if self._lost_s is None else self._lost_s
        if not self._token or isinstance(error, SessionError):
            self._lose_session()
        if self._going:
            self._turn += 1

    async def _send(self, link: Link) -> None:
        """What is to be said again, then each frame when it is due, then `close`."""
        if self._fresh:
            await self._click_all(link)
        for request in [] if self._fresh else self._ledger.again(self._next_seq):
            if not await link.write(request):
                return
        while (due_s := self._due_s(self._frame)) < self._visit.end_s:
            await self._wait(due_s)
            if self._frame and self._random.random() < self._run.scenario.corrections:
                await self._click(link, self._frame % self._run.scenario.objects)
            at = self._run.clip.at(self._frame)
            self._frame += 1
            request = self._ledger.frame(frame_request(self._run.clip.payloads[at]), due_s)
            if not await link.write(request):
                return
            self._tally.sending.record(self._run.now_s() - due_s)
        if not self._closing:
            self._closing = True
            await link.write(self._ledger.number(close_request()))

    async def _wait(self, due_s: float) -> None:
        """Until `due_s`; what comes on top of that is the generator's own lag."""
        ahead_s = due_s - self._run.now_s()
        if ahead_s > 0:
            await asyncio.sleep(ahead_s)
            self._tally.lag.record(self._run.now_s() - due_s)
        else:
            self._tally.sessions["frames begun late"] += 1

    async def _click_all(self, link: Link) -> None:
        for one in range(self._run.scenario.objects):
            await self._click(link, one)

    async def _click(self, link: Link, one: int) -> None:
        point = self._run.clip.clicks[self._run.clip.at(self._frame)][one]
        request = self._ledger.number(click_request(one + 1, point))
        self._asked[request.seq] = self._run.now_s()
        await link.write(request)

    async def _cut(self, link: Link) -> None:
        """Cut the connection at the next time planned."""
        now_s = self._run.now_s()
        for at_s in (at for at in self._visit.cuts_s if at > now_s):
            await asyncio.sleep(at_s - self._run.now_s())
            self._tally.sessions["connections cut"] += 1
            link.cut()
            return

    def _take(self, response: pb.TrackResponse) -> None:
        self._server_seq = max(self._server_seq, response.server_seq)
        match response.WhichOneof("message"):
            case "result":
                self._result(response.result)
            case "dropped":
                self._dropped(response.dropped)
            case "prompt_applied":
                asked_s = self._asked.pop(response.prompt_applied.prompt_seq, None)
                if asked_s is not None:
                    self._tally.prompts.record(self._run.now_s() - asked_s)
            case "error":
                self._tally.reasons[f"request: {error_from_status(response.error.status).reason}"] += 1
            case "go_away":
                self._token, self._going = response.go_away.resume_token, True
                self._tally.sessions["told to go away"] += 1
            case "token_renewed":
                self._token = response.token_renewed.resume_token

    def _result(self, result: pb.Result) -> None:
        now_s = self._run.now_s()
        if result.revised:
            self._tally.sessions["revised results"] += 1
            return
        self._answered = True
        self._ledger.answered(result.frame_seq, now_s, complete=len(result.objects) >= self._run.scenario.objects)
        self._answered_again(now_s)
        if self._first_mask_due and any(one.area_px for one in result.objects):
            self._first_mask_due = False
            self._tally.first_mask.record(now_s - self._visit.start_s)
        if result.recovered:
            self._tally.sessions[f"recovered {origin(result.recovered)}"] += 1
            self._tally.recoveries.record(result.recovery.seconds + result.recovery.nanos / 1e9)

    def _dropped(self, dropped: pb.Dropped) -> None:
        if dropped.reason == pb.DROP_REASON_DRAINING and self._going and self._token:
            return  # the next server gets it
        self._ledger.dropped(dropped.frame_seq, drop_reason(dropped.reason))
        self._answered_again(self._run.now_s())

    def _answered_again(self, now_s: float) -> None:
        if self._lost_s is not None:
            self._tally.outages.record(now_s - self._lost_s)
            self._lost_s = None

    def _due_s(self, frame: int) -> float:
        """When frame `frame` is due, in seconds of the run, whether there is a session or not."""
        return self._visit.start_s + (self._visit.phase + frame) / self._run.scenario.rate_hz
