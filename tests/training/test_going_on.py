"""Runs that are stopped, changed, started in the wrong folder, or learn nothing any more."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.training.test_trainer import logged, recipe, trainer
from tests.training.torchrun import run_by_torchrun

from masklet.errors import ConfigError
from masklet.training import trainer as module


def test_a_run_that_is_told_to_stop_saves_and_goes_on(tmp_path: Path) -> None:
    run = trainer(tmp_path, recipe(), save_every=100)
    run.stop()
    run.run()
    again = trainer(tmp_path, recipe())
    assert again.resume() and again.step == 1


def test_a_new_run_does_not_replace_weights(tmp_path: Path) -> None:
    trainer(tmp_path, recipe()).run()
    (tmp_path / "state.pt").unlink()
    with pytest.raises(ConfigError, match=r"exists, but no state\.pt"):
        trainer(tmp_path, recipe()).resume()


def test_what_changed_since_is_said_and_holds(tmp_path: Path) -> None:
    trainer(tmp_path, recipe(), time_limit_s=1e-9).run()
    same = trainer(tmp_path, recipe())
    same.resume()
    assert same.changes == ()
    other = trainer(tmp_path, recipe(seed=7, optimiser={"weight_decay": 0.5, "beta2": 0.5}))
    other.resume()
    assert set(other.changes) == {"seed 0 -> 7", "optimiser.weight_decay 0.05 -> 0.5", "optimiser.beta2 0.98 -> 0.5"}
    assert {group["weight_decay"] for group in other.optimiser.param_groups} == {0.0, 0.5}
    assert {group["betas"] for group in other.optimiser.param_groups} == {(0.9, 0.5)}


def test_what_else_changed_since_is_said_too(tmp_path: Path) -> None:
    trainer(tmp_path, recipe(), time_limit_s=1e-9).run()
    other = trainer(tmp_path, recipe(), precision=torch.bfloat16)
    other.resume()
    assert other.changes == ("precision float32 -> bfloat16",)


def test_a_state_from_when_the_cosine_was_over_the_whole_run_says_that_it_is_not(tmp_path: Path) -> None:
    trainer(tmp_path, recipe(), time_limit_s=1e-9).run()
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    del state["given"]["cosine"]
    torch.save(state, tmp_path / "state.pt")
    again = trainer(tmp_path, recipe())
    assert again.resume()
    assert again.changes == ("cosine per run -> per stage",)


def test_a_setting_of_later_is_no_change_unless_it_is_used(tmp_path: Path) -> None:
    trainer(tmp_path, recipe(), time_limit_s=1e-9).run()
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    del state["given"], state["recipe"]["optimiser"]["muon"], state["recipe"]["interaction"]["box_noise"]
    del state["recipe"]["regularisation"], state["recipe"]["pretrained"]
    for stage in state["recipe"]["stages"]:
        del stage["burn_in"]
    torch.save(state, tmp_path / "state.pt")
    same, other = trainer(tmp_path, recipe()), trainer(tmp_path, recipe(interaction={"box_noise": 0.2}))
    assert same.resume() and other.resume()
    assert same.changes == () and other.changes == ("interaction.box_noise 0.1 -> 0.2",)


def test_gradients_that_stay_infinite_end_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SKIPPED_AT_MOST", 2)
    monkeypatch.setattr(module, "clip_gradients", lambda *_: torch.tensor(float("nan")))
    with pytest.raises(ConfigError, match="have not been finite since step 0"):
        trainer(tmp_path, recipe(), save_every=100).run()
    assert len(logged(tmp_path)) == 2


def test_too_little_memory_is_one_error_that_says_what_takes_less(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nmore lines")

    monkeypatch.setattr(module.Trainer, "losses", fails)
    wanted = r"2 clips of 1 frames of 64 px .* stages\.0: targets, .*=true \(CUDA out of memory[^\n]*\)$"
    with pytest.raises(ConfigError, match=wanted):
        trainer(tmp_path, recipe()).run()


def test_weights_that_are_not_finite_are_not_saved(tmp_path: Path) -> None:
    trainer(tmp_path, recipe(), time_limit_s=1e-9).run()
    before = (tmp_path / "mini.safetensors").read_bytes()
    run = trainer(tmp_path, recipe())
    run.resume()
    next(iter(run.average.state.values())).fill_(float("inf"))
    with pytest.raises(ConfigError, match="weights are not finite any more at step 1"):
        run.save()
    assert (tmp_path / "mini.safetensors").read_bytes() == before


_UNLIKE_PROCESSES = """
import sys, time
from pathlib import Path
import torch
from tests.training.conftest import MINI
from tests.training.test_trainer import ASSETS, recipe
from masklet.errors import ConfigError
from masklet.model import VARIANTS
from masklet.training.parallel import join_processes, leave_processes
from masklet.training.trainer import RunSettings, Trainer
VARIANTS["mini"] = MINI
torch.set_num_threads(1)
device = torch.device("cpu")
processes = join_processes(device)
def made(folder, **settings):
    run = RunSettings(folder, device, torch.float32, workers=0, progress=False, **settings)
    return Trainer(recipe(), run, assets=ASSETS, processes=processes)
shared = Path(sys.argv[1])
limits = made(shared, time_limit_s=1e-9 if processes.rank else 0.0)
limits.resume()
limits.run()
(shared / f"stopped{processes.rank}").write_text(str(limits.step))
try:
    made(shared if processes.leads else shared / "elsewhere").resume()
except ConfigError as error:
    (shared / f"error{processes.rank}").write_text(str(error))
leave_processes(processes)
"""


def test_processes_stop_together_and_go_on_from_one_step(tmp_path: Path) -> None:
    script, shared = tmp_path / "run.py", tmp_path / "run"
    script.write_text(_UNLIKE_PROCESSES)
    run_by_torchrun(script, shared)
    assert [(shared / f"stopped{rank}").read_text() for rank in range(2)] == ["1", "1"]
    for rank in range(2):
        said = (shared / f"error{rank}").read_text()
        assert said == "process 1 is at step 0, process 0 at step 1: all need the same folder"
