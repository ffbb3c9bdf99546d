"""Frames to send: encoded once, before the run, and held in memory; and where their objects are."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import av
import av.error
import numpy as np
from PIL import Image, ImageDraw

from masklet.errors import ConfigError
from masklet_load.scenario import Scenario

_QUALITY = 85
_PICTURES = (".jpg", ".jpeg", ".png")
_COLOURS = ((230, 190, 40), (40, 90, 220), (200, 50, 60), (60, 180, 90), (150, 60, 190), (240, 130, 40))


@dataclass(frozen=True, slots=True)
class Clip:
    """JPEGs of one size, in order.

    Attributes:
        payloads: the JPEGs.
        clicks: by frame, then by object: (x, y) in pixels, on the object.
        size: (height, width).
    """

    payloads: tuple[bytes, ...]
    clicks: tuple[tuple[tuple[float, float], ...], ...]
    size: tuple[int, int]

    def at(self, number: int) -> int:
        """Index of a camera's frame `number`: forwards, then backwards, so that nothing jumps."""
        last = len(self.payloads) - 1
        place = number % (2 * last)
        return place if place <= last else 2 * last - place


def load_clip(scenario: Scenario) -> Clip:
    """The scenario's frames. Raises ConfigError if its source has fewer than two that can be read."""
    return _from_source(scenario) if scenario.source else _generated(scenario)


def _generated(scenario: Scenario) -> Clip:
    """Discs that cross a textured ground at different heights."""
    height, width = scenario.height, scenario.width
    noise = np.random.default_rng(scenario.seed).integers(40, 170, (height // 8 + 1, width // 8 + 1, 3), np.uint8)
    ground = Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)
    radius = max(4.0, min(height / (2.5 * scenario.objects), min(height, width) / 6))
    payloads, clicks = [], []
    for number in range(scenario.clip_frames):
        picture = ground.copy()
        centres = tuple(_centre(one, number / scenario.clip_frames, scenario) for one in range(scenario.objects))
        for one, (x, y) in enumerate(centres):
            disc = (x - radius, y - radius, x + radius, y + radius)
            ImageDraw.Draw(picture).ellipse(disc, fill=_COLOURS[one % len(_COLOURS)], outline="white", width=2)
        payloads.append(_jpeg(picture))
        clicks.append(centres)
    return Clip(tuple(payloads), tuple(clicks), (height, width))


def _centre(one: int, share: float, scenario: Scenario) -> tuple[float, float]:
    along = share if one % 2 == 0 else 1.0 - share
    return scenario.width * (0.2 + 0.6 * along), scenario.height * (one + 0.5) / scenario.objects


def _from_source(scenario: Scenario) -> Clip:
    path = Path(scenario.source)
    if not path.exists():
        raise ConfigError(f"source is {scenario.source}, no such file or folder", field="source")
    pictures = _of_folder(path) if path.is_dir() else _of_video(path)
    found: list[bytes] = []
    size = (0, 0)
    for picture in islice(pictures, scenario.clip_frames):
        size = size if found else (picture.height, picture.width)
        if (picture.height, picture.width) != size:
            raise ConfigError(f"{path}: picture {len(found) + 1} is of another size than the first", field="source")
        found.append(_jpeg(picture))
    if len(found) < 2:
        raise ConfigError(f"source {path} has {len(found)} frames, need at least 2", field="source")
    click = (scenario.click_x * size[1], scenario.click_y * size[0])
    return Clip(tuple(found), ((click,) * scenario.objects,) * len(found), size)


def _of_folder(path: Path) -> Iterator[Image.Image]:
    for one in sorted(path.iterdir()):
        if one.suffix.lower() in _PICTURES:
            try:
                with Image.open(one) as picture:
                    yield picture.convert("RGB")
            except OSError as error:
                raise ConfigError(f"source {one} cannot be read: {error}", field="source") from error


def _of_video(path: Path) -> Iterator[Image.Image]:
    try:
        with av.open(str(path)) as container:
            for frame in container.decode(video=0):
                yield frame.to_image()  # type: ignore[no-untyped-call]
    except (av.error.FFmpegError, IndexError) as error:
        raise ConfigError(f"source {path} cannot be read as video: {error}", field="source") from error


def _jpeg(picture: Image.Image) -> bytes:
    sink = io.BytesIO()
    picture.save(sink, "JPEG", quality=_QUALITY)
    return sink.getvalue()
