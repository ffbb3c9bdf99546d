"""Two servers with one key over one backend: a client that goes to and fro, on the wire."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.fronts import Front, Shared

from masklet.backends.fake import FakeBackend
from masklet.config import Config, SessionConfig
from masklet.server.lifecycle import Server
from masklet.v1 import segmentation_pb2 as pb

TTL_S = 1.5
INTACT = pb.STATE_ORIGIN_INTACT


@dataclass
class Site:
    server: Server
    client: Any

    async def left_alone(self) -> None:
        """Waits until there is no session any more."""
        async with asyncio.timeout(10):
            while len(self.server.registry):
                await asyncio.sleep(0.02)


@pytest.fixture
async def sites(config: Config, connect: Any, tmp_path: Path) -> AsyncIterator[tuple[Site, Site]]:
    keys = tmp_path / "keys"
    keys.write_text("ab" * 32)
    given = SessionConfig(resume_key_file=str(keys), resume_ttl_s=TTL_S)
    async with FakeBackend() as backend, AsyncExitStack() as stack:
        shared, made = Shared(backend), []
        for _ in range(2):
            server = Server(dataclasses.replace(config, session=given), backend=Front(shared))
            await stack.enter_async_context(server)
            made.append(Site(server, await stack.enter_async_context(connect(server.port))))
        yield made[0], made[1]


async def resume(site: Site, opened: pb.Opened, *, last: int = 1) -> tuple[Any, pb.Opened]:
    """A stream that goes on with a session."""
    talk = site.client.talk()
    again = pb.Open(codec=pb.FRAME_CODEC_PNG, height=16, width=24, drop_policy=pb.DROP_POLICY_BLOCK)
    again.resume_token, again.last_server_seq = opened.resume_token, last
    await talk.send(open=again)
    greeting = (await talk.receive("opened")).opened
    talk.seq = greeting.next_seq - 1
    return talk, greeting


async def frame_on(talk: Any) -> pb.TrackResponse:
    """A frame, and its answer; renewed tokens are passed over."""
    await talk.frame()
    async with asyncio.timeout(10):
        response: pb.TrackResponse = await talk.call.read()
        while response.HasField("token_renewed"):
            response = await talk.call.read()
    assert response.HasField("result")
    return response


async def test_a_copy_that_expired_does_not_end_the_session_elsewhere(sites: tuple[Site, Site]) -> None:
    here, there = sites
    first = here.client.talk()
    opened = await first.open()
    seen = await frame_on(first)
    first.call.cancel()
    away, greeting = await resume(there, opened, last=seen.server_seq)
    await here.left_alone()  # what was left behind here has expired; there the session is alive
    seen = await frame_on(away)
    away.call.cancel()
    home, again = await resume(here, greeting, last=seen.server_seq)
    assert (again.session_id, again.state_origin) == (opened.session_id, INTACT)
    await frame_on(home)


async def test_a_session_that_has_ended_is_said_to_have(sites: tuple[Site, Site], reason_of: Any) -> None:
    here, _ = sites
    talk = here.client.talk()
    opened = await talk.open()
    talk.call.cancel()
    await asyncio.sleep(TTL_S)
    await here.left_alone()
    talk = here.client.talk()
    wanted = pb.Open(codec=pb.FRAME_CODEC_PNG, height=16, width=24, drop_policy=pb.DROP_POLICY_BLOCK)
    wanted.resume_token = opened.resume_token
    await talk.send(open=wanted)
    assert reason_of(await talk.failure())[:2] == ("NOT_FOUND", "SESSION_EXPIRED")


async def test_a_stream_left_behind_is_told_when_its_session_returns(sites: tuple[Site, Site], reason_of: Any) -> None:
    here, there = sites
    first = here.client.talk()
    _, greeting = await resume(there, await first.open())
    home, again = await resume(here, greeting)
    assert again.state_origin == INTACT
    assert reason_of(await first.failure())[:2] == ("ABORTED", "SESSION_SUPERSEDED")
    await frame_on(home)
