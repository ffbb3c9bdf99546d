"""Frames on the wire: still codecs to RGB pixels and back.

`check_frame` is cheap enough for the event loop; `decode_frame` and `encode_frame` belong in an executor, where
they release the interpreter lock for most of their time.
"""

from __future__ import annotations

from io import BytesIO

import numpy as np
from PIL import Image

from masklet.codecs.jpeg import MAX_JPEG_SIDE
from masklet.codecs.stills import jpeg_size, load_jpeg, load_png, png_size
from masklet.errors import InvalidFrame, InvalidOpen
from masklet.types import FrameCodec, ImageArray, Size

SUPPORTED: tuple[FrameCodec, ...] = (FrameCodec.JPEG, FrameCodec.PNG, FrameCodec.RGB8)


def check_frame(codec: FrameCodec, payload: bytes, size: Size) -> None:
    """Reads the header only: the payload is of this codec and of the declared `size` (height, width).

    Raises:
        InvalidFrame: empty, not of this codec, cut off within the header, or of another size.
        InvalidOpen: the codec is not in `SUPPORTED`.
    """
    _check_codec(codec)
    if not payload:
        raise InvalidFrame(f"{codec} frame is empty", field="frame.payload")
    if codec is FrameCodec.RGB8:
        _check_raw_length(payload, size)
        return
    try:
        found = jpeg_size(payload) if codec is FrameCodec.JPEG else png_size(payload)
    except ValueError as error:
        raise _undecodable(codec, payload, error) from error
    _check_size(codec, found, size)


def decode_frame(codec: FrameCodec, payload: bytes, size: Size) -> ImageArray:
    """[H, W, 3] uint8 RGB, contiguous and writable.

    Grey, palette, CMYK and 16-bit images are converted; alpha is ignored. EXIF orientation is not applied: clicks,
    boxes and masks are in pixels of the frame as sent, and so is the declared size.

    A JPEG may lack its end-of-image marker, as those of many cameras do. What cannot be told of a JPEG: that its last
    few blocks (of 8x8 pixels) are missing; of one in several scans, such as a progressive one, that its
    last scan is cut off, which is detail or a colour, if no scan is missing; of an arithmetic-coded one, any cut; and
    damage that leaves enough of anything that can be decoded. There libjpeg fills up, mostly with grey.

    Raises:
        InvalidFrame: whatever `check_frame` finds, or the body is cut off or corrupt, as far as that can be told.
        InvalidOpen: the codec is not in `SUPPORTED`.
    """
    check_frame(codec, payload, size)
    if codec is FrameCodec.RGB8:
        return np.frombuffer(payload, np.uint8).reshape(*size, 3).copy()
    try:
        image = load_jpeg(payload) if codec is FrameCodec.JPEG else load_png(payload, in_colour=True)
    except ValueError as error:
        raise _undecodable(codec, payload, error) from error
    _check_size(codec, (image.height, image.width), size)
    return to_rgb(image)


def encode_frame(codec: FrameCodec, image: ImageArray, *, quality: int = 90) -> bytes:
    """The payload for [H, W, 3] uint8 RGB; `quality` 1 to 95 counts for JPEG alone.

    Raises:
        InvalidFrame: it is no array, has another shape or dtype, or a side beyond a JPEG's 65,500 pixels.
        InvalidOpen: the codec is not in `SUPPORTED`.
    """
    _check_codec(codec)
    if not isinstance(image, np.ndarray):
        raise InvalidFrame(f"image is {type(image).__name__}, must be an array, uint8 [H, W, 3]")
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
        raise InvalidFrame(f"image is {image.dtype} {list(image.shape)}, must be uint8 [H, W, 3]")
    if codec is FrameCodec.RGB8:
        return image.tobytes()
    sink = BytesIO()
    if codec is FrameCodec.JPEG:
        height, width, _ = image.shape
        if max(height, width) > MAX_JPEG_SIDE:
            raise InvalidFrame(f"image is {height} x {width} pixels, a side of a JPEG is at most {MAX_JPEG_SIDE}")
        Image.fromarray(image).save(sink, "JPEG", quality=quality)
    else:
        Image.fromarray(image).save(sink, "PNG", compress_level=1)  # frames are sent once: time counts, not bytes
    return sink.getvalue()


def _check_codec(codec: FrameCodec) -> None:
    if codec not in SUPPORTED:
        raise InvalidOpen(
            f"frame codec {codec} is not supported; supported: {', '.join(SUPPORTED)}", field="open.codec"
        )


def _check_raw_length(payload: bytes, size: Size) -> None:
    height, width = size
    if len(payload) != height * width * 3:
        raise InvalidFrame(
            f"rgb8 frame has {len(payload)} bytes, must be {height} x {width} x 3 = {height * width * 3}",
            field="frame.payload",
        )


def _check_size(codec: FrameCodec, found: Size, size: Size) -> None:
    if found != size:
        raise InvalidFrame(
            f"{codec} frame is {found[0]} x {found[1]} (height x width), the stream declared {size[0]} x {size[1]}",
            field="frame.payload",
        )


def _undecodable(codec: FrameCodec, payload: bytes, error: ValueError) -> InvalidFrame:
    return InvalidFrame(f"{codec} frame of {len(payload)} bytes cannot be decoded: {error}", field="frame.payload")


def to_rgb(image: Image.Image) -> ImageArray:
    """[H, W, 3] uint8 RGB of an image of any mode, contiguous and writable."""
    if image.mode.startswith("I"):  # 16-bit grey: Pillow's own conversion would clip at 255
        grey = (np.asarray(image) >> 8).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    image.info.pop("transparency", None)  # conversion would warn about it, and alpha is ignored anyway
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))
