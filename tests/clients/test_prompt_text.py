"""Prompts as written on a command line."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from masklet_client.command_error import CommandError
from masklet_client.prompt_text import parse_prompts, read_mask


def test_click_names_object_frame_and_point() -> None:
    (prompt,) = parse_prompts(["7@3:30,20.5"], [], [])[3]
    assert prompt.object_id == 7 and prompt.points.tolist() == [[30, 20.5]] and prompt.labels.tolist() == [1]


def test_frame_may_be_left_out() -> None:
    assert list(parse_prompts(["1@30,20"], ["2@1,2,3,4"], [])) == [0]


def test_clicks_and_box_on_one_object_and_frame_come_as_one_prompt() -> None:
    (prompt,) = parse_prompts(["1@0:1,2", "1@0:3,4,exclude", "1@0:5,6,include"], ["1@0:0,0,9,9"], [])[0]
    assert prompt.labels.tolist() == [1, 0, 1] and prompt.box is not None and prompt.box.tolist() == [0, 0, 9, 9]


def test_objects_and_frames_are_kept_apart() -> None:
    prompts = parse_prompts(["1@0:1,2", "2@0:1,2", "1@5:1,2"], [], [])
    assert {frame: [p.object_id for p in some] for frame, some in prompts.items()} == {0: [1, 2], 5: [1]}


@pytest.mark.parametrize(
    "text",
    ["", "1", "1@", "1@0", "1@0:", "1@0:3", "x@0:1,2", "1@-1:1,2", "1@0:a,b", "1@0:1,2,yes", "1@0:1,2,include,3"],
)
def test_malformed_click_shows_the_form(text: str) -> None:
    with pytest.raises(CommandError, match=r"--click .*: must be OBJECT@FRAME:X,Y"):
        parse_prompts([text], [], [])


def test_malformed_box_and_second_box_are_named() -> None:
    with pytest.raises(CommandError, match=r"--box 1@0:1,2,3: must be"):
        parse_prompts([], ["1@0:1,2,3"], [])
    with pytest.raises(CommandError, match="object 1 has two boxes on one frame"):
        parse_prompts([], ["1@0:1,2,3,4", "1@0:1,2,3,4"], [])


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA"])
def test_mask_file_of_any_mode_is_what_is_not_black(tmp_path: Path, mode: str) -> None:
    pixels = np.zeros((6, 8), np.uint8)
    pixels[2:4, 3:6] = 255
    image = Image.fromarray(pixels)
    image = image.point(lambda v: v and 1) if mode == "P" else image
    image.convert(mode).save(tmp_path / "mask.png")
    assert np.array_equal(read_mask(tmp_path / "mask.png"), pixels > 0)


def test_mask_file_that_is_missing_or_no_image_is_named(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(CommandError, match=r"gone.png: no such file"):
        parse_prompts([], [], [f"1@0:{tmp_path / 'gone.png'}"])
    with pytest.raises(CommandError, match=r"text.png: cannot be read as an image"):
        parse_prompts([], [], [f"1@0:{tmp_path / 'text.png'}"])
