"""The demo from end to end with a server process of its own, and its parts."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from masklet.cli import main
from masklet.cli.demo import first_clicks, inner_point, mean_iou
from masklet.training.clip import Clip
from masklet_client.source import open_source


@pytest.mark.slow
def test_demo_writes_its_files_reports_and_leaves_no_server(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = ["demo", "--backend", "fake", "--frames", "6", "--size", "96x128", "--out", str(tmp_path)]
    assert main(words) == 0
    said = capfd.readouterr().out
    assert said.count("mean IoU") == 4 and "frames/s" in said and "untrained random stand-ins" in said
    with open_source(str(tmp_path / "demo.mp4")) as source:
        assert source.size == (96, 256) and len(list(source.frames())) == 6
    assert "signal received" in (tmp_path / "server.log").read_text()


@pytest.mark.slow
def test_server_that_cannot_start_shows_its_last_words(tmp_path: Path) -> None:
    words = [
        "demo",
        "--backend",
        "fake",
        "--frames",
        "2",
        "--size",
        "64x64",
        "--out",
        str(tmp_path),
        "--input-size",
        "33",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "masklet", *words], capture_output=True, text=True, timeout=60, cwd=tmp_path
    )
    assert done.returncode == 2 and "the server ended with status" in done.stderr and "33" in done.stderr


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--size", "360"),
        ("--size", "8x8"),
        ("--size", "32x4097"),
        ("--size", f"{5000 * '9'}x64"),
        ("--frames", "0"),
        ("--frames", "10001"),
    ],
)
def test_bad_arguments_are_named(flag: str, value: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--out", str(tmp_path), flag, value]) == 2
    assert f"{flag} is {value}" in capsys.readouterr().err


def test_inner_point_is_as_deep_inside_as_can_be() -> None:
    mask = np.zeros((40, 60), np.bool_)
    mask[10:31, 20:41] = True
    mask[20, 41:60] = True  # a thin arm must not draw the point away
    assert inner_point(mask) in ((30, 20), (31, 20))
    with pytest.raises(ValueError, match="empty"):
        inner_point(np.zeros((4, 4), np.bool_))


def test_objects_are_clicked_on_the_first_frame_they_show() -> None:
    masks = np.zeros((3, 3, 20, 20), np.bool_)
    masks[0:, 0, 2:12, 2:12] = masks[2:, 1, 10:20, 10:20] = True
    clicks = first_clicks(Clip(np.zeros((3, 20, 20, 3), np.uint8), masks))
    assert {frame: [p.object_id for p in some] for frame, some in clicks.items()} == {0: [1], 2: [2]}


def test_mean_iou_counts_empty_on_both_sides_as_right() -> None:
    truth, predicted = np.zeros((3, 4, 4), np.bool_), np.zeros((3, 4, 4), np.bool_)
    truth[0, :2], predicted[0, :1] = True, True
    truth[1, 0, 0] = True
    assert mean_iou(predicted, truth) == pytest.approx((0.5 + 0.0 + 1.0) / 3)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks for the server in /proc")
def test_terminated_demo_stops_its_server(tmp_path: Path) -> None:
    words = ["demo", "--backend", "fake", "--frames", "400", "--size", "96x128", "--out", str(tmp_path)]
    log = str(tmp_path / "server.log")
    process = subprocess.Popen([sys.executable, "-m", "masklet", *words], stdout=subprocess.DEVNULL)
    try:
        until_s = time.monotonic() + 60
        while not _running(log):
            assert process.poll() is None and time.monotonic() < until_s
            time.sleep(0.02)
        process.terminate()
        assert process.wait(30) == 143
        assert not _running(log)
    finally:
        process.kill()
        process.wait()
        for pid in _running(log):
            os.kill(pid, signal.SIGKILL)


def _running(log: str) -> list[int]:
    """Processes that still write to `log`."""
    links = Path("/proc").glob("[0-9]*/fd/1")
    return [int(link.parts[2]) for link in links if link.exists() and str(link.resolve()) == log]


def test_a_folder_that_cannot_be_written_is_one_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("in the way")
    assert main(["demo", "--backend", "fake", "--out", str(tmp_path / "file")]) == 2
    assert capsys.readouterr().err.startswith(f"error: --out is {tmp_path / 'file'}, which cannot be made")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_one_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "clip.mp4").symlink_to("/dev/full")
    assert main(["demo", "--backend", "fake", "--frames", "2", "--out", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert said == f"error: {tmp_path / 'clip.mp4'}: cannot be written: No space left on device\n"
