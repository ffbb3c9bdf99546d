"""Masks drawn over a frame: filled, outlined and labelled, one colour per object."""

from __future__ import annotations

import colorsys
from collections.abc import Iterable
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from masklet.codecs.masks import mask_box
from masklet.types import ImageArray, MaskArray

Colour = tuple[int, int, int]
_GOLDEN = 0.61803398875
_FILL = 0.42
_LABEL_HEIGHT_SHARE = 28
_MARGIN_PX = 4


def object_colour(object_id: int) -> Colour:
    """A vivid RGB colour; hues of neighbouring ids are far apart."""
    red, green, blue = colorsys.hsv_to_rgb((0.55 + object_id * _GOLDEN) % 1.0, 0.85, 1.0)
    return round(red * 255), round(green * 255), round(blue * 255)


def draw_masks(image: ImageArray, masks: Iterable[tuple[int, MaskArray]], *, note: str = "") -> ImageArray:
    """A copy of `image` [H, W, 3] with each (object id, [H, W] bool) drawn on it, and `note` in the upper right corner.

    Objects with an empty mask are listed in the lower left corner.
    """
    canvas = image.copy()
    labels: list[tuple[int, tuple[int, int]]] = []
    absent: list[int] = []
    for object_id, mask in masks:
        box = mask_box(mask)
        if box is None:
            absent.append(object_id)
        else:
            _fill(canvas, mask, box, object_colour(object_id))
            labels.append((object_id, (int(mask[box[1]].argmax()), box[1])))
    return _with_text(canvas, labels, absent, note)


def draw_note(image: ImageArray, note: str) -> ImageArray:
    """A copy of `image` with `note` in the upper right corner."""
    return draw_masks(image, (), note=note)


def _fill(canvas: ImageArray, mask: MaskArray, box: tuple[int, int, int, int], colour: Colour) -> None:
    x0, y0, x1, y1 = box
    part, inside = canvas[y0:y1, x0:x1], mask[y0:y1, x0:x1]
    paint = np.asarray(colour, np.float32)
    part[inside] = (part[inside] * (1 - _FILL) + paint * _FILL).astype(np.uint8)
    part[inside & ~_eroded(_eroded(inside))] = colour


def _eroded(mask: MaskArray) -> MaskArray:
    """Without the pixels that have a background pixel (or the border) above, below, left or right."""
    padded = np.pad(mask, 1)
    middle = padded[1:-1, 1:-1] & padded[:-2, 1:-1] & padded[2:, 1:-1]
    return np.asarray(middle & padded[1:-1, :-2] & padded[1:-1, 2:], np.bool_)


def _with_text(
    canvas: ImageArray, labels: list[tuple[int, tuple[int, int]]], absent: list[int], note: str
) -> ImageArray:
    if not (labels or absent or note):
        return canvas
    height, width = canvas.shape[:2]
    picture = Image.fromarray(canvas)
    pen = ImageDraw.Draw(picture)
    font = _font(max(11, height // _LABEL_HEIGHT_SHARE))
    for object_id, (x, y) in labels:
        _tag(pen, str(object_id), (x, y), object_colour(object_id), font)
    left = _MARGIN_PX
    for object_id in absent:
        at = (left, height - font.size - 3 * _MARGIN_PX)
        left = _tag(pen, f"{object_id} absent", (round(at[0]), round(at[1])), object_colour(object_id), font)
    if note:
        _tag(pen, note, (round(width - font.getlength(note)) - 4 * _MARGIN_PX, _MARGIN_PX), (235, 235, 235), font)
    return np.array(picture)


def _tag(pen: ImageDraw.ImageDraw, text: str, at: tuple[int, int], colour: Colour, font: ImageFont.FreeTypeFont) -> int:
    """Dark text on a coloured plate with its upper left corner at `at`; returns where the next one may start."""
    x, y = at
    right = x + round(font.getlength(text)) + 2 * _MARGIN_PX
    pen.rounded_rectangle((x, y, right, y + round(font.size) + 2 * _MARGIN_PX), _MARGIN_PX, fill=colour)
    pen.text((x + _MARGIN_PX, y + _MARGIN_PX), text, fill=(16, 16, 16), font=font, anchor="lt")
    return right + _MARGIN_PX


@lru_cache(maxsize=8)
def _font(size_px: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size_px)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise RuntimeError("Pillow was built without FreeType, so labels cannot be drawn")
    return font
