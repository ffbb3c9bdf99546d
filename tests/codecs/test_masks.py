from __future__ import annotations

from io import BytesIO
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image
from pycocotools import mask as coco

from masklet.codecs.masks import MAX_MASK_PIXELS, decode_mask, encode_mask, mask_box
from masklet.errors import InvalidPrompt
from masklet.types import MaskArray, MaskEncoding

CARRYING = (MaskEncoding.RLE, MaskEncoding.PNG, MaskEncoding.BITS)


def coco_counts(mask: MaskArray) -> bytes:
    rle: dict[str, Any] = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    return bytes(rle["counts"])


def disc(height: int, width: int) -> MaskArray:
    y, x = np.mgrid[:height, :width]
    inside: MaskArray = ((y - height / 2) / (height / 3)) ** 2 + ((x - width / 3) / (width / 4)) ** 2 < 1
    return inside


def noise(height: int, width: int) -> MaskArray:
    return np.random.default_rng(0).random((height, width)) < 0.5


SAMPLES = {
    "disc": disc(123, 217),
    "large disc": disc(720, 1280),
    "noise": noise(97, 61),
    "empty": np.zeros((40, 30), np.bool_),
    "full": np.ones((40, 30), np.bool_),
    "one set pixel": np.ones((1, 1), np.bool_),
    "one clear pixel": np.zeros((1, 1), np.bool_),
    "row": noise(1, 77),
    "column": noise(77, 1),
    "corner": np.pad(np.ones((3, 2), np.bool_), ((50, 0), (60, 0))),
    "transposed": disc(64, 48).T,
}


@pytest.mark.parametrize("mask", SAMPLES.values(), ids=SAMPLES)
def test_rle_is_what_pycocotools_writes(mask: MaskArray) -> None:
    assert encode_mask(mask, MaskEncoding.RLE) == coco_counts(mask)


@pytest.mark.parametrize("encoding", CARRYING)
@pytest.mark.parametrize("mask", SAMPLES.values(), ids=SAMPLES)
def test_a_mask_comes_back_as_it_was(mask: MaskArray, encoding: MaskEncoding) -> None:
    height, width = mask.shape
    decoded = decode_mask(encode_mask(mask, encoding), encoding, (height, width))
    np.testing.assert_array_equal(decoded, mask)
    assert decoded.dtype == np.bool_
    assert decoded.flags.c_contiguous
    assert decoded.flags.writeable


@given(mask=arrays.arrays(np.bool_, arrays.array_shapes(min_dims=2, max_dims=2, max_side=40)))
def test_rle_of_any_mask_agrees_with_pycocotools_and_comes_back(mask: MaskArray) -> None:
    height, width = mask.shape
    counts = encode_mask(mask, MaskEncoding.RLE)
    assert counts == coco_counts(mask)
    np.testing.assert_array_equal(decode_mask(counts, MaskEncoding.RLE, (height, width)), mask)


@given(data=st.binary(max_size=60), encoding=st.sampled_from(MaskEncoding))
def test_any_bytes_are_a_mask_of_the_size_asked_for_or_an_invalid_prompt(data: bytes, encoding: MaskEncoding) -> None:
    try:
        assert decode_mask(data, encoding, (9, 13)).shape == (9, 13)
    except InvalidPrompt as error:
        assert error.field == "prompt.mask"


@given(text=st.text(st.characters(min_codepoint=48, max_codepoint=111), min_size=1, max_size=12))
def test_run_lengths_from_anyone_cover_the_mask_or_are_refused(text: str) -> None:
    try:
        mask = decode_mask(text.encode(), MaskEncoding.RLE, (4, 5))
    except InvalidPrompt:
        return
    np.testing.assert_array_equal(mask, coco.decode({"size": [4, 5], "counts": text.encode()}).astype(np.bool_))


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"", "RLE has 0 bytes, a mask of 12 pixels has 1 to 32"),
        (b"0" * 33, "RLE has 33 bytes, a mask of 12 pixels has 1 to 32"),
        (b"\x1f", "outside 48 to 111"),
        (b"\xff", "outside 48 to 111"),
        (b"<P", "cut off after 2 bytes"),
        (b"PPPPPPP0", "8 characters, the limit is 7"),
        (b"\x6f\x6f\x6f\x6f\x6f\x6f\x3f", "run of 17179869183 to 17179869183 pixels, must be 0 to 12"),
        (b"O", "run of -1 to -1 pixels"),
        (b";", "covers 11 pixels, the mask has 12"),
        (b"<1", "covers 13 pixels, the mask has 12"),
    ],
)
def test_run_lengths_that_are_no_mask_are_refused_with_value_and_limit(data: bytes, complaint: str) -> None:
    with pytest.raises(InvalidPrompt, match=complaint):
        decode_mask(data, MaskEncoding.RLE, (3, 4))


@pytest.mark.parametrize("piece", [1, 2, 3, 10])
def test_run_lengths_are_read_in_pieces(piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("masklet.codecs.masks._PIECE", piece)
    mask = np.zeros((300, 400), np.bool_)
    mask[3, 7] = mask[250:, 100:350] = mask[::7, ::3] = True
    data = encode_mask(mask, MaskEncoding.RLE)
    assert len(data) > 1.05 * np.count_nonzero(np.diff(mask.T.ravel()))  # some runs are several characters
    assert np.array_equal(decode_mask(data, MaskEncoding.RLE, (300, 400)), mask)
    with pytest.raises(InvalidPrompt, match=r"a run of .* characters, the limit is 7"):
        decode_mask(b"1" + b"o" * 30 + b"1", MaskEncoding.RLE, (300, 400))


@pytest.mark.parametrize("size", [(0, 4), (-1, -4), (1 << 32, 1 << 32), (MAX_MASK_PIXELS, 2)])
@pytest.mark.parametrize("encoding", CARRYING)
def test_a_size_beyond_reason_is_refused(size: tuple[int, int], encoding: MaskEncoding) -> None:
    with pytest.raises(InvalidPrompt, match=f"mask size {size[0]} x {size[1]} is not between 1 and {MAX_MASK_PIXELS}"):
        decode_mask(b"0", encoding, size)


@pytest.mark.parametrize("shape", [(0, 0), (0, 5), (5, 0)])
@pytest.mark.parametrize("encoding", CARRYING)
def test_a_mask_without_pixels_cannot_be_encoded(shape: tuple[int, int], encoding: MaskEncoding) -> None:
    with pytest.raises(InvalidPrompt, match=f"mask is {shape[0]} x {shape[1]}, it has no pixel"):
        encode_mask(np.zeros(shape, np.bool_), encoding)


@pytest.mark.parametrize("length", [0, 1, 3])
def test_packed_bits_of_the_wrong_length_are_refused(length: int) -> None:
    with pytest.raises(InvalidPrompt, match=f"packed mask has {length} bytes, must be 2 for 3 x 5"):
        decode_mask(bytes(length), MaskEncoding.BITS, (3, 5))


def test_packed_bits_are_row_major_with_the_most_significant_bit_first() -> None:
    mask = np.zeros((2, 5), np.bool_)
    mask[0, 0] = mask[1, 3] = True
    assert encode_mask(mask, MaskEncoding.BITS) == bytes([0b1000_0000, 0b1000_0000])


def png_bytes(image: Image.Image) -> bytes:
    sink = BytesIO()
    image.save(sink, "PNG")
    return sink.getvalue()


def test_png_masks_have_one_bit_per_pixel() -> None:
    with Image.open(BytesIO(encode_mask(disc(20, 30), MaskEncoding.PNG))) as image:
        assert (image.mode, image.size) == ("1", (30, 20))


def test_a_png_of_another_size_is_refused_before_it_is_decoded() -> None:
    bomb = bytearray(png_bytes(Image.new("1", (8, 8))))
    bomb[16:24] = b"\x7f\xff\xff\xff" * 2
    with pytest.raises(InvalidPrompt, match=r"it is 2147483647 x 2147483647 .* must be 8 x 8"):
        decode_mask(bytes(bomb), MaskEncoding.PNG, (8, 8))


def test_a_png_of_another_kind_is_refused() -> None:
    with pytest.raises(InvalidPrompt, match="its mode is L, must be 1"):
        decode_mask(png_bytes(Image.new("L", (8, 8))), MaskEncoding.PNG, (8, 8))


@pytest.mark.parametrize("kept", [0, 5, 20, 40, -40])
def test_a_png_that_is_cut_off_is_refused(kept: int) -> None:
    data = encode_mask(noise(64, 64), MaskEncoding.PNG)
    with pytest.raises(InvalidPrompt, match="cannot be decoded"):
        decode_mask(data[:kept], MaskEncoding.PNG, (64, 64))


def test_no_mask_is_no_bytes_and_cannot_be_decoded() -> None:
    assert encode_mask(disc(8, 8), MaskEncoding.NONE) == b""
    with pytest.raises(InvalidPrompt, match="carries no mask"):
        decode_mask(b"", MaskEncoding.NONE, (8, 8))


def test_the_box_ends_one_past_the_last_pixel() -> None:
    mask = np.zeros((10, 20), np.bool_)
    mask[3:5, 7:11] = True
    assert mask_box(mask) == (7, 3, 11, 5)
    assert mask_box(np.ones((1, 1), np.bool_)) == (0, 0, 1, 1)


def test_an_empty_mask_has_no_box() -> None:
    assert mask_box(np.zeros((10, 20), np.bool_)) is None
