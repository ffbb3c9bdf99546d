import resource
import subprocess
import sys
from pathlib import Path

import pytest

_FAULTS = """
import resource, numpy as np
from masklet.engine.allocator import keep_freed_memory
assert keep_freed_memory()
def touch():
    for _ in range(50):
        np.ones(3_000_000, np.uint8)
touch()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
touch()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not Path("/lib64/ld-linux-x86-64.so.2").exists(), reason="needs glibc")
def test_freed_blocks_are_used_again_without_page_faults():
    pages = 50 * 3_000_000 / resource.getpagesize()
    run = subprocess.run([sys.executable, "-c", _FAULTS], capture_output=True, text=True, timeout=60, check=True)
    assert int(run.stdout) < 0.1 * pages
