"""The process of a Triton's Python model."""

from __future__ import annotations

from pathlib import Path

from masklet.backends.triton_server import TritonServer


def stub_of(server: TritonServer) -> int:
    """Its process id."""
    threads = Path(f"/proc/{server.process.pid}/task").iterdir()
    (stub,) = {int(pid) for thread in threads for pid in (thread / "children").read_text().split()}
    return stub
