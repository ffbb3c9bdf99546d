"""How a stream is opened."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypedDict, TypeVar

import numpy as np

from masklet.errors import InvalidOpen
from masklet.types import DropPolicy, FrameCodec, MaskEncoding, Profile, Size

Choice = TypeVar("Choice", bound=StrEnum)


class StreamOptions(TypedDict, total=False):
    """Keywords of `Client.track`; see `StreamSettings`. Enumerations may be given by value, such as "jpeg"."""

    codec: FrameCodec | str
    policy: DropPolicy | str
    mask_encoding: MaskEncoding | str
    profile: Profile | str | None
    frame_rate_hz: float
    max_staleness_s: float | None
    with_logits: bool
    corrections_as_conditioning: bool | None
    max_conditioning_frames: int
    jpeg_quality: int
    raise_request_errors: bool
    reconnect: Reconnect | None


@dataclass(frozen=True, slots=True)
class Reconnect:
    """How a lost connection is replaced.

    Attributes:
        give_up_s: how long to try before the stream ends with an error.
        first_delay_s: pause after the first attempt that failed; it doubles each time, and is shortened at random by up
            to half, so that many clients do not come at once.
        max_delay_s: longest pause.
        reseed: begin a new session from the last masks seen if nobody has the old one any more; else that is an error.
        max_buffered_bytes: requests kept to be sent again; with more, sending waits for an answer, or, with policy
            "latest", leaves frames out.
        max_buffered_requests: the same, in requests; 4096 at most.
    """

    give_up_s: float = 60.0
    first_delay_s: float = 0.1
    max_delay_s: float = 5.0
    reseed: bool = True
    max_buffered_bytes: int = 64 * 1024 * 1024
    max_buffered_requests: int = 1024

    def __post_init__(self) -> None:
        """Raises InvalidOpen for a value out of its range."""
        for name, least, most in _RECONNECT_RANGES:
            _check_range(name, getattr(self, name), least, most)


@dataclass(frozen=True, slots=True)
class StreamSettings:
    """How a stream is opened.

    Attributes:
        size: (height, width) of every frame.
        codec: how frames are sent: "jpeg", "png" or "rgb8".
        policy: "latest" answers the newest frame and reports the others as dropped; "block" answers every frame.
        mask_encoding: "rle", "png", "bits" or "none".
        profile: "interactive" or "vos"; None: the server's default.
        frame_rate_hz: frames per second meant to be sent; 0: unknown.
        max_staleness_s: with "latest", older frames are dropped; None: never.
        with_logits: results carry low-resolution logits.
        corrections_as_conditioning: corrections stay in memory for good; None: as the profile says.
        max_conditioning_frames: prompted frames attended to at most; 0: the server's default.
        jpeg_quality: 1 to 95, for arrays sent as JPEG.
        raise_request_errors: iterating over results raises when the server refuses a request. Otherwise the refusal
            is logged as a warning, kept in `TrackStream.failures`, and the loop goes on: one corrupt frame does not
            end an hour of tracking.
        reconnect: how a lost connection is replaced; None: the stream ends with it.
    """

    size: Size
    codec: FrameCodec = FrameCodec.JPEG
    policy: DropPolicy = DropPolicy.LATEST
    mask_encoding: MaskEncoding = MaskEncoding.RLE
    profile: Profile | None = None
    frame_rate_hz: float = 0.0
    max_staleness_s: float | None = None
    with_logits: bool = False
    corrections_as_conditioning: bool | None = None
    max_conditioning_frames: int = 0
    jpeg_quality: int = 90
    raise_request_errors: bool = False
    reconnect: Reconnect | None = field(default_factory=Reconnect)

    @classmethod
    def of(cls, size: Size, options: StreamOptions) -> StreamSettings:
        """Settings from keywords.

        Raises:
            InvalidOpen: a value that is not offered; the message lists those that are.
        """
        if np.shape(size) != (2,) or not all(isinstance(side, int | np.integer) for side in size):
            raise InvalidOpen(f"size is {size!r}, must be (height, width)", field="size")
        height, width = (int(side) for side in size)
        if not 1 <= min(height, width) <= max(height, width) <= _MAX_SIDE:
            limits = f"1 x 1 to {_MAX_SIDE} x {_MAX_SIDE}"
            raise InvalidOpen(f"size is {height} x {width} (height x width), must be {limits}", field="size")
        for key, least, most in _RANGES:
            if key in options and not (key in _MAY_BE_NONE and options[key] is None):  # type: ignore[literal-required]
                _check_range(key, options[key], least, most)  # type: ignore[literal-required]
        reconnect = options.get("reconnect")
        if not isinstance(reconnect, Reconnect | None):
            raise InvalidOpen(f"reconnect is {reconnect!r}, must be a `Reconnect` or None", field="reconnect")
        rest = {key: value for key, value in options.items() if key not in _CHOICES}
        chosen = {
            key: choice(kind, key, options[key], optional=key in _MAY_BE_NONE)  # type: ignore[literal-required]
            for key, kind in _CHOICES.items()
            if key in options
        }
        return cls(size=(height, width), **chosen, **rest)  # type: ignore[arg-type]


_MAX_SIDE = 2**31 - 1  # of the protocol; the server's limit is smaller
_RECONNECT_RANGES = (
    ("give_up_s", 0, 10**9),
    ("first_delay_s", 0, 10**9),
    ("max_delay_s", 0, 10**9),
    ("max_buffered_bytes", 1, 2**40),
    ("max_buffered_requests", 1, 4096),
)
_RANGES = (
    ("frame_rate_hz", 0, 100_000),
    ("max_staleness_s", 0, 10**9),
    ("max_conditioning_frames", 0, 2**31 - 1),
    ("jpeg_quality", 1, 95),
)
_MAY_BE_NONE = ("profile", "max_staleness_s")
_CHOICES: dict[str, type[StrEnum]] = {
    "codec": FrameCodec,
    "policy": DropPolicy,
    "mask_encoding": MaskEncoding,
    "profile": Profile,
}


def _check_range(name: str, value: object, least: float, most: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float | np.number):
        raise InvalidOpen(f"{name} is {value!r}, must be a number", field=name)
    if not least <= value <= most:
        raise InvalidOpen(f"{name} is {value}, must be {least} to {most}", field=name)


def choice(kind: type[Choice], key: str, value: str | None, *, optional: bool = True) -> Choice | None:
    """The member with this value; None for None if that is `optional`. Raises InvalidOpen, listing those there are."""
    try:
        return None if value is None and optional else kind(value)  # type: ignore[arg-type]
    except ValueError:
        offered = ", ".join(sorted(kind))
        raise InvalidOpen(f"{key} is {value!r}, must be one of: {offered}", field=key) from None
