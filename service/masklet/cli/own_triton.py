"""A Triton of a command's own: started for a model, stopped when the work is done."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from masklet.backends.triton_server import TritonOptions, TritonServer, gpu_number, model_environment
from masklet.config import ModelConfig

_READY_S = 120.0


@contextmanager
def own_triton(config: ModelConfig) -> Iterator[str]:
    """The endpoint (host:port) of a Triton that runs the model `config` asks for, ready. Starting blocks.

    Raises:
        ConfigError: no Triton on this machine.
        BackendUnavailable: it does not get ready.
    """
    with tempfile.TemporaryDirectory(prefix="masklet-triton-") as folder:
        options = TritonOptions(
            gpu=gpu_number(config.device),
            environment=model_environment(replace(config, calibration_s=0)),  # one user, who waits
            log=Path(folder) / "triton.log",
        )
        with TritonServer(options) as server:
            server.wait_ready(_READY_S)
            yield server.endpoint
