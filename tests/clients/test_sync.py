"""The client without `await`."""

import asyncio
import signal
import threading
from collections.abc import Iterator

import numpy as np
import pytest
from tests.elsewhere import elsewhere

from masklet.backends.fake import FakeBackend, Hold
from masklet.errors import BackendUnavailable, InvalidPrompt, UnknownObject
from masklet.types import ImageArray, Prompt
from masklet_client import PromptApplied, Result, sync

from .conftest import SIZE, running


def test_click_send_and_next(far_address: str, frames: list[ImageArray]) -> None:
    with sync.connect(far_address) as client, client.track(SIZE, policy="block") as stream:
        stream.click(1, (30, 20))
        seq = stream.send(frames[0])
        result = next(stream)
    assert result.frame_seq == seq and result[1].mask[20, 30]
    assert client.server.model.backend == "fake" and stream.opened.session_id


def test_all_kinds_of_prompt(far_address: str, frames: list[ImageArray]) -> None:
    mask = np.zeros(SIZE, np.bool_)
    mask[5, 5] = True
    with sync.connect(far_address) as client, client.track(SIZE, policy="block") as stream:
        stream.box(1, (1, 1, 5, 5))
        stream.mask(2, mask)
        stream.prompt(Prompt.clicks(3, [(9, 9)]))
        stream.send(frames[0])
        assert [found.object_id for found in next(stream).objects] == [1, 2, 3]
        stream.remove(2)
        stream.send(frames[0])
        assert [found.object_id for found in next(stream).objects] == [1, 3]
        stream.reset()
        stream.send(frames[0])
        assert next(stream).objects == ()


def test_iteration_ends_after_finish(far_address: str, frames: list[ImageArray]) -> None:
    with sync.connect(far_address) as client, client.track(SIZE, policy="block") as stream:
        for frame in frames:
            stream.send(frame)
        stream.finish()
        assert [result.frame_index for result in stream] == list(range(10))


def test_events_and_latest(far_address: str, frames: list[ImageArray]) -> None:
    with sync.connect(far_address) as client, client.track(SIZE) as stream:
        assert stream.latest() is None
        stream.click(1, (30, 20))
        stream.send(frames[0])
        stream.finish()
        assert {type(event) for event in stream.events()} == {PromptApplied, Result}


def test_follow(far_address: str, frames: list[ImageArray]) -> None:
    with sync.connect(far_address) as client:
        results = list(client.follow(frames, [Prompt.clicks(1, [(9, 9)])]))
    assert [result.frame_index for result in results] == list(range(10))


def test_leaving_follow_early(far_address: str, frames: list[ImageArray]) -> None:
    with sync.connect(far_address) as client:
        for result in client.follow(frames, [Prompt.clicks(1, [(9, 9)])]):
            if result.frame_index == 2:
                break
        assert client.describe().model.backend == "fake"


@pytest.fixture
def ctrl_c_interrupts() -> Iterator[None]:
    """Whatever handler an earlier test of this process has left."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c_interrupts")
def test_ctrl_c_in_follow_is_what_the_caller_gets(frames: list[ImageArray]) -> None:
    """While the server is busy, so that closing the stream takes a moment."""
    press = threading.Timer(0.5, signal.pthread_kill, (threading.main_thread().ident, signal.SIGINT))
    backend = FakeBackend([Hold(asyncio.Event(), step=2)])
    with elsewhere(running(backend)) as (server, _), sync.connect(f"127.0.0.1:{server.port}") as client:
        with pytest.raises(KeyboardInterrupt):
            for _ in client.follow(frames, [Prompt.clicks(1, [(9, 9)])]):
                press.start()
        press.join()
        assert not [task for task in asyncio.all_tasks(client._loop._loop) if "TrackStream" in repr(task)]
        assert client.describe().model.backend == "fake"


def test_segment(far_address: str, frames: list[ImageArray]) -> None:
    with sync.connect(far_address) as client:
        assert client.segment(frames[0], [Prompt.clicks(4, [(9, 9)])]).objects[0].object_id == 4


def test_errors_are_raised_in_the_callers_thread(far_address: str, frames: list[ImageArray]) -> None:
    with sync.connect(far_address) as client, client.track(SIZE, raise_request_errors=True) as stream:
        with pytest.raises(InvalidPrompt):
            stream.click(1, (999, 0))
        stream.remove(5)
        stream.send(frames[0])
        with pytest.raises(UnknownObject):
            next(stream)
        assert [type(failed.error) for failed in stream.failures] == [UnknownObject]


def test_failed_connection_leaves_no_thread_behind() -> None:
    before = threading.active_count()
    with pytest.raises(BackendUnavailable, match=r"127\.0\.0\.1:1"), sync.connect("127.0.0.1:1"):
        pass
    assert threading.active_count() <= before
