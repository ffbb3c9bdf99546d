"""JPEG files (ITU-T T.81): their size from the header alone, and the bytes that pixels need. Errors are ValueError."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from masklet.types import Size

MAX_JPEG_SIDE = 65500
"""libjpeg's limit in pixels."""

_START = b"\xff\xd8"
_END = b"\xff\xd9"
_START_OF_SCAN = 0xDA
_IMAGE_ENDS = frozenset({0xD8, 0xD9})  # the next one starts, or end of image
_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # DHT, JPG and DAC share the range
_SEQUENTIAL_HUFFMAN = frozenset({0xC0, 0xC1})
_PROGRESSIVE = frozenset({0xC2, 0xCA})
_FOR_PIXELS = _START_OF_FRAME | {0xC4, 0xCC, 0xDB, 0xDD, 0xE0, 0xEE}  # DHT, DAC, DQT, DRI; JFIF and Adobe: colours
_WITHOUT_LENGTH = frozenset({0x01, *range(0xD0, 0xD8)})
_NO_SEGMENT = frozenset({0x00, 0xD8, 0xD9})  # an escaped byte, start and end of the image
_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")  # amid coded pixels: neither an escaped byte nor RST nor a fill byte
_ALL_COEFFICIENTS = (1 << 64) - 1
_PADDING = b"\xff\x00" * 8
"""64 bits that libjpeg reads ahead of what it decodes; ones only, which no Huffman code is made of (T.81, C.2)."""

_MAX_SEGMENTS = 1024
_MAX_SCANS = 100
_SCANS_OF_ANY_SIZE = 20
_MAX_SCAN_PIXELS = 1 << 28
"""Encoders write some ten scans; each is a walk over all of the image, 2 ms a megapixel, however few bytes it has."""


class _Frame(NamedTuple):
    """The start of frame: its marker, (height, width), and the components' ids."""

    marker: int
    size: Size
    components: bytes


def jpeg_size(data: bytes) -> Size:
    """(height, width) from SOF (T.81, B.2.2); SOS must follow. Raises ValueError."""
    return _frame(data, _header(data)).size


def bare_jpeg(data: bytes) -> bytes:
    """The image without metadata and without what follows it, so that a cut is an error to libjpeg as used by Pillow.

    libjpeg fills up with grey where it meets a marker too early, with a warning Pillow does not show, but it waits
    for more if there is no marker. Of a sequential image in one scan it therefore gets no end of image: if the coded
    pixels are whole, it needs none. Others, such as progressive ones, it only decodes up to the end; of those it is
    checked that no scan is missing, but not that the last one is whole. The end of image may be missing in all.

    Raises:
        ValueError: header or scans are malformed, too many, or do not hold all pixels.
    """
    view, segments = memoryview(data), list(_header(data))
    frame = _frame(data, segments)
    kept = [view[start:end] for marker, start, end in segments if marker in _FOR_PIXELS]
    _, body, coded = segments[-1]
    if frame.marker in _SEQUENTIAL_HUFFMAN and len(_scan(data[body:coded])[0]) == len(frame.components):
        return b"".join((_START, *kept, view[body : _next_marker(data, coded)], _PADDING))
    return b"".join((_START, *kept, view[body : _end_of_scans(data, body, frame)], _END))


def _header(data: bytes) -> Iterator[tuple[int, int, int]]:
    """(marker, start, end) of all segments up to the first SOS. Raises ValueError."""
    if not data.startswith(_START[: len(data)]):
        raise ValueError("it does not start with a JPEG header")
    at = len(_START)
    for _ in range(_MAX_SEGMENTS):
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
    raise ValueError(f"the JPEG header has more than {_MAX_SEGMENTS} segments")


def _segment_bytes(at: int, marker: int, length: int) -> int:
    if marker == 0xFF:  # a fill byte before the marker proper
        return 1
    if marker in _WITHOUT_LENGTH:
        return 2
    if length < 2:  # it counts itself
        raise ValueError(f"the JPEG segment at byte {at} has length {length}, at least 2 are needed")
    return 2 + length


def _frame(data: bytes, segments: Iterable[tuple[int, int, int]]) -> _Frame:
    found: _Frame | None = None
    for marker, at, end in segments:
        if marker in _START_OF_FRAME and len(data) >= at + 9:
            found = _Frame(marker, struct.unpack_from(">HH", data, at + 5), data[at + 10 : end : 3])
    if found is None:
        raise ValueError("the JPEG header has no frame size before its first scan")
    return found


def _end_of_scans(data: bytes, at: int, frame: _Frame) -> int:
    """Where the last scan ends. Raises ValueError if there are too many, or if some are missing."""
    height, width = frame.size
    most = min(_MAX_SCANS, max(_SCANS_OF_ANY_SIZE, _MAX_SCAN_PIXELS // max(1, height * width)))
    missing, scans, stop = dict.fromkeys(frame.components, _ALL_COEFFICIENTS), 0, len(data)
    for marker, start, end in _body(data, at):
        if marker in _IMAGE_ENDS:
            stop = start
        elif marker == _START_OF_SCAN:
            scans += 1
            if scans > most:
                raise ValueError(f"it has more than {most} scans, which is the limit at {height} x {width} pixels")
            components, sent = _scan(data[start:end])
            for component in set(components).intersection(missing):
                missing[component] &= ~(sent if frame.marker in _PROGRESSIVE else _ALL_COEFFICIENTS)
    if any(missing.values()):
        raise ValueError(f"it is cut off: scans are missing after {scans}")
    return stop


def _body(data: bytes, at: int) -> Iterator[tuple[int, int, int]]:
    """(marker, start, end) of the first SOS, which is at `at`, and all segments after it, up to EOI or another SOI."""
    for _ in range(_MAX_SEGMENTS):
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        end = at + (2 if marker in _IMAGE_ENDS else _segment_bytes(at, marker, length))
        yield marker, at, end
        at = _next_marker(data, end)
        if marker in _IMAGE_ENDS or at == len(data):
            return
    raise ValueError(f"it has more than {_MAX_SEGMENTS} segments after its header")


def _next_marker(data: bytes, at: int) -> int:
    """Where the coded pixels that begin at `at` end."""
    found = _MARKER.search(data, at)
    return found.start() if found else len(data)


def _scan(segment: bytes) -> tuple[bytes, int]:
    """The ids of a scan's components, and a bit for each coefficient of which this is the last part (T.81, B.2.3)."""
    if len(segment) < 8:
        raise ValueError(f"a scan's header is cut off after {len(segment)} bytes")
    first, last, low_bit = segment[-3], segment[-2], segment[-1] & 0xF
    sent = ((2 << last) - 1) & ~((1 << first) - 1)
    return segment[5:-3:2], 0 if low_bit else sent
