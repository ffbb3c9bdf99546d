"""`masklet serve --backend triton` as processes that can be told to stop, killed, and started again at their ports."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from masklet.backends.triton_frames import SHARED_MEMORY
from masklet.backends.triton_server import TritonServer, free_ports

HOST = "127.0.0.1"
READY_S = 90.0
_POLL_S = 0.05
_FLAGS = {
    "backend": "triton",
    "server.drain_timeout_s": "20",
    "triton.connect_timeout_s": "90",
    "routing.checkpoint_every_frames": "4",
    "routing.recovery_timeout_s": "90",
    "routing.canary_timeout_s": "60",
    "routing.retry_max_s": "0.5",
}


class FrontProcess:
    """One front. `folder` holds the key, which all fronts there share, and the log.

    Attributes:
        port: of gRPC, the same after every start.
        process: the newest.
    """

    def __init__(self, folder: Path, endpoints: Sequence[str], **settings: str) -> None:
        """`settings` by flag, with _ for the dot after the section: `server__drain_delay_s`."""
        self.port, self.metrics_port = free_ports(HOST, (0, 0))
        self.address = f"{HOST}:{self.port}"
        self.log = folder / f"front-{self.port}.log"
        key = folder / "resume.key"
        key.write_text("5a" * 32)
        changed = {name.replace("__", "."): value for name, value in settings.items()}
        places = {"port": self.port, "metrics-port": self.metrics_port, "triton": ",".join(endpoints)}
        flags = {**_FLAGS, **places, "session.resume_key_file": key, **changed}
        self._words = [f"--{name}={value}" for name, value in flags.items()]
        self.process = self._started()

    def restart(self) -> None:
        """A new one at the ports of the old one, which has ended."""
        assert self.process.poll() is not None
        self.process = self._started()

    async def wait_ready(self) -> None:
        """Until it serves."""
        async with asyncio.timeout(READY_S):
            while not await asyncio.to_thread(self.metric, "masklet_ready"):
                assert self.process.poll() is None, self.log.read_text()[-2000:]
                await asyncio.sleep(_POLL_S)

    async def end(self, how: signal.Signals) -> int:
        """Its exit status after that signal."""
        self.process.send_signal(how)
        return await asyncio.to_thread(self.process.wait, 60)

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples with such labels; 0 if there are none, or nobody answers. Blocks."""
        try:
            with urllib.request.urlopen(f"http://{HOST}:{self.metrics_port}/metrics", timeout=5) as reply:
                text = reply.read().decode()
        except OSError:
            return 0.0
        samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
        return sum(one.value for one in samples if one.name == name and labels.items() <= one.labels.items())

    def shared_frames(self) -> set[Path]:
        """Shared memory that frames travel through to Triton."""
        open_files = Path(f"/proc/{self.process.pid}/fd").iterdir()
        return {path for path in map(Path.readlink, open_files) if path.is_relative_to(SHARED_MEMORY)}

    def stop(self) -> None:
        """At the end of the test."""
        self.process.kill()
        self.process.wait()

    def _started(self) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            words = [sys.executable, "-m", "masklet", "serve", *self._words]
            return subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log)


@contextmanager
def fronts(
    count: int, folder: Path, tritons: Sequence[TritonServer | str], **settings: str
) -> Iterator[list[FrontProcess]]:
    """So many, being started."""
    endpoints = [one if isinstance(one, str) else one.endpoint for one in tritons]
    made: list[FrontProcess] = []
    try:
        for _ in range(count):
            made.append(FrontProcess(folder, endpoints, **settings))
        yield made
    finally:
        for front in made:
            front.stop()


async def all_ready(made: Sequence[FrontProcess], *, tritons: int = 1) -> None:
    """Until all serve, and use so many Tritons."""
    for front in made:
        await front.wait_ready()
        async with asyncio.timeout(READY_S):
            while await asyncio.to_thread(_healthy, front) < tritons:
                await asyncio.sleep(_POLL_S)


def _healthy(front: FrontProcess) -> float:
    return front.metric("masklet_triton_endpoints", state="healthy")
