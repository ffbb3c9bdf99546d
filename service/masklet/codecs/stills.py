"""Single JPEG and PNG images: their size from the header alone, and their pixels. Errors are ValueError.

Headers are read here and not by Pillow because they are checked on the event loop: Pillow's parsers inflate text chunks
and walk junk byte by byte, so a hostile 8 MiB file would hold up every other stream for seconds.
"""

from __future__ import annotations

import struct
from io import BytesIO

from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from masklet.types import Size

_PNG_START = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"
_JPEG_START = b"\xff\xd8"
_START_OF_SCAN = 0xDA
_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # DHT, JPG and DAC share the range
_WITHOUT_LENGTH = frozenset({0x01, *range(0xD0, 0xD8)})
_MAX_JPEG_SEGMENTS = 1024


def png_size(data: bytes) -> Size:
    """(height, width) from IHDR (PNG 3rd edition, 11.2.1). Raises ValueError."""
    if not data.startswith(_PNG_START[: len(data)]):
        raise ValueError("it does not start with a PNG header")
    if len(data) < len(_PNG_START) + 8:
        raise ValueError(f"the PNG header is cut off after {len(data)} bytes")
    width, height = struct.unpack_from(">II", data, len(_PNG_START))
    return height, width


def jpeg_size(data: bytes) -> Size:
    """(height, width) from SOF (ITU-T T.81, B.2.2); SOS must follow. Raises ValueError."""
    if not data.startswith(_JPEG_START[: len(data)]):
        raise ValueError("it does not start with a JPEG header")
    size: Size | None = None
    at = len(_JPEG_START)
    for _ in range(_MAX_JPEG_SEGMENTS):
        if len(data) < at + 4:
            raise ValueError(f"the JPEG header is cut off after {len(data)} bytes")
        start, marker, length = struct.unpack_from(">BBH", data, at)
        if start != 0xFF:
            raise ValueError(f"no JPEG marker at byte {at}")
        if marker == _START_OF_SCAN:
            return _frame_size(size)
        if marker in _START_OF_FRAME and len(data) >= at + 9:
            size = struct.unpack_from(">HH", data, at + 5)
        at += _segment_bytes(marker, length)
    raise ValueError(f"the JPEG header has more than {_MAX_JPEG_SEGMENTS} segments")


def _segment_bytes(marker: int, length: int) -> int:
    if marker == 0xFF:  # a fill byte before the marker proper
        return 1
    return 2 if marker in _WITHOUT_LENGTH else 2 + length


def _frame_size(size: Size | None) -> Size:
    if size is None:
        raise ValueError("the JPEG header has no frame size before its first scan")
    return size


def load_png(data: bytes) -> ImageFile:
    """The decoded image, in the mode it was stored in. Raises ValueError."""
    return _load(PngImageFile, data)


def load_jpeg(data: bytes) -> ImageFile:
    """The decoded image, in the mode it was stored in. Raises ValueError."""
    return _load(JpegImageFile, data)


def _load(plugin: type[ImageFile], data: bytes) -> ImageFile:
    """The plugin is called directly: `Image.open` would guess among all formats and warn about large images."""
    try:
        image = plugin(BytesIO(data))
        image.decodermaxblock = len(data) + 1  # in one go: every block costs a wait for the interpreter lock
        image.load()
    except Exception as error:  # Pillow's parsers raise nearly anything on hostile bytes
        raise ValueError(f"{error}" or type(error).__name__) from error
    return image
