"""What an operator gets wrong is one line that names it, status 2, and nothing is left running."""

from __future__ import annotations

import logging
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from masklet.cli import main

LOGGERS = ("masklet", "opentelemetry")
FAKE = ("serve", "--backend", "fake", "--port", "0")


@pytest.fixture(autouse=True)
def logs() -> Iterator[None]:
    """The command sets the loggers up; they are put back."""
    before = [(log, log.handlers[:], log.propagate, log.level) for log in map(logging.getLogger, LOGGERS)]
    yield
    for log, handlers, propagate, level in before:
        log.handlers[:], log.propagate = handlers, propagate
        log.setLevel(level)


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield taken.getsockname()[1]


def complaint(capsys: pytest.CaptureFixture[str], *flags: str) -> str:
    """The one line that `masklet serve` ends with."""
    assert main([*FAKE, *flags]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    return line


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            "[server]\nmetrics_prot = 1\n",
            "unknown key server.metrics_prot (file {path}); did you mean server.metrics_port?",
        ),
        ("[tracing]\nsample_ratio = '1 %'\n", "tracing.sample_ratio is '1 %', must be a number (from file {path})"),
        ("server.metrics_port = \n", "{path} is not a TOML file: Invalid value (at line 1"),
    ],
)
def test_a_malformed_key(capsys: pytest.CaptureFixture[str], tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "masklet.toml"
    path.write_text(content)
    assert complaint(capsys, "--config", str(path)).startswith(f"error: {words.format(path=path)}")


def test_a_malformed_variable(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASKLET_TRACING_SAMPLE_RATE", "0.1")
    assert "did you mean MASKLET_TRACING_SAMPLE_RATIO?" in complaint(capsys)


@pytest.mark.parametrize(
    ("flag", "value", "words"),
    [
        ("tracing.sample_ratio", "1.5", "is 1.5, must be 0 to 1"),
        ("tracing.endpoint", "collector:4317", "is 'collector:4317', must be http://host:port or https://host:port"),
        ("tracing.endpoint", "http://a:65536", "is 'http://a:65536', must be http://host:port or https://host:port"),
        ("server.metrics_port", "65536", "is 65536, must be 0 to 65535"),
    ],
)
def test_a_value_out_of_range(capsys: pytest.CaptureFixture[str], flag: str, value: str, words: str) -> None:
    assert complaint(capsys, f"--{flag}", value) == f"error: {flag} {words} (from flag --{flag})"


def test_a_missing_key_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "keys"
    line = complaint(capsys, "--session.resume_key_file", str(path))
    assert line == f"error: session.resume_key_file {path} cannot be read: No such file or directory"


def test_a_metrics_port_in_use(capsys: pytest.CaptureFixture[str], taken_port: int) -> None:
    line = complaint(capsys, "--metrics-port", str(taken_port))
    where = f"127.0.0.1:{taken_port} (server.metrics_host, server.metrics_port)"
    assert line == f"error: cannot serve metrics on {where}: Address already in use"


def test_what_the_system_refuses_is_one_line(tmp_path, capsys, monkeypatch):
    def refused(*_: object) -> None:
        raise PermissionError(13, "Permission denied", str(tmp_path))

    monkeypatch.setattr("pathlib.Path.is_dir", refused)
    assert main(["evaluate", "--data", str(tmp_path), "--backend", "fake"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and "Permission denied" in error and error.count("\n") == 1


def test_a_file_of_the_folder_in_use_that_is_named_like_a_module_harms_no_demo(tmp_path):
    (tmp_path / "queue.py").write_text("raise SystemExit('this is not the queue you are looking for')")
    command = [sys.executable, "-P", "-m", "masklet", "demo", "--backend", "fake", "--frames", "8", "--size", "96x96"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert run.returncode == 0, run.stdout + run.stderr
