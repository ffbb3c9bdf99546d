"""One frame decoded ahead, and nothing of it left behind."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import numpy as np

from masklet.session.lookahead import Lookahead
from masklet.types import FrameCodec


async def test_a_frame_decoded_ahead_is_not_kept_when_it_is_given_up() -> None:
    image = np.zeros((4, 6, 3), np.uint8)
    ahead = Lookahead(FrameCodec.RGB8, (4, 6), clock=lambda: 0.0)
    frame = cast("Any", SimpleNamespace(frame=SimpleNamespace(payload=image.tobytes())))
    ahead.start(frame)
    assert ahead._ahead is not None
    await asyncio.wait([ahead._ahead[1]])
    await ahead.stop()
    assert ahead._ahead is None
