"""Where and on what a load test ran."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from ipaddress import ip_address
from pathlib import Path

import grpc.aio

from masklet.errors import BackendUnavailable, ConfigError
from masklet.v1 import segmentation_pb2 as pb
from masklet.v1.segmentation_pb2_grpc import SegmentationServiceStub
from masklet_load.served import Served

_PACKAGES = ("masklet", "grpcio", "protobuf", "hdrhistogram", "torch", "tritonclient")
_DESCRIBE_TIMEOUT_S = 10.0


def machine_facts(words: Sequence[str], *, program: str = "masklet-load") -> dict[str, str]:
    """Command (`words` after its name), date, machine, versions and commit."""
    return {
        "command": " ".join([*_settings(), program, shlex.join(words)]).strip(),
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "cpu": f"{_cpu()}, {len(os.sched_getaffinity(0))} cores, load {os.getloadavg()[0]:.1f} at the start",
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "versions": ", ".join(f"{name} {_version(name)}" for name in _PACKAGES),
        "commit": _commit(),
    }


def _settings() -> list[str]:
    """Those of the environment, which servers that are started here inherit."""
    return [f"{name}={shlex.quote(value)}" for name, value in sorted(os.environ.items()) if name.startswith("MASKLET_")]


async def server_facts(served: Served) -> dict[str, str]:
    """What the first server says it is. Raises BackendUnavailable if it does not answer."""
    address = served.addresses[0]
    async with grpc.aio.insecure_channel(address) as channel:
        stub = SegmentationServiceStub(channel)
        try:
            said = await stub.DescribeModel(pb.DescribeModelRequest(), timeout=_DESCRIBE_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            raise BackendUnavailable(f"no masklet server answers at {address}: {error.details()}") from error
    names = ("model", "weights_sha256", "trained", "input_size", "backend", "device", "precision", "version")
    found = {name: str(getattr(said, name)) for name in names}
    return found | {"limits": " ".join(str(said.limits).split())} | ({"flags": served.flags} if served.flags else {})


def check_targets(addresses: Sequence[str], *, allow_remote: bool) -> None:
    """Load goes to this machine only, unless it is meant to. Raises ConfigError."""
    for address in addresses:
        host, colon, port = address.rpartition(":")
        if not (colon and host and port.isdecimal()):
            raise ConfigError(f"--server has {address!r}, must be host:port", field="server")
        if not (allow_remote or _is_loopback(host.strip("[]"))):
            raise ConfigError(f"{address} is not this machine; --allow-remote sends load there all the same")


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or "unknown CPU")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "-"


def _commit() -> str:
    git = ("git", "-C", str(Path(__file__).parent))
    try:
        head = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
        changed = subprocess.run([*git, "diff", "--quiet", "HEAD"], capture_output=True).returncode
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head.stdout.strip() + (" with changes" if changed else "")
