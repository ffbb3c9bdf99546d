"""`masklet train` as it is typed."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest
import torch
from PIL import Image
from tests.threads import one_thread as one_thread
from tests.training.conftest import MINI
from tests.training.datasets.samples import (
    SIZE,
    labels,
    picture,
    write_annotation,
    write_davis,
    write_sav,
    write_sav_stills,
    write_youtube_vos,
)

from masklet.backends.embedded import EmbeddedBackend
from masklet.cli import main
from masklet.cli.train import _default_workers
from masklet.config import ModelConfig
from masklet.model import VARIANTS, build
from masklet.model.checkpoint import read_checkpoint, save_checkpoint
from masklet.training.run_folder import RunFolder
from masklet.training.trainer import Trainer
from masklet.types import Prompt, StepRequest, TrackSettings

RECIPE = """
variant = "mini"
[[stages]]
steps = 2
frames = 1
size = 64
clips = 1
[[stages]]
steps = 2
frames = 2
size = 64
clips = 1
real_share = 1.0
"""


@pytest.fixture(autouse=True)
def mini(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(VARIANTS, "mini", MINI)


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    (tmp_path / "recipe.toml").write_text(RECIPE)
    return ["train", "--recipe", str(tmp_path / "recipe.toml"), "--out", str(tmp_path / "run"), "--device", "cpu",
            "--precision", "float32", "--threads", "1", "--workers", "0"]  # fmt: skip


def test_training_writes_weights_a_log_and_a_curve_and_says_how_to_serve_them(tmp_path, words, capsys):
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "training mini on cpu in float32: 4 steps in 2 stages, from step 0" in said
    assert f"masklet serve --variant mini --weights {tmp_path / 'run' / 'mini.safetensors'}" in said
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        "mini.safetensors", "state.pt", "log.csv", "curve.png",
    }  # fmt: skip


def test_it_says_what_it_starts_from_and_what_it_sees(tmp_path, words, capsys):
    for name in ("one", "two", "three"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (80, 80), "red").save(tmp_path / name / "photo.png")
    once = ["--time-limit-s", "0.000001"]
    assert main([*words, *once]) == 0
    assert "from step 0, random weights; no annotated video, synthetic clips of procedural pictures alone; " in (
        capsys.readouterr().out
    )
    pictures = ["--assets", str(tmp_path / "one"), str(tmp_path / "two"), "--assets", str(tmp_path / "three")]
    data = write_davis(tmp_path / "data", frames=4)
    assert main([*words, *once, *pictures, "--data", str(data)]) == 0
    said = capsys.readouterr().out
    assert "not as before: videos 0 -> 2\nnot as before: pictures 0 -> 3\n" in said
    assert "going on from step 1; 2 annotated videos, synthetic clips of 3 pictures; " in said


def test_a_folder_that_another_run_trains_in_is_refused(tmp_path, words, capsys):
    with RunFolder(tmp_path / "run", "mini").locked():
        assert main(words) == 2
    assert capsys.readouterr().err == f"error: another run is training in {tmp_path / 'run'}\n"


def test_the_same_command_again_goes_on_where_it_stopped(words, capsys):
    assert main([*words, "--time-limit-s", "0.000001"]) == 0
    assert main(words) == 0
    assert "going on from step 1" in capsys.readouterr().out


def test_real_video_and_a_checkpoint_to_start_from(tmp_path, words):
    data = write_davis(tmp_path / "data", frames=4)
    save_checkpoint(build("mini", seed=1).state_dict(), tmp_path / "start.pt")
    assert main([*words, "--data", str(data), "--init", str(tmp_path / "start.pt")]) == 0


@pytest.mark.parametrize("write", [write_youtube_vos, write_sav, write_sav_stills])
def test_video_that_is_annotated_in_part_is_trained_on(tmp_path, words, write):
    assert main([*words, "--data", str(write(tmp_path / "data")), "--set=stages.1.steps=6"]) == 0


def test_video_too_short_for_the_recipe_is_refused(tmp_path, words, capsys):
    data = write_davis(tmp_path / "data", frames=4)
    assert main([*words, "--data", str(data), "--set=stages.1.frames=5"]) == 2
    said = capsys.readouterr().err
    assert said == "error: the recipe wants clips of 5 annotated frames, the longest of 2 videos has 4\n"


@pytest.mark.parametrize("workers", ["0", "1"])
def test_video_that_does_not_agree_with_itself_is_one_clear_error(tmp_path, words, capsys, workers):
    data = write_davis(tmp_path / "data", names=("bear",), frames=4)
    for index in range(4):
        write_annotation(data / f"Annotations/480p/bear/{index:05d}.png", labels(index, size=(60, 64)))
    assert main([*words, "--data", str(data), "--workers", workers]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("error: ") and "is 60 x 64 (height x width), the video's first frame is 48 x 64" in said


FINETUNE = [
    "train", "--recipe", "finetune", "--device=cpu", "--precision=float32", "--threads=1", "--workers=0",
    "--set=optimiser.warmup_steps=1", *(f"--set=stages.{index}.size=128" for index in (0, 1)),
    *(f"--set=stages.{index}.steps=1" for index in (0, 1)), *(f"--set=stages.{index}.frames=2" for index in (0, 1)),
]  # fmt: skip


@pytest.mark.parametrize(
    ("given", "said"),
    [("--data", "recipe finetune goes on from a trained checkpoint: give one with --init"),
     ("--init", "recipe finetune trains on annotated video alone: give it with --data")],
)  # fmt: skip
def test_fine_tuning_without_a_start_or_without_video_is_refused(tmp_path, capsys, given, said):
    assert main([*FINETUNE, given, str(tmp_path), "--out", str(tmp_path / "run")]) == 2
    assert capsys.readouterr().err == f"error: {said}\n"


@pytest.mark.parametrize(
    ("device", "cores", "processes", "expected"),
    [("cpu", 2, 2, 1), ("cpu", 16, 1, 4), ("cuda", 16, 1, 8), ("cuda", 128, 8, 8), ("cuda", 12, 2, 3)],
)
def test_processes_that_prepare_clips_share_the_cores(monkeypatch, device, cores, processes, expected):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(cores)))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    assert _default_workers(torch.device(device)) == expected


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_a_published_variant_is_tuned_on_one_s_own_video_and_served(tmp_path, capsys):
    """With random weights in the published layout: the published ones cannot be had here."""
    start, run = tmp_path / "sam2.1_hiera_tiny.pt", tmp_path / "run"
    save_checkpoint(build("sam2.1_hiera_tiny", seed=1).state_dict(), start)
    data = write_davis(tmp_path / "data", frames=4)
    words = [*FINETUNE, "--init", str(start), "--data", str(data), "--out", str(run)]
    assert await asyncio.to_thread(main, words) == 0
    (run / "state.pt").unlink()  # 600 MB
    weights = run / "sam2.1_hiera_tiny.safetensors"
    assert f"--weights {weights}" in capsys.readouterr().out
    before, after = read_checkpoint(start), read_checkpoint(weights)
    moved = [name for name, value in before.items() if not torch.equal(value, after[name])]
    assert before.keys() == after.keys() and len(moved) > 0.8 * len(before)
    config = ModelConfig(weights=str(weights), input_size=128, device="cpu", precision="float32", threads=1)
    async with EmbeddedBackend(config) as backend:  # which variant it is, the file says
        assert backend.describe().model == "sam2.1_hiera_tiny"
        await backend.open("s", TrackSettings())
        click = Prompt.clicks(1, [(9, 9)], [1])
        result = await backend.step("s", StepRequest(1, picture(0), (click,)))
    assert [found.mask.shape for found in result.objects] == [SIZE]


@pytest.mark.slow
def test_fine_tuning_starts_from_the_variant_it_is_for(tmp_path, capsys):
    save_checkpoint(build("sam2_hiera_tiny").state_dict(), tmp_path / "old.pt")
    data = write_davis(tmp_path / "data", frames=4)
    words = [*FINETUNE, "--init", str(tmp_path / "old.pt"), "--data", str(data), "--out", str(tmp_path / "run")]
    assert main(words) == 2
    assert "does not fit sam2.1_hiera_tiny (this looks like sam2_hiera_tiny)" in capsys.readouterr().err
    assert main([*words, "--variant", "sam2_hiera_tiny", "--time-limit-s=1e-9"]) == 0
    (tmp_path / "run/state.pt").unlink()
    assert main(["weights", "convert", str(tmp_path / "run/sam2_hiera_tiny.safetensors"), str(tmp_path / "b.pt")]) == 0


def test_pictures_to_compose_clips_of(tmp_path, words):
    (tmp_path / "pictures").mkdir()
    Image.effect_mandelbrot((160, 120), (-2, -1, 1, 1), 50).convert("RGB").save(tmp_path / "pictures" / "photo.jpg")
    assert main([*words, "--assets", str(tmp_path / "pictures")]) == 0


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--recipe", "nowhere.toml"], "nowhere.toml: cannot be read"),
        (["--variant", "huge"], "unknown model variant 'huge'"),
        (["--init", "none.pt"], "none.pt: cannot be read"),
        (["--data", "nowhere"], "nowhere"),
        (["--assets", "nowhere"], "nowhere"),
        (["--device", "tpu"], "device 'tpu' is not one of"),
    ],
)
def test_faults_are_one_line(words, capsys, more, message):
    assert main([*words, *more]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1 and message in said


def test_a_checkpoint_of_another_variant_is_named(tmp_path, words, capsys):
    save_checkpoint(build("nano").state_dict(), tmp_path / "nano.pt")
    assert main([*words, "--init", str(tmp_path / "nano.pt")]) == 2
    assert "does not fit mini (this looks like nano)" in capsys.readouterr().err


def test_an_empty_folder_of_data_is_refused(tmp_path, words, capsys):
    (tmp_path / "empty").mkdir()
    assert main([*words, "--data", str(tmp_path / "empty")]) == 2
    assert str(tmp_path / "empty") in capsys.readouterr().err


def test_a_signal_saves_and_is_the_exit_status(tmp_path, words, monkeypatch, capsys):
    step = Trainer.train_step

    def interrupted(trainer, step_input):
        signal.raise_signal(signal.SIGTERM)
        return step(trainer, step_input)

    monkeypatch.setattr(Trainer, "train_step", interrupted)
    assert main(words) == 128 + signal.SIGTERM
    said = capsys.readouterr().out
    assert "stopped at step 1 of 4; the same command goes on" in said
    assert (tmp_path / "run" / "state.pt").exists()


def test_going_on_says_what_is_not_as_before(tmp_path, words, capsys):
    assert main([*words, "--time-limit-s", "0.000001"]) == 0
    assert main([*words, "--set", "seed=7", "--init", str(tmp_path / "gone.pt")]) == 0
    said = capsys.readouterr().out
    assert "not as before: seed 0 -> 7" in said
    assert f"--init {tmp_path / 'gone.pt'} is not used" in said


@pytest.mark.parametrize("flag", ["--threads", "--save-every", "--time-limit-s", "--workers"])
def test_numbers_that_make_no_sense_are_named(words, flag, capsys):
    assert main([*words, flag, "-3"]) == 2
    assert f"error: {flag} is -3" in capsys.readouterr().err


@pytest.mark.parametrize(("flag", "value", "most"), [("--threads", "100000", 4096), ("--workers", "99999999", 1024)])
def test_more_threads_or_processes_than_can_be_are_refused(words, monkeypatch, flag, value, most, capsys):
    monkeypatch.setattr("masklet.cli.train._recipe", pytest.fail)  # nothing has been started by then
    assert main([*words, flag, value]) == 2
    assert f"error: {flag} is {value}, must be at most {most}" in capsys.readouterr().err
