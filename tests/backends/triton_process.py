"""A real Triton for the tests: started by the first that asks, in each process, and stopped when pytest ends."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path

from masklet.backends.triton_server import TritonOptions, TritonServer, model_environment
from masklet.config import ModelConfig

# As small as a published variant gets; Triton's process knows nothing of variants that tests make up.
CONFIG = ModelConfig(
    variant="sam2.1_hiera_tiny", input_size=64, device="cpu", precision="float32", threads=1, calibration_s=0.1
)
READY_S = 90.0
EXIT_S = 10

_STACK = contextlib.ExitStack()
_RUNNING: list[TritonServer] = []


def options(folder: Path, **changes: object) -> TritonOptions:
    """How tests run Triton: free ports, the log in `folder`."""
    given = {"environment": model_environment(CONFIG), "exit_timeout_s": EXIT_S, "log": folder / "triton.log"} | changes
    return TritonOptions(**given)  # type: ignore[arg-type]


def running_triton() -> TritonServer:
    """This process's Triton, ready. Blocks, because Triton ends with the thread that started it."""
    if not _RUNNING:
        folder = Path(_STACK.enter_context(tempfile.TemporaryDirectory(prefix="masklet-tests-")))
        server = _STACK.enter_context(TritonServer(options(folder)))
        server.wait_ready(READY_S)
        _RUNNING.append(server)
    return _RUNNING[0]


def stop_triton() -> None:
    """At the end of the session."""
    _RUNNING.clear()
    _STACK.close()
