from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import grpc
import pytest

from masklet.cli import main
from masklet.v1 import segmentation_pb2 as pb
from masklet.v1.segmentation_pb2_grpc import SegmentationServiceStub

FLAGS = ("serve", "--server.backend", "fake", "--server.port", "0", "--server.metrics_port", "0")
# The command as it is, but for a backend that keeps every frame, or that never has its model loaded.
HOLDING = "lifecycle.make_backend = lambda config, **_: FakeBackend([Hold(asyncio.Event())])"
LOADING = "FakeBackend.__aenter__ = lambda self: asyncio.Event().wait()"
SCRIPT = """
import asyncio, sys
from masklet.backends.fake import FakeBackend, Hold
from masklet.cli import main
from masklet.server import lifecycle
{patch}
sys.exit(main(sys.argv[1:]))
"""


class Served:
    """A server process; its log is read line by line."""

    def __init__(self, *command: str, flags: tuple[str, ...] = ()) -> None:
        words = [sys.executable, *command, *FLAGS, *flags]
        self.process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)

    def wait_for(self, event: str) -> str:
        assert self.process.stderr
        for line in self.process.stderr:
            if f"event={event}" in line:
                return line
        raise AssertionError(f"ended without {event}")

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def ended(self) -> tuple[int, float]:
        """Exit status, and how long it took."""
        started = time.monotonic()
        return self.process.wait(20), time.monotonic() - started


@pytest.fixture
def served() -> Iterator[Callable[..., Served]]:
    started: list[Served] = []

    def start(*command: str, flags: tuple[str, ...] = ()) -> Served:
        started.append(Served(*command, flags=flags))
        return started[-1]

    yield start
    for one in started:
        one.process.kill()
        one.process.wait()
        assert one.process.stderr
        one.process.stderr.close()


def address_in(ready: str) -> str:
    found = re.search(r" address=(\S+)", ready)
    assert found
    return found[1]


def track(channel: grpc.Channel) -> Any:
    """A stream that opens, sends a frame and a ping, and then stays."""
    opening = pb.Open(codec=pb.FRAME_CODEC_RGB8, height=1, width=1)
    requests: SimpleQueue[pb.TrackRequest] = SimpleQueue()
    requests.put(pb.TrackRequest(seq=1, open=opening))
    requests.put(pb.TrackRequest(seq=2, frame=pb.Frame(payload=b"rgb")))
    requests.put(pb.TrackRequest(seq=3, ping=pb.Ping()))
    return SegmentationServiceStub(channel).Track(iter(requests.get, None), timeout=20)


def test_a_signal_drains_and_the_exit_status_is_0(served: Callable[..., Served]) -> None:
    server = served("-m", "masklet")
    ready = server.wait_for("ready")
    assert "backend=fake model=fake device=cpu" in ready
    assert "trained=False" in ready
    with grpc.insecure_channel(address_in(ready)) as channel:
        answers, kinds = track(channel), []
        assert next(answers).WhichOneof("message") == "opened"
        server.signal(signal.SIGTERM)
        with pytest.raises(grpc.RpcError, match="UNAVAILABLE"):
            for answer in answers:
                kinds.append(answer.WhichOneof("message"))
    assert "go_away" in kinds
    assert server.ended()[0] == 0


def test_a_second_signal_ends_a_drain_at_once(served: Callable[..., Served]) -> None:
    server = served("-c", SCRIPT.format(patch=HOLDING))
    with grpc.insecure_channel(address_in(server.wait_for("ready"))) as channel:
        answers = track(channel)
        assert [next(answers).WhichOneof("message") for _ in range(2)] == ["opened", "pong"]
        server.signal(signal.SIGINT)
        assert next(answers).WhichOneof("message") == "go_away"
        server.signal(signal.SIGTERM)
        status, seconds = server.ended()
    assert status == 128 + signal.SIGTERM
    assert seconds < 5


def test_a_signal_while_the_model_is_loaded_ends_in_order(served: Callable[..., Served]) -> None:
    server = served("-c", SCRIPT.format(patch=LOADING), flags=("--log-level", "debug"))
    server.wait_for("listening")
    server.signal(signal.SIGTERM)
    assert server.ended()[0] == 0


def run(*words: str, code: str = "from masklet.cli import main; sys.exit(main(sys.argv[1:]))") -> tuple[int, str, str]:
    command = [sys.executable, "-c", f"import sys; {code}", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("flag", ["--port", "--metrics-port"])
def test_an_occupied_port_is_one_line_and_status_2(flag: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        status, _, text = run(*FLAGS, flag, port)
    assert status == 2
    assert f"error: cannot {'listen' if flag == '--port' else 'serve metrics'} on 127.0.0.1:{port}" in text
    assert "Traceback" not in text


def test_without_torch_the_default_backend_says_what_to_install() -> None:
    code = "sys.modules['torch'] = None; from masklet.cli import main; sys.exit(main(sys.argv[1:]))"
    status, _, text = run("serve", "--port", "0", "--metrics-port", "0", code=code)
    assert (status, text.count("\n")) == (2, 1)
    assert "pip install -e '.[engine]'" in text


@pytest.mark.parametrize(
    ("words", "without"),
    [
        (["--help"], ["torch", "grpc", "numpy.linalg"]),
        (["serve", "--help"], ["torch", "grpc"]),
        (
            ["serve", "--backend", "fake", "--metrics-port", "0", "--port", "0", "--host", "no.such.host.invalid"],
            ["torch"],
        ),
    ],
)
def test_commands_import_no_more_than_they_need(words: list[str], without: list[str]) -> None:
    code = (
        "import atexit; from masklet.cli import main;"
        f"atexit.register(lambda: print('loaded', [name for name in {without!r} if name in sys.modules]));"
        "sys.exit(main(sys.argv[1:]))"
    )
    assert run(*words, code=code)[1].endswith("loaded []\n")


def test_a_bad_key_in_a_file_names_the_nearest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "masklet.toml"
    path.write_text("[server]\nprot = 1\n")
    assert main(["serve", "--config", str(path)]) == 2
    assert capsys.readouterr().err == f"error: unknown key server.prot (file {path}); did you mean server.port?\n"


def test_an_unknown_flag_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["serve", "--server.prot=1"])
    assert caught.value.code == 2
    assert "unknown argument --server.prot; did you mean --server.port?" in capsys.readouterr().err


def test_the_printed_configuration_has_every_source(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "masklet.toml"
    path.write_text("[limits]\nmax_objects = 3\n")
    monkeypatch.setitem(os.environ, "MASKLET_MODEL_SEED", "7")
    assert main(["serve", "--config", str(path), "--print-config", "--port", "1"]) == 0
    printed = tomllib.loads(capsys.readouterr().out)
    values = printed["limits"]["max_objects"], printed["model"]["seed"], printed["server"]["port"]
    assert values == (3, 7, 1)


def test_help_shows_groups_defaults_and_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["serve", "--help"])
    text = capsys.readouterr().out
    assert caught.value.code == 0
    expected = ["\nserver:\n", "\nlimits:\n", "(default: 50051)", "examples:", "--config"]
    assert [words for words in expected if words not in text] == []
    assert re.search(r"--port( N)?, --server\.port N", text)


def test_ctrl_c_is_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("masklet.cli.serve.load_config", interrupted)
    assert main(["serve"]) == 130


@pytest.mark.parametrize("command", ["serve", "weights", "track", "segment", "verify", "demo"])
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    assert caught.value.code == 0
    assert f"usage: masklet {command}" in capsys.readouterr().out
