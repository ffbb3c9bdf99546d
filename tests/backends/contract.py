"""What the contract tests need of a backend: how to make one. Add yours to `BACKENDS`.

A factory returns a backend that is not entered yet; frames are `SIZE`, and objects may appear and vanish as they like.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import numpy as np
import pytest
from tests.backends.triton_process import running_triton
from tests.routing.farm import Farm

from masklet.backends.base import Backend
from masklet.backends.embedded import EmbeddedBackend
from masklet.backends.fake import FakeBackend
from masklet.config import ModelConfig, RoutingConfig
from masklet.routing.discovery import ListedEndpoints
from masklet.routing.router import RoutedBackend
from masklet.types import ImageArray, Prompt, PromptMode, StepRequest, TrackSettings

SIZE = (48, 64)
SETTINGS = TrackSettings(history_frames=3)

BackendFactory = Callable[[], Awaitable[Backend]]


async def make_fake() -> Backend:
    return FakeBackend()


async def make_embedded() -> Backend:
    return EmbeddedBackend(ModelConfig(variant="mini", device="cpu", precision="float32", threads=1))


async def make_triton() -> Backend:
    from masklet.backends.triton import TritonBackend

    return TritonBackend(running_triton().endpoint)


async def make_routed() -> Backend:
    farm = Farm("a:1", "b:1")
    return RoutedBackend(ListedEndpoints(list(farm.places)), farm.client, RoutingConfig())


BACKENDS: dict[str, BackendFactory] = {
    "fake": make_fake,
    "embedded": make_embedded,
    "triton": make_triton,
    "routed": make_routed,
}
# For parametrizing: the backends' names, marked with what they need.
NAMES = [pytest.param(name, marks=[pytest.mark.triton] if name == "triton" else []) for name in BACKENDS]


def picture(number: int) -> ImageArray:
    """A frame of a moving bright square on noise, the same for the same number."""
    image = np.random.default_rng(number).integers(0, 60, (*SIZE, 3), dtype=np.uint8)
    image[16:32, 8 + number : 24 + number] = (220, 180, 40)
    return image


def click(object_id: int = 1, x: float = 16.0, y: float = 24.0, *, mode: PromptMode = PromptMode.REFINE) -> Prompt:
    return Prompt.clicks(object_id, [(x, y)], mode=mode)


def frame(seq: int, *prompts: Prompt, remove: tuple[int, ...] = (), reset: bool = False) -> StepRequest:
    return StepRequest(seq, picture(seq), prompts, remove, reset)


def correction(seq: int, *prompts: Prompt) -> StepRequest:
    return StepRequest(seq, None, prompts)
