"""DAVIS 2016: one object of the value 255 in each video, and lists of frames instead of names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.training.datasets.samples import labels, write_annotation, write_davis, write_frame

from masklet.cli import main
from masklet.errors import DatasetError
from masklet.training.datasets import open_dataset

LISTS = {"train": ("bear", "dogs"), "val": ("camel",), "trainval": ("bear", "dogs", "camel")}


def write_mask(path: Path, mask: np.ndarray) -> None:
    """Grey, as DAVIS 2016 has them: 0 and 255."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.where(mask, 255, 0).astype(np.uint8)).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in LISTS["trainval"]:
        for index in range(4):
            write_frame(tmp_path / f"JPEGImages/480p/{name}/{index:05d}.jpg", index)
            write_mask(tmp_path / f"Annotations/480p/{name}/{index:05d}.png", labels(index) > 0)
    (tmp_path / "ImageSets/480p").mkdir(parents=True)
    for split, names in LISTS.items():
        rows = [f"{name}/{index:05d}" for name in names for index in range(4)]
        lines = [f"/JPEGImages/480p/{row}.jpg /Annotations/480p/{row}.png\n" for row in rows]
        (tmp_path / f"ImageSets/480p/{split}.txt").write_text("".join(lines))
    return tmp_path


def test_255_is_the_object(folder: Path) -> None:
    sequence = open_dataset(folder)[0]
    assert (sequence.name, sequence.object_ids) == ("bear", (1,))
    masks = sequence.masks(2)
    assert masks is not None and masks.dtype == np.bool_
    assert np.array_equal(masks, (labels(2) > 0)[None])


def test_an_object_that_leaves_or_comes_later_is_still_the_object(folder: Path) -> None:
    for index in (0, 3):
        write_mask(folder / f"Annotations/480p/bear/{index:05d}.png", np.zeros((48, 64), bool))
    sequence = open_dataset(folder)[0]
    found = [masks for index in range(4) if (masks := sequence.masks(index)) is not None]
    assert [masks.any() for masks in found] == [False, True, True, False] and sequence.object_ids == (1,)


@pytest.mark.parametrize("split", list(LISTS))
def test_a_split_is_a_list_of_frames(folder: Path, split: str) -> None:
    assert [one.name for one in open_dataset(folder, split=split)] == list(LISTS[split])


def test_a_year_s_list_comes_first(folder: Path) -> None:
    (folder / "ImageSets/2017").mkdir()
    (folder / "ImageSets/2017/val.txt").write_text("dogs\n")
    assert [one.name for one in open_dataset(folder, split="val")] == ["dogs"]
    with pytest.raises(DatasetError, match=r"ImageSets holds no list test.txt .* of a year or in 480p"):
        open_dataset(folder, split="test")


def test_the_truth_scores_one(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "--data", str(folder), "--split", "val", "--mode", "truth"]) == 0
    assert "mean of 1 sequences" in capsys.readouterr().out


def test_other_values_beside_the_object_are_an_error(folder: Path) -> None:
    marked = np.where(labels(1) > 0, 255, 0).astype(np.uint8)
    marked[40:, 40:] = 2
    Image.fromarray(marked).save(folder / "Annotations/480p/bear/00001.png")
    with pytest.raises(DatasetError, match=r"00001.png has pixels of the value 2, .*bear.* only 0 and 255"):
        open_dataset(folder)[0].masks(1)


def test_void_beside_numbered_objects_stays_void(tmp_path: Path) -> None:
    data = write_davis(tmp_path, names=("bear",), frames=2)
    only_void = np.zeros((48, 64), np.uint8)
    only_void[40:, 40:] = 255
    write_annotation(data / "Annotations/480p/bear/00001.png", only_void)
    sequence = open_dataset(data)[0]
    masks = sequence.masks(1)
    assert sequence.object_ids == (1, 2) and masks is not None and not masks.any()
