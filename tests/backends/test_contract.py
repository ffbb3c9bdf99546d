"""What any backend must do; see `masklet.backends.base`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import numpy as np
import pytest
from tests.backends.contract import BACKENDS, NAMES, SETTINGS, SIZE, click, correction, frame

from masklet.backends.base import Backend
from masklet.errors import (
    BackendError,
    BackendUnavailable,
    SessionStateLost,
    SessionSuperseded,
    UnknownFrame,
    UnknownObject,
)
from masklet.types import ObjectMask, Prompt, PromptMode, StepRequest, StepResult, TrackSettings


@pytest.fixture(params=NAMES)
async def backend(request: pytest.FixtureRequest) -> AsyncIterator[Backend]:
    made = await BACKENDS[request.param]()
    async with made as entered:
        yield entered


@pytest.fixture
async def opened(backend: Backend) -> Backend:
    await backend.open("s", SETTINGS)
    return backend


def ids(result: StepResult) -> list[int]:
    return [found.object_id for found in result.objects]


def same(one: ObjectMask, other: ObjectMask) -> bool:
    scores = (one.object_id, one.object_score, one.predicted_iou)
    return scores == (other.object_id, other.object_score, other.predicted_iou) and np.array_equal(one.mask, other.mask)


def same_results(one: StepResult, other: StepResult) -> bool:
    return ids(one) == ids(other) and all(map(same, one.objects, other.objects))


async def test_a_frame_without_objects_has_an_empty_answer(opened: Backend) -> None:
    result = await opened.step("s", frame(1))
    assert (result.frame_seq, result.objects, result.revised) == (1, (), False)


async def test_all_objects_are_listed_by_rising_id(opened: Backend) -> None:
    first = await opened.step("s", frame(4, click(9), click(2, 40, 10), click(5, 30, 40)))
    second = await opened.step("s", frame(7))
    assert ids(first) == ids(second) == [2, 5, 9]
    assert (first.frame_seq, second.frame_seq) == (4, 7)


async def test_masks_are_of_the_frame_s_size_and_scores_finite(opened: Backend) -> None:
    (found,) = (await opened.step("s", frame(1, click()))).objects
    assert (found.mask.shape, found.mask.dtype) == (SIZE, np.dtype(bool))
    assert np.isfinite(found.object_score)
    assert 0 <= found.predicted_iou <= 1
    assert found.logits is None
    assert found.pointer is None


async def test_logits_and_pointers_come_if_asked_for(opened: Backend) -> None:
    request = StepRequest(1, frame(1).image, (click(),), with_logits=True, with_pointers=True)
    (found,) = (await opened.step("s", request)).objects
    side = opened.describe().input_size // 4
    assert found.logits is not None
    assert found.pointer is not None
    assert (found.logits.shape, found.logits.dtype) == ((side, side), np.dtype(np.float32))
    assert (found.pointer.shape, found.pointer.dtype) == ((256,), np.dtype(np.float32))


@pytest.mark.parametrize("mode", PromptMode)
async def test_an_object_may_be_prompted_again(opened: Backend, mode: PromptMode) -> None:
    await opened.step("s", frame(1, click()))
    assert ids(await opened.step("s", frame(2, click(1, 18, 24, mode=mode)))) == [1]


async def test_boxes_and_masks_prompt_objects_too(opened: Backend) -> None:
    mask = np.zeros(SIZE, bool)
    mask[10:20, 10:20] = True
    box = Prompt(1, box=np.array([8, 16, 24, 32], np.float32))
    assert ids(await opened.step("s", frame(1, box, Prompt(2, mask=mask)))) == [1, 2]


async def test_objects_may_come_later_and_be_removed(opened: Backend) -> None:
    await opened.step("s", frame(1, click(1)))
    assert ids(await opened.step("s", frame(2, click(2, 40, 10)))) == [1, 2]
    assert ids(await opened.step("s", frame(3, remove=(1,)))) == [2]
    assert ids(await opened.step("s", frame(4, click(1)))) == [1, 2]


async def test_removing_and_prompting_in_one_step_makes_a_new_object(opened: Backend) -> None:
    await opened.step("s", frame(1, click(1)))
    assert ids(await opened.step("s", frame(2, click(1), remove=(1,)))) == [1]


async def test_reset_comes_first(opened: Backend) -> None:
    await opened.step("s", frame(1, click(1), click(2)))
    assert ids(await opened.step("s", frame(2, click(3), reset=True))) == [3]


async def test_a_correction_revises_the_corrected_objects_only(opened: Backend) -> None:
    await opened.step("s", frame(1, click(1), click(2, 40, 10)))
    await opened.step("s", frame(2))
    revised = await opened.step("s", correction(2, click(2, 42, 12)))
    assert (revised.frame_seq, revised.revised, ids(revised)) == (2, True, [2])
    assert ids(await opened.step("s", frame(3))) == [1, 2]


async def test_frames_in_the_history_window_may_be_corrected(opened: Backend) -> None:
    for seq in range(1, 6):
        await opened.step("s", frame(seq, *([click()] if seq == 1 else [])))
    for seq in (3, 4, 5):
        assert (await opened.step("s", correction(seq, click()))).revised
    for seq in (2, 6):
        with pytest.raises(UnknownFrame):
            await opened.step("s", correction(seq, click()))


async def test_reset_empties_the_history(opened: Backend) -> None:
    await opened.step("s", frame(1, click()))
    await opened.step("s", frame(2, reset=True))
    with pytest.raises(UnknownFrame):
        await opened.step("s", correction(1, click()))


async def test_removing_what_is_not_tracked_is_an_error(opened: Backend) -> None:
    await opened.step("s", frame(1, click(1)))
    with pytest.raises(UnknownObject):
        await opened.step("s", frame(2, remove=(2,)))


@pytest.mark.parametrize(
    "bad", [frame(2, click(5), remove=(9,)), frame(2, click(5), remove=(1, 9)), correction(77, click(5))]
)
async def test_a_step_that_raises_leaves_the_session_as_it_was(opened: Backend, bad: StepRequest) -> None:
    await opened.step("s", frame(1, click(1)))
    before = await opened.export_state("s")
    with pytest.raises((UnknownObject, UnknownFrame)):
        await opened.step("s", bad)
    await opened.import_state("twin", before)
    assert same_results(await opened.step("s", frame(3)), await opened.step("twin", frame(3)))


async def test_the_same_requests_give_the_same_answers(opened: Backend) -> None:
    await opened.open("t", SETTINGS)
    for request in (frame(1, click()), frame(2), correction(2, click(1, 18, 26)), frame(3)):
        assert same_results(await opened.step("s", request), await opened.step("t", request))


async def test_an_exported_state_goes_on_bit_for_bit(opened: Backend) -> None:
    for request in (frame(1, click(1)), frame(2, click(2, 40, 10)), frame(3)):
        await opened.step("s", request)
    await opened.import_state("twin", await opened.export_state("s"))
    for request in (frame(4), correction(3, click(1, 20, 24)), frame(5, click(3, 9, 9), remove=(2,)), frame(6)):
        assert same_results(await opened.step("s", request), await opened.step("twin", request))


async def test_exporting_changes_nothing_and_can_be_repeated(opened: Backend) -> None:
    await opened.step("s", frame(1, click()))
    once = await opened.export_state("s")
    assert await opened.export_state("s") == once
    await opened.import_state("twin", once)
    assert await opened.export_state("twin") == once


async def test_settings_travel_with_the_state(backend: Backend) -> None:
    await backend.open("s", TrackSettings(history_frames=1))
    await backend.step("s", frame(1, click()))
    await backend.import_state("twin", await backend.export_state("s"))
    await backend.step("twin", frame(2))
    with pytest.raises(UnknownFrame):
        await backend.step("twin", correction(1, click()))


@pytest.mark.parametrize("cut", ["nothing", "half", "garbage"])
async def test_what_is_no_exported_state_is_refused(opened: Backend, cut: str) -> None:
    state = await opened.export_state("s")
    bad = {"nothing": b"", "half": state[: len(state) // 2], "garbage": b"garbage" * 50}[cut]
    with pytest.raises(BackendError):
        await opened.import_state("twin", bad)
    with pytest.raises(SessionStateLost):
        await opened.step("twin", frame(1))


async def test_an_id_can_be_open_once(opened: Backend) -> None:
    state = await opened.export_state("s")
    with pytest.raises(BackendError):
        await opened.open("s", SETTINGS)
    with pytest.raises(BackendError):
        await opened.import_state("s", state)


async def test_an_unknown_session_has_lost_its_state(backend: Backend) -> None:
    with pytest.raises(SessionStateLost):
        await backend.step("nobody", frame(1))
    with pytest.raises(SessionStateLost):
        await backend.export_state("nobody")


async def test_a_session_may_be_attached_with_a_higher_epoch_and_goes_on(opened: Backend) -> None:
    await opened.step("s", frame(1, click()))
    await opened.attach("s", 2)
    await opened.attach("s", 7)
    assert ids(await opened.step("s", frame(2))) == [1]


async def test_a_new_owner_is_told_what_the_bank_holds(opened: Backend) -> None:
    empty = await opened.attach("s", 2)
    assert (empty.last_frame_seq, empty.object_ids, empty.history) == (0, (), ())
    for seq, prompts in ((3, (click(),)), (5, ())):
        await opened.step("s", frame(seq, *prompts))
    held = await opened.attach("s", 3, location=opened.location("s"))
    assert (held.last_frame_seq, held.object_ids) == (5, (1,))
    assert held.history == (3, 5)[-SETTINGS.history_frames :]


@pytest.mark.parametrize("late", [1, 4, 5])
async def test_an_epoch_that_is_not_higher_is_superseded(opened: Backend, late: int) -> None:
    await opened.attach("s", 5)
    with pytest.raises(SessionSuperseded, match="epoch 5"):
        await opened.attach("s", late)
    assert (await opened.step("s", frame(1))).frame_seq == 1


async def test_what_is_not_open_cannot_be_attached(opened: Backend) -> None:
    await opened.close("s")
    for name in ("s", "nobody"):
        with pytest.raises(SessionStateLost):
            await opened.attach(name, 2)


async def test_a_session_opened_again_begins_with_the_first_epoch(opened: Backend) -> None:
    await opened.attach("s", 9)
    await opened.close("s")
    await opened.open("s", SETTINGS)
    assert (await opened.attach("s", 2)).object_ids == ()


async def test_closing_forgets_and_can_be_repeated(opened: Backend) -> None:
    await opened.step("s", frame(1, click()))
    await opened.close("s")
    await opened.close("s")
    with pytest.raises(SessionStateLost):
        await opened.step("s", frame(2))
    await opened.open("s", SETTINGS)
    assert ids(await opened.step("s", frame(1))) == []


async def test_sessions_run_at_the_same_time_and_do_not_mix(backend: Backend) -> None:
    names = [f"s{number}" for number in range(4)]
    for name in names:
        await backend.open(name, SETTINGS)
    requests = [frame(1, click(number + 1, 16 + 4 * number, 24)) for number in range(4)]
    await asyncio.gather(*(backend.step(name, request) for name, request in zip(names, requests, strict=True)))
    results = await asyncio.gather(*(backend.step(name, frame(2)) for name in names))
    assert [ids(result) for result in results] == [[1], [2], [3], [4]]


async def test_a_failing_session_does_not_disturb_another(opened: Backend) -> None:
    await opened.open("t", SETTINGS)
    failed, answered = await asyncio.gather(
        opened.step("s", frame(1, remove=(1,))), opened.step("t", frame(1, click())), return_exceptions=True
    )
    assert isinstance(failed, UnknownObject)
    assert isinstance(answered, StepResult)


async def test_stats_count_sessions_banks_and_steps(opened: Backend) -> None:
    await opened.step("s", frame(1, click()))
    held = opened.stats()
    assert held.sessions == 1
    assert held.bank_bytes > 0
    assert 1 <= held.batches <= held.batched_steps
    await opened.close("s")
    assert (opened.stats().sessions, opened.stats().bank_bytes) == (0, 0)


@pytest.mark.parametrize("name", NAMES)
async def test_a_backend_that_was_left_is_unavailable(name: str) -> None:
    backend = await BACKENDS[name]()
    async with backend:
        await backend.open("s", SETTINGS)
    with pytest.raises((BackendUnavailable, SessionStateLost)):
        await backend.step("s", frame(1))
