"""A service, and a Triton, started for the test: processes of their own on free ports, ended with it."""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from masklet.errors import BackendUnavailable
from masklet_client.serving import wait_until_serving

_READY_S = 300.0
_STOP_S = 45.0
_TAIL = 12


@dataclass(frozen=True, slots=True)
class Served:
    """What is under load.

    Attributes:
        addresses: host:port each.
        parts: processes started here, by name ("server", "triton").
        pids: all processes to be watched, those of `parts` included, as they are now.
        flags: how the parts were started, for the report.
    """

    addresses: tuple[str, ...]
    parts: dict[str, Process] = field(default_factory=dict)
    pids: tuple[int, ...] = ()
    flags: str = ""

    def watched(self) -> tuple[int, ...]:
        """Process ids of now: a part that was started again has a new one."""
        return (*self.pids, *(part.pid for part in self.parts.values()))


class Process:
    """`masklet ARGUMENTS`; its output goes to a file, whose end is shown if it fails."""

    def __init__(self, arguments: Sequence[str], *, ready: str, log: Path) -> None:
        """`ready`: the host:port to wait for, by gRPC health; or, for Triton, a pattern its output has when ready."""
        self._arguments, self._ready, self._log = tuple(arguments), ready, log
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int:
        """Its id."""
        return self._process.pid if self._process else -1

    @property
    def victim(self) -> int:
        """The process that signals are meant for: Triton itself, not what launched it."""
        if self._arguments[0] != "triton":
            return self.pid
        try:
            children = psutil.Process(self.pid).children()
        except (psutil.Error, ValueError):
            children = []
        return children[0].pid if children else self.pid

    async def start(self) -> None:
        """Start it, after stopping the one before. Raises BackendUnavailable if it does not become ready."""
        await self.stop()
        with self._log.open("ab") as log:
            command = (sys.executable, "-P", "-m", "masklet", *self._arguments)
            begun = asyncio.create_task(asyncio.create_subprocess_exec(*command, stdout=log, stderr=log))
            try:
                await asyncio.shield(begun)
            finally:  # told to stop meanwhile, it has to be known in order to be stopped
                self._process = await begun
        skip = self._log.stat().st_size
        ended = asyncio.create_task(self._process.wait())
        ready = asyncio.create_task(self._wait_ready(skip))
        try:
            await asyncio.wait((ended, ready), return_when=asyncio.FIRST_COMPLETED)
            if not ready.done():
                raise BackendUnavailable(f"masklet {' '.join(self._arguments)} ended at once:\n{self._tail()}")
            await ready
        except TimeoutError:
            late = f"masklet {' '.join(self._arguments)} was not ready within {_READY_S:g} s"
            raise BackendUnavailable(f"{late}:\n{self._tail()}") from None
        finally:
            ended.cancel()
            ready.cancel()
            await asyncio.gather(ended, ready, return_exceptions=True)

    async def stop(self) -> None:
        """SIGTERM, then SIGKILL."""
        if self._process is None or self._process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(_STOP_S):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()

    async def _wait_ready(self, skip: int) -> None:
        if re.fullmatch(r"[\w.]+:\d+", self._ready):
            await wait_until_serving(self._ready, timeout_s=_READY_S)
            return
        async with asyncio.timeout(_READY_S):
            while self._ready not in self._log.read_bytes()[skip:].decode(errors="replace"):
                await asyncio.sleep(0.2)

    def _tail(self) -> str:
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-_TAIL:])


@asynccontextmanager
async def started(backend: str, server_flags: Sequence[str], triton_flags: Sequence[str]) -> AsyncIterator[Served]:
    """A service with a backend ("embedded", "fake" or "triton"), ready. Raises BackendUnavailable."""
    port, metrics, grpc, http, triton_metrics = _free_ports(5)
    serve = ["serve", "--port", str(port), "--metrics-port", str(metrics), "--backend", backend]
    parts: dict[str, Process] = {}
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="masklet-load-")))
        if backend == "triton":
            ports = ("--grpc-port", str(grpc), "--http-port", str(http), "--metrics-port", str(triton_metrics))
            triton = ("triton", *ports, *triton_flags)
            parts["triton"] = Process(triton, ready="triton ready", log=folder / "triton.log")
            serve += ["--triton", f"127.0.0.1:{grpc}"]
        address = f"127.0.0.1:{port}"
        words = (*serve, "--log-level", "warning", *server_flags)
        parts["server"] = Process(words, ready=address, log=folder / "server.log")
        for part in parts.values():
            stack.push_async_callback(part.stop)
            await part.start()
        flags = " ".join(["--backend", backend, *server_flags]) + (
            f" | triton {' '.join(triton_flags)}" if triton_flags else ""
        )
        yield Served((address,), parts, flags=flags)


def _free_ports(count: int) -> list[int]:
    """Ports nobody uses now; asked for together, so that no two are alike."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]
