"""Procedural outlines: blobs, polygons, rings, ropes, branches, strokes, lattices and creatures of several parts."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from masklet.training.texture import smooth_noise

SHAPES = 512
SHAPE_PX = 160
_DRAWN_PX = 2 * SHAPE_PX
_MARGIN = 0.94
Points = npt.NDArray[np.float64]
Drawing = Callable[[np.random.Generator, ImageDraw.ImageDraw], None]


@lru_cache(SHAPES)
def outline(index: int) -> Image.Image:
    """Outline number `index` (modulo `SHAPES`), cropped: an L picture, 255 inside, its long side about 160 pixels."""
    random = np.random.default_rng((index % SHAPES, 5))
    picture = Image.new("L", (_DRAWN_PX, _DRAWN_PX))
    _DRAWINGS[int(random.choice(len(_DRAWINGS), p=_SHARES))](random, ImageDraw.Draw(picture))
    if random.random() < 0.15:
        picture = _frayed(random, picture)
    small = picture.reduce(2)
    box = small.getbbox()
    return small if box is None else small.crop(box)


def _canvas(points: Points) -> list[tuple[float, float]]:
    """Points of the square -1..1 in pixels of the drawing."""
    return [(float(x), float(y)) for x, y in (points * _MARGIN + 1) * (_DRAWN_PX / 2)]


def _turned(points: Points, angle: float) -> Points:
    c, s = np.cos(angle), np.sin(angle)
    return np.asarray(points @ np.asarray([[c, s], [-s, c]]))


def _blob_points(random: np.random.Generator, *, roughness: float = 0.25) -> Points:
    """A closed smooth curve around the origin, within the unit circle."""
    angle = np.linspace(0, 2 * np.pi, 96, endpoint=False)
    order = np.arange(2, 8)
    waves = random.normal(0, roughness, len(order)) / (order - 0.5)
    radius = 1 + (waves[:, None] * np.sin(order[:, None] * angle + random.uniform(0, 6.3, (len(order), 1)))).sum(0)
    radius = np.maximum(radius, 0.2)
    points = np.stack([np.cos(angle), np.sin(angle) * random.uniform(0.35, 1.0)], -1) * (radius / radius.max())[:, None]
    return _turned(points, random.uniform(0, 6.3))


def _draw_blob(random: np.random.Generator, draw: ImageDraw.ImageDraw) -> None:
    draw.polygon(_canvas(_blob_points(random, roughness=random.uniform(0.1, 0.7))), fill=255)


def _draw_polygon(random: np.random.Generator, draw: ImageDraw.ImageDraw) -> None:
    corners = int(random.integers(3, 9))
    angle = np.sort(np.linspace(0, 2 * np.pi, corners, endpoint=False) + random.uniform(-0.3, 0.3, corners))
    radius = random.uniform(0.55, 1.0, corners)
    points = np.stack([np.cos(angle), np.sin(angle) * random.uniform(0.4, 1)], -1) * radius[:, None]
    draw.polygon(_canvas(_turned(points, random.uniform(0, 6.3))), fill=255)


def _draw_star(random: np.random.Generator, draw: ImageDraw.ImageDraw) -> None:
    tips = int(random.integers(3, 9))
    angle = np.arange(2 * tips) * np.pi / tips
    radius = np.where(np.arange(2 * tips) % 2, random.uniform(0.25, 0.7), 1.0)
    draw.polygon(_canvas(np.stack([np.cos(angle), np.sin(angle)], -1) * radius[:, None]), fill=255)


def _draw_ring(random: np.random.Generator, draw: ImageDraw.ImageDraw) -> None:
    points = _blob_points(random, roughness=0.12)
    draw.polygon(_canvas(points), fill=255)
    draw.polygon(_canvas(points * random.uniform(0.4, 0.85) + random.uniform(-0.06, 0.06, 2)), fill=0)


def _draw_box(random: np.random.Generator, draw: ImageDraw.ImageDraw) -> None:
    half = np.asarray([1.0, random.uniform(0.2, 1.0)]) * 0.8
    corners = np.asarray([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * half
    corners[:2, 0] *= random.uniform(0.5, 1.0)
    draw.polygon(_canvas(_turned(corners, random.choice([0.0, np.pi / 2, random.uniform(0, 6.3)]))), fill=255)
    for _ in range(int(random.integers(0, 3))):
        centre, size = random.uniform(-0.5, 0.5, 2) * half, random.uniform(0.1, 0.25)
        draw.ellipse([*_canvas((centre - size)[None])[0], *_canvas((centre + size)[None])[0]], fill=0)


def _curve(random: np.random.Generator, knots: int) -> Points:
    """A smooth open curve through random points: [64, 2]."""
    points = random.uniform(-0.9, 0.9, (knots, 2))
    at = np.linspace(0, knots - 1, 64)
    low = np.minimum(at.astype(int), knots - 2)
    share = (at - low)[:, None]
    share = share * share * (3 - 2 * share)
    return np.asarray(points[low] * (1 - share) + points[low + 1] * share)


def _stroke(draw: ImageDraw.ImageDraw, points: Points, widths_px: npt.NDArray[np.float64], *, fill: int = 255) -> None:
    """A line with round ends whose width changes along it."""
    pixels = _canvas(points)
    for (x0, y0), (x1, y1), width in zip(pixels[:-1], pixels[1:], widths_px.tolist(), strict=False):
        draw.line((x0, y0, x1, y1), fill=fill, width=max(round(width), 2))
        draw.ellipse((x1 - width / 2, y1 - width / 2, x1 + width / 2, y1 + width / 2), fill=fill)


def _draw_rope(random: np.random.Generator, draw: ImageDraw.ImageDraw) -> None:
    width = random.uniform(6, 26)
    _stroke(draw, _curve(random, int(random.integers(2, 6))), np.linspace(width, width * random.uniform(0.4, 1.4), 64))


def _draw_letter(random: np.random.Generator, draw: ImageDraw.ImageDraw) -> None:
    width = random.uniform(22, 60)
    for _ in range(int(random.integers(2, 4))):
        _stroke(draw, _curve(random, int(random.integers(2, 4))) * 0.9, np.full(64, width))


def _draw_branch(random: np.random.Generator, draw: ImageDraw.ImageDraw) -> None:
    leaves = random.random() < 0.5
    todo = [(np.asarray([0.0, 0.95]), -np.pi / 2 + random.uniform(-0.3, 0.3), 0.6, random.uniform(10, 34), 0)]
    while todo:
        start, angle, length, width, depth = todo.pop()
        end = np.clip(start + length * np.asarray([np.cos(angle), np.sin(angle)]), -1, 1)
        _stroke(draw, np.linspace(start, end, 6), np.linspace(width, width * 0.7, 6))
        if depth == 3 and leaves:
            draw.ellipse([*_canvas((end - 0.1)[None])[0], *_canvas((end + 0.1)[None])[0]], fill=255)
        for _ in range(int(random.integers(2, 4)) if depth < 3 else 0):
            todo.append((end, angle + random.uniform(-0.9, 0.9), length * 0.68, width * 0.65, depth + 1))


def _draw_lattice(random: np.random.Generator, draw: ImageDraw.ImageDraw) -> None:
    """Rods between points of a frame, like a chair, a bicycle or scaffolding."""
    points = random.uniform(-0.95, 0.95, (int(random.integers(4, 8)), 2))
    width = random.uniform(7, 22)
    for a, b in zip(points, np.roll(points, 1, axis=0), strict=True):
        _stroke(draw, np.linspace(a, b, 3), np.full(3, width))
    if random.random() < 0.5:
        centre, radius = random.uniform(-0.4, 0.4, 2), random.uniform(0.25, 0.5)
        box = [*_canvas((centre - radius)[None])[0], *_canvas((centre + radius)[None])[0]]
        draw.ellipse(box, outline=255, width=round(width))


def _draw_creature(random: np.random.Generator, draw: ImageDraw.ImageDraw) -> None:
    """A body with a head, limbs and sometimes a tail."""
    body = _blob_points(random, roughness=0.15) * random.uniform(0.4, 0.6)
    draw.polygon(_canvas(body), fill=255)
    for _ in range(int(random.integers(2, 7))):
        start = body[int(random.integers(len(body)))] * 0.8
        joint = start + random.uniform(-0.35, 0.35, 2)
        end = np.clip(joint + random.uniform(-0.4, 0.4, 2) + (0, 0.15), -0.95, 0.95)
        width = random.uniform(14, 44)
        _stroke(draw, np.concatenate([np.linspace(start, joint, 5), np.linspace(joint, end, 5)]), np.full(10, width))
    head = body[int(random.integers(len(body)))] * 1.2 + _blob_points(random, roughness=0.1) * random.uniform(
        0.15, 0.32
    )
    draw.polygon(_canvas(head), fill=255)


def _draw_compound(random: np.random.Generator, draw: ImageDraw.ImageDraw) -> None:
    for _ in range(int(random.integers(2, 5))):
        part = _blob_points(random, roughness=0.3) * random.uniform(0.25, 0.6) + random.uniform(-0.4, 0.4, 2)
        draw.polygon(_canvas(np.clip(part, -1, 1)), fill=255)


def _frayed(random: np.random.Generator, picture: Image.Image) -> Image.Image:
    """The picture with a ragged edge, like fur or leaves."""
    noise = smooth_noise(random, picture.size[::-1], cell_px=random.uniform(8, 40), octaves=2)
    soft = np.asarray(picture.reduce(8).resize(picture.size, Image.Resampling.BICUBIC), np.float32) / 255
    return Image.fromarray(np.where(soft + (noise - 0.5) * 0.9 > 0.5, 255, 0).astype(np.uint8))


_DRAWINGS: tuple[Drawing, ...] = (
    _draw_blob, _draw_polygon, _draw_star, _draw_ring, _draw_box, _draw_rope, _draw_letter, _draw_branch,
    _draw_lattice, _draw_creature, _draw_compound,
)  # fmt: skip
_SHARES = (0.19, 0.09, 0.03, 0.07, 0.12, 0.08, 0.05, 0.06, 0.06, 0.15, 0.1)
