from __future__ import annotations

import struct
import zlib
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from masklet.codecs.frames import SUPPORTED, check_frame, decode_frame, encode_frame
from masklet.errors import InvalidFrame, InvalidOpen
from masklet.types import FrameCodec, ImageArray

SIZE = (48, 64)
STILLS = (FrameCodec.JPEG, FrameCodec.PNG)


def gradient() -> ImageArray:
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    return np.stack([4 * x, 5 * y, 2 * (x + y)], axis=-1).astype(np.uint8)


def saved(image: Image.Image, form: str, **options: Any) -> bytes:
    sink = BytesIO()
    image.save(sink, form, **options)
    return sink.getvalue()


@pytest.mark.parametrize("codec", [FrameCodec.PNG, FrameCodec.RGB8])
def test_lossless_frames_come_back_as_they_were(codec: FrameCodec) -> None:
    decoded = decode_frame(codec, encode_frame(codec, gradient()), SIZE)
    np.testing.assert_array_equal(decoded, gradient())


def test_a_jpeg_comes_back_nearly_as_it_was() -> None:
    decoded = decode_frame(FrameCodec.JPEG, encode_frame(FrameCodec.JPEG, gradient(), quality=95), SIZE)
    assert np.abs(decoded.astype(int) - gradient()).mean() < 3


@pytest.mark.parametrize("codec", SUPPORTED)
def test_a_decoded_frame_is_contiguous_and_writable(codec: FrameCodec) -> None:
    decoded = decode_frame(codec, encode_frame(codec, gradient()), SIZE)
    assert decoded.shape == (*SIZE, 3)
    assert decoded.dtype == np.uint8
    assert decoded.flags.c_contiguous
    assert decoded.flags.writeable


@pytest.mark.parametrize("codec", SUPPORTED)
def test_a_header_of_the_declared_size_passes(codec: FrameCodec) -> None:
    payload = encode_frame(codec, gradient())
    check_frame(codec, payload, SIZE)
    with pytest.raises(InvalidFrame, match="48"):
        check_frame(codec, payload, (SIZE[0], SIZE[1] + 1))


@pytest.mark.parametrize("codec", STILLS)
def test_a_header_is_enough_for_the_check_but_not_for_the_pixels(codec: FrameCodec) -> None:
    payload = encode_frame(codec, gradient())
    check_frame(codec, payload[:-40], SIZE)
    with pytest.raises(InvalidFrame, match=rf"{codec} frame of {len(payload) - 40} bytes cannot be decoded"):
        decode_frame(codec, payload[:-40], SIZE)


@pytest.mark.parametrize("codec", SUPPORTED)
def test_an_empty_frame_is_refused(codec: FrameCodec) -> None:
    with pytest.raises(InvalidFrame, match=f"{codec} frame is empty"):
        check_frame(codec, b"", SIZE)


@pytest.mark.parametrize("codec", STILLS)
@pytest.mark.parametrize("kept", [1, 2, 3, 5, 16, 20, 23])
def test_a_header_that_is_cut_off_is_refused(codec: FrameCodec, kept: int) -> None:
    with pytest.raises(InvalidFrame, match=f"header is cut off after {kept} bytes"):
        check_frame(codec, encode_frame(codec, gradient())[:kept], SIZE)


@pytest.mark.parametrize("codec", STILLS)
def test_a_frame_of_another_codec_is_refused(codec: FrameCodec) -> None:
    with pytest.raises(InvalidFrame, match="does not start with"):
        check_frame(codec, saved(Image.fromarray(gradient()), "BMP"), SIZE)


@pytest.mark.parametrize("length", [1, 48 * 64 * 3 - 1, 48 * 64 * 3 + 1])
def test_raw_pixels_of_the_wrong_length_are_refused(length: int) -> None:
    with pytest.raises(InvalidFrame, match=f"has {length} bytes, must be 48 x 64 x 3 = 9216"):
        check_frame(FrameCodec.RGB8, bytes(length), SIZE)


def resized_png(side: int) -> bytes:
    data = bytearray(encode_frame(FrameCodec.PNG, gradient()))
    data[16:24] = struct.pack(">II", side, side)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    return bytes(data)


def resized_jpeg(side: int) -> bytes:
    data = bytearray(encode_frame(FrameCodec.JPEG, gradient()))
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", side, side)
    return bytes(data)


@pytest.mark.parametrize("size", [SIZE, (65000, 65000)])
def test_a_bomb_is_refused_by_its_header(size: tuple[int, int]) -> None:
    with pytest.raises(InvalidFrame, match="png frame is 2000000000 x 2000000000"):
        decode_frame(FrameCodec.PNG, resized_png(2_000_000_000), size)
    with pytest.raises(InvalidFrame, match="jpeg frame is 65500 x 65500"):
        decode_frame(FrameCodec.JPEG, resized_jpeg(65500), size)


def test_a_jpeg_header_without_end_is_given_up() -> None:
    with pytest.raises(InvalidFrame, match="more than 1024 segments"):
        check_frame(FrameCodec.JPEG, b"\xff\xd8" + b"\xff\xe0\x00\x02" * 1_000_000, SIZE)


def test_a_jpeg_scan_without_a_frame_size_is_refused() -> None:
    with pytest.raises(InvalidFrame, match="no frame size"):
        check_frame(FrameCodec.JPEG, b"\xff\xd8\xff\xda\x00\x02", SIZE)


def test_a_jpeg_that_is_not_made_of_segments_is_refused() -> None:
    with pytest.raises(InvalidFrame, match="no JPEG marker at byte 2"):
        check_frame(FrameCodec.JPEG, b"\xff\xd8" + bytes(100), SIZE)


def test_fill_bytes_before_a_marker_are_allowed() -> None:
    payload = encode_frame(FrameCodec.JPEG, gradient())
    assert decode_frame(FrameCodec.JPEG, payload[:2] + b"\xff\xff" + payload[2:], SIZE).shape == (*SIZE, 3)


@pytest.mark.parametrize("options", [{"progressive": True}, {"subsampling": 0}, {"optimize": True, "dpi": (72, 72)}])
def test_jpeg_flavours_are_decoded(options: dict[str, Any]) -> None:
    payload = saved(Image.fromarray(gradient()), "JPEG", quality=95, **options)
    assert np.abs(decode_frame(FrameCodec.JPEG, payload, SIZE).astype(int) - gradient()).mean() < 3


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_jpegs_of_other_modes_become_rgb(mode: str) -> None:
    image = Image.fromarray(gradient()).convert(mode)
    decoded = decode_frame(FrameCodec.JPEG, saved(image, "JPEG", quality=95), SIZE)
    assert np.abs(decoded.astype(int) - np.asarray(image.convert("RGB"))).mean() < 3


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA"])
def test_pngs_of_other_modes_become_rgb(mode: str) -> None:
    image = Image.fromarray(gradient()).convert(mode)
    decoded = decode_frame(FrameCodec.PNG, saved(image, "PNG"), SIZE)
    np.testing.assert_array_equal(decoded, np.asarray(image.convert("RGB")))


def test_alpha_and_transparent_palette_entries_are_ignored() -> None:
    image = Image.fromarray(gradient()).convert("P")
    decoded = decode_frame(FrameCodec.PNG, saved(image, "PNG", transparency=bytes(range(256))), SIZE)
    np.testing.assert_array_equal(decoded, np.asarray(image.convert("RGB")))


def test_sixteen_bit_grey_keeps_its_high_byte() -> None:
    grey = (gradient()[:, :, 0].astype(np.uint16) << 8) + 255
    decoded = decode_frame(FrameCodec.PNG, saved(Image.fromarray(grey), "PNG"), SIZE)
    np.testing.assert_array_equal(decoded, np.repeat(gradient()[:, :, :1], 3, axis=2))


def test_exif_orientation_is_not_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees
    payload = saved(Image.fromarray(gradient()), "JPEG", quality=95, exif=exif)
    assert np.abs(decode_frame(FrameCodec.JPEG, payload, SIZE).astype(int) - gradient()).mean() < 3


@pytest.mark.parametrize("codec", sorted(set(FrameCodec) - set(SUPPORTED)))
def test_codecs_that_are_not_offered_are_named_with_those_that_are(codec: FrameCodec) -> None:
    complaint = f"frame codec {codec} is not supported; supported: jpeg, png, rgb8"
    with pytest.raises(InvalidOpen, match=complaint):
        check_frame(codec, b"x", SIZE)
    with pytest.raises(InvalidOpen, match=complaint):
        encode_frame(codec, gradient())


@pytest.mark.parametrize("image", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32), np.zeros((0, 4, 3))])
def test_only_rgb_bytes_can_be_encoded(image: ImageArray) -> None:
    with pytest.raises(InvalidFrame, match=r"must be uint8 \[H, W, 3\]"):
        encode_frame(FrameCodec.JPEG, image)


def test_a_jpeg_beyond_the_largest_side_cannot_be_encoded() -> None:
    with pytest.raises(InvalidFrame, match="1 x 65501 pixels, a side of a JPEG is at most 65500"):
        encode_frame(FrameCodec.JPEG, np.zeros((1, 65501, 3), np.uint8))
    assert encode_frame(FrameCodec.JPEG, np.zeros((1, 65500, 3), np.uint8))


@given(codec=st.sampled_from(STILLS), at=st.integers(0, 10_000), noise=st.binary(min_size=1, max_size=8))
def test_damaged_frames_are_decoded_or_refused(codec: FrameCodec, at: int, noise: bytes) -> None:
    payload = bytearray(encode_frame(codec, gradient()))
    at %= len(payload)
    payload[at : at + len(noise)] = noise
    try:
        assert decode_frame(codec, bytes(payload), SIZE).shape == (*SIZE, 3)
    except InvalidFrame as error:
        assert error.field == "frame.payload"
