"""One image file at a time: frames as JPEG or PNG, annotations as PNG whose palette index is the object id."""

from __future__ import annotations

from collections.abc import Callable, Iterable
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
_WHOLE = 255  # the same value as VOID, where it is the only one
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


def read_binary_annotation(path: Path, size: Size) -> ImageArray:
    """[H, W] uint8: 1 where the annotation is 255, the one object of a binary one; 0 elsewhere.

    Raises:
        DatasetError: cannot be decoded, not of `size`, or has other values than 0 and 255.
    """
    labels = read_annotation(path, size, void=None)
    others = [value for value in np.unique(labels).tolist() if value not in (0, _WHOLE)]
    if others:
        raise DatasetError(
            f"{path} has pixels of the value {others[0]}, the first annotation of {path.parent.name} has"
            f" only 0 and {_WHOLE}"
        )
    marked: ImageArray = (labels == _WHOLE).astype(np.uint8)
    return marked


def are_binary(annotations: Iterable[Path], size: Size) -> bool:
    """Whether the first annotation that shows anything has nothing but 0 and 255, which then is an object, not void.

    Raises:
        DatasetError: an annotation cannot be decoded, or is not of `size`.
    """
    for path in annotations:
        shown = set(np.unique(read_annotation(path, size, void=None)).tolist()) - {0}
        if shown:
            return shown == {_WHOLE}
    return False


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
