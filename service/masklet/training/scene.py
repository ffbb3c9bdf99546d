"""What a clip is drawn from: a backdrop, a camera, and actors made of parts that move in front of one another.

An affine map is [3, 3] and acts on columns (x, y, 1); a path of them is [T, 3, 3]. Pictures have their origin in the
middle, and so has the world, where the camera of frame 0 looks.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from PIL import Image

from masklet.errors import ConfigError
from masklet.training.motion import Path
from masklet.training.warp import Wobble
from masklet.types import Size

_SMALLEST_SIDE_PX = 32


_PROBABILITIES = (
    "film", "regions", "distractor", "copied_targets", "occluder", "excursion", "wobble", "limbs", "part", "skin",
    "shadow", "motion_blur",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class SyntheticSettings:
    """What is drawn, and how often.

    Attributes:
        frames: length of a clip.
        size: height and width in pixels.
        max_objects: at most so many targets, but for copies.
        min_share: area of the smallest objects as a share of the frame; sizes are even on a log scale.
        max_share: area of the largest objects.
        film: probability that a backdrop is itself a film, where there are some.
        regions: probability that regions of the backdrop are targets as well.
        distractor: probability of copies of a target.
        look_alikes: at most so many copies.
        copied_targets: probability that they are targets as well, beyond `max_objects`.
        occluder: probability of something that passes in front of a target.
        excursion: probability that a target leaves the frame and comes back.
        wobble: probability that an object deforms.
        limbs: probability that an object has parts that swing.
        part: probability that only one part of such an object is the target.
        skin: probability that a texture slides over an object, as if it turned.
        shadow: probability that objects cast shadows.
        motion_blur: probability of a slow shutter.
    """

    frames: int = 8
    size: Size = (128, 128)
    max_objects: int = 4
    min_share: float = 0.012
    max_share: float = 0.5
    film: float = 0.25
    regions: float = 0.25
    distractor: float = 0.33
    look_alikes: int = 1
    copied_targets: float = 0.0
    occluder: float = 0.4
    excursion: float = 0.15
    wobble: float = 0.5
    limbs: float = 0.25
    part: float = 0.2
    skin: float = 0.12
    shadow: float = 0.3
    motion_blur: float = 0.35

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ConfigError: frames, max_objects or look_alikes below 1, a side below 32 pixels, shares out of order, or a
                probability that is none.
        """
        counts = (self.frames, self.max_objects, self.look_alikes)
        if min(counts) < 1:
            raise ConfigError("need frames, max_objects and look_alikes >= 1, not {}, {} and {}".format(*counts))
        if min(self.size) < _SMALLEST_SIDE_PX:
            raise ConfigError(f"a frame of {self.size} is too small: both sides need {_SMALLEST_SIDE_PX} pixels")
        if not 0 < self.min_share <= self.max_share < 1:
            raise ConfigError(f"need 0 < min_share <= max_share < 1, not {self.min_share} and {self.max_share}")
        for name in _PROBABILITIES:
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} is {getattr(self, name)}, but must be from 0 to 1", field=name)


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """One sprite of an actor.

    Attributes:
        image: RGBa (premultiplied).
        joint: [T, 3, 3] sprite to actor.
        wobble: deformation, or None.
        skin: RGB texture that shows instead of the image's own colours, or None.
        slide: [T, 3, 3] skin to sprite; None without a skin.
        counts: whether it belongs to the target.
    """

    image: Image.Image
    joint: Path
    wobble: Wobble | None = None
    skin: Image.Image | None = None
    slide: Path | None = None
    counts: bool = True


@dataclass(frozen=True, slots=True, eq=False)
class Actor:
    """An object through time. `path` [T, 3, 3] leads to the world; `target` is None for what nobody asks about."""

    parts: tuple[Part, ...]
    path: Path
    target: int | None = None

    def moved(self, path: Path, *, target: int | None) -> Actor:
        """The same object on another way."""
        return replace(self, path=path, target=target)

    @property
    def reach_px(self) -> int:
        """The longest side of the first part's picture."""
        return max(self.parts[0].image.size)


@dataclass(frozen=True, slots=True)
class Shadow:
    """Darkness beside every actor: an offset and a softness in pixels, and a strength, 0 to 1."""

    offset_xy: tuple[int, int]
    radius_px: int
    strength: float


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """All there is to see, rear to front.

    Attributes:
        backdrops: RGB, one for every frame, or a single one for all of them.
        regions: L, region numbers of the single backdrop, or None.
        chosen: region numbers that are targets; they come after the actors' targets.
        camera: [T, 3, 3] world to frame.
        actors: rear to front.
        targets: number of targets.
        shadow: what actors cast, or None.
        shutter: share of the time between two frames during which light falls in; 0: sharp.
    """

    backdrops: tuple[Image.Image, ...]
    regions: Image.Image | None
    chosen: tuple[int, ...]
    camera: Path
    actors: tuple[Actor, ...]
    targets: int
    shadow: Shadow | None
    shutter: float

    def backdrop(self, frame: int) -> Image.Image:
        """What lies behind everything on `frame`."""
        return self.backdrops[frame % len(self.backdrops)]
