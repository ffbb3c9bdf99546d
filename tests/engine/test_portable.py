"""Exported states: they go on bit for bit, and nothing else is taken for one."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save
from tests.engine.driver import box, click, correction, frame, identical, pages_used, painted, present, step, steps

from masklet.engine import Engine, EngineSettings
from masklet.errors import BackendError, SessionStateLost, UnknownFrame
from masklet.model import SAM2, HieraConfig, SAM2Config
from masklet.model.stand_in import draw
from masklet.types import Profile, StepRequest, TrackSettings

SETTINGS = TrackSettings(history_frames=3, max_conditioning_frames=2)
BEFORE = [
    frame(1, click(1), painted(2, slice(5, 30), slice(4, 40))),
    frame(2, click(1, 14, 18)),
    frame(3, box(3, 5, 5, 30, 30)),
    correction(2, click(2, 20, 20), click(2, 25, 22, keep=True)),
    *(frame(seq) for seq in range(4, 12)),
    correction(10, click(1, 30, 12)),
    frame(12, click(4, 40, 30), remove=(3,)),
]
AFTER = [
    correction(10, click(1, 25, 14, keep=True)),
    correction(12, click(4, 38, 28, keep=True)),
    frame(13, click(3, 9, 9), click(2, 12, 12, restart=True)),
    correction(11, painted(2, slice(0, 9), slice(0, 9))),
    frame(14),
]


@pytest.mark.parametrize(("memory_precision", "profile"), [("float32", Profile.INTERACTIVE), ("bfloat16", Profile.VOS)])
def test_a_moved_session_goes_on_bit_for_bit(make_engine, memory_precision, profile):
    here, there = (make_engine(memory_precision=memory_precision) for _ in range(2))
    here.open("s", TrackSettings(profile, history_frames=3, max_conditioning_frames=2))
    assert present(steps(here, "s", BEFORE))
    steps_of_another(there)
    there.import_state("twin", here.export_state("s"))
    for request in AFTER:
        expected = step(here, "s", request)
        assert expected.objects
        assert identical(step(there, "twin", request), expected)
    assert there.export_state("twin") == here.export_state("s")


def steps_of_another(engine: Engine) -> None:
    """So that pages have other numbers."""
    engine.open("another", TrackSettings())
    steps(engine, "another", [frame(1, click(9), click(8)), frame(2, remove=(9,))])


@pytest.fixture(scope="module")
def holder(network) -> Engine:
    engine = Engine(network, EngineSettings("cpu", "float32"))
    engine.open("s", SETTINGS)
    steps(engine, "s", BEFORE)
    return engine


@pytest.fixture(scope="module")
def state(holder: Engine) -> bytes:
    return holder.export_state("s")


def refused(engine: Engine, state: bytes) -> str:
    """The message of the refusal; nothing may be left behind by it."""
    before = (pages_used(engine), set(engine.sessions))
    with pytest.raises(BackendError) as caught:
        engine.import_state("twin", state)
    assert (pages_used(engine), set(engine.sessions)) == before
    with pytest.raises(SessionStateLost):
        engine.export_state("twin")
    return str(caught.value)


def test_settings_and_window_travel_along(holder, state):
    holder.import_state("twin", state)
    assert holder.sessions["twin"].settings == SETTINGS
    with pytest.raises(UnknownFrame, match="frames 10 to 12"):
        step(holder, "twin", correction(9, click(1)))
    holder.close("twin")


def test_exporting_twice_gives_the_same_bytes_and_changes_nothing(holder, state):
    assert holder.export_state("s") == state
    holder.import_state("twin", state)
    assert holder.export_state("twin") == state
    holder.close("twin")


def test_an_id_that_is_open_is_refused(holder, state):
    used = pages_used(holder)
    with pytest.raises(BackendError, match="s is already open"):
        holder.import_state("s", state)
    assert pages_used(holder) == used


def test_a_state_of_another_model_or_size_is_refused_by_name(state):
    network = SAM2(SAM2Config("mini", HieraConfig(16, 1, (1, 1, 1, 1), (2,)), input_size=64, dim=64, memory_dim=16))
    draw(network, 0)
    message = refused(Engine(network, EngineSettings("cpu", "float32")), state)
    assert "sam2.1_hiera_tiny@64" in message
    assert "mini@64" in message


@pytest.fixture(scope="module")
def trained(network) -> Callable[[str], Engine]:
    """Makes an engine that knows its weights by a name."""
    return lambda weights: Engine(network, EngineSettings("cpu", "float32"), weights=weights)


def exported(engine: Engine) -> bytes:
    engine.open("s", SETTINGS)
    steps(engine, "s", [frame(1, click(1)), frame(2)])
    return engine.export_state("s")


def test_a_state_of_other_weights_is_refused_by_name(trained):
    message = refused(trained("b" * 64), exported(trained("a" * 64)))
    assert message == f"exported state is of weights '{'a' * 64}', these are '{'b' * 64}'"


@pytest.mark.parametrize(("theirs", "ours"), [("a", "a"), ("", "a"), ("a", "")])
def test_a_state_of_the_same_weights_or_of_unknown_ones_is_taken(trained, theirs, ours):
    here, there = trained(theirs), trained(ours)
    there.import_state("s", exported(here))
    assert identical(step(there, "s", frame(3)), step(here, "s", frame(3)))


def test_a_state_of_an_older_version_is_taken(trained):
    """It says neither which weights it is of, nor how sure the answers in its history window were."""
    here, there = trained("a"), trained("a")
    there.import_state("s", tampered(exported(here), as_older_versions_wrote))
    assert identical(step(there, "s", frame(3)), step(here, "s", frame(3)))
    found = there.sessions["s"].objects[1].answers[1]
    assert (found.object_score, found.predicted_iou) == (10.0, 1.0)


def as_older_versions_wrote(structure: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
    del structure["weights"]
    for described in structure["objects"]:
        del described["scores"]


HEADERS = {
    "nothing": b"",
    "less than a length": b"\0\0\0",
    "endless header": struct.pack("<Q", 2**64 - 1) + b"{}",
    "NaN as a length": struct.pack("<d", float("nan")) + b"{}",
    "negative length": struct.pack("<q", -5) + b"{}",
    "no metadata": save({"x": torch.zeros(1)}),
    "metadata of others": save({"x": torch.zeros(1)}, metadata={"format": "pt"}),
    "metadata that is no JSON": save({"x": torch.zeros(1)}, metadata={"masklet": "{"}),
    "metadata that is a list": save({}, metadata={"masklet": "[1]"}),
    "deep metadata": save({}, metadata={"masklet": "[" * 100_000}),
    "deep header": struct.pack("<Q", 100_000) + b"[" * 100_000,
    "text": b"a session state, honestly " * 100,
}


@pytest.mark.parametrize("what", HEADERS)
def test_what_is_no_state_is_refused(holder, what):
    assert "not an exported session state" in refused(holder, HEADERS[what])


@pytest.mark.parametrize("share", [0.001, 0.1, 0.5, 0.99, 0.999999])
def test_a_truncated_state_is_refused(holder, state, share):
    assert "session state" in refused(holder, state[: int(share * len(state))])


def tampered(state: bytes, change: Callable[[dict[str, Any], dict[str, torch.Tensor]], object]) -> bytes:
    (length,) = struct.unpack("<Q", state[:8])
    structure = json.loads(json.loads(state[8 : 8 + length])["__metadata__"]["masklet"])
    tensors = load(state)
    change(structure, tensors)
    written: bytes = save(tensors, metadata={"masklet": json.dumps(structure)})
    return written


def setting(**values: object) -> Callable[[dict[str, Any], dict[str, torch.Tensor]], object]:
    return lambda s, t: s["settings"].update(values)


CHANGES: dict[str, Callable[[dict[str, Any], dict[str, torch.Tensor]], object]] = {
    "format of the future": lambda s, t: s.update(format=2),
    "unknown setting": setting(speed=3),
    "missing setting": lambda s, t: s["settings"].pop("history_frames"),
    "unknown profile": setting(profile="fast"),
    "huge history": setting(history_frames=10**9),
    "negative history": setting(history_frames=-1),
    "history of text": setting(history_frames="3"),
    "history of half a frame": setting(history_frames=2.5),
    "negative cap": setting(max_conditioning_frames=-2),
    "endless hole filling": setting(fill_hole_area=10**12),
    "video without frames": setting(video_frames=0),
    "corrections maybe": setting(corrections_as_conditioning="maybe"),
    "negative next index": lambda s, t: s.update(next_index=-1),
    "infinite next index": lambda s, t: s.update(next_index=float("inf")),
    "next index of the past": lambda s, t: s.update(next_index=5),
    "frame of no size": lambda s, t: s["past"][0].__setitem__(2, 0),
    "frame of endless size": lambda s, t: s["past"][0].__setitem__(3, 10**7),
    "frame twice": lambda s, t: s["past"].append(s["past"][0]),
    "frame outside the window": lambda s, t: s["past"][0].__setitem__(0, 2),
    "frame of three numbers": lambda s, t: s["past"][0].pop(),
    "past of text": lambda s, t: s.update(past="past"),
    "object twice": lambda s, t: s["objects"].append(s["objects"][0]),
    "object without an id": lambda s, t: s["objects"][0].pop("id"),
    "object with a name": lambda s, t: s["objects"][0].update(id="cat"),
    "negative index": lambda s, t: s["objects"][0]["recent"].__setitem__(0, -3),
    "index of the future": lambda s, t: s["objects"][0]["conditioning"].append(10**6),
    "index twice": lambda s, t: s["objects"][0]["recent"].append(s["objects"][0]["recent"][0]),
    "conditioning and recent": lambda s, t: s["objects"][0]["recent"].append(s["objects"][0]["conditioning"][-1]),
    "index of text": lambda s, t: s["objects"][0]["recent"].append("0"),
    "index true": lambda s, t: s["objects"][0]["conditioning"].append(True),
    "recent of text": lambda s, t: s["objects"][0].update(recent="11"),
    "answer outside the window": lambda s, t: s["objects"][0]["answers"].append([2, False]),
    "answer perhaps initial": lambda s, t: s["objects"][0]["answers"][0].__setitem__(1, 1),
    "scores of fewer answers": lambda s, t: s["objects"][0]["scores"].pop(),
    "score of text": lambda s, t: s["objects"][0]["scores"][0].__setitem__(0, "high"),
    "score without an IoU": lambda s, t: s["objects"][0]["scores"][0].pop(),
    "scores of none": lambda s, t: s["objects"][0].update(scores=None),
    "pointer missing": lambda s, t: t.pop("pointer/1/11"),
    "memory missing": lambda s, t: t.pop("memory/1/11"),
    "logits missing": lambda s, t: t.pop("logits/1/11"),
    "frame missing": lambda s, t: t.pop("frame/11"),
    "labels missing": lambda s, t: t.pop("labels/1/9"),
    "points missing": lambda s, t: t.pop("points/1/9"),
    "memory that is no number": lambda s, t: t["memory/1/11"][3].fill_(float("nan")),
    "pointer that is no number": lambda s, t: t["pointer/1/11"][7:8].fill_(float("inf")),
    "logits that are no numbers": lambda s, t: t["logits/1/11"].fill_(float("nan")),
    "points that are no numbers": lambda s, t: t["points/1/9"].fill_(float("nan")),
    "score that is no number": lambda s, t: s["objects"][0]["scores"][0].__setitem__(1, float("nan")),
    "another tensor": lambda s, t: t.update(extra=torch.zeros(3)),
    "tensor of nobody": lambda s, t: t.update({"memory/77/11": t["memory/1/11"].clone()}),
    "memory of another shape": lambda s, t: t.update({"memory/1/11": torch.zeros(9, 64)}),
    "memory of bytes": lambda s, t: t.update({"memory/1/11": t["memory/1/11"].to(torch.uint8)}),
    "pointer of another shape": lambda s, t: t.update({"pointer/1/11": torch.zeros(255)}),
    "logits of another type": lambda s, t: t.update({"logits/1/11": t["logits/1/11"].double()}),
    "frame of floats": lambda s, t: t.update({"frame/11": t["frame/11"].float()}),
    "points in space": lambda s, t: t.update({"points/1/9": torch.zeros(2, 3)}),
    "more points than labels": lambda s, t: t.update({"points/1/9": torch.zeros(5, 2)}),
    "labels out of range": lambda s, t: t["labels/1/9"].fill_(4),
    "labels of padding": lambda s, t: t["labels/1/9"].fill_(-1),
    "one label": lambda s, t: t.update({"labels/1/9": torch.tensor(1)}),
    "no points": lambda s, t: t.update({"points/1/9": torch.zeros(0, 2), "labels/1/9": torch.zeros(0).long()}),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_tampered_state_is_refused(holder, state, what):
    assert "not an exported session state" in refused(holder, tampered(state, CHANGES[what]))


def test_a_state_that_is_written_again_unchanged_is_taken(holder, state):
    holder.import_state("twin", tampered(state, lambda s, t: None))
    assert holder.export_state("twin") == state
    holder.close("twin")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_random_damage_is_refused_or_does_no_harm(holder, state, data):
    used = pages_used(holder)
    (length,) = struct.unpack("<Q", state[:8])
    damaged = bytearray(state)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, length + 200))] = data.draw(st.integers(0, 255))
    try:
        holder.import_state("twin", bytes(damaged))
    except BackendError:
        assert "twin" not in holder.sessions
    holder.close("twin")
    assert pages_used(holder) == used


def test_an_empty_session_travels_too(make_engine):
    here, there = make_engine(), make_engine()
    here.open("s", TrackSettings(history_frames=0))
    step(here, "s", StepRequest(1, np.zeros((8, 8, 3), np.uint8)))
    there.import_state("s", here.export_state("s"))
    assert identical(step(there, "s", frame(2, click())), step(here, "s", frame(2, click())))
