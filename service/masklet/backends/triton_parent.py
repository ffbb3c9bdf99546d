"""A Triton that was killed cannot stop its Python stubs: a watcher of a process's own does.

A thread would not do: a stub that waits for an answer of its server holds the interpreter's lock. Nor would the
kernel's parent-death signal, which follows the thread that started the stub, and that one ends early.
"""

from __future__ import annotations

import os
from pathlib import Path

_SERVER_ARGUMENT = 5  # of the stub's command line: stub, model, region, its size, its growth, server's pid, ...
_WATCH = 'while kill -0 "$2"; do kill -0 "$1" || { kill -9 "$2"; exit; }; sleep 1; done'
_SILENT = [(os.POSIX_SPAWN_OPEN, stream, os.devnull, os.O_RDWR, 0) for stream in (0, 1, 2)]


def end_with_server(server: int | None = None) -> int:
    """Have this process killed within a second or two of its server's end, however busy it is.

    Args:
        server: the server's process; by default the one that the stub's command line names, since a server killed while
            the model was being loaded is no longer the parent; else the parent.

    Returns:
        The watcher's process, which ends with this one.
    """
    server = server or _named_server() or os.getppid()
    command = ["/bin/sh", "-c", _WATCH, "sh", str(server), str(os.getpid())]
    return os.posix_spawn("/bin/sh", command, dict(os.environ), setsid=True, file_actions=_SILENT)


def _named_server() -> int | None:
    try:
        words = Path("/proc/self/cmdline").read_bytes().split(b"\0")
    except OSError:
        return None
    if len(words) <= _SERVER_ARGUMENT or not words[0].endswith(b"triton_python_backend_stub"):
        return None
    return int(words[_SERVER_ARGUMENT]) if words[_SERVER_ARGUMENT].isdigit() else None
