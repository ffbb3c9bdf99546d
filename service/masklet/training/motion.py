"""Smooth random paths: of a camera, and of objects in front of it.

An affine map is [3, 3] and acts on columns (x, y, 1); a path of them is [T, 3, 3].
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter1d

from masklet.types import Size

Path = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Liveliness:
    """How much something moves per frame.

    Attributes:
        shift: of the frame's short side.
        turn: radians.
        growth: log scale.
        kicks: probability that a path has one sudden move.
    """

    shift: float = 0.02
    turn: float = 0.04
    growth: float = 0.03
    kicks: float = 0.15


def wander(random: np.random.Generator, frames: int, width: int, *, steadiness: float | None = None) -> Path:
    """A smooth walk with mean speed about 1 per frame, 0 at frame 0: [T, width]."""
    if frames == 1:
        return np.zeros((1, width))
    sigma = random.uniform(0.6, 3.0) if steadiness is None else steadiness
    speed = gaussian_filter1d(random.normal(0, 1, (frames, width)), sigma, axis=0, mode="nearest") * sigma**0.5
    speed += random.normal(0, 0.8, width)
    speed *= random.uniform(0.3, 1.0)
    speed[0] = 0
    return np.asarray(np.cumsum(speed, axis=0))


def camera_path(random: np.random.Generator, frames: int, size: Size, *, lively: Liveliness) -> Path:
    """World to frame; at frame 0 the world's origin is the middle of the frame."""
    walk = wander(random, frames, 4)
    side = min(size)
    shift = walk[:, :2] * side * lively.shift
    if random.random() < 0.25:
        shift += random.normal(0, side * random.uniform(0.002, 0.012), shift.shape)
    limit = 0.35 * side
    shift = limit * np.tanh(shift / limit)
    turn = 0.3 * np.tanh(walk[:, 2] * lively.turn / 0.3) + random.normal(0, 0.05)
    zoom = np.exp(0.4 * np.tanh(walk[:, 3] * lively.growth / 0.4))
    path = similarity(shift, turn, zoom)
    path[:, :2, 2] += (size[1] / 2, size[0] / 2)
    return path


def object_path(
    random: np.random.Generator, frames: int, size: Size, *, start: tuple[float, float], lively: Liveliness
) -> Path:
    """Object (origin at its centre) to world, beginning at `start` (x, y) in pixels from the middle of the frame."""
    walk = wander(random, frames, 6)
    shift = walk[:, :2] * min(size) * lively.shift + start
    if frames > 2 and random.random() < lively.kicks:
        shift[int(random.integers(1, frames)) :] += random.normal(0, min(size) * 0.12, 2)
    turn = walk[:, 2] * lively.turn
    zoom = np.exp(0.6 * np.tanh(walk[:, 3] * lively.growth / 0.6))
    return similarity(shift, turn, zoom) @ _tilt(random, walk[:, 4:] * lively.turn)


def _tilt(random: np.random.Generator, walk: Path) -> Path:
    """Narrowing and shear, as of a flat thing turned away from the camera: [T, 3, 3]."""
    tilt = np.tile(np.eye(3), (len(walk), 1, 1))
    tilt[:, 0, 0] = np.exp(-np.abs(0.8 * np.tanh(walk[:, 0] + random.normal(0, 0.2))))
    tilt[:, 0, 1] = 0.4 * np.tanh(walk[:, 1] + random.normal(0, 0.15))
    return tilt


def similarity(shift: Path, turn: Path, zoom: Path) -> Path:
    """Maps that scale by `zoom` [T], turn by `turn` [T] radians and move by `shift` [T, 2]."""
    path = np.zeros((len(shift), 3, 3))
    c, s = np.cos(turn) * zoom, np.sin(turn) * zoom
    path[:, 0, 0], path[:, 0, 1], path[:, 1, 0], path[:, 1, 1] = c, -s, s, c
    path[:, :2, 2] = shift
    path[:, 2, 2] = 1
    return path


def swing(random: np.random.Generator, frames: int, *, at: Path, hinge: Path) -> Path:
    """A limb to its body: the limb's point `hinge` (x, y) stays on the body's point `at`, and the limb swings."""
    angle = random.uniform(0, 2 * np.pi) + random.uniform(0, 0.7) * np.sin(
        random.uniform(0, 6.3) + random.uniform(0.2, 1.2) * np.arange(frames)
    )
    still = np.ones(frames)
    turn = similarity(np.tile(at, (frames, 1)), angle, still)
    return turn @ similarity(-hinge[None], np.zeros(1), np.ones(1))


def slide(random: np.random.Generator, frames: int, reach_px: float) -> Path:
    """A straight, even movement of at most `reach_px` from the middle."""
    along = np.linspace(-1, 1, frames)[:, None] * random.uniform(-reach_px, reach_px, 2)
    return similarity(along, np.zeros(frames), np.ones(frames))


def excursion(random: np.random.Generator, frames: int) -> Path:
    """How far away something is during a clip it leaves for a while: 0 here, 1 away, smooth between: [T]."""
    first = random.integers(2, max(frames - 1, 3))
    length = int(random.integers(1, max(frames // 2, 2)))
    away = np.zeros(frames)
    away[first : first + length] = 1
    ramp = random.uniform(0.5, 1.5)
    return np.asarray(np.clip(gaussian_filter1d(away, ramp, mode="nearest") * 1.6, 0, 1))


def extent(camera: Path, size: Size) -> tuple[float, float]:
    """How far from the world's origin the camera ever looks: along x and y, in pixels."""
    height, width = size
    corners = np.asarray([[0, 0, 1], [width, 0, 1], [0, height, 1], [width, height, 1]], np.float64).T
    seen = np.linalg.inv(camera) @ corners
    return float(np.abs(seen[:, 0]).max()), float(np.abs(seen[:, 1]).max())
