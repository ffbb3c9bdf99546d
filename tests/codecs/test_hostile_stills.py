"""Files whose header says one thing to us and another to the decoder, or that make it work for hours."""

from __future__ import annotations

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image
from PIL.ImageFile import ImageFile

from masklet.codecs.frames import check_frame, decode_frame, encode_frame
from masklet.codecs.masks import decode_mask
from masklet.errors import InvalidFrame, InvalidPrompt
from masklet.types import FrameCodec, ImageArray, MaskEncoding

SIZE = (48, 64)
SIDE = 3000
GREY = np.full((*SIZE, 3), 99, np.uint8)
JPEG, PNG = encode_frame(FrameCodec.JPEG, GREY, quality=95), encode_frame(FrameCodec.PNG, GREY)
PNG_HEADER_BYTES = 33


def chunk(kind: bytes, body: bytes = b"") -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, 2 + len(body)) + body


def enlarged(jpeg: bytes) -> bytes:
    at = jpeg.index(b"\xff\xc0") + 5
    return jpeg[:at] + struct.pack(">HH", SIDE, SIDE) + jpeg[at + 4 :]


def png_of_two_sizes(rgb: bool = True) -> bytes:
    """The second header, which the decoder believes, is followed by so many pixels."""
    kind, row_bytes = (2, 3 * SIDE) if rgb else (0, SIDE)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", SIDE, SIDE, 8, kind, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(bytes(SIDE * (1 + row_bytes))))
    return PNG[:PNG_HEADER_BYTES] + header + pixels + chunk(b"IEND")


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """(width, height) of all images for which pixels were asked."""
    sizes: list[tuple[int, int]] = []
    load_prepare = ImageFile.load_prepare

    def noted(image: ImageFile) -> None:
        sizes.append(image.size)
        load_prepare(image)

    monkeypatch.setattr(ImageFile, "load_prepare", noted)
    return sizes


def test_a_png_with_a_second_header_is_never_decoded_at_its_size(decoded: list[tuple[int, int]]) -> None:
    check_frame(FrameCodec.PNG, png_of_two_sizes(), SIZE)
    try:
        assert decode_frame(FrameCodec.PNG, png_of_two_sizes(), SIZE).shape == (*SIZE, 3)
    except InvalidFrame as error:
        assert error.field == "frame.payload"
    with pytest.raises(InvalidPrompt):
        decode_mask(png_of_two_sizes(rgb=False), MaskEncoding.PNG, SIZE)
    assert (SIDE, SIDE) not in decoded


@pytest.mark.parametrize("marker", [0x00, 0xD8, 0xD9, 0xF0, 0xFE, 0xE1])
def test_a_jpeg_hidden_in_a_segment_is_never_decoded(decoded: list[tuple[int, int]], marker: int) -> None:
    payload = JPEG[:2] + segment(marker, enlarged(JPEG)[2:-2]) + JPEG[2:]
    try:
        check_frame(FrameCodec.JPEG, payload, SIZE)
        found = decode_frame(FrameCodec.JPEG, payload, SIZE)
        assert np.abs(found.astype(int) - 99).max() < 3
    except InvalidFrame as error:
        assert error.field == "frame.payload"
    assert (SIDE, SIDE) not in decoded


def test_a_jpeg_segment_shorter_than_its_length_field_is_refused() -> None:
    with pytest.raises(InvalidFrame, match="JPEG segment at byte 2 has length 1, at least 2"):
        check_frame(FrameCodec.JPEG, JPEG[:2] + b"\xff\xe1\x00\x01" + JPEG[2:], SIZE)


def progressive(scans: int, image: ImageArray = GREY) -> bytes:
    """A progressive JPEG with so many empty scans more."""
    sink = io.BytesIO()
    Image.fromarray(image).save(sink, "JPEG", progressive=True)
    whole = sink.getvalue()
    last = whole.rindex(b"\xff\xda")
    return whole[:-2] + whole[last : last + 10] * scans + b"\xff\xd9"


def test_a_jpeg_of_too_many_scans_is_not_decoded(decoded: list[tuple[int, int]]) -> None:
    assert decode_frame(FrameCodec.JPEG, progressive(80), SIZE).shape == (*SIZE, 3)
    decoded.clear()
    with pytest.raises(InvalidFrame, match="more than 100 scans, which is the limit at 48 x 64 pixels"):
        decode_frame(FrameCodec.JPEG, progressive(1000), SIZE)
    assert not decoded


def test_the_larger_a_jpeg_the_fewer_scans_it_may_have(decoded: list[tuple[int, int]]) -> None:
    side = 4096  # the largest frame that is allowed by default
    large = np.full((side, side), 99, np.uint8)
    assert decode_frame(FrameCodec.JPEG, progressive(0, large), (side, side)).shape == (side, side, 3)
    decoded.clear()
    with pytest.raises(InvalidFrame, match="more than 20 scans, which is the limit at 4096 x 4096 pixels"):
        decode_frame(FrameCodec.JPEG, progressive(40, large), (side, side))
    assert not decoded


def test_a_jpeg_of_too_many_segments_after_its_header_is_refused() -> None:
    with pytest.raises(InvalidFrame, match="more than 1024 segments after its header"):
        decode_frame(FrameCodec.JPEG, progressive(0)[:-2] + segment(0xFE, b"") * 2000, SIZE)


@pytest.mark.parametrize("kind", [b"tEXt", b"IDAT"])
def test_a_png_of_too_many_chunks_is_not_decoded(kind: bytes, decoded: list[tuple[int, int]]) -> None:
    def with_empty(chunks: int) -> bytes:
        return PNG[:PNG_HEADER_BYTES] + chunk(kind) * chunks + PNG[PNG_HEADER_BYTES:]

    np.testing.assert_array_equal(decode_frame(FrameCodec.PNG, with_empty(10_000), SIZE), GREY)
    decoded.clear()
    with pytest.raises(InvalidFrame, match="more than 16384 chunks, which is the limit at "):
        decode_frame(FrameCodec.PNG, with_empty(100_000), SIZE)
    assert not decoded


def test_what_follows_a_jpeg_is_no_part_of_it() -> None:
    trailer = bytes([0xFF, 0xDA]) * 1000  # a video after a photo, for example
    assert decode_frame(FrameCodec.JPEG, progressive(0) + trailer, SIZE).shape == (*SIZE, 3)


def test_the_metadata_of_a_jpeg_is_not_read() -> None:
    entries = b"".join(struct.pack("<HHII", tag, 7, 500, 8) for tag in range(1, 1000))
    exif = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", 999) + entries
    jfif_bytes = struct.unpack(">H", JPEG[4:6])[0]  # which holds a resolution: else it is looked for in the other one
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = decode_frame(FrameCodec.JPEG, JPEG[:2] + segment(0xE1, exif) + JPEG[4 + jfif_bytes :], SIZE)
    assert np.abs(found.astype(int) - 99).max() < 3


def test_the_metadata_of_a_png_is_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    def unpack(*_: object) -> bytes:
        raise AssertionError("metadata was unpacked")

    monkeypatch.setattr("PIL.PngImagePlugin._safe_zlib_decompress", unpack)
    packed = b"name\0\0" + zlib.compress(bytes(1 << 20))
    many = (chunk(b"iCCP", packed) + chunk(b"zTXt", packed) + chunk(b"aaAa")) * 20
    payload = PNG[:PNG_HEADER_BYTES] + many + PNG[PNG_HEADER_BYTES:]
    np.testing.assert_array_equal(decode_frame(FrameCodec.PNG, payload, SIZE), GREY)


def test_pixels_of_a_png_may_be_cut_in_pieces() -> None:
    at = PNG.index(b"IDAT")
    pixels = PNG[at + 4 : at + 4 + struct.unpack(">I", PNG[at - 4 : at])[0]]
    pieces = b"".join(chunk(b"IDAT", pixels[i : i + 1]) for i in range(len(pixels)))
    payload = PNG[:PNG_HEADER_BYTES] + pieces + chunk(b"IEND")
    np.testing.assert_array_equal(decode_frame(FrameCodec.PNG, payload, SIZE), GREY)
