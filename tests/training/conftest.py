"""A network that trains in milliseconds, and clips to train it on."""

from __future__ import annotations

import numpy as np
import pytest
from tests.threads import one_thread as one_thread

from masklet.model import VARIANTS, HieraConfig, SAM2Config
from masklet.training.clip import Clip

MINI = SAM2Config("mini", HieraConfig(16, 1, (1, 1, 1, 1), (2,)), input_size=64, dim=64, memory_dim=16, memory_layers=1)


@pytest.fixture(autouse=True)
def mini(monkeypatch: pytest.MonkeyPatch) -> SAM2Config:
    """Registers the variant "mini"."""
    monkeypatch.setitem(VARIANTS, "mini", MINI)
    return MINI


def drifting_squares(seed: int, *, frames: int = 3, size: int = 64, objects: int = 2) -> Clip:
    """Squares of plain colours that drift over noise."""
    random = np.random.default_rng(seed)
    clip = Clip(
        random.integers(90, 160, (frames, size, size, 3), dtype=np.uint8), np.zeros((frames, objects, size, size), bool)
    )
    for index in range(objects):
        side = int(random.integers(size // 5, size // 3))
        at, step = random.integers(0, size // 2, 2), random.integers(-2, 4, 2)
        colour = random.integers(0, 2, 3) * 255
        for t in range(frames):
            y, x = np.clip(at + t * step, 0, size - side)
            clip.frames[t, y : y + side, x : x + side] = colour
            clip.masks[t, :, y : y + side, x : x + side] = False
            clip.masks[t, index, y : y + side, x : x + side] = True
    return clip
