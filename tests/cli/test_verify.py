"""`masklet verify` as it is typed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
from tests.backends.triton_process import running_triton, stop_triton
from tests.threads import one_thread as one_thread
from tests.verification.recording import GOLDEN, blank, golden, write

from masklet.cli import main


def lines(capsys) -> dict[str, str]:
    """Printed lines by their first word."""
    return by_first_word(capsys.readouterr().out)


def by_first_word(said: str) -> dict[str, str]:
    return {line.split()[0]: line for line in said.splitlines() if line.strip()}


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_all_golden_scenarios_are_inside_the_tolerances():
    command = [sys.executable, "-m", "masklet", "verify", str(GOLDEN)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert run.returncode == 0, run.stdout + run.stderr
    said = by_first_word(run.stdout)
    assert len(said) == 2 + len(list(GOLDEN.glob("*.npz")))
    assert all(" ok" in line for name, line in said.items() if name.startswith("golden/"))
    assert "8 of 8 scenarios inside the tolerances" in said.values()


def off_by(amount: float, kind: str):
    """The first frame of a golden scenario, one number changed. (Of more frames a shorter video has other answers.)"""
    described, arrays = golden("one_click_20_frames", 1)
    arrays[f"tracked/0/1/{kind}"].flat[-1] += amount
    return described, arrays


def test_half_a_scenario_is_named(tmp_path, capsys):
    (tmp_path / "e.json").write_text("{}")
    assert main(["verify", str(tmp_path / "e.json")]) == 2
    assert f"is no scenario without {tmp_path / 'e.npz'}, which is missing\n" in capsys.readouterr().err


def test_an_answer_out_of_tolerance_is_said_and_is_the_exit_status(tmp_path, capsys):
    shutil.copytree(GOLDEN / "keys", tmp_path / "keys")
    shutil.copy(GOLDEN / "seeded_weights.py", tmp_path)
    folder = tmp_path / "tampered"
    folder.mkdir()
    write(folder, "fair", *off_by(0.01, "logits"))
    for kind, amount in (("logits", 0.05), ("object_score", 0.005), ("pointer", 0.003), ("pointer", np.nan)):
        write(folder, f"{kind}{amount}", *off_by(amount, kind))
    described, arrays = golden("one_click_20_frames", 1)
    write(folder, "more", described, arrays | {"tracked/0/2/logits": arrays["tracked/0/1/logits"]})
    assert main(["verify", str(folder)]) == 1
    verdicts = {name: line.rpartition("  ")[2] for name, line in lines(capsys).items() if "/" in name}
    assert verdicts.pop("tampered/fair") == "ok"
    assert set(verdicts.values()) == {"OUT OF TOLERANCE"}
    assert len(verdicts) == 5


def test_a_folder_that_is_not_there_is_an_error(capsys, tmp_path):
    assert main(["verify", str(tmp_path / "nowhere")]) == 2
    assert capsys.readouterr().err == f"error: {tmp_path / 'nowhere'} is not a folder\n"


def test_a_folder_without_scenarios_is_an_error(capsys, tmp_path):
    assert main(["verify", str(tmp_path)]) == 2
    assert "holds no scenario" in capsys.readouterr().err


def test_a_damaged_scenario_is_an_error(capsys, tmp_path):
    write(tmp_path, "s", *blank()).write_text("{}")
    assert main(["verify", str(tmp_path)]) == 2
    assert "s.json is not a scenario: KeyError: 'variant'" in capsys.readouterr().err


def test_a_scenario_whose_weights_cannot_be_drawn_fails(capsys, tmp_path):
    write(tmp_path, "s", *blank())
    assert main(["verify", str(tmp_path)]) == 1
    assert "FAILED: no seeded_weights.py" in lines(capsys)[f"{tmp_path.name}/s"]


def test_a_device_that_cannot_be_configured_fails(capsys, tmp_path):
    shutil.copy(GOLDEN / "seeded_weights.py", tmp_path)
    shutil.copytree(GOLDEN / "keys", tmp_path / "keys")
    write(tmp_path, "s", *blank())
    assert main(["verify", "--device=abacus", str(tmp_path)]) == 1
    assert "FAILED: device 'abacus'" in lines(capsys)[f"{tmp_path.name}/s"]


def test_an_unknown_precision_is_a_usage_error(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["verify", "--precision=int4", str(GOLDEN)])
    assert caught.value.code == 2
    assert "--precision: invalid choice: 'int4'" in capsys.readouterr().err


def test_no_folder_is_a_usage_error(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["verify"])
    assert caught.value.code == 2
    assert "DIR" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.triton
@pytest.mark.timeout(300)
def test_triton_s_answers_are_inside_the_tolerances_too(capsys, tmp_path):
    shutil.copytree(GOLDEN / "keys", tmp_path / "keys")
    shutil.copy(GOLDEN / "seeded_weights.py", tmp_path)
    write(tmp_path, "s", *golden("one_click_20_frames", 1))  # `make golden-triton` replays them all
    assert main(["verify", "--backend=triton", str(tmp_path)]) == 0
    assert "1 of 1 scenarios inside the tolerances" in capsys.readouterr().out


@pytest.mark.triton
def test_a_triton_that_runs_something_else_is_said(capsys, tmp_path):
    shutil.copytree(GOLDEN / "keys", tmp_path / "keys")
    shutil.copy(GOLDEN / "seeded_weights.py", tmp_path)
    write(tmp_path, "correction", *golden("correction", 2))
    try:
        assert main(["verify", "--backend=triton", f"--triton={running_triton().endpoint}", str(tmp_path)]) == 1
    finally:
        stop_triton()
    assert "FAILED: that Triton runs sam2.1_hiera_tiny at 64 px, weights random; wanted" in capsys.readouterr().out


def test_a_triton_that_would_not_be_used_is_refused(capsys):
    assert main(["verify", str(GOLDEN), "--triton", "localhost:8001"]) == 2
    assert "--triton is localhost:8001, which only --backend triton uses" in capsys.readouterr().err


def test_a_verification_that_is_ended_leaves_no_weights_behind(tmp_path):
    command = [sys.executable, "-m", "masklet", "verify", str(GOLDEN)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, env=os.environ | {"TMPDIR": str(tmp_path)}) as running:
        while not list(tmp_path.glob("masklet-verify-*/*")):
            assert running.poll() is None
            time.sleep(0.05)
        running.terminate()
        assert running.wait(60) == 143
    assert not list(tmp_path.glob("masklet-verify-*"))
