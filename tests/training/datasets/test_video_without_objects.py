import json
from pathlib import Path

import pytest
from tests.training.datasets.samples import write_youtube_vos

from masklet.cli import main
from masklet.errors import DatasetError
from masklet.training.datasets import open_dataset


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_youtube_vos(tmp_path)
    (tmp_path / "meta.json").write_text(json.dumps({"videos": {"a1b2": {"objects": {}}}}))
    return tmp_path


def test_a_video_without_objects_is_an_error(folder: Path) -> None:
    with pytest.raises(DatasetError, match=r"meta.json lists no objects for the video a1b2"):
        open_dataset(folder)


def test_it_is_one_line_for_people(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "--data", str(folder), "--backend", "fake"]) == 2
    said = capsys.readouterr().err
    assert said == f"error: {folder / 'meta.json'} lists no objects for the video a1b2\n"


def test_a_video_that_is_not_here_may_be_without(folder: Path) -> None:
    videos = {"a1b2": {"objects": {"2": {}, "4": {}}}, "elsewhere": {"objects": {}}}
    (folder / "meta.json").write_text(json.dumps({"videos": videos}))
    assert [one.object_ids for one in open_dataset(folder)] == [(2, 4)]
