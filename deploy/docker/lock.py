"""Writes deploy/docker/requirements: what each image installs, every version and hash fixed. `make lock` runs it.

The versions are those of constraints.txt, so images run what was tested; indirect dependencies are the newest that fit.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDER = Path(__file__).parent / "requirements"
OLDEST_PYTHON = "3.11"
# What only CUDA builds of torch need; builds for the CPU come from an index of their own, without these.
_CUDA_PACKAGES = [
    "torch",
    "triton",
    "cuda-bindings",
    "cuda-pathfinder",
    "cuda-toolkit",
    "nvidia-cublas",
    "nvidia-cuda-cupti",
    "nvidia-cuda-nvrtc",
    "nvidia-cuda-runtime",
    "nvidia-cudnn-cu13",
    "nvidia-cufft",
    "nvidia-cufile",
    "nvidia-curand",
    "nvidia-cusolver",
    "nvidia-cusparse",
    "nvidia-cusparselt-cu13",
    "nvidia-nccl-cu13",
    "nvidia-nvjitlink",
    "nvidia-nvshmem-cu13",
    "nvidia-nvtx",
]


@dataclass(frozen=True, slots=True)
class Lock:
    """One file of requirements.

    Attributes:
        name: of the file, without its suffix.
        extras: of pyproject.toml.
        without: packages left out.
    """

    name: str
    extras: tuple[str, ...]
    without: tuple[str, ...] = ()


LOCKS = (
    Lock("front", ("triton", "kubernetes", "tracing")),
    Lock("triton", ("engine",)),
    Lock("embedded-cuda", ("engine", "tracing")),
    Lock("embedded-cpu", ("engine", "tracing"), tuple(_CUDA_PACKAGES)),
)


def main() -> int:
    """Write all files; the status of the first `uv` that fails, else 0."""
    for lock in LOCKS:
        words = [f"--extra={extra}" for extra in lock.extras]
        words += [f"--no-emit-package={package}" for package in lock.without]
        if status := _compile("pyproject.toml", lock.name, words):
            return status
    return _compile("deploy/docker/requirements/build.in", "build", [])


def _compile(source: str, name: str, words: list[str]) -> int:
    fixed = ["-c", "constraints.txt", "--universal", f"--python-version={OLDEST_PYTHON}", "--generate-hashes"]
    quiet = ["--no-emit-index-url", "--no-emit-find-links", "--no-annotate", "--no-header", "-q"]
    target = FOLDER / f"{name}.txt"
    command = [str(Path(sys.executable).parent / "uv"), "pip", "compile", source, *fixed, *quiet, *words]
    return subprocess.run([*command, "-o", str(target)], cwd=ROOT, stdout=subprocess.DEVNULL).returncode


if __name__ == "__main__":
    sys.exit(main())
