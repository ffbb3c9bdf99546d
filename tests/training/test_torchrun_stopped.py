"""torchrun that is told to stop hands the signal to every process of the run, those that prepare clips included."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path

from tests.training.torchrun import torchrun

_RUN = """
import sys
from tests.training.conftest import MINI
from masklet.cli import main
from masklet.model import VARIANTS
VARIANTS["mini"] = MINI
words = ["train", "--recipe", sys.argv[1], "--out", sys.argv[2], "--threads", "1", "--workers", "1"]
sys.exit(main([*words, "--time-limit-s", "150"]))
"""
_RECIPE = """
variant = "mini"
[[stages]]
steps = 100000
frames = 1
size = 64
clips = 1
"""
_FIRST_STEPS_S = 90.0


def test_what_was_learnt_is_saved(tmp_path: Path) -> None:
    script, recipe, out = tmp_path / "run.py", tmp_path / "recipe.toml", tmp_path / "run"
    script.write_text(_RUN)
    recipe.write_text(_RECIPE)
    with (tmp_path / "said").open("w") as said, torchrun(script, recipe, out, said=said) as run:
        _wait_for_steps(out / "log.csv", run)
        run.send_signal(signal.SIGTERM)
        run.wait(timeout=60)
    assert (out / "state.pt").exists() and (out / "mini.safetensors").exists(), (tmp_path / "said").read_text()
    assert "stopped at step" in (tmp_path / "said").read_text()


def _wait_for_steps(log: Path, run: subprocess.Popen[str]) -> None:
    """Until three steps are on record."""
    until_s = time.monotonic() + _FIRST_STEPS_S
    while not log.exists() or len(log.read_text().splitlines()) < 4:
        assert run.poll() is None and time.monotonic() < until_s
        time.sleep(0.2)
