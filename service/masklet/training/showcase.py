"""Procedural video with exact masks: textured objects that move, turn, scale and pass behind one another.

Each object is a sprite (colour and alpha, drawn once) that an affine map places on every frame, rear to front. A pixel
belongs to the front-most object whose alpha there is above one half, so masks are exact and never overlap.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from masklet.training.clip import Clip
from masklet.training.texture import PATTERNS, colourise, palette, smooth_noise
from masklet.types import FloatArray, MaskArray, Size

_FRAMES_PER_KNOT = 26
_GOLDEN = 0.61803398875
_LIGHT = np.asarray((-0.6, -0.8), np.float32)
_SHADOW_SHIFT = 0.16
Outline = Callable[[FloatArray], FloatArray]


@dataclass(frozen=True, slots=True, eq=False)
class _Body:
    """One object: its sprite and, per frame, where it is. `path` [T, 2] pixels, `turn` [T] radians, `scale` [T]."""

    sprite: Image.Image
    shadow: Image.Image
    radius_px: float
    path: FloatArray
    turn: FloatArray
    scale: FloatArray


def synthesize(seed: int, *, frames: int = 96, size: Size = (360, 640), objects: int = 4) -> Clip:
    """Draw a clip; the same arguments give the same clip.

    With two objects or more, the largest one passes in front of the smallest one halfway and covers it.

    Raises:
        ValueError: frames or objects below 1, or a side below 32 pixels.
    """
    if frames < 1 or objects < 1 or min(size) < 32:
        raise ValueError(f"need frames >= 1, objects >= 1 and sides >= 32, not {frames}, {objects} and {size}")
    random = np.random.default_rng(seed)
    backdrop = _backdrop(random, size)
    drift = _glide(random.uniform(0.0, 1.0, (_knots(frames), 2)), frames)
    bodies = _bodies(random, frames, size, objects)
    grain = random.normal(0.0, 3.0, (size[0] * 2, size[1] * 2, 1)).astype(np.float32)
    clip = Clip(np.empty((frames, *size, 3), np.uint8), np.zeros((frames, objects, *size), np.bool_))
    for t in range(frames):
        canvas = _shifted(backdrop, drift[t], size)
        for index, body in enumerate(bodies):
            _paint(canvas, clip.masks[t], index, body, t)
        top, left = random.integers(0, size[0]), random.integers(0, size[1])
        canvas += grain[top : top + size[0], left : left + size[1]]
        clip.frames[t] = np.clip(canvas, 0, 255, out=canvas)
    return clip


def _bodies(random: np.random.Generator, frames: int, size: Size, objects: int) -> list[_Body]:
    """Objects rear to front. The last one meets the first one at the middle knot and is large enough to hide it."""
    paths = _paths(random, frames, size, objects)
    hue = random.random()
    bodies: list[_Body] = []
    for index in range(objects):
        hidden = bodies[0] if index == objects - 1 and index > 0 else None
        outline = _OUTLINES[(index + int(random.integers(0, 2))) % len(_OUTLINES)](random)
        radius = min(size) * (random.uniform(0.1, 0.12) if index == 0 else random.uniform(0.13, 0.19))
        if hidden is not None:
            radius = _covering_radius(outline, hidden)
        sprite = _sprite(random, outline, radius_px=radius, hue=(hue + index * _GOLDEN) % 1.0, kind=index)
        scale = np.asarray(1.0 + 0.16 * np.sin(_wave(random, frames)), np.float32)
        if hidden is not None:
            scale = np.maximum(scale, 1.0)
        turn = np.asarray(np.cumsum(np.full(frames, random.uniform(-0.045, 0.045))), np.float32)
        bodies.append(_Body(sprite, _shadow(sprite, radius), radius, paths[index], turn, scale))
    return bodies


def _wave(random: np.random.Generator, frames: int) -> FloatArray:
    """A slow phase in radians per frame: [T]."""
    return np.asarray(random.uniform(0, 2 * np.pi) + np.arange(frames) * random.uniform(0.03, 0.07), np.float32)


def _covering_radius(outline: Outline, hidden: _Body) -> float:
    """Radius at which the inside of `outline` contains all of `hidden` at the middle of the clip."""
    inner = float(outline(np.linspace(-np.pi, np.pi, 360, dtype=np.float32)).min())
    return 1.1 * hidden.radius_px * float(hidden.scale[len(hidden.scale) // 2]) / inner


def _knots(frames: int) -> int:
    return max(5, 2 * round(frames / (2 * _FRAMES_PER_KNOT)) + 1)


def _paths(random: np.random.Generator, frames: int, size: Size, objects: int) -> FloatArray:
    """[N, T, 2] centres (x, y). Objects start in columns of their own, wander, and the last meets the first halfway."""
    knots = _knots(frames)
    points = random.uniform(0.15, 0.85, (objects, knots, 2))
    for knot in (0, knots - 1):
        points[:, knot, 0] = (random.permutation(objects) + random.uniform(0.35, 0.65, objects)) / objects
    points[:, 0, 1] = 0.5 + np.where(np.arange(objects) % 2, 0.22, -0.22) * random.uniform(0.7, 1.2, objects)
    points[-1, knots // 2] = points[0, knots // 2] = random.uniform(0.35, 0.65, 2)
    scaled = points * np.asarray((size[1], size[0]), np.float64)
    return np.stack([_glide(p, frames) for p in scaled])


def _glide(points: npt.NDArray[np.float64], frames: int) -> FloatArray:
    """Catmull-Rom curve through `points` [K, 2], evenly timed: [T, 2] float32; passes point K // 2 at frame T // 2."""
    middle, spread = len(points) // 2, max(frames / 2, 1.0)
    at = np.clip((np.arange(frames) - frames // 2) / spread * middle + middle, 0, len(points) - 1 - 1e-9)
    padded = np.concatenate([points[:1], points, points[-1:]])
    left = at.astype(int)
    u = (at - left)[:, None]
    a, b, c, d = (padded[left + k] for k in range(4))
    curve = b + 0.5 * u * (c - a + u * (2 * a - 5 * b + 4 * c - d + u * (3 * (b - c) + d - a)))
    return np.asarray(curve, np.float32)


def _blob(random: np.random.Generator) -> Outline:
    """Radius over angle from a few random harmonics, at most 1."""
    order = np.arange(2, 6, dtype=np.float32)
    strength, phase = random.uniform(0.3, 1.0, 4) * 0.22 / order**0.7, random.uniform(0, 2 * np.pi, 4)
    peak = 1.0 + float(strength.sum())
    return lambda a: np.asarray((1 + (strength * np.cos(a[..., None] * order + phase)).sum(-1)) / peak, np.float32)


def _polygon(random: np.random.Generator) -> Outline:
    """Regular polygon with rounded corners, circumscribed radius 1."""
    sides = int(random.integers(4, 8))
    wedge = 2 * np.pi / sides
    inner = np.cos(wedge / 2)
    return lambda a: np.minimum(inner / np.cos((a % wedge) - wedge / 2), 0.97).astype(np.float32)


def _ellipse(random: np.random.Generator) -> Outline:
    """Ellipse with long half axis 1."""
    short = random.uniform(0.58, 0.8)
    return lambda a: np.asarray(short / np.sqrt((short * np.cos(a)) ** 2 + np.sin(a) ** 2), np.float32)


_OUTLINES = (_ellipse, _polygon, _blob)


def _sprite(random: np.random.Generator, outline: Outline, *, radius_px: float, hue: float, kind: int) -> Image.Image:
    """RGBA picture of one object, `radius_px` from centre to farthest point, darker towards its rim."""
    half = int(np.ceil(radius_px)) + 3
    y, x = np.mgrid[-half : half + 1, -half : half + 1].astype(np.float32)
    reach = outline(np.arctan2(y, x)) * radius_px
    inside_px = reach - np.hypot(x, y)
    level = PATTERNS[kind % len(PATTERNS)](random, (2 * half + 1, 2 * half + 1))
    level = 0.8 * level + 0.2 * smooth_noise(random, level.shape, cell_px=radius_px / 4, octaves=4)
    colour = colourise(level, palette(hue, 0.82, (0.36, 0.72, 0.96)))
    dome = np.clip(inside_px / np.maximum(0.55 * reach, 1.0), 0.0, 1.0)
    colour *= (0.55 + 0.5 * np.sqrt(dome * (2 - dome)))[..., None]
    alpha = np.clip(inside_px + 0.5, 0.0, 1.0) * 255.0
    pixels = np.concatenate([np.clip(colour, 0, 255), alpha[..., None]], axis=-1)
    return Image.fromarray(pixels.astype(np.uint8), "RGBA")


def _shadow(sprite: Image.Image, radius_px: float) -> Image.Image:
    """Blurred alpha of a sprite with room around it for the blur."""
    room = int(radius_px * 0.35)
    wide = Image.new("L", (sprite.width + 2 * room, sprite.height + 2 * room))
    wide.paste(sprite.getchannel("A"), (room, room))
    return wide.filter(ImageFilter.GaussianBlur(radius_px * 0.12))


def _backdrop(random: np.random.Generator, size: Size) -> Image.Image:
    """A muted landscape a quarter larger than the frame, so that it can drift."""
    room = (size[0] * 5 // 4, size[1] * 5 // 4)
    hue = random.random()
    ground = colourise(
        smooth_noise(random, room, cell_px=size[0] / 3, octaves=6), palette(hue, 0.38, (0.2, 0.48, 0.78))
    )
    patches = smooth_noise(random, room, cell_px=size[0] / 2, octaves=5)
    other = colourise(smooth_noise(random, room, cell_px=size[0] / 12, octaves=5), palette(hue + 0.4, 0.3, (0.24, 0.7)))
    share = (0.5 + 0.5 * np.tanh(12 * (patches - 0.58)))[..., None]
    mixed = ground * (1 - share) + other * share
    return Image.fromarray(np.clip(mixed, 0, 255).astype(np.uint8))


def _shifted(backdrop: Image.Image, at: FloatArray, size: Size) -> FloatArray:
    """The window of the backdrop at `at` (x, y in 0..1), to a fraction of a pixel: [H, W, 3] float32."""
    x, y = np.clip(at, 0, 1) * (backdrop.width - size[1] - 1, backdrop.height - size[0] - 1)
    view = backdrop.transform((size[1], size[0]), Image.Transform.AFFINE, (1, 0, x, 0, 1, y), Image.Resampling.BILINEAR)
    return np.asarray(view, np.float32).copy()


def _paint(canvas: FloatArray, masks: MaskArray, index: int, body: _Body, t: int) -> None:
    """Draw one object over `canvas` [H, W, 3], and update the frame's `masks` [N, H, W]."""
    reach = body.radius_px * float(body.scale[t])
    shadow_at = body.path[t] - _LIGHT * reach * _SHADOW_SHIFT
    placed = _placed(body.shadow, body, t, at=shadow_at, size=canvas.shape[:2])
    if placed is not None:
        window, dark = placed
        canvas[window] *= 1.0 - dark[..., None] * (0.42 / 255.0)
    placed = _placed(body.sprite, body, t, at=body.path[t], size=canvas.shape[:2])
    if placed is None:
        return
    window, pixels = placed
    alpha = pixels[..., 3:] / 255.0
    canvas[window] += (pixels[..., :3] * _lit(window, body.path[t], reach) - canvas[window]) * alpha
    covered = pixels[..., 3] > 127.5
    masks[:index, *window] &= ~covered
    masks[index, *window] = covered


def _lit(window: tuple[slice, slice], centre: FloatArray, reach: float) -> FloatArray:
    """Brightness that falls off away from the light, which stands still while objects turn: [h, w, 1]."""
    rows, columns = (np.arange(s.start, s.stop, dtype=np.float32) for s in window)
    slope = (columns[None, :] - centre[0]) * _LIGHT[0] + (rows[:, None] - centre[1]) * _LIGHT[1]
    return np.asarray(1.0 + 0.28 * slope / reach, np.float32)[..., None]


def _placed(
    picture: Image.Image, body: _Body, t: int, *, at: FloatArray, size: tuple[int, ...]
) -> tuple[tuple[slice, slice], FloatArray] | None:
    """`picture` turned and scaled with its centre at `at`: the window of the frame it falls on and its pixels there."""
    scale, turn = float(body.scale[t]), float(body.turn[t])
    reach = 0.5 * max(picture.size) * scale * (1.42 if picture.mode == "L" else 1.0) + 1
    x0, y0 = (max(int(v - reach), 0) for v in at)
    x1, y1 = min(int(at[0] + reach) + 2, size[1]), min(int(at[1] + reach) + 2, size[0])
    if x0 >= x1 or y0 >= y1:
        return None
    c, s = np.cos(turn) / scale, np.sin(turn) / scale
    dx, dy = x0 - float(at[0]), y0 - float(at[1])
    shift_x, shift_y = c * dx + s * dy + picture.width / 2, -s * dx + c * dy + picture.height / 2
    inverse = (c, s, shift_x, -s, c, shift_y)
    drawn = picture.transform((x1 - x0, y1 - y0), Image.Transform.AFFINE, inverse, Image.Resampling.BILINEAR)
    return (slice(y0, y1), slice(x0, x1)), np.asarray(drawn, np.float32)
