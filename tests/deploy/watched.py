"""A real Prometheus watching a real service and a real Triton, as deploy/prometheus says, but in a hurry."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml
from tests.deploy.prometheus import FOLDER, tool
from tests.faults.fleet import READY_S, start_triton, stop_fleet

from masklet.backends.triton_server import TritonServer, free_ports

HOST = "127.0.0.1"
_POLL_S = 0.2
_STOP_S = 20.0
_HURRY = (
    (r"\bfor: \w+", "for: 1s"),
    (r"\[5m\]", "[20s]"),
    (r"\b(scrape_interval|evaluation_interval): 15s", r"\1: 1s"),
)


class Watched:
    """The three of them. The Triton may be killed and started anew at the same place.

    Attributes:
        service: gRPC address of the service.
        metrics_ports: where the service and Triton export theirs.
    """

    def __init__(self, folder: Path) -> None:
        ports = free_ports(HOST, (0,) * 6)
        self._triton_ports = dict(zip(("grpc_port", "http_port", "metrics_port"), ports, strict=False))
        service_port, self._service_metrics, prometheus_port = ports[3:]
        self.service = f"{HOST}:{service_port}"
        self.metrics_ports = self._service_metrics, self._triton_ports["metrics_port"]
        self._api = f"http://{HOST}:{prometheus_port}"
        self._folder = folder
        self._triton: TritonServer | None = None

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Blocks until all are ready."""
        with contextlib.ExitStack() as stack:
            stack.callback(stop_fleet)
            stack.enter_context(_process(tool("prometheus"), *self._prometheus(), log=self._folder / "prometheus.log"))
            self.start_triton()
            stack.enter_context(_process(sys.executable, *self._masklet(), log=self._folder / "masklet.log"))
            self.wait(lambda: self.values("up == 1") == [1.0, 1.0], "both targets are up")
            yield

    def start_triton(self) -> None:
        """Ready when this returns."""
        self._triton = start_triton(**self._triton_ports)
        self._triton.wait_ready(READY_S)

    def kill_triton(self) -> None:
        """As the kernel does when memory runs out."""
        assert self._triton
        self._triton.process.kill()
        self._triton.process.wait()

    @contextlib.contextmanager
    def loaded(self, seconds: float) -> Iterator[Path]:
        """Cameras for so long, begun when the block is entered and done when it is left; the folder of the report."""
        small = ["--height", "48", "--width", "64", "--clip-frames", "4", "--objects", "2", "--rate-hz", "5"]
        lenient = ["--slo-ms", "60000", "--lag-ms", "1000", "--slo-bad-share", "1"]
        words = ["--server", self.service, "--streams", "2", "--duration-s", f"{seconds:g}", *small, *lenient]
        command = [sys.executable, "-m", "masklet_load.cli", *words, "--out", str(self._folder), "--name", "load"]
        with (self._folder / "load.log").open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        try:
            yield self._folder
            process.wait(seconds + 60)
        finally:
            process.terminate()
            process.wait()

    def query(self, query: str) -> list[dict[str, Any]]:
        """The samples that Prometheus answers with now. Raises HTTPError if it cannot."""
        asked = f"{self._api}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
        with urllib.request.urlopen(asked, timeout=10) as reply:
            answer = json.load(reply)
        assert answer["status"] == "success"
        found: list[dict[str, Any]] = answer["data"]["result"]
        return found

    def values(self, query: str) -> list[float]:
        """Of its samples; none while Prometheus does not answer."""
        try:
            return [float(sample["value"][1]) for sample in self.query(query)]
        except OSError:
            return []

    def firing(self) -> set[str]:
        """Names of alerts."""
        return {sample["metric"]["alertname"] for sample in self.query('ALERTS{alertstate="firing"}')}

    def unhealthy_rules(self) -> list[str]:
        """Rules that could not be evaluated, and why."""
        with urllib.request.urlopen(f"{self._api}/api/v1/rules", timeout=10) as reply:
            groups = json.load(reply)["data"]["groups"]
        every = [rule for group in groups for rule in group["rules"]]
        assert every
        return [f"{rule['name']}: {rule.get('lastError')}" for rule in every if rule["health"] != "ok"]

    def wait(self, fulfilled: Callable[[], bool], what: str, timeout_s: float = 60.0) -> None:
        """Until it is so."""
        deadline_s = time.monotonic() + timeout_s
        while not fulfilled():
            assert time.monotonic() < deadline_s, f"not within {timeout_s:g} s: {what}\n{self._last_words()}"
            time.sleep(_POLL_S)

    def _prometheus(self) -> list[str]:
        """Its flags, once the configuration is written."""
        for path in [FOLDER / "prometheus.yml", *FOLDER.glob("rules/*.yml")]:
            text = path.read_text()
            for found, put in _HURRY:
                text = re.sub(found, put, text)
            text = text.replace("scrape_timeout: 10s", "scrape_timeout: 1s")
            target = self._folder / path.relative_to(FOLDER)
            target.parent.mkdir(exist_ok=True)
            target.write_text(text)
        targets = {"front": [self._service_metrics], "triton": [self._triton_ports["metrics_port"]], "alertmanager": []}
        (self._folder / "targets").mkdir()
        for name, ports in targets.items():
            listed = [{"targets": [f"{HOST}:{port}" for port in ports]}]
            (self._folder / "targets" / f"{name}.yml").write_text(yaml.safe_dump(listed))
        listen = self._api.removeprefix("http://")
        return [
            f"--config.file={self._folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={self._folder / 'data'}",
            f"--web.listen-address={listen}",
            "--log.level=warn",
        ]

    def _masklet(self) -> list[str]:
        _, port = self.service.split(":")
        endpoint = f"{HOST}:{self._triton_ports['grpc_port']}"
        words = ["-m", "masklet", "serve", "--backend", "triton", "--triton", endpoint, "--port", port]
        settings = ["--routing.retry_max_s", "0.5", "--routing.capacity_object_frames_s", "1000"]
        return [*words, "--metrics-port", str(self._service_metrics), *settings]

    def _last_words(self) -> str:
        return "\n".join("\n".join(log.read_text().splitlines()[-5:]) for log in self._folder.glob("*.log"))


@contextlib.contextmanager
def _process(*words: str, log: Path) -> Iterator[None]:
    with log.open("wb") as output:
        process = subprocess.Popen(words, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_S)
        process.kill()
        process.wait()
