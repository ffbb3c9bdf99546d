"""A video that cannot be read ends a run; what was learnt before is not lost."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from masklet.errors import DatasetError
from masklet.training.assets import AssetBank
from masklet.training.recipe import Recipe, Stage
from masklet.training.source import StepInput, StepSource
from masklet.training.trainer import RunSettings, Trainer


def _trainer(folder: Path) -> Trainer:
    plan = Recipe("nano", stages=(Stage(steps=4, frames=1, size=32, clips=1, targets=1),))
    settings = RunSettings(folder, torch.device("cpu"), torch.float32, workers=0, progress=False)
    return Trainer(plan, settings, assets=AssetBank.procedural())


def test_what_was_learnt_before_an_unreadable_video_is_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = StepSource.__getitem__

    def lost(source: StepSource, step: int) -> StepInput:
        if step == 2:
            raise DatasetError("clip.mp4 cannot be read")
        return whole(source, step)

    with monkeypatch.context() as patched:
        patched.setattr(StepSource, "__getitem__", lost)
        first = _trainer(tmp_path)
        first.resume()
        with pytest.raises(DatasetError, match=r"clip\.mp4"):
            first.run()
    second = _trainer(tmp_path)
    assert second.resume() and second.step == 2
    second.run()
    assert second.step == 4
