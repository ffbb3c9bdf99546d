"""Random colour textures: smooth noise run through patterns and palettes. numpy and Pillow only."""

from __future__ import annotations

import colorsys
from collections.abc import Callable

import numpy as np
from PIL import Image

from masklet.types import FloatArray, ImageArray, Size

Pattern = Callable[[np.random.Generator, Size], FloatArray]


def smooth_noise(random: np.random.Generator, size: Size, *, cell_px: float, octaves: int = 4) -> FloatArray:
    """Sum of `octaves` of interpolated random grids, the first `cell_px` wide, each next half as wide and as strong.

    Returns:
        [H, W] float32, scaled to 0..1.
    """
    height, width = size
    total = np.zeros(size, np.float32)
    for octave in range(octaves):
        step = max(cell_px / 2**octave, 1.0)
        grid = random.random((int(height / step) + 2, int(width / step) + 2), np.float32)
        layer = Image.fromarray(grid).resize((width, height), Image.Resampling.BICUBIC)
        total += np.asarray(layer) * 0.5**octave
    low, high = float(total.min()), float(total.max())
    return (total - low) / max(high - low, 1e-6)


def palette(hue: float, saturation: float, values: tuple[float, ...]) -> FloatArray:
    """Shades of one hue that drifts a little from dark to bright: [len(values), 3] float32, 0..255."""
    shades = [
        colorsys.hsv_to_rgb((hue + 0.05 * i) % 1.0, max(saturation - 0.12 * i, 0.0), v) for i, v in enumerate(values)
    ]
    return np.asarray(shades, np.float32) * 255.0


def colourise(level: FloatArray, shades: FloatArray) -> FloatArray:
    """Blend `shades` [S, 3] along `level` [H, W] (0..1): [H, W, 3] float32, 0..255."""
    stops = np.linspace(0.0, 1.0, len(shades))
    return np.stack([np.interp(level, stops, shades[:, c]) for c in range(3)], axis=-1).astype(np.float32)


def stripes(random: np.random.Generator, size: Size) -> FloatArray:
    """Wavy stripes: [H, W] float32, 0..1."""
    angle, period = random.uniform(0, np.pi), size[0] * random.uniform(0.12, 0.2)
    along = _ramp(size, angle) + smooth_noise(random, size, cell_px=size[0] / 3, octaves=2) * period * 1.5
    return np.asarray(0.5 + 0.5 * np.tanh(2.5 * np.sin(2 * np.pi * along / period)), np.float32)


def checks(random: np.random.Generator, size: Size) -> FloatArray:
    """Bent checkerboard: [H, W] float32, 0..1."""
    angle, period = random.uniform(0, np.pi), size[0] * random.uniform(0.22, 0.3)
    bend = smooth_noise(random, size, cell_px=size[0] / 3, octaves=1) * period * 0.5
    across = np.sin(2 * np.pi * (_ramp(size, angle) + bend) / period)
    along = np.sin(2 * np.pi * (_ramp(size, angle + np.pi / 2) + bend) / period)
    return np.asarray(0.5 + 0.5 * np.tanh(6.0 * across * along), np.float32)


def spots(random: np.random.Generator, size: Size) -> FloatArray:
    """Islands of noise: [H, W] float32, 0..1."""
    noise = smooth_noise(random, size, cell_px=size[0] / 7, octaves=2)
    return np.asarray(0.5 + 0.5 * np.tanh(14.0 * (noise - 0.52)), np.float32)


def marble(random: np.random.Generator, size: Size) -> FloatArray:
    """Veins: [H, W] float32, 0..1."""
    noise = smooth_noise(random, size, cell_px=size[0] / 3, octaves=5)
    return np.asarray(np.abs(np.sin(4.5 * np.pi * noise)), np.float32)


PATTERNS: tuple[Pattern, ...] = (stripes, spots, marble, checks)


def _ramp(size: Size, angle: float) -> FloatArray:
    """Distance in pixels along a direction: [H, W]."""
    y, x = np.mgrid[0 : size[0], 0 : size[1]].astype(np.float32)
    return np.asarray(x * np.cos(angle) + y * np.sin(angle), np.float32)


def procedural_texture(random: np.random.Generator, size: Size) -> ImageArray:
    """A landscape of noise with one or two patterns of random colours: [H, W, 3] uint8."""
    picture = colourise(
        smooth_noise(random, size, cell_px=size[0] / random.uniform(1.5, 8), octaves=6), _shades(random)
    )
    for _ in range(int(random.integers(0, 3))):
        pattern = PATTERNS[int(random.integers(len(PATTERNS)))](random, size)[..., None]
        other = colourise(smooth_noise(random, size, cell_px=size[0] / 6, octaves=4), _shades(random))
        picture += (other - picture) * pattern * np.float32(random.uniform(0.3, 1.0))
    return np.clip(picture, 0, 255).astype(np.uint8)


def _shades(random: np.random.Generator) -> FloatArray:
    """Two to four random shades, mostly of muted colour."""
    values = np.sort(random.uniform(0.05, 1.0, int(random.integers(2, 5))))
    return palette(random.random(), float(random.beta(1.3, 2.0)), tuple(float(v) for v in values))
