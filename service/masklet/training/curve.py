"""The loss curve of a run, as a picture."""

from __future__ import annotations

import csv
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from masklet.errors import ConfigError
from masklet.types import FloatArray

_SIZE = (900, 420)
_MARGIN = 48
_PLOTTED = (("loss", (200, 60, 40)), ("iou", (30, 110, 200)))
_SMOOTHED_OVER = 50


def plot_log(log: Path, picture: Path) -> None:
    """Draw loss (red, left scale) and IoU (blue, 0 to 1) over steps, smoothed; stages are marked.

    Nothing is drawn without a log of two steps or more.

    Raises:
        ConfigError: the picture cannot be written.
    """
    if not log.exists():
        return
    with log.open(newline="") as opened:
        rows = list(csv.DictReader(opened))
    if len(rows) < 2:
        return
    steps = np.array([float(row["step"]) for row in rows], np.float32)
    image = Image.new("RGB", _SIZE, "white")
    draw = ImageDraw.Draw(image)
    _frame(draw, steps, rows)
    for name, colour in _PLOTTED:
        values = _smooth(np.array([float(row[name]) for row in rows], np.float32))
        top = 1.0 if name == "iou" else max(float(values.max()), 1e-6)
        points = [_place(s, v, steps, top) for s, v in zip(steps, values, strict=True)]
        draw.line(points, fill=colour, width=2)
        side = _SIZE[0] - _MARGIN + 4 if name == "iou" else 4
        draw.text((side, _MARGIN - 14), f"{name}", fill=colour)
        draw.text((side, _MARGIN), f"{top:.2g}", fill=colour)
        draw.text((side, _SIZE[1] - _MARGIN - 8), "0", fill=colour)
    try:
        image.save(picture)
    except OSError as error:
        raise ConfigError(f"{picture}: cannot be written: {error.strerror or error}", field="out") from error


def _smooth(values: FloatArray) -> FloatArray:
    """Running mean over the finite ones of the last steps; 0 where there is none."""
    finite = np.isfinite(values)
    total = np.cumsum(np.insert(np.where(finite, values, 0.0).astype(np.float64), 0, 0.0))
    held = np.cumsum(np.insert(finite.astype(np.int64), 0, 0))
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(0, ends - _SMOOTHED_OVER)
    return np.asarray((total[ends] - total[starts]) / np.maximum(1, held[ends] - held[starts]), np.float32)


def _place(step: float, value: float, steps: FloatArray, top: float) -> tuple[float, float]:
    width, height = _SIZE[0] - 2 * _MARGIN, _SIZE[1] - 2 * _MARGIN
    share = (step - steps[0]) / max(1.0, float(steps[-1] - steps[0]))
    return _MARGIN + share * width, _SIZE[1] - _MARGIN - min(1.0, value / top) * height


def _frame(draw: ImageDraw.ImageDraw, steps: FloatArray, rows: list[dict[str, str]]) -> None:
    draw.rectangle((_MARGIN, _MARGIN, _SIZE[0] - _MARGIN, _SIZE[1] - _MARGIN), outline="grey")
    draw.text((_MARGIN, _SIZE[1] - _MARGIN + 8), f"step {steps[0]:.0f}", fill="black")
    draw.text((_SIZE[0] - _MARGIN - 70, _SIZE[1] - _MARGIN + 8), f"step {steps[-1]:.0f}", fill="black")
    for before, after in pairwise(rows):
        if before["stage"] != after["stage"]:
            x = _place(float(after["step"]), 0.0, steps, 1.0)[0]
            draw.line((x, _MARGIN, x, _SIZE[1] - _MARGIN), fill="lightgrey")
            draw.text((x + 4, _MARGIN + 4), f"{after['frames']} x {after['size']} px", fill="grey")
