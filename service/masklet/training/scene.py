"""The plan of a clip: a backdrop, a camera, and layers of sprites that move in front of one another."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from masklet.training import motion
from masklet.training.assets import AssetBank
from masklet.training.motion import Liveliness, Path
from masklet.training.sprites import Range, Sprite, colour_range, crop, draw_sprite, texture_crop
from masklet.training.warp import Wobble
from masklet.types import Size

NOT_A_TARGET = -1


@dataclass(frozen=True, slots=True)
class SyntheticSettings:
    """What is drawn, and how often.

    Attributes:
        frames: length of a clip.
        size: height and width in pixels.
        max_objects: at most so many targets.
        min_share, max_share: area of an object as a share of the frame, drawn evenly on a log scale.
        segments: probability that regions of the backdrop are targets as well.
        distractor: probability of a copy of a target that is none itself.
        occluder: probability of something that passes in front of a target.
        excursion: probability that a target leaves the frame and comes back.
        wobble: probability that an object deforms.
    """

    frames: int = 8
    size: Size = (128, 128)
    max_objects: int = 4
    min_share: float = 0.012
    max_share: float = 0.4
    segments: float = 0.25
    distractor: float = 0.33
    occluder: float = 0.4
    excursion: float = 0.2
    wobble: float = 0.5


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """One sprite through time. `path` [T, 3, 3] maps the sprite's pixels, from its middle, to the world."""

    sprite: Sprite
    path: Path
    wobble: Wobble | None = None
    target: int = NOT_A_TARGET


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """All there is to see, rear to front.

    Attributes:
        backdrop: RGB; its middle is the world's origin.
        regions: L, region numbers of the backdrop, or None.
        chosen: region numbers that are targets.
        camera: [T, 3, 3] world to frame.
        layers: sprites.
        targets: number of targets; those of `chosen` come last.
    """

    backdrop: Image.Image
    regions: Image.Image | None
    chosen: tuple[int, ...]
    camera: Path
    layers: tuple[Layer, ...]
    targets: int


def plan(random: np.random.Generator, assets: AssetBank, settings: SyntheticSettings) -> Scene:
    """A random scene."""
    calm = random.lognormal(-0.3, 0.7)
    lively = Liveliness(0.022 * calm, 0.045 * calm, 0.03 * calm)
    camera = motion.camera_path(random, settings.frames, settings.size, lively=lively)
    backdrop, regions, chosen = _backdrop(random, assets, settings, camera)
    scenery = colour_range(backdrop)
    objects = int(random.integers(0 if chosen else 1, max(settings.max_objects - len(chosen), 1) + 1))
    layers = [_object(random, assets, settings, target=index, scenery=scenery) for index in range(objects)]
    layers += _company(random, assets, settings, layers, scenery)
    order = random.permutation(len(layers))
    return Scene(backdrop, regions, chosen, camera, tuple(layers[i] for i in order), objects + len(chosen))


def _backdrop(
    random: np.random.Generator, assets: AssetBank, settings: SyntheticSettings, camera: Path
) -> tuple[Image.Image, Image.Image | None, tuple[int, ...]]:
    """A picture as large as the camera will ever see, and perhaps regions of it that are targets."""
    half_x, half_y = motion.extent(camera, settings.size)
    size = (2 * int(half_y + 2), 2 * int(half_x + 2))
    if not assets.photos or random.random() < 0.12:
        return texture_crop(random, assets, size), None, ()
    number = int(random.integers(len(assets.photos)))
    photo = assets.photos[number]
    share = random.uniform(0.5, 1.0)
    state = random.bit_generator.state
    backdrop = crop(random, photo, size, share=share)
    if random.random() >= settings.segments:
        return backdrop, None, ()
    random.bit_generator.state = state
    regions = crop(random, Image.fromarray(assets.segments(number)), size, share=share)
    chosen = _visible_regions(random, regions, settings)
    return backdrop, regions, chosen


def _visible_regions(random: np.random.Generator, regions: Image.Image, settings: SyntheticSettings) -> tuple[int, ...]:
    share = np.bincount(np.asarray(regions).ravel(), minlength=2) / (regions.width * regions.height)
    fit = [n for n in range(1, len(share)) if share[n] > 0.01]
    wanted = min(int(random.integers(1, settings.max_objects + 1)), len(fit))
    return tuple(int(n) for n in random.choice(fit, wanted, replace=False)) if wanted else ()


def _object(
    random: np.random.Generator, assets: AssetBank, settings: SyntheticSettings, *, target: int, scenery: Range
) -> Layer:
    height, width = settings.size
    low, high = settings.min_share, settings.max_share
    share = float(np.exp(random.uniform(np.log(low), np.log(high)))) if target else random.uniform(0.03, high)
    sprite = draw_sprite(random, assets, area_px=share * height * width, scenery=scenery)
    start = (random.uniform(-0.38, 0.38) * width, random.uniform(-0.38, 0.38) * height)
    path = motion.object_path(random, settings.frames, settings.size, start=start, lively=_liveliness(random))
    if settings.frames > 3 and random.random() < settings.excursion:
        path = _leaving(random, path, settings.size, sprite)
    return Layer(sprite, path, _wobble(random, settings, sprite), target)


def _liveliness(random: np.random.Generator) -> Liveliness:
    pace = random.lognormal(-0.2, 0.8)
    return Liveliness(0.022 * pace, 0.06 * pace, 0.035 * pace)


def _wobble(random: np.random.Generator, settings: SyntheticSettings, sprite: Sprite) -> Wobble | None:
    if random.random() >= settings.wobble:
        return None
    return Wobble.draw(random, settings.frames, min(sprite.image.size))


def _leaving(random: np.random.Generator, path: Path, size: Size, sprite: Sprite) -> Path:
    """The path, with a stay outside the frame."""
    angle = random.uniform(0, 2 * np.pi)
    far = 0.75 * (size[0] + size[1]) / 2 + 0.7 * max(sprite.image.size)
    path = path.copy()
    away = motion.excursion(random, len(path)) * far
    path[:, :2, 2] += away[:, None] * (np.cos(angle), np.sin(angle))
    return path


def _company(
    random: np.random.Generator, assets: AssetBank, settings: SyntheticSettings, layers: list[Layer], scenery: Range
) -> list[Layer]:
    """What is no target itself: look-alikes, and things that pass in front."""
    company: list[Layer] = []
    if layers and random.random() < settings.distractor:
        company.append(_look_alike(random, settings, layers[int(random.integers(len(layers)))]))
    if random.random() < settings.occluder:
        occluder = _object(random, assets, settings, target=NOT_A_TARGET, scenery=scenery)
        if layers and settings.frames > 2:
            occluder = _crossing(random, occluder, layers[int(random.integers(len(layers)))])
        company.append(occluder)
    return company


def _look_alike(random: np.random.Generator, settings: SyntheticSettings, layer: Layer) -> Layer:
    """The same sprite on a way of its own."""
    height, width = settings.size
    start = (random.uniform(-0.45, 0.45) * width, random.uniform(-0.45, 0.45) * height)
    path = motion.object_path(random, settings.frames, settings.size, start=start, lively=_liveliness(random))
    return Layer(layer.sprite, path, _wobble(random, settings, layer.sprite))


def _crossing(random: np.random.Generator, occluder: Layer, victim: Layer) -> Layer:
    """The occluder moved so that it meets the victim on some frame after the first."""
    meeting = int(random.integers(1, len(victim.path)))
    path = occluder.path.copy()
    path[:, :2, 2] += victim.path[meeting, :2, 2] - path[meeting, :2, 2]
    angle, pace = random.uniform(0, 2 * np.pi), random.uniform(0.03, 0.3) * max(occluder.sprite.image.size)
    away = (np.arange(len(path)) - meeting)[:, None] * pace
    path[:, :2, 2] += away * (np.cos(angle), np.sin(angle))
    return Layer(occluder.sprite, path, occluder.wobble)
