"""A run's files: nobody else's are touched, a fault is one error, and the log is what was trained."""

from __future__ import annotations

import csv
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from masklet.errors import ConfigError, WeightsError
from masklet.training.run_folder import LOG_COLUMNS, RunFolder


def row(step: int) -> dict[str, object]:
    return {**dict.fromkeys(LOG_COLUMNS, 0.5), "step": step}


def steps(folder: Path) -> list[int]:
    with (folder / "log.csv").open(newline="") as opened:
        return [int(found["step"]) for found in csv.DictReader(opened)]


def state(step: int = 3) -> dict[str, object]:
    return {"recipe": {"variant": "mini"}, "step": step, "network": {"w": torch.zeros(50_000)}}


@contextmanager
def full_disk(limit: int) -> Iterator[None]:
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    made = RunFolder(tmp_path / "run", "mini")
    made.make()
    return made


def test_weights_of_somebody_else_are_not_replaced(folder: RunFolder) -> None:
    folder.weights.write_bytes(b"precious")
    with pytest.raises(ConfigError, match=r"mini.safetensors exists, but no state.pt beside it .* another folder"):
        folder.claim()
    assert folder.weights.read_bytes() == b"precious"


def test_two_runs_do_not_share_a_folder(folder: RunFolder) -> None:
    other = RunFolder(folder.path, "nano")
    with folder.locked(), pytest.raises(ConfigError, match="another run is training in"), other.locked():
        pass
    with other.locked():
        assert not list(folder.path.iterdir())


def test_a_log_without_a_state_is_set_aside(folder: RunFolder) -> None:
    for step in (1, 2, 3):
        folder.log(row(step))
        folder.claim()
    assert sorted(path.name for path in folder.path.iterdir()) == ["log.1.csv", "log.2.csv", "log.3.csv"]


def test_a_log_that_a_crash_left_half_written_is_cut_to_whole_rows(folder: RunFolder) -> None:
    for step in (1, 2, 3):
        folder.log(row(step))
    with (folder.path / "log.csv").open("ab") as opened:
        opened.write(b"4,0,1\0\0\0\xff\n2,")
    folder.cut_log(2)
    assert steps(folder.path) == [1, 2]
    folder.log(row(3))
    assert steps(folder.path) == [1, 2, 3]
    assert [path.name for path in folder.path.iterdir()] == ["log.csv"]


def test_no_log_is_no_reason_to_stop(folder: RunFolder) -> None:
    folder.cut_log(7)
    assert not list(folder.path.iterdir())


def test_a_full_disk_is_one_error_and_the_last_state_stays(folder: RunFolder) -> None:
    folder.save(state(3), {"w": torch.zeros(2)})
    with full_disk(20_000), pytest.raises(ConfigError, match=r"state.pt: cannot be written: ") as caught:
        folder.save(state(4), {"w": torch.zeros(2)})
    assert "\n" not in str(caught.value)
    assert folder.load()["step"] == 3
    assert not list(folder.path.glob("*.part"))


def test_a_full_disk_leaves_the_log_as_it_was(folder: RunFolder) -> None:
    for step in range(1, 200):
        folder.log(row(step))
    size = (folder.path / "log.csv").stat().st_size
    with full_disk(size // 2), pytest.raises(ConfigError, match=r"log\.csv: cannot be written"):
        folder.cut_log(190)
    assert (folder.path / "log.csv").stat().st_size == size


def test_a_folder_that_cannot_be_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(ConfigError, match="cannot be written"):
            RunFolder(path, "mini").claim()


def test_a_state_of_something_else_is_refused(folder: RunFolder) -> None:
    torch.save({"recipe": {}, "step": 1}, folder.path / "state.pt")
    with pytest.raises(WeightsError, match="is not the state of a training run"):
        folder.load()


def test_weights_may_be_read_by_whom_the_umask_lets(folder: RunFolder) -> None:
    folder.save(state(), {"w": torch.zeros(2)})
    (folder.path / "plain").touch()
    assert folder.weights.stat().st_mode == (folder.path / "plain").stat().st_mode
