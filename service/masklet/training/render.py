"""From the plan of a clip to its frames and masks."""

from __future__ import annotations

import numpy as np
from PIL import Image

from masklet.training.scene import NOT_A_TARGET, Layer, Scene
from masklet.training.warp import Matrix, affine, window_of, wobbled
from masklet.types import FloatArray, MaskArray, Size


def draw_frame(scene: Scene, frame: int, size: Size) -> tuple[FloatArray, MaskArray]:
    """The colours [H, W, 3] (0..255) and the visible part of each target [N, H, W]."""
    camera = scene.camera[frame]
    whole = (0, 0, size[1], size[0])
    canvas = np.asarray(affine(scene.backdrop, camera, whole), np.float32).copy()
    masks = np.zeros((scene.targets, *size), np.bool_)
    if scene.regions is not None:
        regions = np.asarray(affine(scene.regions, camera, whole, smooth=False))
        for index, number in enumerate(scene.chosen):
            masks[scene.targets - len(scene.chosen) + index] = regions == number
    for layer in scene.layers:
        _paint(canvas, masks, layer, camera @ layer.path[frame], frame)
    return canvas, masks


def _paint(canvas: FloatArray, masks: MaskArray, layer: Layer, place: Matrix, frame: int) -> None:
    """Put one layer over the canvas and the masks."""
    picture = layer.sprite.image
    margin = layer.wobble.reach_px if layer.wobble else 0.0
    window = window_of(picture, place, masks.shape[1:], margin_px=margin)
    if window is None:
        return
    at = np.s_[window[1] : window[3], window[0] : window[2]]
    placed = _placed(picture, layer, place, window, frame)
    pixels = np.asarray(placed, np.float32)
    alpha = pixels[..., 3]
    canvas[at] *= (1 - alpha * np.float32(1 / 255))[..., None]
    canvas[at] += pixels[..., :3]
    covered = alpha > 127.5
    masks[:, *at] &= ~covered
    if layer.target != NOT_A_TARGET:
        masks[layer.target, *at] = covered


def _placed(
    picture: Image.Image, layer: Layer, place: Matrix, window: tuple[int, int, int, int], frame: int
) -> Image.Image:
    if layer.wobble is None:
        return affine(picture, place, window)
    return wobbled(picture, place, window, layer.wobble, frame=frame)
