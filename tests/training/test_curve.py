from __future__ import annotations

import numpy as np
from PIL import Image

from masklet.training.curve import _smooth, plot_log
from masklet.training.run_folder import LOG_COLUMNS


def log(path, rows):
    lines = [",".join(LOG_COLUMNS)]
    for step in range(1, rows + 1):
        values = {"step": step, "stage": step // 50, "loss": 5 / step, "iou": 1 - 1 / step}
        lines.append(",".join(str(values.get(column, 1)) for column in LOG_COLUMNS))
    path.write_text("\n".join(lines) + "\n")


def test_both_curves_are_drawn(tmp_path):
    log(tmp_path / "log.csv", 100)
    plot_log(tmp_path / "log.csv", tmp_path / "curve.png")
    with Image.open(tmp_path / "curve.png") as picture:
        colours = {colour for _, colour in picture.convert("RGB").getcolors(100_000) or []}
    assert {(200, 60, 40), (30, 110, 200)} <= colours


def test_a_log_of_one_row_makes_no_picture(tmp_path):
    log(tmp_path / "log.csv", 1)
    plot_log(tmp_path / "log.csv", tmp_path / "curve.png")
    assert not (tmp_path / "curve.png").exists()


def test_one_step_that_is_not_finite_does_not_hide_the_others():
    values = np.ones(100, np.float32)
    values[20] = np.nan
    assert _smooth(values).tolist() == [1.0] * 100
    assert _smooth(np.full(3, np.inf, np.float32)).tolist() == [0.0] * 3


def test_without_a_log_nothing_is_drawn(tmp_path):
    plot_log(tmp_path / "log.csv", tmp_path / "curve.png")
    assert not list(tmp_path.iterdir())
