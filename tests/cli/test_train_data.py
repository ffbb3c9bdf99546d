"""Which annotated video `masklet train` trains on, and what it says about it."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.threads import one_thread as one_thread
from tests.training.conftest import MINI
from tests.training.datasets.samples import write_davis, write_youtube_vos

from masklet.cli import main
from masklet.model import VARIANTS
from masklet.training.trainer import Trainer

RECIPE = """
variant = "mini"
[[stages]]
steps = 1
frames = 2
size = 64
clips = 1
real_share = 1.0
"""


@pytest.fixture
def words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setitem(VARIANTS, "mini", MINI)
    (tmp_path / "recipe.toml").write_text(RECIPE)
    return ["train", "--recipe", str(tmp_path / "recipe.toml"), "--out", str(tmp_path / "run"), "--device", "cpu",
            "--precision", "float32", "--threads", "1", "--workers", "0"]  # fmt: skip


@pytest.fixture
def trained_on(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the videos that training is given."""
    names: list[str] = []
    plain = Trainer.__init__

    def watched(self, *args, sequences=(), **more):
        names.extend(one.name for one in sequences)
        plain(self, *args, sequences=sequences, **more)

    monkeypatch.setattr(Trainer, "__init__", watched)
    return names


@pytest.fixture
def davis(tmp_path: Path) -> Path:
    folder = write_davis(tmp_path / "davis", names=("bear", "cows", "dogs"), frames=4)
    (folder / "ImageSets/2017/train.txt").write_text("cows\ndogs\n")
    return folder


def test_a_split_is_trained_on_alone(words, davis, trained_on):
    assert main([*words, "--data", str(davis), "--split", "train"]) == 0
    assert trained_on == ["cows", "dogs"]


def test_all_there_is_without_a_split(words, davis, trained_on):
    assert main([*words, "--data", str(davis)]) == 0
    assert trained_on == ["bear", "cows", "dogs"]


def test_a_split_is_that_of_every_folder(words, davis, tmp_path, trained_on):
    write_youtube_vos(tmp_path / "vos/train")
    assert main([*words, "--data", str(davis), "--data", str(tmp_path / "vos"), "--split", "train"]) == 0
    assert trained_on == ["cows", "dogs", "a1b2"]


def test_a_split_that_is_not_there_is_one_clear_error(words, davis, capsys):
    assert main([*words, "--data", str(davis), "--split", "valid"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and "holds no list valid.txt" in said and said.count("\n") == 1


def test_the_kind_may_be_said(words, davis, capsys, trained_on):
    assert main([*words, "--data", str(davis), "--kind", "davis"]) == 0
    assert len(trained_on) == 3
    assert main([*words, "--data", str(davis), "--kind", "sav"]) == 2
    assert "holds no annotations (<video>_manual.json" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*words, "--data", str(davis), "--kind", "kitti"])
    assert "invalid choice: 'kitti' (choose from 'auto', 'davis', 'youtube-vos', 'sav')" in capsys.readouterr().err


def test_videos_that_are_too_short_are_counted(words, davis, tmp_path, capsys):
    short = write_davis(tmp_path / "short", names=("ant", "bee"), frames=2)
    more = ["--data", str(davis), "--data", str(short), "--set=stages.0.frames=3"]
    assert main([*words, *more]) == 0
    wanted = "2 of 5 videos have fewer than 3 annotated frames and are passed over for clips of 3\n"
    assert wanted in capsys.readouterr().out


def test_nothing_is_said_where_all_are_long_enough(words, davis, capsys):
    assert main([*words, "--data", str(davis)]) == 0
    assert "passed over" not in capsys.readouterr().out
