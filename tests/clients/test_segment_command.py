"""`masklet-client segment`."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

from masklet.types import ImageArray
from masklet_client.cli import main


@pytest.fixture
def photo(tmp_path: Path, frames: list[ImageArray]) -> Path:
    Image.fromarray(frames[0]).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def test_writes_picture_and_json(
    far_address: str, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture, masks = tmp_path / "new" / "out.png", tmp_path / "fresh" / "out.json"
    words = ["segment", str(photo), "--box", "1@10,5,40,30", "-o", str(picture), "--json", str(masks)]
    assert main([*words, "--server", far_address]) == 0
    found = json.loads(masks.read_text())["objects"][0]
    assert found["id"] == 1 and coco.area(found["rle"]) == 750
    changed = (np.asarray(Image.open(picture)) != np.asarray(Image.open(photo))).any(-1)
    assert changed[6:29, 11:39].mean() > 0.9 and not changed[40:].any()
    assert "object 1: visible, 750 px" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{photo}", "-o", "{out}"], "nothing to look for"),
        (["{photo}", "--click", "1@3,3"], "nothing to write"),
        (["{photo}", "--click", "1@2:3,3", "-o", "{out}"], "an image has only frame 0"),
        (["{photo}", "--click", "1@99,3", "-o", "{out}"], "outside the frame"),
        (["{photo}x", "--click", "1@3,3", "-o", "{out}"], "no such file"),
        (["{photo}", "--click", "1@3,3", "-o", "{out}.xyz"], "cannot be written as an image"),
        (["{photo}", "--click", "1@3", "-o", "{out}"], "must be OBJECT"),
        (["{photo}", "--click", "1@3,3", "-o", "{photo}"], "is the source"),
        (["{photo}", "--click", "1@3,3", "-o", "{out}", "--json", "{out}"], "cannot be both outputs"),
        (["{photo}", "--click", "1@3,3", "--json", "{folder}"], "cannot be written (Is a directory)"),
        (["{photo}", "--click", "1@3,3", "--json", "{photo}/x.json"], "cannot be written (File exists)"),
        (["{huge}", "--click", "1@3,3", "-o", "{out}"], "cannot be read as an image"),
        (["{photo}", "--mask", "1@{huge}", "-o", "{out}"], "cannot be read as an image"),
    ],
)
def test_bad_arguments_are_one_clear_line(
    far_address: str, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    huge = tmp_path / "huge.png"
    if "{huge}" in "".join(words):
        Image.new("1", (14_000, 14_000)).save(huge)
    places = {"photo": photo, "folder": tmp_path, "huge": huge, "out": tmp_path / "out.png"}
    filled = [word.format(**places) for word in words]
    assert main(["segment", *filled, "--server", far_address]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and message in said and said.count("\n") == 1
