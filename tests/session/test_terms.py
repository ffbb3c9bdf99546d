from __future__ import annotations

from dataclasses import replace

import pytest

from masklet.config import LimitsConfig, SessionConfig
from masklet.session.messages import Open
from masklet.session.terms import announce_limits, grant, profile_settings
from masklet.types import DropPolicy, FrameCodec, Profile

OPEN = Open(FrameCodec.JPEG, (4, 4))
CONFIG = SessionConfig(history_frames=5, max_conditioning_frames=7)


def test_what_is_left_to_the_server_comes_from_its_configuration() -> None:
    settings = grant(OPEN, CONFIG).settings
    assert (settings.profile, settings.history_frames, settings.max_conditioning_frames) == (Profile.INTERACTIVE, 5, 7)
    assert profile_settings(None, replace(CONFIG, default_profile=Profile.VOS)).profile is Profile.VOS


@pytest.mark.parametrize(("profile", "corrections", "holes"), [(Profile.INTERACTIVE, True, 8), (Profile.VOS, False, 0)])
def test_profiles_differ(profile: Profile, corrections: bool, holes: int) -> None:
    settings = grant(replace(OPEN, profile=profile), CONFIG).settings
    assert (settings.corrections_as_conditioning, settings.fill_hole_area) == (corrections, holes)


@pytest.mark.parametrize("wanted", [True, False])
def test_what_the_client_chose_is_granted(wanted: bool) -> None:
    chosen = replace(OPEN, corrections_as_conditioning=wanted, max_conditioning_frames=2)
    settings = grant(chosen, CONFIG).settings
    assert (settings.corrections_as_conditioning, settings.max_conditioning_frames) == (wanted, 2)


def test_staleness_is_for_latest_only() -> None:
    stale = replace(OPEN, max_staleness_s=0.5)
    assert grant(stale, CONFIG).max_staleness_s == 0.5
    assert grant(replace(stale, drop_policy=DropPolicy.BLOCK), CONFIG).max_staleness_s is None


def test_limits_are_announced_as_configured() -> None:
    announced = announce_limits(LimitsConfig(max_objects=3), SessionConfig(history_frames=2, idle_timeout_s=9.0))
    assert (announced.max_objects, announced.history_frames, announced.idle_timeout_s) == (3, 2, 9.0)
    assert announced.resume_ttl_s == 60.0
