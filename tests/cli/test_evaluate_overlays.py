"""`masklet evaluate --save-overlays` where videos cannot be written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.threads import one_thread as one_thread
from tests.training.datasets.samples import write_davis

from masklet.cli import main
from masklet.cli.evaluation_overlay import OverlayFiles
from masklet.errors import ConfigError
from masklet.training.evaluation import View

FULL = Path("/dev/full")
pytestmark = pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Whatever is written to bear.mp4 in it finds no space."""
    folder = tmp_path / "overlays"
    folder.mkdir()
    (folder / "bear.mp4").symlink_to(FULL)
    return folder


def noise(run: str, index: int) -> View:
    """A frame that no codec makes small."""
    image = np.random.default_rng(index).integers(0, 256, (240, 320, 3), dtype=np.uint8)
    nothing = np.zeros((1, 240, 320), bool)
    return View(run, f"frame {index}", image, (1,), nothing, nothing)


def test_a_full_disk_is_one_clear_error(tmp_path, out, capsys):
    data = write_davis(tmp_path / "data")
    assert main(["evaluate", "--data", str(data), "--save-overlays", str(out), "--backend", "fake"]) == 2
    said = capsys.readouterr().err
    assert said == f"error: {out / 'bear.mp4'}: cannot be written: No space left on device\n"


def test_a_disk_that_is_full_in_the_middle_is_found_there(out):
    shown = 0
    with pytest.raises(ConfigError, match=r"bear.mp4: cannot be written: No space left"), OverlayFiles(out) as files:
        for shown in range(200):
            files.show(noise("bear", shown))
    assert 0 < shown < 199


def test_the_last_video_fails_when_it_is_finished(out):
    with pytest.raises(ConfigError, match=r"bear.mp4: cannot be written: No space left"), OverlayFiles(out) as files:
        files.show(noise("bear", 0))


def test_a_failure_before_is_the_one_that_is_told(out):
    with pytest.raises(KeyboardInterrupt), OverlayFiles(out) as files:
        files.show(noise("bear", 0))
        raise KeyboardInterrupt


def test_the_scores_so_far_are_kept(tmp_path, out, capsys):
    (out / "bear.mp4").unlink()
    (out / "dogs.mp4").symlink_to(FULL)
    data, scores = write_davis(tmp_path / "data"), tmp_path / "scores.json"
    words = ["evaluate", "--data", str(data), "--save-overlays", str(out), "--backend", "fake", "--json", str(scores)]
    assert main(words) == 2
    said = capsys.readouterr().err
    assert f"{out / 'dogs.mp4'}: cannot be written: No space left on device; the scores of" in said
    assert not scores.exists() and scores.with_name("scores.json.part").is_file()
    assert (out / "bear.mp4").stat().st_size > 0
