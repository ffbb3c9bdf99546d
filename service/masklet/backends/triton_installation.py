"""Finds a Triton on this machine and prepares it. stdlib only.

Three places: `tritonserver` on the PATH, /opt/tritonserver of NVIDIA's containers, or the wheel `nvidia-pytriton`,
which carries the server and Python stubs for several Python versions, but not where the server looks for them.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from masklet.errors import ConfigError

STUB = "triton_python_backend_stub"
"""Name of the program that runs a Python model."""
_CONTAINER = Path("/opt/tritonserver")
_EXECUTABLE = 0o755


@dataclass(frozen=True, slots=True)
class Installation:
    """A Triton that can be run.

    Attributes:
        binary: the server.
        backends: folder with the backend `python`.
        libraries: folders the dynamic loader has to look into as well.
    """

    binary: Path
    backends: Path
    libraries: tuple[Path, ...] = ()


def find_triton(cache: Path | None = None) -> Installation:
    """The Triton to run; of the wheel, with a copy of its Python backend in `cache` (None: the user's).

    Raises:
        ConfigError: there is none, or the wheel has no stub for this Python.
    """
    on_path = shutil.which("tritonserver")
    roots = ([Path(on_path).resolve().parent.parent] if on_path else []) + [_CONTAINER]
    for root in roots:
        if (root / "bin" / "tritonserver").is_file() and (root / "backends" / "python").is_dir():
            return Installation(root / "bin" / "tritonserver", root / "backends", (root / "lib",))
    spec = importlib.util.find_spec("pytriton")
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(
            "no Triton found: neither tritonserver on the PATH, nor /opt/tritonserver, nor the wheel "
            "(pip install --no-deps nvidia-pytriton==0.7.0; Linux on x86-64)"
        )
    return _prepare_wheel(Path(spec.submodule_search_locations[0]), cache or _user_cache())


def _user_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "masklet"


def _prepare_wheel(package: Path, cache: Path) -> Installation:
    server = package / "tritonserver"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = server / "python_backend_stubs" / version / STUB
    binary = server / "bin" / "tritonserver"
    if not stub.is_file() or not binary.is_file():
        raise ConfigError(f"{server} holds no server, or no stub for Python {version}")
    name = hashlib.sha256(f"{stub} {stub.stat().st_mtime_ns}".encode()).hexdigest()[:16]
    backends = cache / f"triton-{version}-{name}"
    if not backends.is_dir():
        _copy_backend(server / "backends" / "python", stub, backends)
    if not os.access(binary, os.X_OK):
        binary.chmod(_EXECUTABLE)
    return Installation(binary, backends, (package.parent / "nvidia_pytriton.libs",))


def _copy_backend(source: Path, stub: Path, target: Path) -> None:
    """Made aside and renamed, so that two processes may do it at a time and none sees half of it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as made:
        folder = Path(made) / "backends"
        shutil.copytree(source, folder / "python", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(stub, folder / "python" / STUB)
        (folder / "python" / STUB).chmod(_EXECUTABLE)
        with contextlib.suppress(OSError):  # another process was first
            folder.rename(target)
