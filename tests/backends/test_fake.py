from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np
import pytest

from masklet.backends.fake import Cue, Delay, FakeBackend, Fault, Hold
from masklet.errors import BackendError, BackendUnavailable, SessionStateLost
from masklet.types import MaskArray, Prompt, StepRequest, TrackSettings

SIZE = (16, 24)


def frame(seq: int, *prompts: Prompt) -> StepRequest:
    return StepRequest(seq, np.zeros((*SIZE, 3), np.uint8), prompts)


async def opened(script: Sequence[Cue] = ()) -> FakeBackend:
    backend = await FakeBackend(script).__aenter__()
    await backend.open("s", TrackSettings(history_frames=2))
    return backend


async def mask_of(backend: FakeBackend, request: StepRequest) -> MaskArray:
    return (await backend.step("s", request)).objects[0].mask


def pixels(*spans: tuple[int, int, int]) -> MaskArray:
    """Rows and the columns set in them: (y, x from, x to exclusive)."""
    mask = np.zeros(SIZE, bool)
    for y, start, stop in spans:
        mask[y, start:stop] = True
    return mask


async def test_a_click_is_a_disc_of_an_eighth_of_the_shorter_side() -> None:
    disc = await mask_of(await opened(), frame(1, Prompt.clicks(1, [(8, 8)])))
    assert np.array_equal(disc, pixels((6, 7, 9), (7, 6, 10), (8, 6, 10), (9, 7, 9)))


async def test_the_last_include_click_counts() -> None:
    prompt = Prompt.clicks(1, [(2, 2), (8, 8), (20, 12)], [1, 1, 0])
    assert np.array_equal(
        await mask_of(await opened(), frame(1, prompt)),
        await mask_of(await opened(), frame(1, Prompt.clicks(1, [(8, 8)]))),
    )


async def test_a_box_is_filled() -> None:
    box = Prompt(1, box=np.array([3, 4, 6, 6], np.float32))
    assert np.array_equal(await mask_of(await opened(), frame(1, box)), pixels((4, 3, 6), (5, 3, 6)))


async def test_a_mask_moves_right_and_out_of_sight() -> None:
    backend = await opened()
    await backend.step("s", frame(1, Prompt(1, mask=pixels((3, 21, 23)))))
    assert np.array_equal(await mask_of(backend, frame(2)), pixels((3, 22, 24)))
    assert np.array_equal(await mask_of(backend, frame(3)), pixels((3, 23, 24)))
    (gone,) = (await backend.step("s", frame(4))).objects
    assert (bool(gone.mask.any()), gone.object_score, gone.predicted_iou) == (False, -1.0, 0.0)


async def test_old_points_are_kept_if_asked_for() -> None:
    backend = await opened()
    await backend.step("s", frame(1, Prompt.clicks(1, [(8, 8)])))
    exclude = Prompt.clicks(1, [(3, 3)], [0], keep_old_points=True)
    kept = (await backend.step("s", StepRequest(1, None, (exclude,)))).objects[0].mask
    replaced = (await backend.step("s", StepRequest(1, None, (Prompt.clicks(1, [(3, 3)], [0]),)))).objects[0].mask
    assert (kept.sum(), replaced.sum()) == (12, 0)


async def test_a_correction_of_an_older_frame_moves_on_from_there() -> None:
    backend = await opened()
    await backend.step("s", frame(1, Prompt(1, mask=pixels((3, 1, 2)))))
    await backend.step("s", frame(2))
    await backend.step("s", StepRequest(1, None, (Prompt(1, mask=pixels((5, 10, 12))),)))
    assert np.array_equal(await mask_of(backend, frame(3)), pixels((5, 12, 14)))


async def test_frames_must_come_in_order() -> None:
    backend = await opened()
    await backend.step("s", frame(3))
    with pytest.raises(BackendError, match="frame 3 comes after frame 3"):
        await backend.step("s", frame(3))


async def test_a_scripted_fault_comes_once_and_changes_nothing() -> None:
    backend = await opened([Fault(SessionStateLost("scripted"), step=2)])
    await backend.step("s", frame(1, Prompt(1, mask=pixels((3, 1, 2)))))
    with pytest.raises(SessionStateLost, match="scripted"):
        await backend.step("s", frame(2))
    assert np.array_equal(await mask_of(backend, frame(3)), pixels((3, 2, 3)))


async def test_a_scripted_delay_delays() -> None:
    backend = await opened([Delay(0.05)])
    started = asyncio.get_running_loop().time()
    await backend.step("s", frame(1))
    assert asyncio.get_running_loop().time() - started >= 0.045


async def test_a_held_step_waits_and_may_be_cancelled() -> None:
    release = asyncio.Event()
    backend = await opened([Hold(release, step=1)])
    held = asyncio.create_task(backend.step("s", frame(1, Prompt.clicks(1, [(8, 8)]))))
    await asyncio.sleep(0)
    assert backend.steps_started == 1
    held.cancel()
    await asyncio.wait([held])
    assert (await backend.step("s", frame(1))).objects == ()


async def test_leaving_ends_a_held_step() -> None:
    release = asyncio.Event()
    backend = await opened([Hold(release)])
    held = asyncio.create_task(backend.step("s", frame(1)))
    await asyncio.sleep(0)
    await backend.__aexit__(None, None, None)
    release.set()
    with pytest.raises(BackendUnavailable):
        await held


async def test_it_says_that_it_is_a_fake() -> None:
    described = FakeBackend(input_size=128).describe()
    assert (described.backend, described.trained, described.input_size) == ("fake", False, 128)


async def test_a_state_of_another_format_is_refused() -> None:
    import io

    sink = io.BytesIO()
    np.savez(sink, header=np.frombuffer(b'{"format": "other"}', np.uint8))
    with pytest.raises(BackendError, match="not an exported state"):
        await (await opened()).import_state("t", sink.getvalue())
