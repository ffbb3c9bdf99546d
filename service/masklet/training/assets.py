"""What synthetic video is made of: photographs, cut-outs and procedural textures, all of them small and in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

import av
import numpy as np
from PIL import Image

from masklet.errors import ConfigError
from masklet.file_order import frame_order
from masklet.training.segments import segment
from masklet.training.texture import procedural_texture
from masklet.types import ImageArray, Size

PHOTO_SHORT_SIDE_PX = 320
CUTOUT_LONG_SIDE_PX = 192
PROCEDURAL_TEXTURES = 192
_PHOTO_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}
_VIDEO_SUFFIX = ".mp4"
_FRAMES_PER_VIDEO = 40
_FILM_FRAMES = 8
_STILL_SHARE = 0.5
_MIN_SIDE_PX = 48
_MIN_CUTOUT_SIDE_PX = 24


class AssetBank:
    """Photographs, cut-outs and procedural textures.

    Attributes:
        photos: RGB pictures, at most 320 pixels on the short side.
        cutouts: RGBA pictures of single objects, at most 192 pixels on the long side.
        films: for each film, the places of its frames among the photographs.
    """

    def __init__(
        self,
        photos: Sequence[Image.Image] = (),
        cutouts: Sequence[Image.Image] = (),
        films: Sequence[tuple[int, ...]] = (),
    ) -> None:
        self.photos = tuple(photos)
        self.cutouts = tuple(cutouts)
        self.films = tuple(films)
        filmed = {place for film in self.films for place in film}
        self._stills = [place for place in range(len(self.photos)) if place not in filmed]
        self._segments: dict[int, ImageArray] = {}

    @property
    def pictures(self) -> int:
        """How many photographs and cut-outs there are."""
        return len(self.photos) + len(self.cutouts)

    @classmethod
    def procedural(cls) -> AssetBank:
        """A bank that needs nothing on disk."""
        return cls()

    @classmethod
    def from_folders(cls, folders: Sequence[Path]) -> AssetBank:
        """Read every picture and video below `folders`.

        A picture with real transparency is a cut-out. A video is a film, and so are pictures of one folder and size
        whose names differ only in the number at the end.

        Raises:
            ConfigError: a folder is missing, a file cannot be read, or there is not a single picture.
        """
        photos: list[Image.Image] = []
        cutouts: list[Image.Image] = []
        films: dict[tuple[str, Size], list[int]] = {}
        for path in _files(folders):
            for picture in _pictures(path):
                if picture.mode == "RGBA":
                    cutouts.append(picture)
                    continue
                films.setdefault((_film_name(path), picture.size), []).append(len(photos))
                photos.append(picture)
        if not photos and not cutouts:
            raise ConfigError(f"no jpg, png, webp or mp4 of use below {', '.join(map(str, folders)) or 'no folder'}")
        return cls(photos, cutouts, [tuple(film) for film in films.values() if len(film) >= _FILM_FRAMES])

    def draw_photo(self, random: np.random.Generator) -> int:
        """Place of a random photograph; frames of films, which look alike, are half of those drawn at most."""
        if self._stills and random.random() < _STILL_SHARE:
            return self._stills[int(random.integers(len(self._stills)))]
        return int(random.integers(len(self.photos)))

    def texture(self, index: int) -> Image.Image:
        """A procedural RGB texture; the same index (taken modulo their number) gives the same one."""
        return _texture(index % PROCEDURAL_TEXTURES)

    def segments(self, photo: int) -> ImageArray:
        """Regions of photograph `photo`: [H, W] uint8, 0 where there is none, else 1 and up by falling distinctness."""
        if photo not in self._segments:
            self._segments[photo] = segment(np.asarray(self.photos[photo]))
        return self._segments[photo]


@lru_cache(PROCEDURAL_TEXTURES)
def _texture(index: int) -> Image.Image:
    return Image.fromarray(procedural_texture(np.random.default_rng((index, 77)), (192, 224)))


def _files(folders: Sequence[Path]) -> Iterator[Path]:
    """Readable kinds of file below the folders, in a fixed order."""
    for folder in folders:
        if not folder.is_dir():
            raise ConfigError(f"no folder {folder}")
        wanted = (path for path in folder.rglob("*") if path.suffix.lower() in {*_PHOTO_SUFFIXES, _VIDEO_SUFFIX})
        yield from sorted(wanted, key=frame_order)


def _film_name(path: Path) -> str:
    """The same for all frames of a film."""
    return str(path) if path.suffix.lower() == _VIDEO_SUFFIX else str(path.parent / path.stem.rstrip("0123456789"))


def _pictures(path: Path) -> list[Image.Image]:
    try:
        if path.suffix.lower() == _VIDEO_SUFFIX:
            return [_shrunk_photo(frame) for frame in _video_frames(path)]
        with Image.open(path) as file:
            picture = _cutout(file) if _is_cutout(file) else _photo(file)
    except Exception as error:  # Pillow's parsers raise nearly anything on damaged files
        raise ConfigError(f"cannot read {path}: {error}") from error
    return [] if picture is None else [picture]


def _is_cutout(file: Image.Image) -> bool:
    """Whether at least a twentieth of the picture is see-through."""
    if "A" not in file.getbands() and "transparency" not in file.info:
        return False
    alpha = np.asarray(file.convert("RGBA").getchannel("A"))
    return bool((alpha < 128).mean() > 0.05 and (alpha >= 128).mean() > 0.02)


def _cutout(file: Image.Image) -> Image.Image | None:
    """The object itself, cropped and shrunk; shrinking premultiplied keeps hidden colours out of the edge."""
    rgba = file.convert("RGBA")
    box = rgba.getchannel("A").point([0] * 64 + [255] * 192).getbbox()
    if box is None or min(box[2] - box[0], box[3] - box[1]) < _MIN_CUTOUT_SIDE_PX:
        return None
    small = rgba.crop(box).convert("RGBa")
    small.thumbnail((CUTOUT_LONG_SIDE_PX, CUTOUT_LONG_SIDE_PX), Image.Resampling.LANCZOS)
    return small.convert("RGBA")


def _photo(file: Image.Image) -> Image.Image | None:
    file.draft("RGB", (2 * PHOTO_SHORT_SIDE_PX, 2 * PHOTO_SHORT_SIDE_PX))
    return None if min(file.size) < _MIN_SIDE_PX else _shrunk_photo(file.convert("RGB"))


def _shrunk_photo(picture: Image.Image) -> Image.Image:
    scale = PHOTO_SHORT_SIDE_PX / min(picture.size)
    if scale >= 1:
        return picture
    size = (round(picture.width * scale), round(picture.height * scale))
    return picture.resize(size, Image.Resampling.LANCZOS, reducing_gap=3)


def _video_frames(path: Path) -> Iterator[Image.Image]:
    """Some frames, evenly spread over the video."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        step = max((stream.frames or _FRAMES_PER_VIDEO) // _FRAMES_PER_VIDEO, 1)
        for number, frame in enumerate(container.decode(stream)):
            if number % step == 0:
                yield Image.fromarray(frame.to_ndarray(format="rgb24"))
