"""Planning a scene: where the camera goes, what it sees behind everything, and who is cast."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from masklet.training import motion
from masklet.training.assets import AssetBank
from masklet.training.cast import Casting
from masklet.training.motion import Liveliness, Path
from masklet.training.render import BLUR_REACH_PX
from masklet.training.scene import Scene, Shadow, SyntheticSettings
from masklet.training.sprites import colour_range, crop, recoloured, texture_crop
from masklet.types import Size

_PROCEDURAL_SHARE = 0.12
_RECOLOURED_SHARE = 0.5
_SMALLEST_REGION, _LARGEST_REGION = 0.01, 0.5


@dataclass(frozen=True, slots=True, eq=False)
class Backdrop:
    """What lies behind everything.

    Attributes:
        pictures: RGB, one or as many as there are frames.
        regions: L, region numbers, or None.
        chosen: region numbers that are targets.
    """

    pictures: tuple[Image.Image, ...]
    regions: Image.Image | None = None
    chosen: tuple[int, ...] = ()


def plan(random: np.random.Generator, assets: AssetBank, settings: SyntheticSettings) -> Scene:
    """A random scene."""
    pace = random.lognormal(-0.3, 0.7)
    lively = Liveliness(0.022 * pace, 0.045 * pace, 0.03 * pace)
    camera = motion.camera_path(random, settings.frames, settings.size, lively=lively)
    backdrop = _backdrop(random, assets, settings, _seen(camera, settings.size))
    fewest = 0 if backdrop.chosen else 1
    objects = int(random.integers(fewest, max(settings.max_objects - len(backdrop.chosen), fewest) + 1))
    actors = Casting(random, assets, settings, colour_range(backdrop.pictures[0])).cast(objects)
    return Scene(
        backdrop.pictures,
        backdrop.regions,
        backdrop.chosen,
        camera,
        tuple(actors),
        sum(actor.target is not None for actor in actors) + len(backdrop.chosen),
        _shadow(random, settings) if random.random() < settings.shadow else None,
        random.uniform(0.2, 0.9) if settings.frames > 1 and random.random() < settings.motion_blur else 0.0,
    )


def _seen(camera: Path, size: Size) -> Size:
    """Height and width of a backdrop that the camera never looks beyond, motion blur included."""
    half_x, half_y = motion.extent(camera, size)
    zoom = float(np.sqrt(np.linalg.det(camera[:, :2, :2]).min()))
    margin = BLUR_REACH_PX / zoom + 2
    return 2 * int(half_y + margin), 2 * int(half_x + margin)


def _backdrop(random: np.random.Generator, assets: AssetBank, settings: SyntheticSettings, size: Size) -> Backdrop:
    """A photograph, sometimes with regions that are targets, or a procedural texture."""
    if not assets.photos or random.random() < _PROCEDURAL_SHARE:
        return Backdrop((texture_crop(random, assets, size),))
    if settings.frames > 1 and assets.films and random.random() < settings.film:
        return Backdrop(_film(random, assets, settings.frames, size))
    number = assets.draw_photo(random)
    share = random.uniform(0.45, 1.0)
    window = int(random.integers(1 << 32))
    picture = crop(np.random.default_rng(window), assets.photos[number], size, share=share)
    if random.random() < _RECOLOURED_SHARE:
        picture = recoloured(random, picture, colour_range(picture))
    if random.random() >= settings.regions:
        return Backdrop((picture,))
    labels = Image.fromarray(assets.segments(number))
    nearest = Image.Resampling.NEAREST  # between regions 1 and 3 there is no region 2
    regions = crop(np.random.default_rng(window), labels, size, share=share, resampling=nearest)
    return Backdrop((picture,), regions, _chosen(random, regions, settings))


def _film(random: np.random.Generator, assets: AssetBank, frames: int, size: Size) -> tuple[Image.Image, ...]:
    """Frames of a film, forwards or backwards, back and forth if it is too short; the same window of each."""
    film = assets.films[int(random.integers(len(assets.films)))]
    there_and_back = film[:-1] + film[:0:-1]
    start, step = int(random.integers(len(there_and_back))), int(random.choice((-1, 1)))
    share, window = random.uniform(0.45, 1.0), int(random.integers(1 << 32))
    photos = [assets.photos[there_and_back[(start + step * t) % len(there_and_back)]] for t in range(frames)]
    return tuple(crop(np.random.default_rng(window), photo, size, share=share) for photo in photos)


def _chosen(random: np.random.Generator, regions: Image.Image, settings: SyntheticSettings) -> tuple[int, ...]:
    """Some of the regions that are neither tiny nor most of the picture."""
    share = np.bincount(np.asarray(regions).ravel(), minlength=2) / (regions.width * regions.height)
    fit = [number for number in range(1, len(share)) if _SMALLEST_REGION < share[number] < _LARGEST_REGION]
    wanted = min(int(random.integers(1, settings.max_objects + 1)), len(fit))
    return tuple(int(number) for number in random.choice(fit, wanted, replace=False)) if wanted else ()


def _shadow(random: np.random.Generator, settings: SyntheticSettings) -> Shadow:
    side = min(settings.size)
    x, y = (int(v) for v in random.uniform(-0.05, 0.05, 2) * side)
    return Shadow((x, abs(y) + 1), max(int(random.uniform(0.01, 0.05) * side), 1), random.uniform(0.2, 0.6))
