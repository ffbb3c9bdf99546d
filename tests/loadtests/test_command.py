from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from PIL import Image
from tests.loadtests.conftest import scenario, service

from masklet.errors import ConfigError
from masklet_load.actions import parse_action, perform_all
from masklet_load.cli import main
from masklet_load.clip import load_clip
from masklet_load.facts import check_targets
from masklet_load.report import load_report
from masklet_load.run import Test as LoadTest
from masklet_load.served import Served

SMALL = ("--height", "48", "--width", "64", "--clip-frames", "4", "--lag-ms", "1000", "--slo-ms", "60000")
BRIEF = ("--duration-s", "1", "--warm-up-s", "0", "--streams", "2", "--settle-s", "0.1", "--rate-hz", "20")


def test_the_command_starts_a_service_loads_it_and_writes_what_it_found(tmp_path: Path) -> None:
    words = (
        "--start",
        "fake",
        "--server-flags",
        "--limits.max_sessions 9",
        *SMALL,
        *BRIEF,
        "--prime-s",
        "1",
        "--policy",
        "block",
    )
    command = (sys.executable, "-m", "masklet_load.cli", *words, "--out", str(tmp_path), "--name", "mine")
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode in (0, 1), done.stderr
    report = load_report(tmp_path / "mine.json")
    assert report.groups["all"].frames["answered"] == report.groups["all"].frames["due"] > 0
    assert (report.server["backend"], report.server["flags"]) == ("fake", "--backend fake --limits.max_sessions 9")
    assert report.facts["command"].startswith("masklet-load --start fake")
    assert {check.what for check in report.checks} >= {"rss_mib", "fds", "threads"}
    assert report.samples[0].rss_mib > 10
    with Image.open(tmp_path / "mine.png") as picture:
        assert picture.width > 600
    assert done.stdout == (tmp_path / "mine.md").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "nothing to load: --server HOST:PORT or --start"),
        (("--server", "192.0.2.7:50051"), "192.0.2.7:50051 is not this machine; --allow-remote"),
        (("--server", "example.org:1"), "example.org:1 is not this machine"),
        (("--server", "localhost"), "--server has 'localhost', must be host:port"),
        (("--server", "localhost:1"), "no masklet server answers at localhost:1"),
        (("--server", "localhost:1", "--streams", "5000"), "streams is 5000, must be 1 to 2000 (flag --streams)"),
        (("--server", "localhost:1", "--processes", "0"), "--processes is 0, must be 1 to 64"),
        (("--server", "localhost:1", "--refusals-allowed"), "about those of a spike: spike_streams is 0"),
        (("--server", "localhost:1", "--source", "gone.mp4"), "no masklet server answers"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(
    words: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    assert message in capsys.readouterr().err


def test_remote_targets_are_allowed_when_they_are_meant() -> None:
    check_targets(["192.0.2.7:50051"], allow_remote=True)
    check_targets(["127.0.0.1:1", "localhost:1", "[::1]:1"], allow_remote=False)


async def test_several_processes_deal_the_cameras_among_them() -> None:
    with service() as served:
        test = LoadTest("two", scenario(streams=3), Served((served.address,)), 2, {})
        report = await test.run()
    summary = report.groups["all"]
    assert (summary.sessions["planned"], summary.sessions["closed"]) == (3, 3)
    assert summary.frames["answered"] == summary.frames["due"] > 20


async def test_what_a_generator_process_cannot_do_is_told() -> None:
    with service() as served:
        test = LoadTest("none", scenario(source="gone.mp4"), Served((served.address,)), 1, {})
        with pytest.raises(Exception, match=r"source is gone.mp4, no such file or folder"):
            await test.run()


async def test_actions_hit_what_they_aim_at_when_they_should() -> None:
    victim = subprocess.Popen((sys.executable, "-c", "import time; time.sleep(60)"))
    try:
        lines = (f"0.3 TERM {victim.pid}", "0.1 run true", "0 run no-such-program")
        done = await perform_all(tuple(parse_action(line, most_s=1) for line in lines), {}, start_s=time.monotonic())
        assert victim.wait(10) == -15
    finally:
        victim.kill()
    assert [(one.line.split(": ", 1)[1].rsplit(" (", 1)[0], one.failed) for one in done] == [
        (f"TERM {victim.pid}: sent to {victim.pid}", False),
        ("run true: exit 0", False),
        ("run no-such-program: failed: No such file or directory", True),
    ]
    assert done[0].line.startswith("0.3")


def test_what_it_started_ends_with_it_when_it_is_told_to_stop(tmp_path: Path) -> None:
    command = (sys.executable, "-m", "masklet_load.cli", "--start", "fake", "--streams", "1", "--duration-s", "60")
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as load:
        deadline_s = time.monotonic() + 60
        while not (started := services_of(load.pid)) and time.monotonic() < deadline_s:
            time.sleep(0.1)
        load.terminate()
        assert load.wait(30) == 130
    assert started
    assert not psutil.wait_procs(started, timeout=5)[1]


def services_of(pid: int) -> list[psutil.Process]:
    """Of the processes below it, those that serve."""
    found = []
    for one in psutil.Process(pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            found += [one] if "serve" in one.cmdline() else []
    return found


async def test_a_part_nobody_started_cannot_be_killed() -> None:
    with service() as served:
        wanted = scenario(kills=("0.5 KILL triton",))
        with pytest.raises(ConfigError, match=r"0\.5 KILL triton aims at triton, which --start did not start"):
            await LoadTest("none", wanted, Served((served.address,)), 1, {}).run()


def test_pictures_of_a_folder_are_sent(tmp_path: Path) -> None:
    for number in range(3):
        Image.new("RGB", (40, 30), (number * 80, 0, 0)).save(tmp_path / f"{number}.png")
    clip = load_clip(scenario(source=str(tmp_path), click_x=0.25, objects=2))
    assert (clip.size, len(clip.payloads), clip.clicks[0]) == ((30, 40), 3, ((10.0, 15.0), (10.0, 15.0)))
    assert [clip.at(number) for number in range(6)] == [0, 1, 2, 1, 0, 1]


def test_a_source_that_cannot_be_sent_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"no video")
    with pytest.raises(ConfigError, match=r"a\.mp4 cannot be read as video"):
        load_clip(scenario(source=str(tmp_path / "a.mp4")))
    with pytest.raises(ConfigError, match="has 0 frames, need at least 2"):
        load_clip(scenario(source=str(tmp_path)))
