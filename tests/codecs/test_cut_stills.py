"""Images that are not whole, and whole ones that look as if they were not."""

from __future__ import annotations

import re
import struct
import zlib
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image

from masklet.codecs.frames import decode_frame
from masklet.codecs.masks import decode_mask
from masklet.codecs.stills import load_png
from masklet.errors import InvalidFrame, InvalidPrompt
from masklet.types import FrameCodec, ImageArray, MaskEncoding, Size

SIZE = (48, 64)
NOISE = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
END = b"\xff\xd9"
RGB, GREY, INDEXED = 2, 0, 3
FLAVOURS: list[dict[str, Any]] = [
    {},
    {"optimize": True, "quality": 20},
    {"subsampling": 0, "quality": 100},
    {"restart_marker_blocks": 1},
    {"progressive": True},
    {"progressive": True, "restart_marker_blocks": 3},
]


def jpeg(image: ImageArray = NOISE, mode: str = "RGB", **options: Any) -> bytes:
    sink = BytesIO()
    Image.fromarray(image).convert(mode).save(sink, "JPEG", **options)
    return sink.getvalue()


def pillows(data: bytes) -> ImageArray:
    with Image.open(BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize("image", [NOISE, NOISE[:7, :33], NOISE[:1, :1], np.full((40, 50, 3), 77, np.uint8)])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("options", FLAVOURS, ids=str)
def test_a_whole_jpeg_needs_no_end_of_image(image: ImageArray, mode: str, options: dict[str, Any]) -> None:
    whole = jpeg(image, mode, **options if mode == "RGB" else options | {"subsampling": -1})
    for payload in (whole, whole[:-1], whole[:-2], whole[:-2] + bytes(9), whole[:-2] + whole):
        np.testing.assert_array_equal(decode_frame(FrameCodec.JPEG, payload, image.shape[:2]), pillows(whole))


@pytest.mark.parametrize("options", FLAVOURS[:4], ids=str)
@pytest.mark.parametrize("kept", [0.2, 0.4, 0.6, 0.8, 0.9])
@pytest.mark.parametrize("tail", [b"", END, bytes(2), END + bytes(1000)])
def test_a_jpeg_cut_within_its_scan_is_refused(options: dict[str, Any], kept: float, tail: bytes) -> None:
    whole = jpeg(**options)
    scan = whole.index(b"\xff\xda") + 14
    with pytest.raises(InvalidFrame, match="truncated"):
        decode_frame(FrameCodec.JPEG, whole[: scan + int(kept * (len(whole) - scan))] + tail, SIZE)


def test_a_marker_amid_the_pixels_of_a_jpeg_is_damage() -> None:
    whole = jpeg()
    at = len(whole) // 2
    with pytest.raises(InvalidFrame, match="truncated"):
        decode_frame(FrameCodec.JPEG, whole[:at] + b"\xff\xc5" + whole[at + 2 :], SIZE)


@pytest.mark.parametrize("tail", [b"", END])
def test_a_progressive_jpeg_without_all_scans_is_refused(tail: bytes) -> None:
    whole = jpeg(progressive=True)
    starts = [found.start() for found in re.finditer(b"\xff\xda", whole)]
    assert len(starts) == 10
    for scans, start in enumerate(starts[1:], 1):
        with pytest.raises(InvalidFrame, match=f"scans are missing after {scans}$"):
            decode_frame(FrameCodec.JPEG, whole[:start] + tail, SIZE)


@pytest.mark.parametrize(
    "segment", [b"\xff\xfe\x00\x06" + END + b"ab", b"\xff\xdb\x00\x43\x03" + END * 32], ids=["COM", "DQT"]
)
def test_an_end_of_image_within_a_segment_between_scans_is_none(segment: bytes) -> None:
    whole = jpeg(progressive=True)
    second_scan = whole.index(b"\xff\xda", whole.index(b"\xff\xda") + 2)
    tables = whole.rindex(b"\xff\xc4", 0, second_scan)
    payload = whole[:tables] + segment + whole[tables:]
    np.testing.assert_array_equal(decode_frame(FrameCodec.JPEG, payload, SIZE), pillows(whole))


def chunk(kind: bytes, body: bytes = b"") -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(
    size: Size, kind: int, raw: bytes, *, depth: int = 8, palette: bytes | None = None, interlaced: bool = False
) -> bytes:
    header = struct.pack(">IIBBBBB", size[1], size[0], depth, kind, 0, 0, interlaced)
    colours = b"" if palette is None else chunk(b"PLTE", palette)
    pixels = zlib.compress(raw)
    pieces = b"".join(chunk(b"IDAT", pixels[at : at + 5]) for at in range(0, len(pixels), 5))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + colours + pieces + chunk(b"IEND")


UNSEEN = bytes((165, 90, 60))  # what the last row looks like until it is decoded


@pytest.mark.parametrize("colour", [bytes(3), b"\xff\xff\xff", UNSEEN])
def test_a_png_whose_pixels_end_early_is_refused(colour: bytes) -> None:
    row = b"\0" + colour * 4
    assert (decode_frame(FrameCodec.PNG, png((40, 4), RGB, row * 40), (40, 4)) == list(colour)).all()
    assert (decode_frame(FrameCodec.PNG, png((40, 4), RGB, row * 50), (40, 4)) == list(colour)).all()
    for rows in (row * 20, row * 39, (row * 40)[:-1], b""):
        with pytest.raises(InvalidFrame, match=r"rows of pixels are missing|truncated"):
            decode_frame(FrameCodec.PNG, png((40, 4), RGB, rows), (40, 4))


@pytest.mark.parametrize("size", [(1, 1), (5, 3), (8, 8), (2, 9)])
def test_an_interlaced_png_whose_pixels_end_early_is_refused(size: Size) -> None:
    passes = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
    shapes = [(len(range(y, size[0], dy)), len(range(x, size[1], dx))) for x, y, dx, dy in passes]
    rows = [b"\0" + b"\x63" * width for height, width in shapes if width for _ in range(height)]
    assert (decode_frame(FrameCodec.PNG, png(size, GREY, b"".join(rows), interlaced=True), size) == 0x63).all()
    with pytest.raises(InvalidFrame, match=r"rows of pixels are missing|truncated"):
        decode_frame(FrameCodec.PNG, png(size, GREY, b"".join(rows[:-1]), interlaced=True), size)


@pytest.mark.parametrize(("kind", "depth"), [(0, 1), (0, 2), (0, 16), (2, 16), (4, 8), (4, 16), (6, 8), (6, 16)])
def test_pngs_of_other_kinds_are_whole_or_refused(kind: int, depth: int) -> None:
    row_bytes = (5 * depth * {0: 1, 2: 3, 4: 2, 6: 4}[kind] + 7) // 8
    raw = bytes(3 * (1 + row_bytes))
    assert not decode_frame(FrameCodec.PNG, png((3, 5), kind, raw, depth=depth), (3, 5)).any()
    with pytest.raises(InvalidFrame, match="rows of pixels are missing"):
        decode_frame(FrameCodec.PNG, png((3, 5), kind, raw[: -1 - row_bytes], depth=depth), (3, 5))


@pytest.mark.parametrize("byte", [b"\0", b"\xff"])
def test_a_png_mask_whose_pixels_end_early_is_refused(byte: bytes) -> None:
    raw = (b"\0" + byte) * 8
    assert (decode_mask(png((8, 8), GREY, raw, depth=1), MaskEncoding.PNG, (8, 8)) == (byte != b"\0")).all()
    with pytest.raises(InvalidPrompt, match="rows of pixels are missing"):
        decode_mask(png((8, 8), GREY, raw[:-2], depth=1), MaskEncoding.PNG, (8, 8))


@pytest.mark.parametrize(("palette", "colours"), [(None, 0), (b"", 0), (b"\x10\x20\x30", 1), (b"\x10\x20\x30" * 3, 3)])
def test_a_palette_names_the_colour_of_every_pixel_of_a_frame(palette: bytes | None, colours: int) -> None:
    raw = b"\0\0\1\2\3" * 4
    with pytest.raises(InvalidFrame, match=f"palette has {colours} colours, a pixel has number 3"):
        decode_frame(FrameCodec.PNG, png((4, 4), INDEXED, raw, palette=palette), (4, 4))
    frame = decode_frame(FrameCodec.PNG, png((4, 4), INDEXED, raw, palette=bytes(range(12))), (4, 4))
    assert frame[0].tolist() == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]]


def test_the_indices_of_an_annotation_need_no_colour() -> None:
    image = load_png(png((4, 4), INDEXED, b"\0\0\1\2\xff" * 4, palette=b"\x10\x20\x30"))
    assert np.asarray(image)[0].tolist() == [0, 1, 2, 255]
