"""Finding and running a Triton."""

from __future__ import annotations

import http.server
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from tests.backends.triton_process import CONFIG, READY_S, options

from masklet.backends import triton_installation, triton_server
from masklet.backends.triton_installation import Installation, find_triton
from masklet.backends.triton_server import (
    TritonOptions,
    TritonServer,
    default_repository,
    free_ports,
    model_environment,
)
from masklet.config_file import load_config
from masklet.errors import BackendUnavailable, ConfigError


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without Triton."""
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(triton_installation, "_CONTAINER", Path("/nowhere"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)


def install(root: Path) -> Path:
    """Something that looks like a Triton; its server ends at once, with status 3."""
    (root / "bin").mkdir(parents=True)
    (root / "backends" / "python").mkdir(parents=True)
    binary = root / "bin" / "tritonserver"
    binary.write_text("#!/bin/sh\necho error: no model >&2\nexit 3\n")
    binary.chmod(0o755)
    return binary


def test_no_triton_is_an_error_that_says_where_it_was_looked_for(nowhere):
    with pytest.raises(ConfigError, match=r"neither tritonserver on the PATH, nor /opt/tritonserver, nor the wheel"):
        find_triton()


def test_a_proxy_is_not_asked_whether_triton_is_ready(monkeypatch):
    """Containers are given proxies by their engine, with exceptions that do not name 0.0.0.0."""

    class Ready(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "localhost,127.0.0.1")
    with http.server.HTTPServer(("127.0.0.1", 0), Ready) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        assert TritonServer(TritonOptions(host="0.0.0.0", http_port=server.server_port)).is_ready()


def test_the_path_comes_before_the_container(nowhere, tmp_path, monkeypatch):
    binary = install(tmp_path / "path")
    monkeypatch.setattr(triton_installation, "_CONTAINER", tmp_path / "container")
    install(tmp_path / "container")
    assert find_triton().binary == tmp_path / "container" / "bin" / "tritonserver"
    monkeypatch.setenv("PATH", str(binary.parent))
    assert find_triton() == Installation(binary, tmp_path / "path" / "backends", (tmp_path / "path" / "lib",))


@pytest.mark.triton
def test_of_the_wheel_a_copy_is_prepared_once(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(triton_installation, "_CONTAINER", Path("/nowhere"))
    found = find_triton(tmp_path)
    stub = found.backends / "python" / "triton_python_backend_stub"
    assert os.access(stub, os.X_OK)
    assert os.access(found.binary, os.X_OK)
    made = stub.stat().st_mtime_ns
    assert find_triton(tmp_path) == found
    assert stub.stat().st_mtime_ns == made
    assert [path.parent for path in tmp_path.glob("*/python")] == [found.backends]


def test_free_ports_differ_and_asked_for_ones_are_kept():
    ports = free_ports("127.0.0.1", (0, 4711, 0, 0))
    assert ports[1] == 4711
    assert len(set(ports)) == 4
    for port in ports[2:]:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", port))


def test_a_model_s_settings_travel_in_the_environment():
    assert load_config(None, model_environment(CONFIG), {}).model == CONFIG


def test_a_folder_that_is_no_model_repository_is_an_error(tmp_path):
    install(tmp_path / "triton")
    installation = Installation(tmp_path / "triton" / "bin" / "tritonserver", tmp_path / "triton" / "backends")
    with pytest.raises(ConfigError, match=r"no model repository: it has no sam2_track/config.pbtxt"):
        TritonServer(TritonOptions(repository=tmp_path), installation).__enter__()


def test_a_server_that_ends_is_unavailable_with_its_last_words(tmp_path):
    binary = install(tmp_path / "triton")
    asked = TritonOptions(log=tmp_path / "log")
    with TritonServer(asked, Installation(binary, binary.parent)) as server:
        with pytest.raises(BackendUnavailable, match=r"status 3 before it was ready.*\n.*error: no model"):
            server.wait_ready(20)
        server.signal(signal.SIGTERM)
    assert server.process.returncode == 3


def test_a_server_that_is_never_ready_is_unavailable_and_stopped(tmp_path):
    binary = install(tmp_path / "triton")
    binary.write_text("#!/bin/sh\nexec sleep 60\n")
    asked = TritonOptions(log=tmp_path / "log", exit_timeout_s=1)
    late = pytest.raises(BackendUnavailable, match=r"not ready within 0.2 s")
    with TritonServer(asked, Installation(binary, binary.parent)) as server, late:
        server.wait_ready(0.2)
    assert server.process.returncode == -signal.SIGTERM


@contextmanager
def stubborn(tmp_path: Path) -> Iterator[TritonServer]:
    """One that does not end when told to, and is granted no time for it."""
    binary = install(tmp_path / "triton")
    binary.write_text("#!/bin/sh\ntrap '' TERM\necho up\nwhile :; do sleep 0.1; done\n")
    asked = TritonOptions(log=tmp_path / "log", exit_timeout_s=0)
    with TritonServer(asked, Installation(binary, binary.parent)) as server:
        while "up" not in (tmp_path / "log").read_text():
            assert server.process.poll() is None
        yield server


HOLDS_MEMORY = """#!{python}
import mmap, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
with open("{region}", "w+b") as file:
    file.truncate(4096)
    held = mmap.mmap(file.fileno(), 4096)
print("up", flush=True)
time.sleep(60)
"""


def test_a_server_killed_before_it_was_ready_leaves_no_shared_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(triton_server, "_KILL_AFTER_S", 0.1)
    region = Path(f"{triton_server._REGION}{uuid.uuid4()}")
    binary = install(tmp_path / "triton")
    binary.write_text(HOLDS_MEMORY.format(python=sys.executable, region=region))
    asked = TritonOptions(log=tmp_path / "log", exit_timeout_s=0)
    with TritonServer(asked, Installation(binary, binary.parent)) as server:
        while "up" not in (tmp_path / "log").read_text():
            assert server.process.poll() is None
        assert region.exists()
    assert server.process.returncode == -signal.SIGKILL and not region.exists()


def test_a_server_that_does_not_stop_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(triton_server, "_KILL_AFTER_S", 0.3)
    with stubborn(tmp_path) as server:
        pass
    assert server.process.returncode == -signal.SIGKILL


@pytest.mark.parametrize(
    "wait", [lambda server: server.wait(), lambda server: server.wait_ready(60)], ids=["ready", "loading"]
)
def test_one_told_to_end_that_does_not_is_late_and_killed_without_waiting_once_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wait: Callable[[TritonServer], object]
) -> None:
    monkeypatch.setattr(triton_server, "_KILL_AFTER_S", 3.0)
    with stubborn(tmp_path) as server:
        told_s = time.monotonic()
        server.signal(signal.SIGTERM)
        with pytest.raises(BackendUnavailable, match=r"not ended within 3 s of SIGTERM"):
            wait(server)
        late_s = time.monotonic()
    assert server.process.returncode == -signal.SIGKILL
    assert late_s - told_s >= 3.0
    assert time.monotonic() - late_s < 2.0


@contextmanager
def without_model(tmp_path: Path, program: str, *looks: int) -> Iterator[TritonServer]:
    """A server that runs `program`, and whose looks have these statuses; the last goes on."""
    statuses = list(looks)

    class Health(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(statuses.pop(0) if len(statuses) > 1 else statuses[0])
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    binary = install(tmp_path / "triton")
    binary.write_text(f"#!/bin/sh\nexec {program}\n")
    with http.server.HTTPServer(("127.0.0.1", 0), Health) as health:
        threading.Thread(target=health.serve_forever, args=(0.05,), daemon=True).start()
        asked = TritonOptions(http_port=health.server_port, log=tmp_path / "log", exit_timeout_s=1)
        with TritonServer(asked, Installation(binary, binary.parent)) as server:
            yield server
        health.shutdown()


def dead() -> int:
    """The process id of one that has ended."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def test_a_server_whose_model_died_is_ended_even_if_the_first_looks_fail(tmp_path, monkeypatch):
    monkeypatch.setattr(triton_server, "_LOOK_S", 0.05)
    with without_model(tmp_path, "sleep 60", 503, 503, 200) as server:
        server._watch(dead())
        assert server.process.wait(10) == -signal.SIGKILL
        assert server.model_died


def test_a_server_that_is_not_ready_any_more_ends_by_itself(tmp_path, monkeypatch):
    monkeypatch.setattr(triton_server, "_LOOK_S", 0.05)
    with without_model(tmp_path, "sleep 1", 503) as server:
        server._watch(dead())
        assert (server.process.returncode, server.model_died) == (0, False)


def test_for_a_gpu_the_repository_says_so():
    with triton_server._repository(TritonOptions(gpu=1)) as folder:
        assert "{ count: 1, kind: KIND_GPU, gpus: [ 1 ] }" in (folder / "sam2_track" / "config.pbtxt").read_text()
        assert (folder / "sam2_track" / "1" / "model.py").is_file()
    assert not folder.exists()
    with triton_server._repository(TritonOptions()) as folder:
        assert folder == default_repository()


@pytest.mark.triton
@pytest.mark.slow
def test_a_model_that_cannot_be_loaded_is_said(tmp_path):
    environment = model_environment(replace(CONFIG, weights="/no/such/weights.pt"))
    said = pytest.raises(BackendUnavailable, match=r"WEIGHTS_INVALID: .*/no/such/weights.pt")
    with TritonServer(options(tmp_path, environment=environment)) as server, said:
        server.wait_ready(READY_S)
