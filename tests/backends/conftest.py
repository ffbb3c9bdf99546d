from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from tests.backends.triton_process import stop_triton

from masklet.model import VARIANTS, HieraConfig, SAM2Config


@pytest.fixture(autouse=True)
def mini(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that loads quickly, under the variant name "mini"."""
    trunk = HieraConfig(16, 1, (1, 1, 1, 1), (2,))
    monkeypatch.setitem(VARIANTS, "mini", SAM2Config("mini", trunk, input_size=64, memory_layers=1))


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True, scope="session")
def triton_ends() -> Iterator[None]:
    yield
    stop_triton()
