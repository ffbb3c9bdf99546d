"""Single JPEG and PNG images: their size from the header alone, and their pixels. Errors are ValueError.

Headers are read here (`jpeg`, `png`) and not by Pillow because they are checked on the event loop: Pillow's parsers
inflate text chunks and walk junk byte by byte, so a hostile 8 MiB file would hold up every other stream for seconds.
Pillow then gets nothing but what the pixels need, so that it cannot find another header in what was passed over here.
"""

from __future__ import annotations

from io import BytesIO
from typing import TypeVar

from PIL import Image
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from masklet.codecs.jpeg import bare_jpeg, jpeg_size
from masklet.codecs.png import PngParts, png_parts, png_size
from masklet.types import Size

__all__ = ["jpeg_size", "load_jpeg", "load_png", "png_size"]

_UNSEEN = (165, 90, 60, 30)  # of no meaning; a last row of this colour only costs time
_File = TypeVar("_File", bound=ImageFile)


class _MarkedPng(PngImageFile):
    """Its last row is of the colour `_UNSEEN` until it is decoded: Pillow does not say whether that happened."""

    def load_prepare(self) -> None:
        super().load_prepare()
        _mark(self, row=self.height - 1)

    def may_lack_rows(self) -> bool:
        last = self.crop((0, self.height - 1, self.width, self.height))
        marked = Image.new(self.mode, last.size)
        _mark(marked, row=0)
        return last.tobytes() == marked.tobytes()


def load_jpeg(data: bytes) -> ImageFile:
    """The decoded image, in the mode it was stored in; `decode_frame` says what cannot be told. Raises ValueError."""
    return _load(JpegImageFile, bare_jpeg(data), jpeg_size(data))


def load_png(data: bytes, *, in_colour: bool = False) -> ImageFile:
    """The decoded image, in the mode it was stored in.

    Args:
        data: the file.
        in_colour: the palette, if pixels are indices, has to name the colour of each. Of annotations it need not,
            where indices are objects.

    Raises:
        ValueError: it cannot be decoded, or is not whole.
    """
    parts = png_parts(data)
    image = _load(_MarkedPng, parts.joined(), parts.size)
    if (parts.interlaced or image.may_lack_rows()) and not parts.is_whole():
        raise ValueError("it is cut off: rows of pixels are missing")
    if in_colour:
        _check_palette(image, parts)
    return image


def _check_palette(image: ImageFile, parts: PngParts) -> None:
    if parts.colours is None:
        return
    _, largest = image.getextrema()
    if not isinstance(largest, int) or largest >= parts.colours:
        raise ValueError(f"its palette has {parts.colours} colours, a pixel has number {largest}, counted from 0")


def _mark(image: Image.Image, *, row: int) -> None:
    channels = len(image.getbands())
    image.im.paste(_UNSEEN[:channels] if channels > 1 else _UNSEEN[0], (0, row, image.width, row + 1))


def _load(plugin: type[_File], data: bytes, size: Size) -> _File:
    """The plugin is called directly: `Image.open` would guess among all formats and warn about large images."""
    try:
        image = plugin(BytesIO(data))
        if (image.height, image.width) != size:  # so much memory would be taken
            raise ValueError(f"two sizes are found in it, {size} and {(image.height, image.width)} (height, width)")
        image.decodermaxblock = len(data) + 1  # in one go: every block costs a wait for the interpreter lock
        image.load()
    except Exception as error:  # Pillow's parsers raise nearly anything on hostile bytes
        raise ValueError(f"{error}" or type(error).__name__) from error
    return image
