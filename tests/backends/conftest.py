from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.backends.triton_process import stop_triton
from tests.threads import one_thread as one_thread

from masklet.model import VARIANTS, HieraConfig, SAM2Config


@pytest.fixture(autouse=True)
def mini(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that loads quickly, under the variant name "mini"."""
    trunk = HieraConfig(16, 1, (1, 1, 1, 1), (2,))
    monkeypatch.setitem(VARIANTS, "mini", SAM2Config("mini", trunk, input_size=64, memory_layers=1))


@pytest.fixture(autouse=True, scope="session")
def triton_ends() -> Iterator[None]:
    yield
    stop_triton()
