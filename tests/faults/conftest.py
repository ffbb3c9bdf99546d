from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch
from tests.faults.fleet import stop_fleet

os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")  # Tritons are started while gRPC is busy


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True, scope="session")
def fleet_ends() -> Iterator[None]:
    yield
    stop_fleet()
