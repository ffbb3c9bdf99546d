from __future__ import annotations

import time
from pathlib import Path

import psutil
import pytest
from tests.training.torchrun import torchrun

_SLEEPERS = """
import os, subprocess, sys, time
from pathlib import Path
below = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
found = Path(sys.argv[1]) / f"{os.environ['RANK']}.tmp"
found.write_text(f"{os.getpid()} {below.pid}")
found.rename(found.with_suffix(".pids"))
time.sleep(60)
"""


def test_a_test_that_fails_leaves_no_process_of_a_run(tmp_path: Path) -> None:
    script = tmp_path / "run.py"
    script.write_text(_SLEEPERS)
    with (
        pytest.raises(AssertionError, match="a test fails"),
        (tmp_path / "said").open("w") as said,
        torchrun(script, tmp_path, said=said) as run,
    ):
        until_s = time.monotonic() + 60
        while len(written := list(tmp_path.glob("*.pids"))) < 2:
            assert run.poll() is None and time.monotonic() < until_s
            time.sleep(0.1)
        processes = [psutil.Process(int(pid)) for path in written for pid in path.read_text().split()]
        raise AssertionError("a test fails")
    assert len(processes) == 4
    assert not psutil.wait_procs(processes, timeout=10)[1]
