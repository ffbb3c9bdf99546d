"""How a camera sees a frame: light, focus, noise and compression."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter
from scipy.ndimage import gaussian_filter1d

from masklet.types import FloatArray, ImageArray, Size


@dataclass(frozen=True, slots=True, eq=False)
class Look:
    """What the camera does to a clip.

    Attributes:
        gain: [T, 3] brightness of each channel.
        ramp: [H, W, 1] light that falls from one side, or None.
        blur_px: [T] radius of the defocus; 0: sharp.
        noise: standard deviation of the noise, 0..255.
        quality: of JPEG compression, or None.
    """

    gain: FloatArray
    ramp: FloatArray | None
    blur_px: npt.NDArray[np.float64]
    noise: float
    quality: int | None

    @classmethod
    def draw(cls, random: np.random.Generator, frames: int, size: Size) -> Look:
        """A random look."""
        gain = np.tile(np.exp(random.normal(0, 0.06, 3) + random.normal(0, 0.15)), (frames, 1))
        if frames > 1 and random.random() < 0.3:
            walk = gaussian_filter1d(random.normal(0, 0.5, frames), 1.0, mode="nearest")
            gain *= np.exp(np.clip(np.cumsum(walk) * 0.25, -0.6, 0.5))[:, None]
        ramp = _ramp(random, size) if random.random() < 0.3 else None
        noise = random.uniform(1, 9) if random.random() < 0.6 else 0.0
        quality = int(random.integers(25, 90)) if random.random() < 0.4 else None
        return cls(gain.astype(np.float32), ramp, _focus(random, frames, size), noise, quality)

    def taken(self, random: np.random.Generator, canvas: FloatArray, frame: int) -> ImageArray:
        """The picture of `canvas` [H, W, 3] (0..255): [H, W, 3] uint8."""
        canvas *= self.gain[frame]
        if self.ramp is not None:
            canvas *= self.ramp
        if self.noise:
            canvas += random.standard_normal(canvas.shape, np.float32) * np.float32(self.noise)
        picture = np.clip(canvas, 0, 255, out=canvas).astype(np.uint8)
        if self.blur_px[frame] > 0.2:
            picture = np.asarray(Image.fromarray(picture).filter(ImageFilter.BoxBlur(float(self.blur_px[frame]))))
        return picture if self.quality is None else compressed(picture, self.quality)


def compressed(picture: ImageArray, quality: int) -> ImageArray:
    """The picture after JPEG compression."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer))


def _ramp(random: np.random.Generator, size: Size) -> FloatArray:
    angle, depth = random.uniform(0, 2 * np.pi), random.uniform(0.1, 0.45)
    across = np.cos(angle) * np.linspace(-1, 1, size[1]) + np.sin(angle) * np.linspace(-1, 1, size[0])[:, None]
    return np.asarray(1 + depth * across, np.float32)[..., None]


def _focus(random: np.random.Generator, frames: int, size: Size) -> npt.NDArray[np.float64]:
    """Radius of the defocus per frame, in pixels: often none, sometimes steady, sometimes coming and going."""
    kind = random.random()
    most = random.uniform(0.3, 1.2) * min(size) / 128
    if kind < 0.6:
        return np.zeros(frames)
    if kind < 0.85 or frames == 1:
        return np.full(frames, most)
    phase = random.uniform(0, 6.3) + np.arange(frames) * random.uniform(0.2, 0.8)
    return np.asarray(most * (0.5 + 0.5 * np.sin(phase)))
