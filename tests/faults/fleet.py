"""Real Tritons to be killed: started together, replaced when a test needs more than are left."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.backends.triton_process import options

from masklet.backends.triton import TritonBackend
from masklet.backends.triton_server import TritonServer, model_environment
from masklet.config import ModelConfig, RoutingConfig
from masklet.routing.discovery import ListedEndpoints
from masklet.routing.router import RoutedBackend

MODEL = ModelConfig(
    variant="nano", weights="random", input_size=64, device="cpu", precision="float32", threads=1, calibration_s=0
)
READY_S = 120.0
# As by default, but for what a busy test machine needs.
ROUTING = RoutingConfig(checkpoint_every_frames=4, recovery_timeout_s=90.0, canary_timeout_s=60.0, retry_max_s=0.5)

_STACK = contextlib.ExitStack()
_STARTED: list[TritonServer] = []
_LIVING: list[TritonServer] = []


def start_triton(**changes: Any) -> TritonServer:
    """One that is being started."""
    folder = Path(_STACK.enter_context(tempfile.TemporaryDirectory(prefix="masklet-tests-")))
    given = replace(options(folder), **{"environment": model_environment(MODEL), **changes})
    server = _STACK.enter_context(TritonServer(given))
    _STARTED.append(server)
    return server


def running_tritons(count: int) -> list[TritonServer]:
    """So many that are ready and have their model. Blocks."""
    _LIVING[:] = [server for server in _LIVING if server.process.poll() is None and server.is_ready()]
    _LIVING.extend(start_triton() for _ in range(count - len(_LIVING)))
    for server in _LIVING:
        server.wait_ready(READY_S)
    return _LIVING[:count]


def forget(server: TritonServer) -> None:
    """It is not to be used by the next test: its health does not tell that it was killed."""
    _LIVING[:] = [one for one in _LIVING if one is not server]


def routed(servers: Sequence[TritonServer], **settings: Any) -> RoutedBackend:
    """A router over them, not entered yet."""
    return RoutedBackend(
        ListedEndpoints([server.endpoint for server in servers]),
        lambda address: TritonBackend(address, connect_timeout_s=0),
        replace(ROUTING, **settings),
        first_timeout_s=READY_S,
    )


def home(backend: RoutedBackend, servers: Sequence[TritonServer], session_id: str) -> TritonServer:
    """Where the session lives."""
    (found,) = [server for server in servers if server.endpoint == backend.location(session_id)]
    return found


def stop_fleet() -> None:
    """At the end of the session, at once: nothing is left to be saved."""
    for server in _STARTED:
        server.kill()
    _STARTED.clear()
    _LIVING.clear()
    _STACK.close()
