"""Single JPEG and PNG images: their size from the header alone, and their pixels. Errors are ValueError.

Headers are read here and not by Pillow because they are checked on the event loop: Pillow's parsers inflate text chunks
and walk junk byte by byte, so a hostile 8 MiB file would hold up every other stream for seconds. Pillow then gets
nothing but what the pixels need, so that it cannot find another header in what was passed over here.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from io import BytesIO

from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from masklet.types import Size

_PNG_START = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"
_PNG_HEADER_BYTES = 33  # signature, IHDR and its checksum
_JPEG_START = b"\xff\xd8"
_JPEG_END = b"\xff\xd9"
_START_OF_SCAN = 0xDA
_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # DHT, JPG and DAC share the range
_FOR_PIXELS = _START_OF_FRAME | {0xC4, 0xCC, 0xDB, 0xDD, 0xE0, 0xEE}  # DHT, DAC, DQT, DRI; JFIF and Adobe: colours
_WITHOUT_LENGTH = frozenset({0x01, *range(0xD0, 0xD8)})
_NO_SEGMENT = frozenset({0x00, 0xD8, 0xD9})  # an escaped byte, start and end of the image
_MAX_JPEG_SEGMENTS = 1024
_MAX_JPEG_SCANS = 100
"""Encoders write some ten; each is a walk over all of the image, however few bytes it has."""


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
    size: Size | None = None
    for marker, at, _ in _jpeg_segments(data):
        if marker in _START_OF_FRAME and len(data) >= at + 9:
            size = struct.unpack_from(">HH", data, at + 5)
    if size is None:
        raise ValueError("the JPEG header has no frame size before its first scan")
    return size


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """(marker, start, end) of all segments up to the first SOS. Raises ValueError."""
    if not data.startswith(_JPEG_START[: len(data)]):
        raise ValueError("it does not start with a JPEG header")
    at = len(_JPEG_START)
    for _ in range(_MAX_JPEG_SEGMENTS):
        if len(data) < at + 4:
            raise ValueError(f"the JPEG header is cut off after {len(data)} bytes")
        start, marker, length = struct.unpack_from(">BBH", data, at)
        if start != 0xFF or marker in _NO_SEGMENT:
            raise ValueError(f"no JPEG marker at byte {at}")
        end = at + _segment_bytes(at, marker, length)
        yield marker, at, end
        if marker == _START_OF_SCAN:
            return
        at = end
    raise ValueError(f"the JPEG header has more than {_MAX_JPEG_SEGMENTS} segments")


def _segment_bytes(at: int, marker: int, length: int) -> int:
    if marker == 0xFF:  # a fill byte before the marker proper
        return 1
    if marker in _WITHOUT_LENGTH:
        return 2
    if length < 2:  # it counts itself
        raise ValueError(f"the JPEG segment at byte {at} has length {length}, at least 2 are needed")
    return 2 + length


def load_png(data: bytes) -> ImageFile:
    """The decoded image, in the mode it was stored in. Raises ValueError."""
    return _load(PngImageFile, _bare_png(data), png_size(data))


def load_jpeg(data: bytes) -> ImageFile:
    """The decoded image, in the mode it was stored in. Raises ValueError."""
    return _load(JpegImageFile, _bare_jpeg(data), jpeg_size(data))


def _bare_png(data: bytes) -> bytes:
    """Header, palette and pixels; all pixels in one chunk, whose checksum nobody looks at (they have one inside)."""
    view, at = memoryview(data), _PNG_HEADER_BYTES
    palette, pixels = view[:0], list[memoryview]()
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        if kind == b"IDAT":
            pixels.append(view[at + 8 : at + 8 + length])
        elif pixels:
            break
        elif kind == b"PLTE":
            palette = view[at : at + 12 + length]
        at += 12 + length
    return b"".join((view[:_PNG_HEADER_BYTES], palette, _png_chunk(b"IDAT", b"".join(pixels)), _png_chunk(b"IEND")))


def _png_chunk(kind: bytes, body: bytes = b"") -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(body, zlib.crc32(kind)))


def _bare_jpeg(data: bytes) -> bytes:
    """Without metadata, and without what follows the image. Raises ValueError if it has too many scans."""
    view, kept, body = memoryview(data), [memoryview(_JPEG_START)], len(data)
    for marker, at, end in _jpeg_segments(data):
        if marker in _FOR_PIXELS:
            kept.append(view[at:end])
        body = at
    end = data.find(_JPEG_END, body) + len(_JPEG_END)
    end = end if end > body else len(data)
    scans = data.count(bytes((0xFF, _START_OF_SCAN)), body, end)
    if scans > _MAX_JPEG_SCANS:
        raise ValueError(f"it has {scans} scans, at most {_MAX_JPEG_SCANS} are decoded")
    return b"".join((*kept, view[body:end]))


def _load(plugin: type[ImageFile], data: bytes, size: Size) -> ImageFile:
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
