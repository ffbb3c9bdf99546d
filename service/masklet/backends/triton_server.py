"""Runs a Triton of this machine with the model. stdlib only."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import math
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import masklet
from masklet.backends.triton_installation import STUB, Installation, find_triton
from masklet.backends.triton_tensors import MODEL
from masklet.config import ModelConfig
from masklet.config_file import config_keys
from masklet.errors import BackendUnavailable, ConfigError

_REPOSITORY = "model_repo"
_REGION = "/dev/shm/triton_python_backend_shm_region_"
_POLL_S = 0.1
_LOOK_S = 1.0
_KILL_AFTER_S = 5.0  # beyond the time granted for open sequences
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG
_DIRECTLY = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # no proxy comes between the two
_LOG = logging.getLogger(__name__)
_CPU_KIND = "kind: KIND_CPU"


@dataclass(frozen=True, slots=True)
class TritonOptions:
    """How to run it.

    Attributes:
        host: address to listen on; Triton has no authentication, so keep it off public networks.
        grpc_port: 0: any free one; so are the others.
        http_port: HTTP.
        metrics_port: Prometheus metrics.
        exit_timeout_s: after SIGTERM, how long open sequences are served.
        shm_bytes: shared memory between the server and the Python model, to start with; it grows.
        gpu: number of the GPU that the model runs on; None: the CPU. One instance, on one GPU: several would not share
            sessions, load and measurements, so for several GPUs there is one Triton each.
        environment: settings of the model, MASKLET_*.
        repository: model repository; None: `default_repository`.
        log: where the server's output goes; None: this process's own.
    """

    host: str = "127.0.0.1"
    grpc_port: int = 0
    http_port: int = 0
    metrics_port: int = 0
    exit_timeout_s: int = 30
    shm_bytes: int = 64 * 1024 * 1024
    gpu: int | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    repository: Path | None = None
    log: Path | None = None


def model_environment(model: ModelConfig) -> dict[str, str]:
    """The settings of `TritonOptions.environment` that make Triton's model run this configuration."""
    return {config_keys()[f"model.{name}"].variable: str(value) for name, value in asdict(model).items()}


def default_repository() -> Path:
    """`model_repo` of the wheel this package was installed from, or of its source tree.

    Raises:
        ConfigError: there is neither.
    """
    package = Path(masklet.__file__).resolve().parent
    places = (package / _REPOSITORY, package.parents[1] / _REPOSITORY)
    for repository in places:
        if repository.is_dir():
            return repository
    raise ConfigError(f"no model repository at {places[0]} or {places[1]}; name it with --model-repository")


class TritonServer:
    """A Triton process with our model: entering starts it, leaving stops it. Starts and stops block.

    Call it from the main thread: the process is ended by the kernel when the thread that started it ends.

    Args:
        options: how to run it.
        installation: which; None: `find_triton`.

    Attributes:
        grpc_port: once entered; so are the others.
        http_port: once entered.
        metrics_port: once entered.
        model_died: it was ended because its Python model had died.
    """

    def __init__(self, options: TritonOptions, installation: Installation | None = None) -> None:
        self._options = options
        self._installation = installation
        self.grpc_port, self.http_port, self.metrics_port = options.grpc_port, options.http_port, options.metrics_port
        self._process: subprocess.Popen[bytes] | None = None
        self._regions: set[Path] = set()
        self._due_s = math.inf
        self.model_died = False
        self._watching = False
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        """Start the process; `wait_ready` waits for its model. Raises ConfigError."""
        options = self._options
        with contextlib.ExitStack() as stack:
            installation = self._installation or find_triton()
            asked = (options.grpc_port, options.http_port, options.metrics_port)
            self.grpc_port, self.http_port, self.metrics_port = free_ports(options.host, asked)
            repository = stack.enter_context(_repository(options))
            log = stack.enter_context(_opened(options.log)) if options.log else None
            self._start(installation, repository, log)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop it: SIGTERM, and SIGKILL if that does not help in time, counted from the first SIGTERM."""
        self.signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(max(0.0, self._due_s - time.monotonic()))
        if self.process.poll() is None:
            self.kill()
            self.process.wait()
        for region in self._regions:  # left behind by a server that did not end by itself, or not in time
            region.unlink(missing_ok=True)
        self._stack.close()

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The process, once entered."""
        assert self._process is not None, "not entered"
        return self._process

    @property
    def endpoint(self) -> str:
        """host:port of gRPC, for the backend."""
        return f"{self._options.host}:{self.grpc_port}"

    def signal(self, number: int) -> None:
        """Pass a signal on; a process that has ended gets none."""
        if number == signal.SIGTERM:
            limit_s = self._options.exit_timeout_s + _KILL_AFTER_S
            self._due_s = min(self._due_s, time.monotonic() + limit_s)
        if self.process.poll() is None:
            self.process.send_signal(number)

    def kill(self) -> None:
        """End it at once; leaving removes the shared memory that it cannot remove any more."""
        with contextlib.suppress(OSError):  # it has just ended
            self._regions |= _shared_regions(self.process.pid)
        self.process.kill()

    def is_ready(self) -> bool:
        """Whether the model answers."""
        url = f"http://{self._options.host}:{self.http_port}/v2/models/{MODEL}/ready"
        try:
            with _DIRECTLY.open(url, timeout=1) as reply:
                return bool(reply.status == 200)
        except OSError:
            return False

    def wait(self) -> int:
        """Until it ends; its exit status. Raises BackendUnavailable if it is late after SIGTERM; leaving kills it."""
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return self.process.wait(_LOOK_S)
            self._check_due()

    def wait_ready(self, timeout_s: float) -> None:
        """Raises BackendUnavailable if the process ends, is not ready in time, or is late after SIGTERM."""
        deadline = time.monotonic() + timeout_s
        while not self.is_ready():
            if (status := self.process.poll()) is not None:
                raise BackendUnavailable(f"Triton ended with status {status} before it was ready{self._last_words()}")
            if time.monotonic() > deadline:
                raise BackendUnavailable(f"Triton was not ready within {timeout_s:g} s{self._last_words()}")
            self._check_due()
            time.sleep(_POLL_S)
        self._regions = _shared_regions(self.process.pid)
        if not self._watching:
            self._watching = True
            for pid in _models_of(self.process.pid):
                threading.Thread(target=self._watch, args=(pid,), name="masklet-triton-model", daemon=True).start()

    def _check_due(self) -> None:
        if time.monotonic() > self._due_s:
            limit_s = self._options.exit_timeout_s + _KILL_AFTER_S
            raise BackendUnavailable(f"Triton has not ended within {limit_s:g} s of SIGTERM and is killed")

    def _watch(self, pid: int) -> None:
        """Until a model's process ends; then ends the server as soon as it says that it is ready all the same.

        It would stay up, say that it is well, and take a second to find out at each request. Whoever started it is to
        start it again. One that drains is not ready, and ends by itself.
        """
        with contextlib.suppress(ProcessLookupError):
            descriptor = os.pidfd_open(pid)
            select.select([descriptor], [], [])
            os.close(descriptor)
        while self.process.poll() is None and not self.is_ready():
            time.sleep(_LOOK_S)
        if self.process.poll() is None:
            _LOG.error("the model's process has died, Triton is ended", extra={"endpoint": self.endpoint, "pid": pid})
            self.model_died = True
            self.kill()

    def _last_words(self) -> str:
        if self._options.log is None:
            return ""
        lines = self._options.log.read_text(errors="replace").splitlines()
        errors = [line for line in lines if "error" in line.lower()]
        return "; its log says:\n" + "\n".join((errors or lines)[-5:])

    def _start(self, installation: Installation, repository: Path, log: IO[bytes] | None) -> None:
        self._process = subprocess.Popen(
            [str(installation.binary), *self._flags(installation, repository)],
            env=_environment(installation, self._options.environment),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT if log else None,
            start_new_session=True,  # Ctrl-C on a terminal reaches this process alone, which passes it on once
            preexec_fn=_die_with_parent,
        )

    def _flags(self, installation: Installation, repository: Path) -> list[str]:
        options = self._options
        values = {
            "model-repository": repository,
            "backend-directory": installation.backends,
            "model-control-mode": "explicit",
            "load-model": MODEL,
            "disable-auto-complete-config": None,
            "exit-timeout-secs": options.exit_timeout_s,
            "grpc-address": options.host,
            "grpc-port": self.grpc_port,
            "http-address": options.host,
            "http-port": self.http_port,
            "metrics-address": options.host,
            "metrics-port": self.metrics_port,
            "backend-config": f"python,shm-default-byte-size={options.shm_bytes}",
        }
        return [f"--{name}" if value is None else f"--{name}={value}" for name, value in values.items()]


def gpu_number(device: str) -> int | None:
    """Of "cuda" and "cuda:N"; None for all that is no GPU."""
    found = re.fullmatch(r"cuda(?::(\d+))?", device)
    return int(found[1] or 0) if found else None


@contextlib.contextmanager
def _repository(options: TritonOptions) -> Iterator[Path]:
    """The model repository; for a GPU a copy that says so."""
    repository = options.repository or default_repository()
    described = repository / MODEL / "config.pbtxt"
    if not described.is_file():
        raise ConfigError(f"{repository} is no model repository: it has no {MODEL}/config.pbtxt")
    if options.gpu is None:
        yield repository
        return
    with tempfile.TemporaryDirectory(prefix="masklet-triton-") as made:
        copy = Path(made) / MODEL
        shutil.copytree(repository / MODEL, copy, ignore=shutil.ignore_patterns("__pycache__"))
        gpu = f"kind: KIND_GPU, gpus: [ {options.gpu} ]"
        (copy / "config.pbtxt").write_text(described.read_text().replace(_CPU_KIND, gpu))
        yield Path(made)


def _opened(log: Path) -> IO[bytes]:
    try:
        return log.open("ab")
    except OSError as error:
        raise ConfigError(f"cannot write Triton's log to {log}: {error.strerror}") from error


def _shared_regions(pid: int) -> set[Path]:
    """Shared memory between the server and its Python models, which outlives them unless they end in peace."""
    words = (line.split() for line in Path(f"/proc/{pid}/maps").read_text().splitlines())
    return {Path(line[5]) for line in words if len(line) == 6 and line[5].startswith(_REGION)}


def _models_of(pid: int) -> set[int]:
    """The processes of its Python models."""
    threads = Path(f"/proc/{pid}/task").iterdir()
    children = {int(child) for thread in threads for child in (thread / "children").read_text().split()}
    return {child for child in children if STUB.startswith(Path(f"/proc/{child}/comm").read_text().strip())}


def _environment(installation: Installation, settings: Mapping[str, str]) -> dict[str, str]:
    """Ours, with what the model needs: this Python's library, masklet and its dependencies, settings.

    The wheel's stubs ignore PYTHONPATH and take the modules of the first python3 on the PATH; containers' heed it.
    """
    libraries = [*map(str, installation.libraries), str(sysconfig.get_config_var("LIBDIR"))]
    package_root = str(Path(masklet.__file__).resolve().parent.parent)  # an editable install is in no site-packages
    modules = dict.fromkeys([package_root, sysconfig.get_path("purelib"), sysconfig.get_path("platlib")])
    return {
        **os.environ,
        "PATH": _joined([str(Path(sys.executable).parent)], "PATH"),
        "LD_LIBRARY_PATH": _joined(libraries, "LD_LIBRARY_PATH"),
        "PYTHONPATH": _joined(modules, "PYTHONPATH"),
        **settings,
    }


def _joined(folders: list[str] | dict[str, None], variable: str) -> str:
    return os.pathsep.join([*folders, *filter(None, [os.environ.get(variable)])])


def free_ports(host: str, asked: tuple[int, ...]) -> list[int]:
    """The ports asked for, free ones in place of zeros."""
    with contextlib.ExitStack() as stack:  # all held at a time, so that they differ
        return [port or _free_port(host, stack) for port in asked]


def _free_port(host: str, stack: contextlib.ExitStack) -> int:
    probe = stack.enter_context(socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET))
    try:
        probe.bind((host, 0))
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"host is {host}, which cannot be listened on: {error}") from error
    return int(probe.getsockname()[1])


def _die_with_parent() -> None:
    """Also when this process is killed: a server left behind would keep its ports and memory."""
    ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGTERM)
