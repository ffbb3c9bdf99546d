"""One frame decoded ahead, and nothing of it left behind."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from masklet.session.lookahead import Lookahead
from masklet.types import FrameCodec, ImageArray

IMAGE = np.zeros((4, 6, 3), np.uint8)


class Beginning:
    """A backend that begins on every frame it is shown."""

    def __init__(self) -> None:
        self.begun: list[Future[Any]] = []

    def begin(self, image: ImageArray) -> Future[Any]:
        assert image.shape == IMAGE.shape
        self.begun.append(Future())
        return self.begun[-1]


@pytest.fixture
def backend() -> Beginning:
    return Beginning()


@pytest.fixture
def ahead(backend: Beginning) -> Lookahead:
    return Lookahead(FrameCodec.RGB8, (4, 6), clock=lambda: 0.0, begin=backend.begin)


def waiting(payload: bytes = IMAGE.tobytes()) -> Any:
    return cast("Any", SimpleNamespace(frame=SimpleNamespace(payload=payload)))


async def prepared(ahead: Lookahead) -> None:
    assert ahead._ahead is not None
    await asyncio.wait([ahead._ahead[1]])


async def test_a_frame_decoded_ahead_is_not_kept_when_it_is_given_up(ahead: Lookahead, backend: Beginning) -> None:
    ahead.start(waiting())
    await prepared(ahead)
    await ahead.stop()
    assert ahead._ahead is None
    assert [begun.cancelled() for begun in backend.begun] == [True]


async def test_the_backend_begins_on_the_frame_ahead_and_on_no_other(ahead: Lookahead, backend: Beginning) -> None:
    first, second, third = waiting(), waiting(), waiting()
    assert (await ahead.decode(first)).begun is None
    ahead.start(second)
    decoded = await ahead.decode(second)
    assert [decoded.begun] == backend.begun
    ahead.start(third)
    await prepared(ahead)
    assert (await ahead.decode(first)).begun is None  # the third was dropped
    assert [begun.cancelled() for begun in backend.begun] == [False, True]


async def test_nothing_is_begun_of_a_frame_that_cannot_be_decoded(ahead: Lookahead, backend: Beginning) -> None:
    frame = waiting(b"short")
    ahead.start(frame)
    decoded = await ahead.decode(frame)
    assert decoded.error is not None
    assert (decoded.begun, backend.begun) == (None, [])
