from __future__ import annotations

import json
import time

import numpy as np
import pytest
from tests.verification.recording import GOLDEN, blank, golden, write

from masklet.errors import ConfigError
from masklet.types import Profile, PromptMode
from masklet.verification.scenario import find_scenarios, read_scenario, write_weights

WEIGHTS = "def save_checkpoint(variant, seed, path):\n    path.write_text(f'{variant} {seed}')\n"


def test_the_scenarios_of_a_folder_are_found_by_name():
    found = find_scenarios(GOLDEN)
    assert found == sorted(found)
    assert {"correction.json", "vos_profile.json"} <= {path.name for path in found}


def test_a_folder_without_scenarios_is_an_error(tmp_path):
    (tmp_path / "lonely.json").write_text("{}")
    with pytest.raises(ConfigError, match="holds no scenario"):
        find_scenarios(tmp_path)
    with pytest.raises(ConfigError, match="is not a folder"):
        find_scenarios(tmp_path / "nowhere")


def test_a_scenario_is_read_as_written(tmp_path):
    described, arrays = blank()
    prompts = [
        {"object_id": 2, "box": [1, 2, 30, 40], "points": [[5.5, 6.5]], "labels": [0], "clear_old_points": False},
        {"object_id": 3, "mask": [10, 20, 30, 50]},
    ]
    described["events"] += [{"frame": 1, "when": "after", "remove": [9], "prompts": prompts}]
    scenario = read_scenario(write(tmp_path, "s", described, arrays))
    assert (scenario.name, scenario.profile, scenario.image_size) == (f"{tmp_path.name}/s", Profile.INTERACTIVE, 64)
    (before,), (after,) = scenario.events_of(0, after=False), scenario.events_of(1, after=True)
    assert [prompt.mode for prompt in before.prompts + after.prompts] == [PromptMode.RESTART, *[PromptMode.REFINE] * 2]
    boxed, masked = after.prompts
    assert after.remove == (9,)
    assert boxed.box is not None
    assert (boxed.box.tolist(), boxed.labels.tolist(), boxed.keep_old_points) == ([1, 2, 30, 40], [0], True)
    assert masked.mask is not None
    assert (int(masked.mask.sum()), int(masked.mask[20:50, 10:30].sum())) == (600, 600)
    assert not list(scenario.events_of(1, after=False))


@pytest.mark.parametrize("missing", ["variant", "weights_seed", "profile", "image_size", "events", "max_cond_frames"])
def test_a_description_that_lacks_something_is_an_error_that_names_it(tmp_path, missing):
    described, arrays = blank()
    del described[missing]
    with pytest.raises(ConfigError, match=f"s.json is not a scenario: .*{missing}"):
        read_scenario(write(tmp_path, "s", described, arrays))


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"variant": "tiny"}', "\0\1"])
def test_what_is_no_description_is_an_error(tmp_path, text):
    path = write(tmp_path, "s", *blank())
    path.write_text(text)
    with pytest.raises(ConfigError, match="is not a scenario"):
        read_scenario(path)


@pytest.mark.parametrize("content", [b"", b"PK\3\4 but no more", b"garbage" * 99])
def test_damaged_arrays_are_an_error(tmp_path, content):
    path = write(tmp_path, "s", *blank())
    path.with_suffix(".npz").write_bytes(content)
    with pytest.raises(ConfigError, match="is not a scenario"):
        read_scenario(path)


def test_a_recording_without_frames_is_an_error(tmp_path):
    described, _ = blank()
    with pytest.raises(ConfigError, match="frames"):
        read_scenario(write(tmp_path, "s", described, {"x": np.zeros(1)}))


def test_an_answer_that_was_not_recorded_is_named(tmp_path):
    scenario = read_scenario(write(tmp_path, "s", *golden("vos_profile", 1)))
    with pytest.raises(ConfigError, match=r"s\.npz holds no tracked/7/1/logits"):
        scenario.answer("tracked/7/1/logits")


def test_weights_are_drawn_once_by_the_script_beside_or_above(tmp_path):
    (tmp_path / "inner").mkdir()
    (tmp_path / "seeded_weights.py").write_text(WEIGHTS)
    scenario = read_scenario(write(tmp_path / "inner", "s", *blank()))
    path = write_weights(scenario, tmp_path)
    assert path.read_text() == "sam2.1_hiera_tiny 3"
    written = path.stat().st_mtime_ns
    time.sleep(0.01)
    assert write_weights(scenario, tmp_path).stat().st_mtime_ns == written


def test_a_script_further_up_is_not_run(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "seeded_weights.py").write_text(WEIGHTS)
    with pytest.raises(ConfigError, match=r"no seeded_weights\.py in .*b or the folder above"):
        write_weights(read_scenario(write(tmp_path / "a" / "b", "s", *blank())), tmp_path)


@pytest.mark.parametrize("script", ["", "def save_checkpoint(): ...\n", "1 / 0\n", "not python\n"])
def test_a_script_that_draws_nothing_is_an_error(tmp_path, script):
    (tmp_path / "seeded_weights.py").write_text(script)
    with pytest.raises(ConfigError, match=r"cannot draw weights of sam2\.1_hiera_tiny"):
        write_weights(read_scenario(write(tmp_path, "s", *blank())), tmp_path)


def test_every_golden_scenario_can_be_read():
    for path in find_scenarios(GOLDEN):
        scenario = read_scenario(path)
        assert scenario.frames.shape[1:] == (scenario.image_size, scenario.image_size, 3)
        assert len(scenario.frames) == json.loads(path.read_text())["frame_count"]
        assert scenario.answers


def test_arrays_that_cannot_be_unpacked_or_are_no_frames_are_an_error(tmp_path):
    described, arrays = blank()
    flat = write(tmp_path, "flat", described, {"frames": np.zeros(3, np.uint8)})
    torn = write(tmp_path, "torn", described, arrays)
    noise = np.random.default_rng(0).integers(0, 9, 50_000).astype(np.uint8)
    np.savez_compressed(torn.with_suffix(".npz"), frames=noise)
    stored = bytearray(torn.with_suffix(".npz").read_bytes())
    stored[200:260] = b"\xff" * 60
    torn.with_suffix(".npz").write_bytes(stored)
    for path in (flat, torn):
        with pytest.raises(ConfigError, match="is not a scenario"):
            read_scenario(path)
