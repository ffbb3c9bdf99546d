"""Placing a picture on the frame: an affine map, or a mesh that also lets it wobble."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from masklet.types import Size

_CELLS = 5
Matrix = npt.NDArray[np.float64]
Window = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True, eq=False)
class Wobble:
    """A smooth displacement of a sprite's pixels that changes with time.

    Attributes:
        reach_px: largest displacement, in pixels of the sprite.
        waves: [2] waves across the sprite, for x and for y.
        phase: [T, 2] radians.
    """

    reach_px: float
    waves: Matrix
    phase: Matrix

    @classmethod
    def draw(cls, random: np.random.Generator, frames: int, side_px: int) -> Wobble:
        """A random wobble of a sprite whose short side is `side_px`."""
        pace = random.normal(0, 0.6, 2)
        phase = random.uniform(0, 6.3, 2) + np.arange(frames)[:, None] * pace
        return cls(side_px * random.uniform(0.03, 0.14), random.uniform(0.3, 1.0, 2), phase)

    def moved(self, points: Matrix, size_xy: tuple[int, int], frame: int) -> Matrix:
        """Points [..., 2] (x, y) of a sprite displaced as on `frame`."""
        across = points[..., ::-1] / np.asarray(size_xy[::-1]) * (2 * np.pi * self.waves)
        return np.asarray(points + self.reach_px * np.sin(across + self.phase[frame]))


def window_of(
    picture: Image.Image, place: Matrix, size: Size, *, margin: float = 0.0, margin_px: float = 0.0
) -> Window | None:
    """The part (x0, y0, x1, y1) of a frame of `size` that the picture, moved by `place` [3, 3], can touch.

    The picture has a `margin` around it in its own pixels, and a `margin_px` in pixels of the frame.
    """
    half_x, half_y = picture.width / 2 + margin, picture.height / 2 + margin
    reach_x = abs(place[0, 0]) * half_x + abs(place[0, 1]) * half_y + margin_px + 1
    reach_y = abs(place[1, 0]) * half_x + abs(place[1, 1]) * half_y + margin_px + 1
    x0, y0 = max(int(place[0, 2] - reach_x), 0), max(int(place[1, 2] - reach_y), 0)
    x1, y1 = min(int(place[0, 2] + reach_x) + 1, size[1]), min(int(place[1, 2] + reach_y) + 1, size[0])
    return (x0, y0, x1, y1) if x0 < x1 and y0 < y1 else None


def affine(picture: Image.Image, place: Matrix, window: Window, *, smooth: bool = True) -> Image.Image:
    """`picture`, its middle at the origin, moved by `place` [3, 3]: what of it falls into `window`."""
    back = np.linalg.inv(place)
    x0, y0, x1, y1 = window
    coefficients = (
        *(float(back[0, 0]), float(back[0, 1]), float(back[0] @ (x0, y0, 1)) + picture.width / 2),
        *(float(back[1, 0]), float(back[1, 1]), float(back[1] @ (x0, y0, 1)) + picture.height / 2),
    )
    resampling = Image.Resampling.BILINEAR if smooth else Image.Resampling.NEAREST
    return picture.transform((x1 - x0, y1 - y0), Image.Transform.AFFINE, coefficients, resampling)


def mesh(picture: Image.Image, corners: Matrix, window: Window) -> Image.Image:
    """`picture` pulled over `window`; `corners` [rows, columns, 2] are the picture's points under an even grid."""
    rows, columns = corners.shape[:2]
    width, height = window[2] - window[0], window[3] - window[1]
    xs = np.linspace(0, width, columns).astype(int).tolist()
    ys = np.linspace(0, height, rows).astype(int).tolist()
    quads = np.concatenate([corners[:-1, :-1], corners[1:, :-1], corners[1:, 1:], corners[:-1, 1:]], -1).tolist()
    cells = [
        ((xs[j], ys[i], xs[j + 1], ys[i + 1]), quads[i][j])
        for i in range(rows - 1)
        for j in range(columns - 1)
        if xs[j] < xs[j + 1] and ys[i] < ys[i + 1]
    ]
    return picture.transform((width, height), Image.Transform.MESH, cells, Image.Resampling.BILINEAR)


def wobbled(picture: Image.Image, place: Matrix, window: Window, wobble: Wobble, *, frame: int) -> Image.Image:
    """Like `affine`, with the picture displaced by `wobble` first."""
    x0, y0, x1, y1 = window
    cells = min(_CELLS, x1 - x0, y1 - y0) + 1
    grid = np.empty((cells, cells, 3))
    grid[..., 0] = np.linspace(0, x1 - x0, cells).astype(int) + x0
    grid[..., 1] = (np.linspace(0, y1 - y0, cells).astype(int) + y0)[:, None]
    grid[..., 2] = 1
    source = grid @ np.linalg.inv(place)[:2].T + (picture.width / 2, picture.height / 2)
    return mesh(picture, wobble.moved(source, picture.size, frame), window)
