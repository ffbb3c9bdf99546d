"""PNG files (3rd edition): their size from the header alone, and what pixels need. Errors are ValueError."""

from __future__ import annotations

import struct
import zlib
from typing import NamedTuple

from masklet.types import Size

_START = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"
_HEADER_BYTES = 33  # signature, IHDR and its checksum
_INDEXED = 3
_CHANNELS = {0: 1, 2: 3, _INDEXED: 1, 4: 2, 6: 4}
_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""Adam7 (8.1): first column and row, and steps to the next ones."""

_CHUNK_BYTES = 12  # of one without content
_MAX_SMALL_CHUNKS = 16384
_BYTES_PER_CHUNK = 1024
"""Encoders write chunks of 8 KiB and more; each costs a microsecond of Python, the interpreter lock held."""
_PIECE = 1 << 20


class PngParts(NamedTuple):
    """IHDR's numbers, and what else a decoder needs.

    Attributes:
        header: signature and IHDR chunk.
        size: (height, width).
        depth: bits a channel.
        kind: colour type; 3: pixels are indices into the palette.
        interlaced: in seven passes.
        palette: PLTE chunk, empty if there is none.
        pixels: contents of the IDAT chunks.
    """

    header: memoryview
    size: Size
    depth: int
    kind: int
    interlaced: bool
    palette: memoryview
    pixels: list[memoryview]

    @property
    def colours(self) -> int | None:
        """How many the palette has; None if pixels are no indices."""
        return max(0, len(self.palette) - _CHUNK_BYTES) // 3 if self.kind == _INDEXED else None

    def joined(self) -> bytes:
        """A PNG with all pixels in one chunk, whose checksum nobody looks at (they have one inside)."""
        pixels = _chunk(b"IDAT", b"".join(self.pixels))
        return b"".join((self.header, self.palette, pixels, _chunk(b"IEND")))

    def is_whole(self) -> bool:
        """Whether `pixels` inflate to what the header needs, by doing so: about half of the time that decoding takes.

        Raises:
            ValueError: they cannot be inflated.
        """
        missing, inflate = self._raw_bytes(), zlib.decompressobj()
        pieces: list[bytes | memoryview] = [*self.pixels, b""]  # the last one for what zlib still holds
        for rest in pieces:
            while missing > 0 and not inflate.eof:
                try:
                    inflated = len(inflate.decompress(rest, _PIECE))
                except zlib.error as error:
                    raise ValueError(f"its pixels cannot be inflated: {error}") from error
                missing, rest = missing - inflated, inflate.unconsumed_tail
                if not rest and inflated < _PIECE:
                    break
        return missing <= 0

    def _raw_bytes(self) -> int:
        """Of all rows, each with its filter's byte (PNG 7.2)."""
        height, width = self.size
        bits = self.depth * _CHANNELS.get(self.kind, 0)
        raw = 0
        for x, y, dx, dy in _PASSES if self.interlaced else ((0, 0, 1, 1),):
            columns, rows = -(-max(0, width - x) // dx), -(-max(0, height - y) // dy)
            raw += rows * (1 + -(-columns * bits // 8)) if columns else 0
        return raw


def png_size(data: bytes) -> Size:
    """(height, width) from IHDR (11.2.1). Raises ValueError."""
    if not data.startswith(_START[: len(data)]):
        raise ValueError("it does not start with a PNG header")
    if len(data) < len(_START) + 8:
        raise ValueError(f"the PNG header is cut off after {len(data)} bytes")
    width, height = struct.unpack_from(">II", data, len(_START))
    return height, width


def png_parts(data: bytes) -> PngParts:
    """Header, palette and pixels. Raises ValueError: no header, or more chunks than so many bytes need."""
    size = png_size(data)
    if len(data) < _HEADER_BYTES:
        raise ValueError(f"the PNG header is cut off after {len(data)} bytes")
    depth, kind, _, _, interlaced = data[len(_START) + 8 : _HEADER_BYTES - 4]
    palette, pixels = _chunks(data)
    return PngParts(memoryview(data)[:_HEADER_BYTES], size, depth, kind, bool(interlaced), palette, pixels)


def _chunks(data: bytes) -> tuple[memoryview, list[memoryview]]:
    """The PLTE chunk, empty if there is none, and the contents of the first IDAT chunks in a row."""
    view, at = memoryview(data), _HEADER_BYTES
    palette, pixels = view[:0], list[memoryview]()
    most = max(_MAX_SMALL_CHUNKS, len(data) // _BYTES_PER_CHUNK)
    for _ in range(most):
        if len(data) < at + 8:
            return palette, pixels
        length, kind = struct.unpack_from(">I4s", data, at)
        if kind == b"IDAT":
            pixels.append(view[at + 8 : at + 8 + length])
        elif pixels:
            return palette, pixels
        elif kind == b"PLTE":
            palette = view[at : at + _CHUNK_BYTES + length]
        at += _CHUNK_BYTES + length
    raise ValueError(f"it has more than {most} chunks, which is the limit at {len(data)} bytes")


def _chunk(kind: bytes, body: bytes = b"") -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(body, zlib.crc32(kind)))
