from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from tests.faults.fleet import stop_fleet
from tests.threads import one_thread as one_thread

os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")  # Tritons are started while gRPC is busy


@pytest.fixture(autouse=True, scope="session")
def fleet_ends() -> Iterator[None]:
    yield
    stop_fleet()
