"""Masks drawn over a frame: filled, outlined and labelled, one colour per object."""

from __future__ import annotations

import colorsys
from collections.abc import Iterable
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from masklet.codecs.masks import mask_box
from masklet.types import ImageArray, MaskArray, Size

Colour = tuple[int, int, int]
Plate = tuple[int, int, int, int]
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

    Large objects lie below small ones, and no label on another. Objects with an empty mask are listed in the lower left
    corner.
    """
    canvas = image.copy()
    listed = list(masks)
    boxes = {object_id: mask_box(mask) for object_id, mask in listed}
    labels: list[tuple[int, tuple[int, int]]] = []
    for object_id, mask in sorted(listed, key=lambda one: -int(one[1].sum())):
        if box := boxes[object_id]:
            _fill(canvas, mask, box, object_colour(object_id))
            labels.append((object_id, (int(mask[box[1]].argmax()), box[1])))
    absent = [object_id for object_id, _ in listed if boxes[object_id] is None]
    return _with_text(canvas, sorted(labels), absent, note)


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
    taken: list[Plate] = []
    for object_id, at in labels:
        plate = _free_place(_plate(str(object_id), at, font), taken, (height, width))
        taken.append(plate)
        _tag(pen, str(object_id), plate[:2], object_colour(object_id), font)
    left = _MARGIN_PX
    for object_id in absent:
        at = (left, height - font.size - 3 * _MARGIN_PX)
        left = _tag(pen, f"{object_id} absent", (round(at[0]), round(at[1])), object_colour(object_id), font)
    if note:
        _tag(pen, note, (round(width - font.getlength(note)) - 4 * _MARGIN_PX, _MARGIN_PX), (235, 235, 235), font)
    return np.array(picture)


def _plate(text: str, at: tuple[int, int], font: ImageFont.FreeTypeFont) -> Plate:
    """Where the plate of a text with its upper left corner at `at` lies: (x_min, y_min, x_max, y_max)."""
    x, y = at
    return x, y, x + round(font.getlength(text)) + 2 * _MARGIN_PX, y + round(font.size) + 2 * _MARGIN_PX


def _free_place(plate: Plate, taken: list[Plate], size: Size) -> Plate:
    """The plate moved into the frame, and right, then down, until it covers none of those taken."""
    x, y, width, height = plate[0], plate[1], plate[2] - plate[0], plate[3] - plate[1]
    x, y = max(0, min(x, size[1] - width)), max(0, min(y, size[0] - height))
    while hit := next((one for one in taken if _overlap((x, y, x + width, y + height), one)), None):
        x = hit[2] + 1
        if x + width > size[1]:
            x, y = 0, y + height + 1
            if y + height > size[0]:  # no room at all: on top of others, but seen
                return plate
    return x, y, x + width, y + height


def _overlap(one: Plate, other: Plate) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _tag(pen: ImageDraw.ImageDraw, text: str, at: tuple[int, int], colour: Colour, font: ImageFont.FreeTypeFont) -> int:
    """Dark text on a coloured plate with its upper left corner at `at`; returns where the next one may start."""
    plate = _plate(text, at, font)
    pen.rounded_rectangle(plate, _MARGIN_PX, fill=colour)
    pen.text((plate[0] + _MARGIN_PX, (plate[1] + plate[3]) // 2), text, fill=(16, 16, 16), font=font, anchor="lm")
    return plate[2] + _MARGIN_PX


@lru_cache(maxsize=8)
def _font(size_px: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size_px)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise RuntimeError("Pillow was built without FreeType, so labels cannot be drawn")
    return font
