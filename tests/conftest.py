"""What every room's tests share: skipping tests whose real part is not here."""

from __future__ import annotations

import importlib.util
import os

import pytest
from hypothesis import settings

# Before anybody imports grpc: tests start servers, that is fork, while it is busy, which its handlers may not survive.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

# On CI the same examples every time: what they find must not depend on the day.
settings.register_profile("here", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") == "true" else "here")


def _gpu_is_missing() -> str:
    import torch

    return "" if torch.cuda.is_available() else "needs a CUDA device"


def _triton_is_missing() -> str:
    found = importlib.util.find_spec("pytriton")
    return "" if found else "needs a Triton server: pip install --no-deps nvidia-pytriton==0.7.0"


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skips `gpu` and `triton` tests where there is none; on CI only a GPU may be missing."""
    if item.get_closest_marker("gpu") and (reason := _gpu_is_missing()):
        pytest.skip(reason)
    if item.get_closest_marker("triton") and (reason := _triton_is_missing()):
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
