"""The client needs neither torch nor any room of the server."""

import subprocess
import sys

_PROBE = """
import sys
import masklet_client.cli, masklet_client.sync
rooms = ["torch"] + ["masklet." + room for room in "server session engine model backends training".split()]
print([name for name in sys.modules if name in rooms])
"""


def test_importing_the_client_pulls_in_no_torch_and_no_server() -> None:
    done = subprocess.run([sys.executable, "-c", _PROBE], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
