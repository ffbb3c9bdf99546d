"""From a scene to its frames and masks."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from masklet.training.scene import Part, Scene, Shadow
from masklet.training.warp import Matrix, Window, affine, window_of, wobbled
from masklet.types import FloatArray, MaskArray, Size

BLUR_REACH_PX = 8
_BLUR_STEP_PX = 1.5
_LEAST_BLUR_PX = 1.5
Streak = npt.NDArray[np.int_]


def draw_frame(scene: Scene, frame: int, size: Size) -> tuple[FloatArray, MaskArray]:
    """The colours [H, W, 3] (0..255) and the visible part of each target [N, H, W].

    A pixel belongs to the front-most sprite that covers more than half of it.
    """
    masks = np.zeros((scene.targets, *size), np.bool_)
    canvas = _draw_backdrop(scene, masks, frame)
    for actor in scene.actors:
        for part in actor.parts:
            target = actor.target if part.counts else None
            _paint(canvas, masks, _Placing(scene, part, actor.path, frame), target)
    return canvas, masks


def _draw_backdrop(scene: Scene, masks: MaskArray, frame: int) -> FloatArray:
    """The backdrop [H, W, 3]; marks its chosen regions in the masks."""
    camera, (height, width) = scene.camera[frame], masks.shape[1:]
    whole = (0, 0, width, height)
    if scene.regions is not None:
        regions = np.asarray(affine(scene.regions, camera, whole, smooth=False))
        for index, number in enumerate(scene.chosen, scene.targets - len(scene.chosen)):
            masks[index] = regions == number
    streak = _streak(scene, scene.camera, frame)
    wide = _widened(whole, streak)
    return _averaged(np.asarray(affine(scene.backdrop(frame), camera, wide), np.float32), streak)


class _Placing:
    """One part of an actor on one frame."""

    __slots__ = ("frame", "part", "place", "shadow", "streak")

    def __init__(self, scene: Scene, part: Part, path: Matrix, frame: int) -> None:
        self.part, self.frame, self.shadow = part, frame, scene.shadow
        self.place: Matrix = scene.camera[frame] @ path[frame] @ part.joint[frame]
        self.streak = _streak(scene, path, frame) if scene.shutter == 0 else _streak(scene, scene.camera @ path, frame)

    def window(self, size: Size) -> Window | None:
        """What of the frame it can touch."""
        margin = self.part.wobble.reach_px if self.part.wobble else 0.0
        margin_px = float(np.abs(self.streak).max()) + (2 * self.shadow.radius_px if self.shadow else 0)
        return window_of(self.part.image, self.place, size, margin=margin, margin_px=margin_px)

    def pixels(self, window: Window) -> FloatArray:
        """[h, w, 4] premultiplied, 0..255."""
        wide = _widened(window, self.streak)
        return _averaged(self._sharp(wide), self.streak)

    def _sharp(self, window: Window) -> FloatArray:
        part = self.part
        if part.wobble is not None:
            return np.asarray(wobbled(part.image, self.place, window, part.wobble, frame=self.frame), np.float32)
        pixels = np.asarray(affine(part.image, self.place, window), np.float32)
        if part.skin is None or part.slide is None:
            return pixels
        skin = affine(part.skin, self.place @ part.slide[self.frame], window)
        alpha = pixels[..., 3:]
        return np.concatenate([np.asarray(skin, np.float32) * (alpha * np.float32(1 / 255)), alpha], -1)


def _paint(canvas: FloatArray, masks: MaskArray, placing: _Placing, target: int | None) -> None:
    """Put one part over the canvas and the masks."""
    window = placing.window((masks.shape[1], masks.shape[2]))
    if window is None:
        return
    pixels = placing.pixels(window)
    alpha = pixels[..., 3]
    if placing.shadow is not None:
        _darken(canvas, alpha, window, placing.shadow)
    at = np.s_[window[1] : window[3], window[0] : window[2]]
    canvas[at] *= (1 - alpha * np.float32(1 / 255))[..., None]
    canvas[at] += pixels[..., :3]
    covered = alpha > 127.5
    masks[:, *at] &= ~covered
    if target is not None:
        masks[target, *at] |= covered


def _darken(canvas: FloatArray, alpha: FloatArray, window: Window, shadow: Shadow) -> None:
    """Cast the soft shadow of `alpha` on what is there already."""
    soft = Image.fromarray(alpha.astype(np.uint8)).filter(ImageFilter.BoxBlur(shadow.radius_px))
    dark = np.asarray(soft, np.float32) * np.float32(shadow.strength / 255)
    x, y = window[0] + shadow.offset_xy[0], window[1] + shadow.offset_xy[1]
    top, left = max(-y, 0), max(-x, 0)
    below = canvas[max(y, 0) : max(y + dark.shape[0], 0), max(x, 0) : max(x + dark.shape[1], 0)]
    below *= 1 - dark[top : top + below.shape[0], left : left + below.shape[1], None]


def _streak(scene: Scene, path: Matrix, frame: int) -> Streak:
    """Whole-pixel offsets [K, 2] (x, y) over which light is gathered while the shutter is open."""
    if scene.shutter == 0:
        return np.zeros((1, 2), np.int_)
    before, after = max(frame - 1, 0), min(frame + 1, len(path) - 1)
    speed = (path[after, :2, 2] - path[before, :2, 2]) / max(after - before, 1) * scene.shutter
    length = float(np.hypot(*speed))
    if length < _LEAST_BLUR_PX:
        return np.zeros((1, 2), np.int_)
    speed *= min(length, 2 * BLUR_REACH_PX) / length
    steps = int(min(length, 2 * BLUR_REACH_PX) / _BLUR_STEP_PX) + 2
    return np.asarray(np.rint(np.linspace(-0.5, 0.5, steps)[:, None] * speed), np.int_)


def _widened(window: Window, streak: Streak) -> Window:
    if len(streak) == 1:
        return window
    x, y = (int(v) for v in np.abs(streak).max(axis=0))
    return window[0] - x, window[1] - y, window[2] + x, window[3] + y


def _averaged(pixels: FloatArray, streak: Streak) -> FloatArray:
    """The mean of the widened window's pixels over the streak: [h, w, C], a fresh array."""
    if len(streak) == 1:
        return pixels.copy()
    x, y = (int(v) for v in np.abs(streak).max(axis=0))
    height, width = pixels.shape[0] - 2 * y, pixels.shape[1] - 2 * x
    total = np.zeros((height, width, pixels.shape[2]), np.float32)
    for dx, dy in streak.tolist():
        total += pixels[y + dy : y + dy + height, x + dx : x + dx + width]
    total *= np.float32(1 / len(streak))
    return total
