"""Batches: sessions and objects together answer as they would alone; failures touch nobody else."""

from __future__ import annotations

from dataclasses import replace
from unittest import mock

import numpy as np
import pytest
import torch
from tests.engine.driver import (
    box,
    click,
    correction,
    distance,
    frame,
    identical,
    numbers,
    only,
    pages_used,
    painted,
    present,
    step,
    steps,
)

import masklet.model.mask_decoder
from masklet.engine import Engine, EngineSettings
from masklet.errors import BackendError, InvalidPrompt, SessionStateLost, UnknownFrame, UnknownObject
from masklet.model import SAM2, HieraConfig, SAM2Config
from masklet.model.stand_in import draw
from masklet.types import Profile, Prompt, StepRequest, StepResult, TrackSettings

WIDE, TALL = (32, 72), (60, 44)
TOLERANCE = 1e-3  # of logits up to 100: float32 products in another order
SETTINGS = {
    "clicks": TrackSettings(history_frames=3),
    "vos": TrackSettings(Profile.VOS, corrections_as_conditioning=False, fill_hole_area=0),
    "late": TrackSettings(max_conditioning_frames=1, history_frames=2),
    "short": TrackSettings(fill_hole_area=3, video_frames=5),
}
TURNS: list[dict[str, StepRequest]] = [
    {
        "clicks": frame(1, click(1), click(7, 30, 20)),
        "vos": frame(1, painted(2, slice(5, 30), slice(4, 40), WIDE), size=WIDE),
    },
    {"clicks": frame(2), "vos": frame(2, click(3, 20, 9), size=WIDE)},
    {"vos": frame(3, size=WIDE), "late": frame(8, box(4, 5, 5, 30, 40), size=TALL)},
    {"clicks": correction(2, click(7, 33, 21)), "vos": frame(4, size=WIDE), "short": frame(1, click(1))},
    {"clicks": frame(3), "late": frame(9, click(4, 20, 30, restart=True), click(5), size=TALL), "short": frame(2)},
    {"clicks": frame(4, click(1, 14, 17)), "vos": frame(5, box(2, 4, 4, 40, 28), size=WIDE), "short": frame(3)},
    {"late": correction(8, click(4, 10, 10), click(4, 20, 25, keep=True)), "short": frame(4, remove=(1,))},
    {"clicks": frame(5), "vos": frame(6, size=WIDE), "late": frame(10, size=TALL), "short": frame(5, click(1))},
    {"clicks": frame(6, reset=True), "vos": frame(7, size=WIDE), "late": frame(11, size=TALL), "short": frame(6)},
]


def opened(engine: Engine) -> Engine:
    for name, settings in SETTINGS.items():
        engine.open(name, settings)
    return engine


def together(engine: Engine, turn: dict[str, StepRequest]) -> dict[str, StepResult]:
    answers = engine.step(list(turn.items()))
    assert all(isinstance(answer, StepResult) for answer in answers), answers
    return dict(zip(turn, answers, strict=True))  # type: ignore[arg-type]


@pytest.mark.parametrize(("max_rows", "order"), [(16, 1), (2, -1)])
def test_a_batch_answers_as_its_sessions_would_one_by_one(make_engine, max_rows, order):
    batching, alone = opened(make_engine(max_rows=max_rows)), opened(make_engine())
    for number, turn in enumerate(TURNS):
        expected = {name: step(alone, name, request) for name, request in turn.items()}
        found = together(batching, dict(list(turn.items())[::order]))
        assert present(found.values())
        for name in turn:
            assert distance(found[name], expected[name]) < TOLERANCE, (number, name)
    assert pages_used(batching) == pages_used(alone)


FAILING = {
    "unknown object": (frame(3, click(2), remove=(9,)), UnknownObject),
    "removed twice": (frame(3, remove=(1, 1)), UnknownObject),
    "never answered": (correction(77, click(1)), UnknownFrame),
    "out of the window": (correction(0, click(1)), UnknownFrame),
    "reset and corrected": (StepRequest(2, None, (click(1),), reset=True), UnknownFrame),
    "mask of another size": (frame(3, painted(1, slice(1, 5), slice(1, 5), (9, 9))), InvalidPrompt),
    "empty prompt": (frame(3, click(2), Prompt(1)), InvalidPrompt),
    "reset and removed": (frame(3, click(1), reset=True, remove=(1,)), UnknownObject),
}


@pytest.fixture(scope="module")
def state(network) -> bytes:
    """Two frames of one object."""
    engine = Engine(network, EngineSettings("cpu", "float32"))
    engine.open("s", TrackSettings(history_frames=2))
    steps(engine, "s", [frame(1, click(1)), frame(2)])
    return engine.export_state("s")


@pytest.mark.parametrize("what", FAILING)
def test_a_request_that_fails_leaves_its_session_and_the_batch_alone(make_engine, state, what):
    request, error = FAILING[what]
    engine, undisturbed = make_engine(), make_engine()
    for each in (engine, undisturbed):
        for name in ("s", "t"):
            each.import_state(name, state)
    used = pages_used(engine)
    failed, answered = engine.step([("s", request), ("t", frame(3))])
    assert isinstance(failed, error)
    assert engine.export_state("s") == state
    assert pages_used(engine) == (used[0] + 1, used[1] + 1)
    assert identical(answered, step(undisturbed, "t", frame(3)))
    assert distance(step(engine, "s", frame(3)), step(undisturbed, "s", frame(3))) < TOLERANCE


def test_a_session_that_is_not_open_fails_alone(engine):
    lost, answered = engine.step([("nobody", frame(1)), ("s", frame(1, click()))])
    assert isinstance(lost, SessionStateLost)
    assert only(answered).object_id == 1
    with pytest.raises(SessionStateLost):
        engine.export_state("nobody")


def test_an_id_opens_once_and_closes_any_number_of_times(engine):
    with pytest.raises(BackendError, match="s is already open"):
        engine.open("s", TrackSettings())
    for _ in range(2):
        engine.close("s")
    engine.open("s", TrackSettings())


def test_what_cannot_be_answered_at_full_size_changes_nothing(engine, monkeypatch):
    engine.open("t", TrackSettings())
    steps(engine, "t", [frame(1, click(1))])
    state, used = engine.export_state("t"), pages_used(engine)
    huge = StepRequest(1, np.zeros((3, 5, 3), np.uint8), (click(1),))
    monkeypatch.setattr("masklet.engine.listing.full_masks", masks_but_not_of(huge))
    with pytest.raises(RuntimeError, match="memory"):
        engine.step([("t", frame(2)), ("s", huge)])
    assert (engine.export_state("t"), pages_used(engine)) == (state, used)


def masks_but_not_of(request: StepRequest):
    """Stands for an allocation that fails for one frame size."""
    from masklet.engine.pixels import full_masks

    def masks(logits, size, profile):
        if request.image is not None and size == request.image.shape[:2]:
            raise RuntimeError("out of memory")
        return full_masks(logits, size, profile)

    return masks


def test_everything_that_ends_gives_its_pages_back(make_engine):
    engine = opened(make_engine())
    for turn in TURNS:
        together(engine, turn)
    assert engine.bank_bytes > 0
    step(engine, "short", frame(7, remove=(1,)))
    step(engine, "vos", frame(8, reset=True, size=WIDE))
    for name in ("clicks", "late"):
        engine.close(name)
    assert pages_used(engine) == (0, 0)
    assert held(engine) == 0


def test_an_object_that_comes_back_under_its_old_id_is_a_new_one(engine):
    engine.open("t", TrackSettings(history_frames=4))
    steps(engine, "s", [frame(1, click(1)), frame(2)])
    again = step(engine, "s", frame(3, click(1, 30, 20), remove=(1,)))
    assert distance(again, step(engine, "t", frame(3, click(1, 30, 20)))) < TOLERANCE
    assert pages_used(engine) == (2, 2)


def test_reset_makes_a_session_as_good_as_new(engine):
    engine.open("t", TrackSettings(history_frames=4))
    steps(engine, "s", [frame(1, click(1), click(2)), frame(2)])
    for request in (frame(3, click(5), reset=True), frame(4)):
        assert distance(step(engine, "s", request), step(engine, "t", request)) < TOLERANCE
    with pytest.raises(UnknownFrame, match="frames 3 to 4"):
        step(engine, "s", correction(2, click(5)))


def test_frames_before_the_first_object_leave_no_trace(engine):
    engine.open("t", TrackSettings())
    steps(engine, "s", [frame(1), frame(2)])
    assert pages_used(engine) == (0, 0)
    for request in (frame(3, click(1)), frame(4)):
        assert distance(step(engine, "s", request), step(engine, "t", request)) < TOLERANCE


def test_memory_stays_flat_over_two_hundred_frames():
    network = SAM2(SAM2Config("mini", HieraConfig(16, 1, (1, 1, 1, 1), (2,)), input_size=64, dim=64, memory_dim=16))
    draw(network, 0)
    engine = Engine(network, EngineSettings("cpu", "float32"))
    engine.open("s", TrackSettings(history_frames=4))
    image = np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)
    used = []
    for seq in range(1, 201):
        prompts = (click(1), click(2, 20, 20)) if seq == 1 else ()
        step(engine, "s", StepRequest(seq, np.roll(image, seq, 1), prompts))
        if seq > 30 and seq % 10 == 0:
            step(engine, "s", StepRequest(seq, None, (click(1),)))
        used.append(pages_used(engine))
    assert used[100:150] == used[150:]
    assert max(used) == max(used[150:])
    session = engine.sessions["s"]
    assert (len(session.past), {len(track.answers) for track in session.objects.values()}) == (4, {4})


def test_bank_bytes_are_those_of_pages_and_of_frames_and_answers_that_may_be_corrected(engine):
    step(engine, "s", frame(1, click(1), click(2)))
    assert held(engine) == 2 * (16 * 64 * 4 + 256 * 4)
    session = engine.sessions["s"]
    assert [past.pixels.nbytes for past in session.past.values()] == [3 * 64 * 64]
    assert {answer.logits.nbytes for track in session.objects.values() for answer in track.answers.values()} == {1024}
    engine.close("s")
    assert engine.bank_bytes == 0


def held(engine: Engine) -> int:
    """Bytes of memories and pointers."""
    sessions = engine.sessions.values()
    answers = sum(len(track.answers) for session in sessions for track in session.objects.values())
    return engine.bank_bytes - sum(len(session.past) for session in sessions) * 3 * 64 * 64 - answers * 16 * 16 * 4


def test_one_session_cannot_be_in_a_batch_twice(engine):
    with pytest.raises(ValueError, match="twice"):
        engine.step([("s", frame(1, click(1))), ("s", frame(2, click(2)))])
    assert engine.summary("s").last_frame_seq == 0


def test_no_page_is_lost_when_there_is_no_memory_for_all(engine, monkeypatch):
    step(engine, "s", frame(1, click(1)))
    used = pages_used(engine)
    with monkeypatch.context() as patch:
        patch.setattr(engine.pools.pointers, "_index", out_of_memory)
        with pytest.raises(RuntimeError, match="no memory"):
            engine.step([("s", frame(2))])
    assert pages_used(engine) == used
    step(engine, "s", frame(2))
    engine.close("s")
    assert pages_used(engine) == (0, 0)


def out_of_memory(*_: object) -> None:
    raise RuntimeError("no memory")


@pytest.mark.parametrize("order", [1, -1])
def test_profiles_in_one_batch_keep_their_own_rules(make_engine, monkeypatch, order):
    """Of an unstable mask after two clicks, `interactive` gives the best candidate, `vos` the mask itself."""
    monkeypatch.setattr(masklet.model.mask_decoder, "STABILITY_DELTA", 20.0)  # logits of these weights are large
    settings = {"live": TrackSettings(fill_hole_area=0), "vos": replace(SETTINGS["vos"], max_conditioning_frames=4)}
    batching, alone = make_engine(), make_engine()
    for each in (batching, alone):
        for name in settings:
            each.open(name, settings[name])
    for seq in range(1, 4):
        asked = frame(seq, Prompt.clicks(1, [(12, 16), (25, 20)], [1, 1]))
        expected = {name: step(alone, name, asked) for name in settings}
        assert distance(expected["live"], expected["vos"]) > 100 * TOLERANCE
        found = together(batching, dict.fromkeys(list(settings)[::order], asked))
        assert all(distance(found[name], expected[name]) < TOLERANCE for name in settings)


@pytest.mark.parametrize("memories", [7, 40])
def test_rows_that_read_much_go_through_the_network_in_smaller_parts(make_engine, monkeypatch, memories):
    """The peak is rows times memories, whatever clients ask for."""
    engine = make_engine(max_rows=4)
    engine.open("s", TrackSettings(max_conditioning_frames=64))
    step(engine, "s", frame(1, *(click(number) for number in range(1, 5))))
    for track in engine.sessions["s"].objects.values():
        (entry,) = track.bank.conditioning.values()
        track.bank.conditioning.update({-number: entry for number in range(1, memories)})
    condition = mock.Mock(side_effect=engine.network.condition)
    monkeypatch.setattr(engine.network, "condition", condition)
    engine.step([("s", frame(2))])
    parts = [call.args[2] for call in condition.call_args_list]
    assert {part.memories.shape[1] for part in parts} == {memories}
    assert [len(part.memories) for part in parts] == ([4] if memories == 7 else [1] * 4)


def test_memories_may_be_kept_in_bfloat16(make_engine):
    full, half = make_engine(), make_engine(memory_precision="bfloat16")
    for each in (full, half):
        each.open("s", TrackSettings())
    one, other = (step(each, "s", frame(1, click(1))) for each in (full, half))
    assert identical(one, other)
    one, other = (step(each, "s", frame(2)) for each in (full, half))
    assert 0 < distance(one, other) < 2
    assert held(half) - 2 * 1024 == (held(full) - 2 * 1024) // 2


def test_results_do_not_change_with_later_steps(engine):
    first = only(step(engine, "s", frame(1, click(1))))
    mask, said = first.mask.copy(), numbers(first).copy()
    steps(engine, "s", [frame(2), correction(1, click(1, 20, 20))])
    assert np.array_equal(mask, first.mask)
    assert np.array_equal(said, numbers(first))


def test_nothing_to_do_is_done(engine):
    assert engine.step([]) == []
    assert step(engine, "s", frame(1)).objects == ()
    assert torch.is_inference_mode_enabled() is False
