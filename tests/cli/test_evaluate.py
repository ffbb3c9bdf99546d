"""`masklet evaluate` as it is typed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.threads import one_thread as one_thread
from tests.training.datasets.samples import (
    labels,
    write_annotation,
    write_davis,
    write_sav,
    write_sav_stills,
    write_youtube_vos,
)

from masklet.cli import main
from masklet.cli.own_triton import own_triton
from masklet.config import ModelConfig
from masklet.model import VARIANTS, HieraConfig, SAM2Config, build
from masklet.model.checkpoint import save_checkpoint
from masklet_client.source import open_source

FAKE = ["--backend", "fake"]
TRITON = ["--backend", "triton", "--triton"]
MINI = ["--variant", "mini", "--device", "cpu", "--precision", "float32", "--threads", "1"]


@pytest.fixture(autouse=True)
def mini(monkeypatch: pytest.MonkeyPatch):
    """Two small networks, "mini" and "mini-old"."""
    trunk = HieraConfig(16, 1, (1, 1, 1, 1), (2,))
    for name, new in (("mini", True), ("mini-old", False)):
        config = SAM2Config(name, trunk, input_size=64, memory_layers=1, occlusion_embedding=new, pointer_positions=new)
        monkeypatch.setitem(VARIANTS, name, config)


@pytest.fixture(scope="module")
def triton() -> Iterator[str]:
    """Where a Triton is that runs NANO."""
    with own_triton(NANO) as endpoint:
        yield endpoint


def scores(tmp_path: Path, *words: str) -> dict:
    path = tmp_path / "out" / "scores.json"
    assert main(["evaluate", *words, "--json", str(path)]) == 0
    said: dict = json.loads(path.read_text())
    return said


@pytest.mark.parametrize("write", [write_davis, write_youtube_vos, write_sav, write_sav_stills])
def test_the_truth_of_every_kind_of_dataset_scores_one(tmp_path, capsys, write):
    said = scores(tmp_path, "--data", str(write(tmp_path / "data")), "--mode", "truth")
    assert all(said["mean"][name]["value"] == 1 for name in ("J&F", "J", "F"))
    assert said["model"] is None
    assert "mean of" in capsys.readouterr().out


@pytest.mark.parametrize("mode", ["semi", "clicks", "online", "offline"])
def test_a_network_is_scored_in_every_mode(tmp_path, capsys, mode):
    data = str(write_davis(tmp_path / "data", frames=4))
    words = ["--data", data, "--split", "val", "--mode", mode, "--prompted-frames", "2", *MINI]
    said = scores(tmp_path, *words)
    wanted = {"semi": ["J&F", "J", "F"], "clicks": ["IoU@1", "IoU@3", "IoU@5"]}
    for name in wanted.get(mode, ["J&F@1", "J&F@2"]):
        assert said["mean"][name]["of"] == 2 and 0 <= said["mean"][name]["value"] <= 1
    assert (said["model"]["model"], said["model"]["input_size"], said["model"]["trained"]) == ("mini", 64, False)
    assert "untrained" in capsys.readouterr().out


def test_weights_from_a_file_decide_the_scores(tmp_path):
    data = ["--data", str(write_davis(tmp_path / "data", frames=4)), "--mode", "clicks", *MINI]
    found = []
    for seed in (1, 2, 1):
        save_checkpoint(build("mini", seed=seed).state_dict(), tmp_path / f"{seed}.pt")
        said = scores(tmp_path, *data, "--weights", str(tmp_path / f"{seed}.pt"))
        assert said["model"]["trained"]
        found.append(said["mean"])
    assert found[0] == found[2] != found[1]


def test_synthetic_clips_are_drawn_by_seed(tmp_path, capsys):
    words = ["--data", "synthetic:3-4", "--frames", "6", "--size", "64", "--objects", "2"]
    said = scores(tmp_path, *words, "--mode", "truth")
    assert [one["name"] for one in said["sequences"]] == ["synthetic-000003", "synthetic-000004"]
    assert said["mean"]["J&F"]["value"] == 1
    assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines()[:2]] == [
        "[1/2] synthetic-000003",
        "[2/2] synthetic-000004",
    ]


NANO = ModelConfig(variant="nano", input_size=64, device="cpu", precision="float32", threads=1)
NANO_WORDS = ["--variant=nano", "--input-size=64", "--device=cpu", "--precision=float32", "--threads=1"]


@pytest.mark.triton
@pytest.mark.timeout(300)
@pytest.mark.parametrize("mode", ["semi", "offline"])
def test_triton_s_scores_are_those_of_the_embedded_engine(tmp_path, triton, mode):
    data = str(write_davis(tmp_path / "data", names=("bear",), frames=4))
    words = ["--data", data, "--mode", mode, "--prompted-frames", "2"]
    here = scores(tmp_path, *words, *NANO_WORDS)
    there = scores(tmp_path, *words, *TRITON, triton)
    assert (here["model"].pop("backend"), there["model"].pop("backend")) == ("embedded", "triton")
    assert there["model"] == here["model"] and there["model"]["weights_sha256"]
    assert there["mean"] == here["mean"]


@pytest.mark.slow
@pytest.mark.triton
@pytest.mark.timeout(300)
def test_a_triton_of_one_s_own_runs_what_was_asked_for(tmp_path):
    data = ["--data", str(write_davis(tmp_path / "data", names=("bear",), frames=3)), "--mode", "clicks"]
    here, there = (scores(tmp_path, *data, *NANO_WORDS, "--backend", name) for name in ("embedded", "triton"))
    assert there["mean"] == here["mean"]
    assert there["model"]["input_size"] == 64


def test_the_first_sequences_only(tmp_path):
    said = scores(tmp_path, "--data", str(write_davis(tmp_path / "data")), "--sequences", "1", *FAKE)
    assert [one["name"] for one in said["sequences"]] == ["bear"]


def test_overlays_show_answer_beside_truth(tmp_path):
    data, out = str(write_davis(tmp_path / "data")), tmp_path / "overlays"
    assert main(["evaluate", "--data", data, "--save-overlays", str(out), *FAKE]) == 0
    assert sorted(path.name for path in out.iterdir()) == ["bear.mp4", "dogs.mp4"]
    with open_source(str(out / "bear.mp4")) as video:
        assert video.size == (48, 128) and len(list(video.frames())) == 5


def refused(capsys, *words: str) -> str:
    assert main(["evaluate", *words]) == 2
    said: str = capsys.readouterr().err
    assert said.count("\n") == 1
    return said


def test_an_empty_folder_is_one_clear_error(tmp_path, capsys):
    assert refused(capsys, "--data", str(tmp_path), *FAKE) == f"error: {tmp_path} is empty: no dataset\n"


def test_masks_without_frames_are_one_clear_error(tmp_path, capsys):
    data = write_davis(tmp_path)
    (data / "JPEGImages/480p/bear/00004.jpg").unlink()
    assert "00004.png has no frame of its name: 1 of 5 annotations" in refused(capsys, "--data", str(data), *FAKE)


@pytest.mark.parametrize(
    ("lost", "said"),
    [
        ("JPEGImages", "Annotations has no frames: there are none in "),
        ("JPEGImages/480p/bear", "Annotations/480p/bear has no frames: there is no folder "),
        ("Annotations", "Annotations/480p is not a folder"),
    ],
)
def test_masks_or_frames_that_are_missing_altogether_are_one_clear_error(tmp_path, capsys, lost, said):
    data = write_davis(tmp_path)
    shutil.rmtree(data / lost)
    assert said in refused(capsys, "--data", str(data), *FAKE)


def test_a_size_mismatch_is_one_clear_error(tmp_path, capsys):
    data = write_davis(tmp_path)
    write_annotation(data / "Annotations/480p/bear/00002.png", labels(2, size=(60, 64)))
    said = refused(capsys, "--data", str(data), *FAKE)
    assert "00002.png is 60 x 64 (height x width), the video's first frame is 48 x 64" in said


def test_a_checkpoint_of_another_variant_is_one_clear_error(tmp_path, capsys):
    data = str(write_davis(tmp_path / "data"))
    save_checkpoint(build("mini-old", seed=1).state_dict(), tmp_path / "old.pt")
    said = refused(capsys, "--data", data, *MINI, "--weights", str(tmp_path / "old.pt"))
    assert "old.pt does not fit mini (this looks like mini-old)" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--data", "synthetic:9-3"], "--data is synthetic:9-3, must be synthetic:FIRST-LAST"),
        (["--data", "clips", "--size", "64"], "--size is of synthetic clips, --data is clips"),
        (["--data", "synthetic", "--frames", "2"], "--frames is 2, must be at least 3"),
        (["--data", "synthetic", "--clicks", "1;3"], "--clicks is 1;3, must be whole numbers"),
        (["--data", "synthetic", "--clicks", "5,1"], "clicks are (5, 1), must be rising"),
        (["--data", "synthetic", "--sequences", "0"], "--sequences is 0, must be at least 1"),
        (["--data", "synthetic", "--size", "1000000"], "--size is 1000000, must be at most 4096"),
        (["--data", "synthetic", "--objects", "100000"], "--objects is 100000, must be at most 64"),
        (["--data", "synthetic", "--frames", "1000000"], "--frames is 1000000, must be at most 10000"),
        (["--data", "synthetic:1-100001"], "--data is synthetic:1-100001: 100001 clips, must be at most 100000"),
        (["--data", "synthetic:0-" + 20 * "9"], "clips, must be at most 100000"),
        (["--data", "synthetic:0-" + 5000 * "9"], "must be synthetic:FIRST-LAST"),
        (["--data", "synthetic", "--kind", "davis"], "--kind is of a folder, --data is synthetic"),
        (["--data", "synthetic", "--split", "val"], "--split is of a folder, --data is synthetic"),
        (["--data", "synthetic", "--weights", "x.pt", *FAKE], "--weights is x.pt, which --backend fake does not use"),
        (["--data", "synthetic", "--input-size=64", *FAKE], "--input-size is 64, which --backend fake does not use"),
        (["--data", "synthetic:0-0", "--input-size", "50"], "model.input_size is 50, must be 0, or divisible by 32"),
        (["--data", "synthetic:0-0", "--variant", "huge"], "unknown model variant 'huge'"),
        (["--data", "synthetic:0-0", "--triton", "a:8001"], "only --backend triton uses, not embedded"),
        (["--data", "synthetic:0-0", *TRITON, "here"], "triton.endpoints is ('here',), must be host:port"),
        (["--data", "synthetic:0-0", *TRITON, "a:1", "--input-size", "64"], "--input-size is 64, but the Triton that"),
        (["--data", "synthetic:0-0", "--json", "/dev/null/x.json", *FAKE], "/dev/null/x.json: cannot be written"),
    ],
)
def test_what_makes_no_sense_is_one_clear_error(capsys, words, said):
    assert said in refused(capsys, *words)


def test_no_data_is_a_usage_error(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["evaluate"])
    assert caught.value.code == 2
    assert "--data" in capsys.readouterr().err
