from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from masklet.config import LimitsConfig
from masklet.errors import InvalidFrame, InvalidOpen, InvalidPrompt, LimitExceeded, MaskletError
from masklet.session.messages import Open
from masklet.session.validation import check_object_id, check_open, check_payload, check_prompt, limits_of_frames
from masklet.types import FrameCodec, Prompt, Size

LIMITS = LimitsConfig(max_frame_height=100, max_frame_width=200, max_frame_pixels=10_000, max_frame_bytes=2048)
OPEN = Open(FrameCodec.RGB8, (50, 100))
SIZE = (16, 24)


def test_an_open_may_go_up_to_the_limits_and_no_further() -> None:
    widest = replace(OPEN, size=(50, 200), target_frame_rate_hz=30.0, max_staleness_s=0.2, max_conditioning_frames=64)
    check_open(widest, LIMITS)
    with pytest.raises(LimitExceeded):
        check_open(replace(widest, size=(50, 201)), LIMITS)


def test_a_session_that_was_admitted_keeps_its_frame_rate() -> None:
    check_open(replace(OPEN, target_frame_rate_hz=1000.0, resume_token=b"token"), LIMITS)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"codec": FrameCodec.AV1}, InvalidOpen, "av1 is not supported; supported: jpeg"),
        ({"size": (0, 100)}, InvalidOpen, "0 x 100"),
        ({"size": (101, 10)}, LimitExceeded, "101 pixels, the limit is 100"),
        ({"size": (10, 201)}, LimitExceeded, "201 pixels, the limit is 200"),
        ({"size": (100, 101)}, LimitExceeded, "10100 pixels, the limit is 10000"),
        ({"target_frame_rate_hz": math.nan}, InvalidOpen, "rate_hz is nan"),
        ({"target_frame_rate_hz": -1.0}, InvalidOpen, "rate_hz is -1"),
        ({"target_frame_rate_hz": 240.5}, LimitExceeded, r"rate_hz is 240\.5, the limit is 240"),
        ({"max_staleness_s": math.inf}, InvalidOpen, "max_staleness is inf"),
        ({"max_staleness_s": -0.5}, InvalidOpen, "max_staleness is -0.5"),
        ({"max_conditioning_frames": 65}, LimitExceeded, "65, the limit is 64"),
        ({"unanswered_seqs": (1,) * 4097}, LimitExceeded, "4097 frames, the limit is 4096"),
        ({"last_server_seq": 2**63}, LimitExceeded, "seq is 9223372036854775808, the limit is 9223372036854775807"),
    ],
)
def test_a_bad_open_is_refused(change: dict[str, object], error: type[MaskletError], words: str) -> None:
    with pytest.raises(error, match=words):
        check_open(replace(OPEN, **change), LIMITS)  # type: ignore[arg-type]


def with_box(*box: float) -> Prompt:
    return Prompt(1, box=np.array(box, np.float32))


def with_mask(mask: np.ndarray[tuple[int, int], np.dtype[np.bool_]]) -> Prompt:
    return Prompt(1, mask=mask)


@pytest.mark.parametrize(
    "prompt",
    [
        Prompt.clicks(1, [(0, 0), (24, 16)], [1, 0]),
        Prompt.clicks(2**31 - 1, [(1, 1)]),
        with_box(0, 0, 24, 16),
        with_mask(np.eye(16, 24, dtype=bool)),
        replace(Prompt.clicks(1, [(3, 3)]), box=np.array([1, 2, 3, 4], np.float32)),
    ],
)
def test_a_sensible_prompt_passes_but_not_for_object_0(prompt: Prompt) -> None:
    check_prompt(prompt, SIZE, LIMITS)
    with pytest.raises(InvalidPrompt, match="object id is 0"):
        check_prompt(replace(prompt, object_id=0), SIZE, LIMITS)


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        (Prompt(1), "no points, box or mask"),
        (Prompt.clicks(0, [(1, 1)]), "object id is 0"),
        (Prompt.clicks(2**31, [(1, 1)]), "object id is 2147483648"),
        (Prompt.clicks(1, [(24.5, 1)]), r"\(24.5, 1.0\) is outside the frame, width 24"),
        (Prompt.clicks(1, [(1, 16.5)]), "outside the frame"),
        (Prompt.clicks(1, [(-0.5, 1)]), "outside the frame"),
        (Prompt.clicks(1, [(1, 1), (math.nan, 1)]), r"\(nan, 1.0\) is outside"),
        (Prompt.clicks(1, [(math.inf, 1)]), "outside the frame"),
        (Prompt.clicks(1, [(1, 1)], [2]), "label is 2"),
        (Prompt.clicks(1, [(1, 1)], [1, 1]), r"labels \[2\]"),
        (with_box(5, 5, 5, 8), "x_min < x_max"),
        (with_box(9, 5, 5, 8), "x_min < x_max"),
        (with_box(1, 9, 5, 8), "y_min < y_max"),
        (with_box(1, 1, 25, 8), "<= 24"),
        (with_box(-1, 1, 5, 8), "0 <= x_min"),
        (with_box(math.nan, 1, 5, 8), "nan"),
        (with_box(1, 1, 5), r"shape \[3\]"),
        (with_mask(np.ones((24, 16), bool)), r"\[24, 16\], the frame is \[16, 24\]"),
        (with_mask(np.zeros((16, 24), bool)), "is empty"),
        (replace(Prompt.clicks(1, [(1, 1)]), mask=np.ones((16, 24), bool)), "excludes points"),
    ],
)
def test_a_bad_prompt_is_refused(prompt: Prompt, words: str) -> None:
    with pytest.raises(InvalidPrompt, match=words):
        check_prompt(prompt, SIZE, LIMITS)


def test_ten_thousand_points_are_refused() -> None:
    with pytest.raises(LimitExceeded, match="10000 points, the limit is 64"):
        check_prompt(Prompt.clicks(1, [(1, 1)] * 10_000), SIZE, LIMITS)


def test_an_object_id_out_of_range_is_refused() -> None:
    with pytest.raises(InvalidPrompt, match="-1"):
        check_object_id(-1, field="prompt.object_id")


@pytest.mark.parametrize(
    ("payload", "error", "words"),
    [
        (b"", InvalidFrame, "empty"),
        (b"x" * 2049, LimitExceeded, "2049 bytes, the limit is 2048"),
        (b"x" * 100, InvalidFrame, "100 bytes, must be 16 x 24 x 3 = 1152"),
    ],
)
def test_a_bad_frame_is_refused(payload: bytes, error: type[MaskletError], words: str) -> None:
    with pytest.raises(error, match=words):
        check_payload(FrameCodec.RGB8, payload, SIZE, LIMITS)


@pytest.mark.parametrize(
    ("size", "objects"), [((16, 24), 64), ((1080, 1920), 64), ((4096, 4096), 7), ((2160, 3840), 16)]
)
def test_frames_so_large_that_masks_would_fill_the_memory_may_have_fewer_objects(size: Size, objects: int) -> None:
    assert limits_of_frames(LimitsConfig(), size).max_objects == objects
    assert limits_of_frames(LimitsConfig(max_mask_pixels=1), size).max_objects == 1
