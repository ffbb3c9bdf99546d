"""One image file at a time: frames as JPEG or PNG, annotations as PNG whose palette index is the object id."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL.ImageFile import ImageFile

from masklet.codecs.stills import jpeg_size, load_jpeg, load_png, png_size
from masklet.errors import DatasetError
from masklet.types import ImageArray, Size

FRAME_SUFFIXES = (".jpg", ".jpeg", ".png")
VOID = 255
"""The palette index of pixels nobody labelled; background here, as in the benchmarks' semi-supervised scores."""
_INDEXED_MODES = ("P", "L", "1")
_Decoded = TypeVar("_Decoded")


def still_size(path: Path) -> Size:
    """(height, width) from the header. Raises DatasetError."""
    return _read(path, png_size if path.suffix.lower() == ".png" else jpeg_size)


def read_frame(path: Path, size: Size) -> ImageArray:
    """[H, W, 3] uint8 RGB.

    Raises:
        DatasetError: cannot be decoded, or not of `size`.
    """
    image = _load(path).convert("RGB")
    _check_size(path, (image.height, image.width), size)
    return np.asarray(image)


def read_annotation(path: Path, size: Size, *, void: int | None = VOID) -> ImageArray:
    """[H, W] uint8: the object id of each pixel, 0 for none; pixels of the value `void` are 0 too.

    Raises:
        DatasetError: cannot be decoded, not one channel of 8 bits, or not of `size`.
    """
    image = _load(path)
    _check_size(path, (image.height, image.width), size)
    if image.mode not in _INDEXED_MODES:
        raise DatasetError(f"{path} has pixels of mode {image.mode}, an annotation has one of {_INDEXED_MODES}")
    labels = np.array(image, np.uint8)
    if void is not None:
        labels[labels == void] = 0
    return labels


def _load(path: Path) -> ImageFile:
    return _read(path, load_png if path.suffix.lower() == ".png" else load_jpeg)


def _read(path: Path, decode: Callable[[bytes], _Decoded]) -> _Decoded:
    try:
        return decode(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error


def _check_size(path: Path, found: Size, wanted: Size) -> None:
    if found != wanted:
        raise DatasetError(
            f"{path} is {found[0]} x {found[1]} (height x width), the video's first frame is {wanted[0]} x {wanted[1]}"
        )
