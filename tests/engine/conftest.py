"""One small network for all tests of the engine, with the weights of the golden scenarios.

Masks of these vary from frame to frame without being chaotic: rounding errors stay where they are. Objects are biased
to be present.
"""

from __future__ import annotations

import runpy
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from tests.engine.driver import INPUT
from tests.threads import one_thread as one_thread

from masklet.engine import Engine, EngineSettings
from masklet.model import SAM2, build
from masklet.types import TrackSettings

GOLDEN = Path(__file__).parents[1] / "golden"
MakeEngine = Callable[..., Engine]


@pytest.fixture(scope="session")
def network() -> SAM2:
    draw = runpy.run_path(str(GOLDEN / "seeded_weights.py"))["seeded_state_dict"]
    made = build("sam2.1_hiera_tiny", input_size=INPUT, seed=None)
    made.load_state_dict({key: torch.from_numpy(value) for key, value in draw("sam2.1_hiera_tiny", 1).items()})
    made.state_dict()["sam_mask_decoder.pred_obj_score_head.layers.2.bias"].add_(8.0)
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
