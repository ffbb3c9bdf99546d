"""`masklet verify` on a GPU: float32 there is inside the tolerances, too."""

from __future__ import annotations

import pytest
from tests.verification.recording import GOLDEN

from masklet.cli import main


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_gpu_answers_as_recorded(capsys):
    scenario = str(GOLDEN / "one_click_20_frames.json")
    assert main(["verify", "--device=cuda", "--precision=float32", scenario]) == 0
    assert "1 of 1 scenarios inside the tolerances" in capsys.readouterr().out
