from pathlib import Path

import pytest
from tests.training.datasets.samples import write_davis, write_frame, write_sav, write_youtube_vos

from masklet.errors import DatasetError
from masklet.training.datasets import open_dataset


def test_the_kind_is_told_by_the_layout(tmp_path: Path) -> None:
    write_davis(tmp_path / "one")
    write_youtube_vos(tmp_path / "two")
    write_sav(tmp_path / "three")
    found = [[sequence.name for sequence in open_dataset(tmp_path / name)] for name in ("one", "two", "three")]
    assert found == [["bear", "dogs"], ["a1b2"], ["sav_000001"]]


def test_an_empty_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=f"{tmp_path} is empty"):
        open_dataset(tmp_path)


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="nowhere is not a folder"):
        open_dataset(tmp_path / "nowhere")


@pytest.mark.parametrize("kind", ["auto", "davis", "youtube-vos", "sav"])
def test_a_folder_of_something_else_is_an_error(tmp_path: Path, kind: str) -> None:
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(DatasetError, match=str(tmp_path)):
        open_dataset(tmp_path, kind=kind)


def test_an_unknown_kind_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="kind is 'kitti', must be auto, davis, youtube-vos, sav"):
        open_dataset(tmp_path, kind="kitti")


@pytest.mark.parametrize("kind", ["davis", "youtube-vos"])
def test_annotations_without_any_video_are_an_error(tmp_path: Path, kind: str) -> None:
    write_frame(tmp_path / "JPEGImages/480p/00000.jpg", 0)
    (tmp_path / "Annotations/480p").mkdir(parents=True)
    if kind == "youtube-vos":
        (tmp_path / "Annotations/480p").rmdir()
    with pytest.raises(DatasetError, match=r"Annotations.* holds no folders"):
        open_dataset(tmp_path, kind=kind)
