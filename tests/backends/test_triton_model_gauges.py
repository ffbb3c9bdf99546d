"""A real Triton whose model forgets a session while nobody asks for anything."""

from __future__ import annotations

import asyncio
import urllib.request
from pathlib import Path

import pytest
from tests.backends.contract import SETTINGS
from tests.backends.triton_process import CONFIG, READY_S, options

from masklet.backends.triton import TritonBackend
from masklet.backends.triton_server import TritonServer, model_environment

pytestmark = [pytest.mark.triton, pytest.mark.slow]


async def test_what_was_reaped_is_shown_though_nothing_is_asked(tmp_path: Path) -> None:
    environment = {**model_environment(CONFIG), "MASKLET_TRITON_IDLE_TIMEOUT_S": "2"}
    with TritonServer(options(tmp_path, environment=environment)) as server:
        server.wait_ready(READY_S)
        async with TritonBackend(server.endpoint) as backend:
            await backend.open("abandoned", SETTINGS)
            backend.disown("abandoned")
        async with asyncio.timeout(30):
            while not await shown(server, "reaped_sessions_total"):
                await asyncio.sleep(0.2)
        assert await shown(server, "sessions") == 0


async def shown(server: TritonServer, name: str) -> float:
    url = f"http://127.0.0.1:{server.metrics_port}/metrics"
    page = await asyncio.to_thread(urllib.request.urlopen, url, timeout=10)
    (line,) = [one for one in page.read().decode().splitlines() if one.startswith(f"masklet_triton_{name}{{")]
    return float(line.rpartition(" ")[2])
