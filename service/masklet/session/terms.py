"""What a stream was granted when it opened."""

from __future__ import annotations

from dataclasses import dataclass, replace

from masklet.config import LimitsConfig, SessionConfig
from masklet.session.messages import Limits, Open, Opened
from masklet.types import DropPolicy, FrameCodec, MaskEncoding, Profile, Size, StateOrigin, TrackSettings

TOKEN_LIFETIME_TTLS = 4
"""How many times `resume_ttl_s` a token is accepted; after half of that it is renewed, so it always outlasts one."""


@dataclass(frozen=True, slots=True)
class Terms:
    """How one stream is served; `size` is (height, width) of every frame; `max_staleness_s` None: never stale."""

    codec: FrameCodec
    size: Size
    mask_encoding: MaskEncoding
    drop_policy: DropPolicy
    max_staleness_s: float | None
    with_logits: bool
    settings: TrackSettings

    @property
    def shape(self) -> str:
        """What a session's memory bank depends on, in words: size and profile."""
        height, width = self.size
        return f"{height}x{width} (height x width), {self.settings.profile}"


def grant(wanted: Open, config: SessionConfig) -> Terms:
    """Fills in what the client left to the server."""
    blocking = wanted.drop_policy is DropPolicy.BLOCK
    settings = profile_settings(wanted.profile, config)
    if wanted.corrections_as_conditioning is not None:
        settings = replace(settings, corrections_as_conditioning=wanted.corrections_as_conditioning)
    if wanted.max_conditioning_frames:
        settings = replace(settings, max_conditioning_frames=wanted.max_conditioning_frames)
    settings = replace(settings, frame_rate_hz=wanted.target_frame_rate_hz)
    return Terms(
        codec=wanted.codec,
        size=wanted.size,
        mask_encoding=wanted.mask_encoding,
        drop_policy=wanted.drop_policy,
        max_staleness_s=None if blocking else wanted.max_staleness_s or None,
        with_logits=wanted.with_logits,
        settings=settings,
    )


def profile_settings(profile: Profile | None, config: SessionConfig) -> TrackSettings:
    """The settings of a parameter set, None: the server's default; `VOS` fills no holes and keeps no corrections."""
    chosen = config.default_profile if profile is None else profile
    settings = TrackSettings(
        profile=chosen,
        max_conditioning_frames=config.max_conditioning_frames,
        history_frames=config.history_frames,
    )
    if chosen is Profile.INTERACTIVE:
        return settings
    return replace(settings, corrections_as_conditioning=False, fill_hole_area=0)


def opened(
    session_id: str, terms: Terms, *, limits: Limits, next_seq: int, origin: StateOrigin, token: bytes
) -> Opened:
    """Tells the client what it was granted."""
    return Opened(
        session_id=session_id,
        limits=limits,
        state_origin=origin,
        resume_token=token,
        next_seq=next_seq,
        drop_policy=terms.drop_policy,
        profile=terms.settings.profile,
        mask_encoding=terms.mask_encoding,
    )


def announce_limits(limits: LimitsConfig, config: SessionConfig) -> Limits:
    """The limits as told to clients."""
    return Limits(
        max_frame_bytes=limits.max_frame_bytes,
        max_frame_height=limits.max_frame_height,
        max_frame_width=limits.max_frame_width,
        max_frame_pixels=limits.max_frame_pixels,
        max_objects=limits.max_objects,
        max_points_per_prompt=limits.max_points_per_prompt,
        max_prompts_per_frame=limits.max_prompts_per_frame,
        max_prompts_per_object=limits.max_prompts_per_object,
        history_frames=config.history_frames,
        idle_timeout_s=config.idle_timeout_s,
        resume_ttl_s=config.resume_ttl_s,
    )
