"""deploy/README.md lists what the model in a real Triton exports, and what the service says of its Tritons."""

from __future__ import annotations

import asyncio
import re
import urllib.request
from dataclasses import replace

import pytest
from tests.backends.contract import SETTINGS, click, frame
from tests.backends.triton_process import running_triton
from tests.metrics_table import SERVICE, TRITON, differences, documented, scraped

from masklet.backends.triton import TritonBackend
from masklet.config import Config, ServerConfig, TritonConfig
from masklet.server.lifecycle import Server

pytestmark = pytest.mark.triton


async def test_the_table_is_what_the_model_exports():
    async with TritonBackend(running_triton().endpoint) as backend:
        await backend.open("counted", SETTINGS)
        await backend.step("counted", frame(1, click()))
        found, empty = await asyncio.to_thread(scraped, running_triton().metrics_port)
    ours = {name: metric for name, metric in found.items() if name.startswith("masklet_")}
    assert differences(documented(TRITON), ours, empty=empty) == []
    assert not empty & ours.keys()


async def test_what_is_counted_there_rises_and_what_is_held_falls():
    async with TritonBackend(running_triton().endpoint) as backend:
        before = await _samples()
        await asyncio.gather(*(backend.open(name, SETTINGS) for name in "ab"))
        during = await _samples()
        await asyncio.gather(*(backend.step(name, frame(1, click())) for name in "ab"))
        await backend.close("a")
        await backend.close("b")
        after = await _samples()
    assert [found["masklet_triton_sessions"] for found in (before, during, after)] == [0, 2, 0]
    steps = [sum(int(size) * count for size, count in _by_streams(found).items()) for found in (before, after)]
    assert steps[1] - steps[0] == 2
    assert after["masklet_triton_sessions_limit"] == TritonConfig().max_sessions


async def test_the_service_exports_its_tritons_by_state():
    server = ServerConfig(port=0, metrics_port=0, backend="triton")
    triton = TritonConfig(endpoints=(running_triton().endpoint, "127.0.0.1:9"))
    async with Server(replace(Config(), server=server, triton=triton)) as running:
        found, empty = await asyncio.to_thread(scraped, running.metrics_port)
        count = running.metrics.registry.get_sample_value
        assert count("masklet_triton_endpoints", {"state": "healthy"}) == 1
        assert count("masklet_triton_endpoints", {"state": "connecting"}) == 1
    assert found["masklet_triton_endpoints"].labels == documented(SERVICE)["masklet_triton_endpoints"].labels
    assert "masklet_triton_endpoints" not in empty


async def _samples() -> dict[str, float]:
    """Triton's page: names, with their labels only where there is more than the model's name."""
    url = f"http://127.0.0.1:{running_triton().metrics_port}/metrics"
    page = await asyncio.to_thread(urllib.request.urlopen, url, timeout=10)
    lines = [line for line in page.read().decode().splitlines() if line.startswith("masklet_")]
    return {name.replace('{model="sam2_track",version="1"}', ""): float(value) for name, value in map(_split, lines)}


def _split(line: str) -> tuple[str, str]:
    name, _, value = line.rpartition(" ")
    return name, value


def _by_streams(samples: dict[str, float]) -> dict[str, float]:
    found = {re.search(r'_batches_total.*streams="(\d+)"', name): count for name, count in samples.items()}
    return {match.group(1): count for match, count in found.items() if match}
