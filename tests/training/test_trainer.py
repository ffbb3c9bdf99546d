"""Whole runs of a tiny network: they go on where they stopped, share work, and learn."""

from __future__ import annotations

import csv
import os
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from tests.training.conftest import drifting_squares
from tests.training.torchrun import run_by_torchrun

from masklet.backends.embedded import EmbeddedBackend
from masklet.config import ModelConfig
from masklet.errors import ConfigError, WeightsError
from masklet.model import SAM2, build
from masklet.model.checkpoint import load_weights
from masklet.training.assets import AssetBank
from masklet.training.clip import Clip
from masklet.training.datasets.clip_sequence import ClipSequence
from masklet.training.evaluation import evaluate
from masklet.training.interaction import FirstPrompt, Plan
from masklet.training.optimise import drop_zero_gradients
from masklet.training.parallel import Processes
from masklet.training.recipe import Recipe, parse_recipe
from masklet.training.run_folder import LOG_COLUMNS
from masklet.training.source import FIRST_TRAINING_SEED, StepSource
from masklet.training.synthetic import SyntheticVideo
from masklet.training.trainer import RunSettings, Trainer

ASSETS = AssetBank.procedural()
STAGE = {"steps": 3, "frames": 3, "size": 96, "clips": 1}
NEEDS_MUON = pytest.mark.skipif(
    not hasattr(torch.optim, "Muon") and os.environ.get("CI") != "true", reason="torch has Muon from 2.9 on"
)


def recipe(**changes: object) -> Recipe:
    content = {
        "variant": "mini",
        "stages": [
            {"steps": 3, "frames": 1, "size": 64, "clips": 2, "learning_rate": 1e-3},
            {"steps": 3, "frames": 3, "size": 96, "clips": 1, "image_share": 0.5},
        ],
    }
    return parse_recipe(content | changes)


def trainer(folder: Path, plan: Recipe, **settings: object) -> Trainer:
    run = RunSettings(folder, torch.device("cpu"), torch.float32, workers=0, save_every=2, progress=False)
    return Trainer(plan, replace(run, **settings), assets=ASSETS)  # type: ignore[arg-type]


def logged(folder: Path) -> list[list[str]]:
    """All rows but for the time they took."""
    with (folder / "log.csv").open(newline="") as opened:
        return [[row[name] for name in LOG_COLUMNS[:-1]] for row in csv.DictReader(opened)]


def test_a_run_writes_a_log_and_weights_that_load(tmp_path):
    weights = trainer(tmp_path, recipe()).run()
    assert [row[0] for row in logged(tmp_path)] == ["1", "2", "3", "4", "5", "6"]
    load_weights(build("mini", seed=None), weights, variant="mini")


@pytest.mark.parametrize(
    "tables",
    [
        {},
        pytest.param({"optimiser": {"muon": True}}, marks=NEEDS_MUON),
        {"regularisation": {"drop_path": 0.3, "dropout": 0.3}, "interaction": {"from_truth": 0.5}},
    ],
)
def test_a_stopped_run_goes_on_as_if_it_had_not_stopped(tmp_path, tables):
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    plan = recipe(**tables)
    trainer(whole, plan).run()
    trainer(halves, plan, time_limit_s=1e-9).run()
    assert len(logged(halves)) == 1
    for _ in range(2):
        again = trainer(halves, plan, time_limit_s=1e-9)
        assert again.resume()
        again.run()
    last = trainer(halves, plan)
    last.resume()
    assert last.step == 3
    last.run()
    assert logged(halves) == logged(whole)
    first, second = (torch.load(f / "state.pt", weights_only=True)["network"] for f in (whole, halves))
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_a_step_of_16_frames_reads_a_full_memory_bank(tmp_path, monkeypatch):
    read: list[tuple[int, int]] = []
    condition = SAM2.condition

    def watched(network, features, frame_of_row, memory):
        read.append((memory.memories.shape[1], memory.pointers.shape[1]))
        return condition(network, features, frame_of_row, memory)

    monkeypatch.setattr(SAM2, "condition", watched)
    stage = {"steps": 1, "frames": 16, "size": 64, "clips": 1}
    plan = recipe(stages=[stage], interaction={"second_frame": 0.0})
    run = trainer(tmp_path, plan)
    before = {name: value.clone() for name, value in run.network.state_dict().items()}
    run.run()
    assert read == [(min(frame, 7), frame) for frame in range(1, 16)]
    assert 0 < float(logged(tmp_path)[0][LOG_COLUMNS.index("gradient_norm")]) < float("inf")
    assert not torch.equal(before["maskmem_tpos_enc"], run.network.state_dict()["maskmem_tpos_enc"])


def test_rows_logged_after_the_last_save_are_not_kept_twice(tmp_path):
    trainer(tmp_path, recipe(), time_limit_s=1e-9).run()
    with (tmp_path / "log.csv").open("a") as opened:
        opened.write(",".join(["2"] * len(LOG_COLUMNS)) + "\n")
    again = trainer(tmp_path, recipe())
    again.resume()
    assert [row[0] for row in logged(tmp_path)] == ["1"]


def test_nothing_to_resume_is_no_error(tmp_path):
    assert not trainer(tmp_path, recipe()).resume()


def test_a_state_of_another_run_is_refused(tmp_path):
    trainer(tmp_path, recipe(), time_limit_s=1e-9).run()
    with pytest.raises(WeightsError, match="is of variant mini, the recipe is for nano"):
        trainer(tmp_path, recipe(variant="nano")).resume()
    longer = torch.load(tmp_path / "state.pt", weights_only=True)
    torch.save(longer | {"step": 99}, tmp_path / "state.pt")
    with pytest.raises(ConfigError, match="at step 99, the recipe has only 6 steps"):
        trainer(tmp_path, recipe()).resume()
    (tmp_path / "state.pt").write_bytes(b"PK\x03\x04 and then nothing")
    with pytest.raises(WeightsError, match="is not the state of a training run"):
        trainer(tmp_path, recipe()).resume()


@NEEDS_MUON
@pytest.mark.parametrize("muon", [False, True])
def test_a_state_of_another_optimiser_is_refused(tmp_path, muon):
    trainer(tmp_path, recipe(optimiser={"muon": muon}), time_limit_s=1e-9).run()
    with pytest.raises(ConfigError, match="has other optimiser settings"):
        trainer(tmp_path, recipe(optimiser={"muon": not muon})).resume()


def test_a_checkpoint_of_another_variant_is_no_start(tmp_path):
    weights = trainer(tmp_path, recipe(), time_limit_s=1e-9).run()
    run = RunSettings(tmp_path, torch.device("cpu"), torch.float32, workers=0)
    with pytest.raises(WeightsError, match="does not fit nano"):
        Trainer(recipe(variant="nano"), run, assets=ASSETS, init=weights)


def test_steps_depend_on_nothing_but_their_index():
    source = StepSource(recipe(), ASSETS, [], Processes())
    first = source[4]
    source[1]
    again = source[4]
    assert first.plan == again.plan and torch.equal(first.batch.frames, again.batch.frames)


def test_processes_share_the_plan_but_not_the_clips():
    sources = [StepSource(recipe(), ASSETS, [], Processes(rank, 2)) for rank in range(2)]
    for step in range(4):
        one, two = (source[step] for source in sources)
        assert one.plan == two.plan
        assert not torch.equal(one.batch.frames[0, 0], two.batch.frames[0, 0])


def test_clips_are_never_those_of_the_evaluation_and_no_two_are_the_same(monkeypatch):
    drawn = []

    def watched(self, seed, frames=None):
        drawn.append(seed)
        return drifting_squares(seed, frames=len(frames) if frames else self._settings.frames, size=96)

    monkeypatch.setattr(SyntheticVideo, "clip", watched)
    for rank in range(2):
        source = StepSource(recipe(stages=[STAGE]), ASSETS, [], Processes(rank, 2))
        for step in range(10):
            source[step]
    assert len(set(drawn)) == len(drawn) >= 20
    assert min(drawn) >= FIRST_TRAINING_SEED >= 1_000_000


@NEEDS_MUON
def test_what_no_loss_depends_on_takes_no_step(tmp_path):
    run = trainer(tmp_path, recipe(stages=[STAGE], optimiser={"muon": True, "weight_decay": 0.5}))
    corrected, plain = (Plan(FirstPrompt.CLICK, corrections) for corrections in ({0: 1}, {}))
    run.train_step(replace(run.source[0], plan=corrected))
    before = {name: weight.detach().clone() for name, weight in run.network.named_parameters()}
    run.train_step(replace(run.source[1], plan=plain))  # asks for the three candidates alone
    moved = {name for name, weight in run.network.named_parameters() if not torch.equal(weight, before[name])}
    heads = [f"sam_mask_decoder.output_hypernetworks_mlps.{head}." for head in range(4)]
    single, *candidates = (any(name.startswith(head) for name in moved) for head in heads)
    assert not single and any(candidates)


def test_a_gradient_of_zeros_is_none(tmp_path):
    run = trainer(tmp_path, recipe())
    weights = list(run.network.parameters())
    for place, weight in enumerate(weights):
        weight.grad = torch.zeros_like(weight)
        weight.grad[..., 0] = 1e-20 * (place == 3)
    drop_zero_gradients(weights)
    assert [weight.grad is not None for weight in weights] == [place == 3 for place in range(len(weights))]


_TWO_PROCESSES = """
import sys
from pathlib import Path
import torch
from tests.training.conftest import MINI
from tests.training.test_trainer import ASSETS, recipe
from masklet.model import VARIANTS
from masklet.training.clip import Clip
from masklet.training.datasets.clip_sequence import ClipSequence
from masklet.training.evaluation import evaluate
from masklet.training.parallel import join_processes, leave_processes
from masklet.training.trainer import RunSettings, Trainer
VARIANTS["mini"] = MINI
torch.set_num_threads(1)
device = torch.device("cpu")
processes = join_processes(device)
folder = Path(sys.argv[1])
run = RunSettings(folder if processes.leads else folder / "none", device, torch.float32, workers=0, progress=False)
trainer = Trainer(recipe(), run, assets=ASSETS, processes=processes)
trainer.run()
torch.save(trainer.network.state_dict(), folder / f"rank{processes.rank}.pt")
leave_processes(processes)
"""


def test_two_processes_train_one_model(tmp_path):
    script = tmp_path / "run.py"
    script.write_text(_TWO_PROCESSES)
    run_by_torchrun(script, tmp_path)
    one, two = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in range(2))
    assert all(torch.equal(value, two[name]) for name, value in one.items())
    alone = tmp_path / "alone"
    trainer(alone, recipe()).run()
    assert logged(tmp_path) != logged(alone)  # the other process' clips have had their say


CLIPS = [drifting_squares(seed, frames=4, size=96, objects=1) for seed in range(3)]


class _Handful(StepSource):
    """A handful of clips, over and over."""

    def _synthetic_clip(self, stage, frames, seed, random):
        clip = CLIPS[seed % len(CLIPS)]
        return Clip(clip.frames[:frames], clip.masks[:frames])


async def jf(weights: Path) -> float:
    """J&F on the handful, from the first mask, by what is served."""
    config = ModelConfig("mini", str(weights), input_size=96, device="cpu", precision="float32", threads=1)
    async with EmbeddedBackend(config) as backend:
        sequences = [ClipSequence(f"{i}", partial(CLIPS.__getitem__, i)) for i in range(len(CLIPS))]
        report = await evaluate(backend, sequences, "semi")
    value = report.measures["J&F"].value
    assert value is not None
    return value


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_a_handful_of_clips_is_overfitted(tmp_path):
    stage = {"frames": 4, "size": 96, "clips": 3, "learning_rate": 2e-3, "image_share": 0.3}
    plan = parse_recipe(
        {
            "variant": "mini",
            "stages": [stage | {"steps": 100, "focal": 0.5}, stage | {"steps": 250}],
            "optimiser": {"warmup_steps": 20, "layer_decay": 1.0, "ema_decay": 0.95},
            "interaction": {"click": 0.1, "box": 0.1, "max_corrections": 1, "second_frame": 0.0},
        }
    )
    run = trainer(tmp_path, plan, save_every=1000)
    run.source = _Handful(plan, ASSETS, [], Processes())
    assert await jf(run.run()) > 0.95
