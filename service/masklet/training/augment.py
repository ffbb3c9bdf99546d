"""Random changes of a clip that leave its truth true: window, flip, time, colour, light, focus, noise, compression."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from masklet.errors import ConfigError
from masklet.training.clip import Clip
from masklet.training.look import Look
from masklet.training.warp import Matrix, affine
from masklet.types import FloatArray, ImageArray, MaskArray, Size

_TRIES = 6
_LUMA = np.asarray([[0.299, 0.587, 0.114]])


@dataclass(frozen=True, slots=True)
class Augmentation:
    """How much is changed, and how often.

    Attributes:
        flip: probability of left and right changing places.
        reverse: probability of time running backwards.
        min_window: side of the smallest window cut out, as a share of the largest possible.
        turn: standard deviation of the rotation, in radians.
        stretch: standard deviation of the log aspect ratio.
        colour: strength of colour changes, 0 none, 1 usual.
        grey: probability of no colour at all.
        worsen: probability of noise, blur, light changes and compression.
    """

    flip: float = 0.5
    reverse: float = 0.5
    min_window: float = 0.45
    turn: float = 0.12
    stretch: float = 0.15
    colour: float = 1.0
    grey: float = 0.05
    worsen: float = 0.35


def augment(clip: Clip, random: np.random.Generator, *, size: Size, settings: Augmentation | None = None) -> Clip:
    """A changed copy of `clip`; every frame changes in the same way.

    If an object shows on the first frame, one still does afterwards.

    Args:
        clip: at least one frame; masks may overlap.
        random: decides everything.
        size: height and width of the result, in pixels.
        settings: how much and how often.

    Raises:
        ConfigError: the clip has no frame.
    """
    if not len(clip.frames):
        raise ConfigError("a clip of 0 frames cannot be augmented; need at least 1")
    wanted = settings or Augmentation()
    clip = _reversed(clip) if random.random() < wanted.reverse and clip.masks[-1].any() else clip
    place = _window(clip, random, size, wanted)
    source_scale = float(np.sqrt(abs(np.linalg.det(place[:2, :2]))))
    frames = np.stack([_moved(Image.fromarray(frame), place, size, source_scale) for frame in clip.frames])
    masks = np.stack([[_moved_mask(mask, place, size, source_scale) for mask in frame] for frame in clip.masks])
    frames = _recoloured(frames, random, wanted)
    if random.random() < wanted.worsen:
        frames = _worsened(frames, random)
    return Clip(frames, masks.reshape(*clip.masks.shape[:2], *size))


def _reversed(clip: Clip) -> Clip:
    return Clip(clip.frames[::-1], clip.masks[::-1])


def _window(clip: Clip, random: np.random.Generator, size: Size, settings: Augmentation) -> Matrix:
    """A map, from pixels around the middle of the source to the result, that keeps an object of the first frame."""
    shown = clip.masks[0].any(axis=0)
    for _ in range(_TRIES):
        place = _draw_window(random, clip.size, size, settings)
        if not shown.any() or _moved_mask(shown, place, size, 1.0).mean() > min(0.5 * shown.mean(), 0.01):
            return place
    return _fitted(clip.size, size)


def _fitted(source: Size, size: Size) -> Matrix:
    """The whole source."""
    return _map(size, np.diag([size[1] / source[1], size[0] / source[0]]), np.zeros(2))


def _map(size: Size, linear: Matrix, centre: Matrix) -> Matrix:
    """The map that brings `centre`, in pixels from the middle of the source, to the middle of the result."""
    place = np.eye(3)
    place[:2, :2] = linear
    place[:2, 2] = np.asarray([size[1], size[0]]) / 2 - linear @ centre
    return place


def _draw_window(random: np.random.Generator, source: Size, size: Size, settings: Augmentation) -> Matrix:
    """A turned and stretched window that lies inside the source."""
    angle = random.normal(0, settings.turn)
    half = np.asarray([source[1], source[0]]) / 2
    squash = random.uniform(0, 1)
    sides = half**squash * half.min() ** (1 - squash) * np.exp([0, random.normal(0, settings.stretch)])
    c, s = np.cos(angle), np.sin(angle)
    turn = np.asarray([[c, -s], [s, c]])
    share = random.uniform(settings.min_window, 1.0) * (half / (np.abs(turn) @ sides)).min()
    sides *= share
    room = half - np.abs(turn) @ sides
    mirror = -1.0 if random.random() < settings.flip else 1.0
    back = turn @ np.diag(sides / (size[1] / 2, size[0] / 2)) @ np.diag([mirror, 1.0])
    return _map(size, np.linalg.inv(back), random.uniform(-1, 1, 2) * room)


def _moved(picture: Image.Image, place: Matrix, size: Size, scale: float) -> ImageArray:
    """The picture under the map; first averaged down when it is much larger than the result."""
    factor = int(1 / max(scale, 1e-3)) if scale < 0.67 else 1
    if factor > 1:
        small = picture.reduce(factor)
        grow = np.diag([picture.width / small.width, picture.height / small.height, 1.0])
        picture, place = small, place @ grow
    return np.asarray(affine(picture, place, (0, 0, size[1], size[0])))


def _moved_mask(mask: MaskArray, place: Matrix, size: Size, scale: float) -> MaskArray:
    if not mask.any():
        return np.zeros(size, np.bool_)
    return _moved(Image.fromarray(mask.astype(np.uint8) * 255), place, size, scale) > 127


def _recoloured(frames: ImageArray, random: np.random.Generator, settings: Augmentation) -> ImageArray:
    """Contrast, brightness, saturation and the balance of the channels changed, then gamma."""
    strength = settings.colour
    saturation = 0.0 if random.random() < settings.grey else float(np.exp(random.normal(0, 0.25 * strength)))
    balance = np.exp(random.normal(0, 0.07 * strength, 3) + random.normal(0, 0.12 * strength))
    matrix = balance[:, None] * (saturation * np.eye(3) + (1 - saturation) * _LUMA)
    shift = random.normal(0, 10 * strength)
    gamma = np.exp(random.normal(0, 0.15 * strength))
    curve = (255 * (np.arange(256) / 255) ** gamma).round().astype(int).tolist()
    rows = tuple(float(v) for row in matrix for v in (*row, shift))
    changed = [Image.fromarray(frame).convert("RGB", rows).point(curve * 3) for frame in frames]
    return np.stack([np.asarray(picture) for picture in changed])


def _worsened(frames: ImageArray, random: np.random.Generator) -> ImageArray:
    look = Look.draw(random, len(frames), frames.shape[1:3])
    canvases: list[FloatArray] = [frame.astype(np.float32) for frame in frames]
    return np.stack([look.taken(random, canvas, number) for number, canvas in enumerate(canvases)])
