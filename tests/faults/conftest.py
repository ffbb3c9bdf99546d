from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.faults.fleet import stop_fleet
from tests.threads import one_thread as one_thread


@pytest.fixture(autouse=True, scope="session")
def fleet_ends() -> Iterator[None]:
    yield
    stop_fleet()
