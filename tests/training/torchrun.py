"""A run of two processes, and all that belongs to it gone afterwards."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import psutil

ROOT = Path(__file__).parents[2]


@contextmanager
def torchrun(script: Path, *words: object, said: IO[str]) -> Iterator[subprocess.Popen[str]]:
    """`script`, run by torchrun twice at a time; what it says goes to `said`. Whatever of it is left is killed."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-addr=127.0.0.1",
               f"--master-port={port}", str(script), *map(str, words)]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    run = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=said, stderr=subprocess.STDOUT, text=True)
    try:
        yield run
    finally:
        _kill(run)


def run_by_torchrun(script: Path, *words: object, timeout_s: float = 100) -> None:
    """The same to its end, which has to be a good one."""
    said = script.with_suffix(".log")
    with said.open("w") as log, torchrun(script, *words, said=log) as run:
        run.wait(timeout_s)
    assert run.returncode == 0, said.read_text()


def _kill(run: subprocess.Popen[str]) -> None:
    """With all processes below it: torchrun gives each a session of its own, so no group has them all."""
    if run.poll() is None:
        for one in psutil.Process(run.pid).children(recursive=True):
            one.kill()
        run.kill()
    run.wait()
