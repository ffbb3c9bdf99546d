"""`masklet triton` and `masklet serve --backend triton` as they are typed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from tests.backends.test_triton_server import install
from tests.backends.triton_process import CONFIG
from tests.cli.test_serve import Served

from masklet.cli import main
from masklet.types import Prompt
from masklet_client.client import connect

MODEL = ("--variant", CONFIG.variant, "--input-size", "64", "--device=cpu", "--precision=float32", "--threads=1")
PORTS = ("--grpc-port=0", "--http-port=0", "--metrics-port=0")


@contextmanager
def triton(tmp_path: Path, *flags: str) -> Iterator[subprocess.Popen[str]]:
    always = (*PORTS, "--exit-timeout=10", f"--log={tmp_path / 'log'}")
    words = [sys.executable, "-m", "masklet", "triton", *always, *flags]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.terminate()
            process.wait(30)


@contextmanager
def front(endpoint: str) -> Iterator[Served]:
    served = Served("-m", "masklet", flags=("--server.backend", "triton", "--triton", endpoint))
    with served.process:
        try:
            yield served
        finally:
            served.process.kill()


@pytest.mark.triton
@pytest.mark.slow
async def test_a_triton_is_served_and_ends_when_told(tmp_path):
    with triton(tmp_path, *MODEL) as process:
        assert process.stdout
        ready = process.stdout.readline()
        assert ready.startswith("triton ready grpc=127.0.0.1:")
        endpoint = ready.split("grpc=")[1].split()[0]
        with front(endpoint) as served:
            line = served.wait_for("ready")
            assert "backend=triton" in line
            frames = [np.full((48, 64, 3), value, np.uint8) for value in (10, 60, 110)]
            async with connect(line.split("address=")[1].split()[0]) as client:
                clicks = {0: [Prompt.clicks(1, [(20, 20)])]}
                assert [len(result.objects) async for result in client.follow(frames, clicks)] == [1, 1, 1]
            served.signal(signal.SIGTERM)
            assert served.ended()[0] == 0
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


@pytest.mark.triton
@pytest.mark.slow
def test_a_triton_that_cannot_start_is_one_line_and_status_2(tmp_path):
    with triton(tmp_path, "--variant=sam9") as process:
        said = process.communicate(timeout=60)[1]
        assert process.returncode == 2
    assert said.startswith("error: Triton ended with status 1 before it was ready")
    assert "unknown model variant 'sam9'" in said


@pytest.mark.parametrize(
    "endpoint", ["nowhere", "dns:nowhere", "ftp:host:1", "host:", ":1", "host:port", "host:65536", ""]
)
def test_an_endpoint_that_is_none_is_refused(capsys, endpoint):
    assert main(["serve", "--backend=triton", f"--triton={endpoint}"]) == 2
    assert "triton.endpoints" in capsys.readouterr().err


def test_no_triton_there_is_said(capsys):
    flags = ["--triton=127.0.0.1:9", "--triton.connect_timeout_s=0.2", "--port=0", "--metrics-port=0"]
    assert main(["serve", "--backend=triton", *flags]) == 2
    said = capsys.readouterr().err
    assert "no Triton can be used after 0.2 s: 127.0.0.1:9 is connecting" in said


@pytest.mark.parametrize("flag", ["--model-repository=/nowhere", "--log=/nowhere/log"])
def test_what_is_not_there_is_an_error(flag, capsys):
    assert main(["triton", *PORTS, flag]) == 2
    assert "/nowhere" in capsys.readouterr().err


MOST = {
    "--grpc-port": 65535,
    "--http-port": 65535,
    "--metrics-port": 65535,
    "--ready-timeout": 86400,
    "--exit-timeout": 86400,
    "--shm-mib": 65536,
}


@pytest.mark.parametrize("flag", MOST)
@pytest.mark.parametrize("value", ["-1", "99999"])
def test_a_number_out_of_range_is_refused(flag, value, capsys):
    assert main(["triton", *PORTS, flag, value]) == 2
    named = float(value) if flag == "--ready-timeout" else value
    assert f"error: {flag} is {named}, must be 0 to {MOST[flag]}" in capsys.readouterr().err


def test_a_time_that_is_no_number_is_refused(capsys):
    assert main(["triton", *PORTS, "--ready-timeout", "nan"]) == 2
    assert "error: --ready-timeout is nan, must be 0 to 86400" in capsys.readouterr().err


@pytest.mark.parametrize("host", ["192.0.2.1", "a" * 64])
def test_a_host_that_cannot_be_listened_on_is_named(host, tmp_path, monkeypatch, capsys):
    binary = install(tmp_path / "triton")
    monkeypatch.setenv("PATH", f"{binary.parent}:{os.environ['PATH']}")
    assert main(["triton", *PORTS, "--host", host]) == 2
    assert f"error: host is {host}, which cannot be listened on: " in capsys.readouterr().err


@pytest.mark.triton
@pytest.mark.slow
def test_it_ends_when_its_model_s_process_has(tmp_path):
    with triton(tmp_path, *MODEL) as process:
        assert process.stdout and process.stderr
        assert process.stdout.readline().startswith("triton ready")
        (model,) = [pid for pid in descendants(process.pid) if b"triton_python_backend_stub" in command_of(pid)]
        os.kill(model, signal.SIGKILL)
        assert process.wait(10) == 2
        assert "the model's process has ended" in process.stderr.read()


_STUBBORN = f"""#!{sys.executable}
import http.server, signal, sys

class Ready(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()

signal.signal(signal.SIGTERM, signal.SIG_IGN)
signal.alarm(40)
(port,) = (int(word.split("=")[1]) for word in sys.argv if word.startswith("--http-port="))
http.server.HTTPServer(("127.0.0.1", port), Ready).serve_forever()
"""


@pytest.mark.slow
def test_a_triton_that_does_not_end_when_told_is_killed(tmp_path, monkeypatch):
    binary = install(tmp_path / "triton")
    binary.write_text(_STUBBORN)
    monkeypatch.setenv("PATH", f"{binary.parent}:{os.environ['PATH']}")
    with triton(tmp_path, "--exit-timeout=0") as process:
        assert process.stdout and process.stderr
        assert process.stdout.readline().startswith("triton ready")
        (server,) = descendants(process.pid)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 2
        assert process.stderr.read() == "error: Triton has not ended within 5 s of SIGTERM and is killed\n"
        assert not Path(f"/proc/{server}").exists()


def descendants(pid: int) -> list[int]:
    found = [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    found += [int(stat.parent.name) for child in found for stat in children_of(child)]
    return found


def children_of(pid: int) -> list[Path]:
    stats = list(Path("/proc").glob("[0-9]*/stat"))
    return [stat for stat in stats if stat.exists() and stat.read_text().rpartition(") ")[2].split()[1] == str(pid)]


def command_of(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()
