"""Pictures of single objects: cut-outs, segments of photographs, and outlines filled with a texture."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageChops, ImageFilter

from masklet.training.assets import AssetBank
from masklet.training.shapes import SHAPES, outline
from masklet.types import FloatArray, Size

_MARGIN_PX = 2
_MIN_SIDE_PX = 6
Range = tuple[FloatArray, FloatArray]


def colour_range(picture: Image.Image) -> Range:
    """Mean and spread of the colours: two [3] float32 arrays, 0..255."""
    small = np.asarray(picture.convert("RGB").resize((12, 12), Image.Resampling.BOX), np.float32).reshape(-1, 3)
    return small.mean(0), small.std(0) + 4


def draw_sprite(random: np.random.Generator, assets: AssetBank, *, area_px: float, scenery: Range) -> Image.Image:
    """A random object of about `area_px` pixels: RGBa (premultiplied) with a see-through margin.

    Its colours are its own, changed at random, or pulled towards those of the `scenery`.
    """
    source = random.random()
    if assets.cutouts and source < 0.4:
        object_ = _flipped(random, assets.cutouts[int(random.integers(len(assets.cutouts)))])
    elif assets.photos and source < 0.65:
        object_ = _lifted(random, assets) or _filled(random, assets)
    else:
        object_ = _filled(random, assets)
    object_ = _resized(object_, area_px)
    colours = recoloured(random, object_.convert("RGB"), scenery)
    colours.putalpha(object_.getchannel("A"))
    return _with_margin(colours)


def draw_bar(random: np.random.Generator, assets: AssetBank, size: Size) -> Image.Image:
    """A pole or a curtain longer than a frame of `size`: RGBa (premultiplied) with a see-through margin."""
    long, wide = round(1.6 * max(size)), max(round(random.uniform(0.04, 0.3) * min(size)), 3)
    picture = texture_crop(random, assets, (long, wide))
    picture.putalpha(255)
    return _with_margin(picture)


def draw_skin(random: np.random.Generator, assets: AssetBank, sprite: Image.Image, scenery: Range) -> Image.Image:
    """A texture twice as large as the sprite, to slide below its outline: RGB."""
    size = (max(2 * sprite.height, 8), max(2 * sprite.width, 8))
    return recoloured(random, texture_crop(random, assets, size), scenery)


def _with_margin(picture: Image.Image) -> Image.Image:
    padded = Image.new("RGBA", (picture.width + 2 * _MARGIN_PX, picture.height + 2 * _MARGIN_PX))
    padded.paste(picture, (_MARGIN_PX, _MARGIN_PX))
    return padded.convert("RGBa")


def texture_crop(random: np.random.Generator, assets: AssetBank, size: Size) -> Image.Image:
    """A random piece of a photograph or of a procedural texture, in RGB and of `size` (height, width)."""
    if assets.photos and random.random() < 0.7:
        source = assets.photos[assets.draw_photo(random)]
    else:
        source = assets.texture(int(random.integers(1 << 16)))
    return crop(random, source, size, share=random.uniform(0.25, 1.0))


def crop(
    random: np.random.Generator,
    source: Image.Image,
    size: Size,
    *,
    share: float,
    resampling: Image.Resampling = Image.Resampling.BILINEAR,
) -> Image.Image:
    """A random window of the aspect of `size` (height, width), `share` of the largest possible, resized to `size`."""
    scale = share * min(source.width / size[1], source.height / size[0])
    width, height = scale * size[1], scale * size[0]
    left, top = random.uniform(0, source.width - width), random.uniform(0, source.height - height)
    box = (left, top, min(left + width, source.width), min(top + height, source.height))
    picture = source.resize((size[1], size[0]), resampling, box=box, reducing_gap=1.5)
    return _flipped(random, picture)


def _flipped(random: np.random.Generator, picture: Image.Image) -> Image.Image:
    return picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if random.random() < 0.5 else picture


def _filled(random: np.random.Generator, assets: AssetBank) -> Image.Image:
    """An outline filled with a texture, with light on one side."""
    alpha = outline(int(random.integers(SHAPES)))
    if random.random() < 0.5:
        alpha = alpha.transpose(Image.Transpose(int(random.integers(7))))
    picture = texture_crop(random, assets, (alpha.height, alpha.width))
    if random.random() < 0.6:
        picture = _relief(random, picture, alpha)
    picture.putalpha(alpha)
    return picture


def _relief(random: np.random.Generator, picture: Image.Image, alpha: Image.Image) -> Image.Image:
    """Shade the picture as if the outline bulged towards the camera."""
    soft = np.asarray(alpha.reduce(4).filter(ImageFilter.GaussianBlur(4)), np.float32)
    angle, strength = random.uniform(0, 6.3), random.uniform(1.5, 5.0)
    if min(soft.shape) < 2:
        return picture
    down, right = np.gradient(soft)
    light = np.clip(128 + strength * (right * np.cos(angle) + down * np.sin(angle)), 20, 255).astype(np.uint8)
    shade = Image.fromarray(light).resize(picture.size, Image.Resampling.BILINEAR)
    doubled = ImageChops.multiply(picture, Image.merge("RGB", (shade, shade, shade)))
    return ImageChops.add(doubled, doubled)


def _lifted(random: np.random.Generator, assets: AssetBank) -> Image.Image | None:
    """A region of a photograph, cut out along its edges; None where the photograph has none."""
    photo = assets.draw_photo(random)
    labels = assets.segments(photo)
    count = int(labels.max())
    if count == 0:
        return None
    inside = labels == 1 + int(random.integers(count))
    whole = Image.fromarray(inside.astype(np.uint8) * 255)
    box = whole.getbbox()
    alpha = whole.crop(box).filter(ImageFilter.BoxBlur(1))
    picture = assets.photos[photo].crop(box)
    picture.putalpha(alpha)
    return _flipped(random, picture)


def _resized(picture: Image.Image, area_px: float) -> Image.Image:
    """The RGBA picture scaled until its opaque part covers about `area_px`."""
    fill = max(float(np.asarray(picture.getchannel("A").resize((16, 16), Image.Resampling.BOX)).mean()) / 255, 0.05)
    scale = (area_px / (fill * picture.width * picture.height)) ** 0.5
    size = (max(round(picture.width * scale), _MIN_SIDE_PX), max(round(picture.height * scale), _MIN_SIDE_PX))
    return picture.convert("RGBa").resize(size, Image.Resampling.BILINEAR, reducing_gap=2).convert("RGBA")


def recoloured(random: np.random.Generator, picture: Image.Image, scenery: Range) -> Image.Image:
    """Channels scaled and shifted: towards the scenery's colours, or at random, or not at all."""
    kind = random.random()
    if kind < 0.3:
        return picture
    mean, spread = colour_range(picture)
    if kind < 0.65:
        share = random.uniform(0.3, 1.0)
        new_mean = mean + (scenery[0] - mean) * share
        gain = (spread + (scenery[1] - spread) * share * 0.6) / spread
    else:
        new_mean = np.clip(mean + random.normal(0, 25, 3), 30, 210)
        gain = random.uniform(0.6, 1.3) * random.uniform(0.85, 1.15, 3)
    gain = np.clip(gain, 0.4, 1.8)
    shift = new_mean - gain * mean
    zero = 0.0
    matrix = (gain[0], zero, zero, shift[0], zero, gain[1], zero, shift[1], zero, zero, gain[2], shift[2])
    return picture.convert("RGB", tuple(float(v) for v in matrix))
