"""One small network for all tests of the engine; its objects are nearly always present."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy

import pytest
import torch
from tests.engine.driver import INPUT

from masklet.engine import Engine, EngineSettings
from masklet.model import SAM2, build
from masklet.types import TrackSettings

MakeEngine = Callable[..., Engine]


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def network() -> SAM2:
    made = build("sam2.1_hiera_tiny", input_size=INPUT, seed=3)
    made.sam_mask_decoder.pred_obj_score_head.layers[2].bias.add_(6.0)
    return made


@pytest.fixture
def make_engine(network: SAM2) -> MakeEngine:
    def make(*, precision: str = "float32", memory_precision: str = "float32", max_rows: int = 16) -> Engine:
        used = network if precision == "float32" else deepcopy(network)
        return Engine(used, EngineSettings("cpu", precision, memory_precision, max_rows))

    return make


@pytest.fixture
def engine(make_engine: MakeEngine) -> Engine:
    """An engine with one session, "s"."""
    made = make_engine()
    made.open("s", TrackSettings(history_frames=4))
    return made
