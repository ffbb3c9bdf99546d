"""Masks on the wire: COCO run lengths, 1-bit PNG, packed bits; and a mask's box.

Decoding is fed by clients: lengths are checked before anything of the mask's size is allocated, so are sums of run
lengths before the mask itself. Until then runs take eight bytes a character, of which a mask has two a pixel at most.
"""

from __future__ import annotations

from io import BytesIO

import numpy as np
import numpy.typing as npt
from PIL import Image

from masklet.codecs.stills import load_png, png_size
from masklet.errors import InvalidPrompt
from masklet.types import MaskArray, MaskEncoding, Size

MAX_MASK_PIXELS = 1 << 26
"""Far above any frame allowed: a last fence, since a few bytes of run lengths can claim a mask of any size."""

_Counts = npt.NDArray[np.int64]
_DIGIT_BITS = 5
_MORE = 1 << _DIGIT_BITS
_OFFSET = 48
_MAX_DIGITS = 7
_PIECE = 1 << 16
_DIGIT_LIMITS = np.array([1 << (_DIGIT_BITS * digits - 1) for digits in range(1, _MAX_DIGITS)], np.int64)


def encode_mask(mask: MaskArray, encoding: MaskEncoding) -> bytes:
    """The wire form of [H, W] bool; RLE equals pycocotools' compressed counts, NONE is empty.

    Raises:
        InvalidPrompt: the mask has no pixel, height or width being 0.
    """
    if not mask.size:
        raise _invalid(f"mask is {' x '.join(map(str, mask.shape))}, it has no pixel")
    if encoding is MaskEncoding.RLE:
        return _write_counts(_run_lengths(mask))
    if encoding is MaskEncoding.BITS:
        return np.packbits(mask).tobytes()
    return _encode_png(mask) if encoding is MaskEncoding.PNG else b""


def decode_mask(data: bytes, encoding: MaskEncoding, size: Size) -> MaskArray:
    """[H, W] bool of `size` (height, width), contiguous and writable.

    Raises:
        InvalidPrompt: the data is not a mask of this encoding and size, or the size is beyond `MAX_MASK_PIXELS`.
    """
    height, width = size
    if min(size) < 1 or height * width > MAX_MASK_PIXELS:
        raise _invalid(f"mask size {height} x {width} is not between 1 and {MAX_MASK_PIXELS} pixels")
    if encoding is MaskEncoding.RLE:
        return _paint(_read_counts(data, height * width), size)
    if encoding is MaskEncoding.BITS:
        return _decode_bits(data, size)
    if encoding is MaskEncoding.PNG:
        return _decode_png(data, size)
    raise _invalid(f"mask encoding {encoding} carries no mask")


def mask_box(mask: MaskArray) -> tuple[int, int, int, int] | None:
    """(x_min, y_min, x_max, y_max) in pixels, maxima exclusive; None if the mask is empty."""
    rows = np.flatnonzero(mask.any(axis=1))
    if not rows.size:
        return None
    y_min, y_max = int(rows[0]), int(rows[-1]) + 1
    columns = np.flatnonzero(mask[y_min:y_max].any(axis=0))
    return int(columns[0]), y_min, int(columns[-1]) + 1, y_max


def _run_lengths(mask: MaskArray) -> _Counts:
    """Column-major runs, background first. Edges are found row-major: transposing the mask would cost more."""
    height, width = mask.shape
    row, column = np.divmod(np.flatnonzero(mask[1:] != mask[:-1]), width)
    within_columns = column * height + row + 1
    between_columns = (np.flatnonzero(mask[-1, :-1] != mask[0, 1:]) + 1) * height
    edges = np.concatenate([within_columns, between_columns])
    edges.sort()
    start = [0, 0] if mask[0, 0] else [0]
    return np.diff(np.concatenate([start, edges, [height * width]]))


def _write_counts(counts: _Counts) -> bytes:
    """Five bits a character, least significant first; from the fourth on, a count less the one before the last."""
    values = counts.copy()
    values[3:] -= counts[1:-2]
    digits = 1 + np.searchsorted(_DIGIT_LIMITS, np.where(values < 0, ~values, values), side="right")
    place = np.arange(digits.max())
    characters = (values[:, None] >> (_DIGIT_BITS * place)) & (_MORE - 1)
    characters += np.where(place < digits[:, None] - 1, _MORE, 0) + _OFFSET
    written: npt.NDArray[np.uint8] = characters[place < digits[:, None]].astype(np.uint8)
    return written.tobytes()


def _read_counts(data: bytes, pixels: int) -> _Counts:
    """Inverse of `_write_counts`; the counts add up to `pixels`."""
    longest = 2 * pixels + 8  # a run is a character, and longer differences need longer runs: 8 pixels a character
    if not 0 < len(data) <= longest:
        raise _invalid(f"RLE has {len(data)} bytes, a mask of {pixels} pixels has 1 to {longest}")
    counts = _join_digits(np.frombuffer(data, np.uint8) - np.uint8(_OFFSET))
    for part in (counts[1::2], counts[2::2]):
        np.cumsum(part, out=part)
    if counts.min() < 0 or counts.max() > pixels:
        raise _invalid(f"RLE has a run of {counts.min()} to {counts.max()} pixels, must be 0 to {pixels}")
    if (total := int(counts.sum())) != pixels:
        raise _invalid(f"RLE covers {total} pixels, the mask has {pixels}")
    return counts


def _join_digits(characters: npt.NDArray[np.uint8]) -> _Counts:
    """Signed values of the characters, less their offset: the sixth bit says that more follow."""
    if characters.max() >= 2 * _MORE:
        raise _invalid(f"RLE has a byte outside {_OFFSET} to {_OFFSET + 2 * _MORE - 1}")
    if characters[-1] & _MORE:
        raise _invalid(f"RLE is cut off after {len(characters)} bytes")
    ends = characters < _MORE
    values = np.empty(np.count_nonzero(ends), np.int64)
    at = done = 0
    while at < len(characters):  # in pieces, so that millions of runs take little more than their values
        stop = min(at + _PIECE, len(characters))
        rest = ends[stop - 1 : stop + _MAX_DIGITS]
        if not rest.any():
            raise _invalid(f"RLE has a run of more than {_MAX_DIGITS} characters, the limit is {_MAX_DIGITS}")
        stop += int(rest.argmax())
        piece = _join_piece(characters[at:stop], np.flatnonzero(ends[at:stop]))
        values[done : done + len(piece)] = piece
        at, done = stop, done + len(piece)
    return values


def _join_piece(characters: npt.NDArray[np.uint8], last: npt.NDArray[np.intp]) -> _Counts:
    """Signed values of whole runs that end at `last`."""
    digits = np.diff(last, prepend=-1)
    if digits.max() > _MAX_DIGITS:
        raise _invalid(f"RLE has a run of {digits.max()} characters, the limit is {_MAX_DIGITS}")
    first = last - digits + 1
    place = np.arange(len(characters)) - np.repeat(first, digits)
    values: _Counts = np.add.reduceat((characters & (_MORE - 1)).astype(np.int64) << (_DIGIT_BITS * place), first)
    negative = (characters[last] & (_MORE >> 1)) != 0
    values -= negative.astype(np.int64) << (_DIGIT_BITS * digits)
    return values


def _paint(counts: _Counts, size: Size) -> MaskArray:
    height, width = size
    values = np.zeros(len(counts), np.bool_)
    values[1::2] = True
    return np.ascontiguousarray(np.repeat(values, counts).reshape(width, height).T)


def _decode_bits(data: bytes, size: Size) -> MaskArray:
    pixels = size[0] * size[1]
    if len(data) != (pixels + 7) // 8:
        raise _invalid(f"packed mask has {len(data)} bytes, must be {(pixels + 7) // 8} for {size[0]} x {size[1]}")
    return np.unpackbits(np.frombuffer(data, np.uint8), count=pixels).view(np.bool_).reshape(size)


def _encode_png(mask: MaskArray) -> bytes:
    height, width = mask.shape
    sink = BytesIO()
    Image.frombytes("1", (width, height), np.packbits(mask, axis=1).tobytes()).save(sink, "PNG")
    return sink.getvalue()


def _decode_png(data: bytes, size: Size) -> MaskArray:
    try:
        found = png_size(data)
        if found != size:
            raise ValueError(f"it is {found[0]} x {found[1]} (height x width), must be {size[0]} x {size[1]}")
        image = load_png(data)
        if image.mode != "1":
            raise ValueError(f"its mode is {image.mode}, must be 1 (one channel, 1 bit per pixel)")
    except ValueError as error:
        raise _invalid(f"PNG mask of {len(data)} bytes cannot be decoded: {error}") from error
    return np.array(image)


def _invalid(message: str) -> InvalidPrompt:
    return InvalidPrompt(message, field="prompt.mask")
