"""What is evaluated how, and what an onlooker is shown."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from masklet.errors import ConfigError
from masklet.types import ImageArray, MaskArray


@dataclass(frozen=True, slots=True)
class EvaluationSettings:
    """How objects are prompted.

    Attributes:
        min_area_px: an object starts on the first annotated frame on which it shows so many pixels.
        clicks: after how many clicks the IoU is reported (mode clicks), rising.
        clicks_per_frame: clicks on one prompted frame (modes online and offline).
        prompted_frames: J&F is reported after 1 to so many prompted frames (modes online and offline).
        pause_below_iou: mode online stops to correct frames whose IoU is below this.
    """

    min_area_px: int = 1
    clicks: tuple[int, ...] = (1, 3, 5)
    clicks_per_frame: int = 3
    prompted_frames: int = 3
    pause_below_iou: float = 0.75

    def __post_init__(self) -> None:
        for name in ("min_area_px", "clicks_per_frame", "prompted_frames"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}, must be at least 1", field=name)
        if not self.clicks or self.clicks[0] < 1 or list(self.clicks) != sorted(set(self.clicks)):
            raise ConfigError(f"clicks are {self.clicks}, must be rising numbers of at least 1", field="clicks")


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """One answered frame.

    Attributes:
        run: what it belongs to: the sequence, in interactive modes with object and pass.
        note: which frame it is, for people.
        image: [H, W, 3] uint8 RGB.
        object_ids: of the N objects asked for.
        truth: [N, H, W] bool; None: not annotated.
        answer: [N, H, W] bool.
    """

    run: str
    note: str
    image: ImageArray
    object_ids: tuple[int, ...]
    truth: MaskArray | None
    answer: MaskArray


Watch = Callable[[View], None]


def unwatched(view: View) -> None:
    """Nobody looks."""
