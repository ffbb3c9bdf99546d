from pathlib import Path

import numpy as np
import pytest
from tests.training.datasets.samples import labels, write_annotation, write_sav_stills

from masklet.errors import DatasetError
from masklet.training.datasets import open_dataset


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_sav_stills(tmp_path)


@pytest.mark.parametrize("kind", ["auto", "sav"])
def test_objects_are_folders_and_some_frames_are_annotated(folder: Path, kind: str) -> None:
    (sequence,) = open_dataset(folder, kind=kind)
    assert (sequence.name, sequence.frame_count, sequence.object_ids) == ("sav_000002", 9, (0, 3))
    assert sequence.annotated_frames == (0, 4, 8)
    assert sequence.masks(1) is None and sequence.frame(1).shape == (48, 64, 3)


def test_masks_are_those_written_whatever_their_value(folder: Path) -> None:
    masks = open_dataset(folder)[0].masks(8)
    assert masks is not None
    assert np.array_equal(masks, np.stack([labels(8) == 1, labels(8) == 2]))


def test_an_object_without_a_mask_on_an_annotated_frame_is_absent(folder: Path) -> None:
    masks = open_dataset(folder)[0].masks(4)
    assert masks is not None and masks.any(axis=(1, 2)).tolist() == [True, False]


def test_a_mask_without_its_frame_is_an_error(folder: Path) -> None:
    (folder / "JPEGImages_24fps/sav_000002/00004.jpg").unlink()
    with pytest.raises(DatasetError, match=r"00004.png has no frame of its name: 1 of 3"):
        open_dataset(folder)


def test_a_mask_of_another_size_is_an_error(folder: Path) -> None:
    path = folder / "Annotations_6fps/sav_000002/003/00008.png"
    write_annotation(path, np.zeros((40, 64), np.uint8))
    with pytest.raises(DatasetError, match=r"00008.png is 40 x 64 .* first frame is 48 x 64"):
        open_dataset(folder)[0].masks(8)


def test_a_folder_that_is_no_object_is_an_error(folder: Path) -> None:
    (folder / "Annotations_6fps/sav_000002/cat").mkdir()
    write_annotation(folder / "Annotations_6fps/sav_000002/cat/00000.png", labels(0))
    with pytest.raises(DatasetError, match=r"cat is not named by an object's number"):
        open_dataset(folder)
