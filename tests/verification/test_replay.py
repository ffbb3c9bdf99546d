"""Replays over the fake backend, whose answers are known."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tests.verification.recording import Arrays, blank, write

from masklet.backends.fake import Cue, FakeBackend, Fault
from masklet.errors import BackendError, ConfigError, InvalidPrompt
from masklet.types import StepRequest, StepResult
from masklet.verification.replay import Differences, ObservedBackend, Replay
from masklet.verification.scenario import read_scenario


def answers(frames: int = 2, kind: str = "tracked", object_id: int = 1) -> Arrays:
    """What the fake backend says about an object clicked at (20, 20): logits -10 or 10, score 1, pointers of its id."""
    recorded: Arrays = {}
    for t in range(frames):
        recorded[f"{kind}/{t}/{object_id}/object_score"] = np.array(1, np.float32)
        recorded[f"{kind}/{t}/{object_id}/pointer"] = np.full(256, object_id, np.float32)
        recorded[f"{kind}/{t}/{object_id}/logits"] = disc(20 + t)
    return recorded


def disc(x: int) -> np.ndarray[Any, Any]:
    """Logits of the fake backend's disc around (x, 20), an eighth of 64 pixels wide."""
    rows, columns = np.mgrid[0.5:64, 0.5:64]
    mask = (rows - 20) ** 2 + (columns - x) ** 2 <= 8**2
    return np.where(mask[::4, ::4], 10, -10).astype(np.float32)


async def replay(tmp_path, described: dict[str, Any], arrays: Arrays, script: Sequence[Cue] = ()) -> Differences:
    scenario = read_scenario(write(tmp_path, "s", described, arrays))
    async with FakeBackend(script) as backend:
        found = await Replay(scenario, ObservedBackend(backend, len(scenario.frames))).run()
        assert backend.stats().sessions == 0
        return found


async def test_answers_as_recorded_differ_by_nothing(tmp_path):
    described, frames = blank()
    assert await replay(tmp_path, described, frames | answers()) == Differences()


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("logits", Differences(logits=0.5)),
        ("object_score", Differences(object_score=0.5)),
        ("pointer", Differences(pointer=0.5)),
    ],
)
async def test_the_largest_difference_of_each_kind_is_found(tmp_path, key, expected):
    described, frames = blank()
    recorded = answers()
    recorded[f"tracked/0/1/{key}"].flat[0] += 0.25
    recorded[f"tracked/1/1/{key}"].flat[-1] -= 0.5
    assert await replay(tmp_path, described, frames | recorded) == expected


@pytest.mark.parametrize("odd", [np.full((16, 16), np.nan), np.full((16, 16), np.inf), np.zeros((8, 8)), np.zeros(())])
async def test_what_cannot_be_compared_is_infinitely_far(tmp_path, odd):
    described, frames = blank()
    recorded = answers() | {"tracked/1/1/logits": odd.astype(np.float32)}
    assert (await replay(tmp_path, described, frames | recorded)).logits >= np.finfo(np.float32).max


async def test_recorded_answers_that_were_not_given_are_counted(tmp_path):
    described, frames = blank()
    absent = {key.replace("/1/", "/2/", 1): value for key, value in answers(1).items() if key.startswith("tracked/0")}
    assert (await replay(tmp_path, described, frames | answers() | absent)).missing == 1


async def test_an_answer_that_was_never_recorded_is_an_error(tmp_path):
    described, frames = blank(3)
    with pytest.raises(ConfigError, match="holds no tracked/2/1/logits"):
        await replay(tmp_path, described, frames | answers(2))


async def test_corrections_are_sent_after_their_frame_and_compared(tmp_path):
    described, frames = blank()
    click = {"object_id": 1, "points": [[40.0, 20.0]], "labels": [1]}
    described["events"] += [{"frame": 1, "when": "after", "prompts": [click]}]
    corrected = {key: value for key, value in answers(2, "corrected").items() if "/1/1/" in key}
    corrected["corrected/1/1/logits"] = disc(40)
    assert await replay(tmp_path, described, frames | answers() | corrected) == Differences()
    corrected["corrected/1/1/logits"] = disc(44)
    assert (await replay(tmp_path, described, frames | answers() | corrected)).logits == 20


def corrected(described: dict[str, Any], *events: dict[str, Any], frame: int = 1) -> None:
    described["events"] += [{"frame": frame, "when": "after", **event} for event in events]


def at(object_id: int, x: int) -> dict[str, Any]:
    return {"object_id": object_id, "points": [[float(x), 20.0]], "labels": [1]}


def two_objects() -> tuple[dict[str, Any], Arrays]:
    """Two frames of two objects, both clicked at the same place."""
    described, arrays = blank()
    described["events"][0]["prompts"] += [at(2, 20)]
    return described, arrays | answers() | answers(object_id=2)


def after_correction(object_id: int, x: int) -> Arrays:
    """What the fake backend says on frame 1."""
    key = f"corrected/1/{object_id}"
    return {
        f"{key}/object_score": np.array(1, np.float32),
        f"{key}/pointer": np.full(256, object_id, np.float32),
        f"{key}/logits": disc(x),
    }


@pytest.mark.parametrize(("x_of_1", "x_of_2", "logits"), [(40, 44, 0), (36, 44, 20), (40, 40, 20)])
async def test_every_correction_of_an_event_is_compared(tmp_path, x_of_1, x_of_2, logits):
    described, recorded = two_objects()
    corrected(described, {"prompts": [at(1, 40), at(2, 44)]})
    recorded |= after_correction(1, x_of_1) | after_correction(2, x_of_2)
    assert await replay(tmp_path, described, recorded) == Differences(logits=logits)


async def test_what_is_recorded_is_compared_with_the_last_correction_of_a_frame(tmp_path):
    described, recorded = two_objects()
    corrected(described, {"prompts": [at(1, 30), at(1, 36)]}, {"prompts": [at(1, 40)]})
    assert await replay(tmp_path, described, recorded | after_correction(1, 40)) == Differences()


async def test_an_event_that_only_removes_has_no_answer_to_wait_for(tmp_path):
    described, frames = blank()
    corrected(described, {"remove": [1]}, frame=0)
    found = await asyncio.wait_for(replay(tmp_path, described, frames | answers(1)), 10)
    assert found == Differences()


async def test_an_object_removed_with_a_correction_is_gone(tmp_path):
    described, recorded = two_objects()
    corrected(described, {"remove": [2], "prompts": [at(1, 40)]})
    assert await replay(tmp_path, described, recorded | after_correction(1, 40)) == Differences()


async def test_a_correction_whose_object_is_not_answered_ends_the_replay(tmp_path):
    described, recorded = two_objects()
    corrected(described, {"prompts": [at(1, 40)]})
    scenario = read_scenario(write(tmp_path, "s", described, recorded | after_correction(1, 40)))
    async with Forgetful() as backend:
        with pytest.raises(BackendError, match="object 1 is not in the answer to its correction"):
            await Replay(scenario, ObservedBackend(backend, 2)).run()


class Forgetful(FakeBackend):
    """Corrects, and does not say what."""

    async def step(self, session_id: str, request: StepRequest) -> StepResult:
        result = await super().step(session_id, request)
        return replace(result, objects=()) if result.revised else result


async def test_removed_objects_are_answered_no_more(tmp_path):
    described, frames = blank()
    described["events"] += [{"frame": 1, "when": "before", "remove": [1]}]
    assert await replay(tmp_path, described, frames | answers(1)) == Differences()
    assert (await replay(tmp_path, described, frames | answers(2))).missing == 1


async def test_a_frame_the_backend_fails_on_ends_the_replay(tmp_path):
    described, frames = blank()
    with pytest.raises(BackendError):
        await replay(tmp_path, described, frames | answers(), [Fault(BackendError("broken"), 2)])


async def test_a_refused_prompt_ends_the_replay(tmp_path):
    described, frames = blank()
    described["events"][0]["prompts"][0]["points"] = [[999.0, 20.0]]
    with pytest.raises(InvalidPrompt):
        await replay(tmp_path, described, frames | answers())
