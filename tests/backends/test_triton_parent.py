import subprocess
import sys
import time
from pathlib import Path

_CHILD = """
import time
from masklet.backends.triton_parent import end_with_server
end_with_server({server})
print(1, flush=True)
{busy}
"""
_PARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", {child!r}], stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
time.sleep(60)
"""
_HOLDS_THE_LOCK = "import ctypes; ctypes.PyDLL(None).sleep(60)"


def test_a_model_ends_when_its_server_was_killed_even_if_it_holds_the_interpreter():
    child = _CHILD.format(server="", busy=_HOLDS_THE_LOCK)
    with subprocess.Popen([sys.executable, "-c", _PARENT.format(child=child)], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.kill()
    assert _ended(pid)


def test_a_server_that_is_gone_already_is_noticed():
    gone = subprocess.Popen(["true"])
    gone.wait()
    child = _CHILD.format(server=gone.pid, busy="time.sleep(60)")
    started = time.monotonic()
    ended = subprocess.run([sys.executable, "-c", child], stdout=subprocess.PIPE, timeout=30)
    assert (ended.returncode, time.monotonic() - started < 20) == (-9, True)


def test_the_watcher_ends_with_the_model():
    script = "from masklet.backends.triton_parent import end_with_server; print(end_with_server())"
    watcher = int(subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout)
    assert _ended(watcher)


def _ended(pid: int, within_s: float = 20.0) -> bool:
    """Whether the process is gone, or only waits to be reaped, in this time."""
    deadline = time.monotonic() + within_s
    while _runs(pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    return not _runs(pid)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
