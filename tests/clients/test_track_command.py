"""`masklet-client track` from end to end, and every way to get its arguments wrong."""

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

from masklet.types import DropReason, ImageArray
from masklet_client.cli import main
from masklet_client.client import connect
from masklet_client.outputs import Outputs
from masklet_client.prompt_text import parse_prompts
from masklet_client.source import open_source
from masklet_client.track_command import _summarise
from masklet_client.tracking import Tracking
from masklet_client.video_file import VideoFile

from .conftest import SIZE, running


def _lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


async def _masks(address: str, video: Path, click: str) -> list[np.ndarray]:
    with open_source(str(video)) as source:
        async with connect(address) as client:
            images = (frame.image for frame in source.frames())
            return [result[1].mask async for result in client.follow(images, parse_prompts([click], [], []))]


def test_overlay_has_as_many_frames_and_the_rate_of_the_source(far_address: str, video: Path, tmp_path: Path) -> None:
    out = tmp_path / "sub" / "out.mp4"
    assert main(["track", str(video), "--click", "1@0:30,20", "-o", str(out), "--server", far_address, "--quiet"]) == 0
    with open_source(str(out)) as source:
        assert len(list(source.frames())) == 10
    assert (source.size, source.frame_rate) == ((48, 64), Fraction(12))


def test_json_lines_hold_every_frame_in_order_and_pycocotools_reads_them(
    far_address: str, video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "masks.jsonl"
    words = ["track", str(video), "--click", "1@0:30,20", "--box", "2@4:1,2,9,10", "--json", str(out)]
    assert main([*words, "--server", far_address, "--quiet"]) == 0
    lines = _lines(out)
    assert [line["frame"] for line in lines] == list(range(10))
    assert [[o["id"] for o in line["objects"]] for line in lines] == [[1]] * 4 + [[1, 2]] * 6
    assert round(lines[6]["pts_s"], 3) == 0.5
    for line, mask in zip(lines, asyncio.run(_masks(far_address, video, "1@0:30,20")), strict=True):
        assert np.array_equal(coco.decode(line["objects"][0]["rle"]).astype(bool), mask)
    assert "10 frames" in capsys.readouterr().out


def test_absent_object_has_an_empty_mask_and_no_box(far_address: str, video: Path, tmp_path: Path) -> None:
    out = tmp_path / "masks.jsonl"
    words = ["track", str(video), "--box", "1@0:60,2,63,10", "--json", str(out), "--server", far_address, "--quiet"]
    assert main(words) == 0
    last = _lines(out)[-1]["objects"][0]
    assert last["state"] == "absent" and last["box"] is None and coco.area(last["rle"]) == 0


def test_mask_prompt_folder_source_and_frame_limit(far_address: str, frames: list[ImageArray], tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for index, image in enumerate(frames):
        Image.fromarray(image).save(tmp_path / "in" / f"{index:03}.png")
    Image.fromarray(np.indices((48, 64)).sum(0) < 20).save(tmp_path / "mask.png")
    out = tmp_path / "masks.jsonl"
    words = ["track", str(tmp_path / "in"), "--mask", f"3@0:{tmp_path / 'mask.png'}", "--json", str(out)]
    assert main([*words, "--max-frames", "4", "--server", far_address, "--quiet"]) == 0
    lines = _lines(out)
    assert len(lines) == 4 and coco.area(lines[0]["objects"][0]["rle"]) == 210


def test_latest_policy_writes_every_frame_answered_or_not(far_address: str, video: Path, tmp_path: Path) -> None:
    out = tmp_path / "masks.jsonl"
    words = ["track", str(video), "--click", "1@0:30,20", "--json", str(out), "-o", str(tmp_path / "o.mp4")]
    assert main([*words, "--policy", "latest", "--server", far_address, "--quiet"]) == 0
    assert [line["frame"] for line in _lines(out)] == list(range(10))


def test_prompt_beyond_the_end_is_noticed_and_the_files_are_whole(
    far_address: str, video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "o.mp4"
    words = ["track", str(video), "--click", "1@0:30,20", "--click", "1@300:30,20", "-o", str(out)]
    assert main([*words, "--server", far_address, "--quiet"]) == 2
    said = capsys.readouterr().err
    assert said.startswith(
        "warning: prompt for frame 300 would never apply: the source has 10 frames, as its container"
    )
    assert "error: prompt for frame 300 never applied: the source has 10 frames" in said
    with open_source(str(out)) as source:
        assert len(list(source.frames())) == 10


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{video}", "-o", "{out}"], "nothing to follow"),
        (["{video}", "--click", "1@0:3,3"], "nothing to write"),
        (["{folder}/gone.mp4", "--click", "1@0:3,3", "-o", "{out}"], "gone.mp4: no such file"),
        (["{text}", "--click", "1@0:3,3", "-o", "{out}"], "text.mp4: not a video"),
        (["{video}", "--click", "1@0:99,3", "-o", "{out}"], "click at 99,3 lies outside the frame, which is 64 wide"),
        (["{video}", "--box", "1@0:9,9,3,3", "-o", "{out}"], "box 9,9,3,3 is empty or inside out"),
        (["{video}", "--click", "1@5:3,3", "-o", "{out}", "--max-frames", "5"], "frame 5 would never apply"),
        (["{video}", "--click", "1@0:3,3", "-o", "{out}", "--max-frames", "0"], "--max-frames is 0"),
        (["{video}", "--click", "1@0:3,3", "-o", "{out}", "--fps", "-1"], "--fps is -1"),
        (["{video}", "--click", "0@0:3,3", "-o", "{out}"], "object id 0"),
        (["{video}", "--click", "1@0:3,3", "-o", "{video}"], "is the source"),
        (["{video}", "--click", "1@0:3,3", "-o", "{out}", "--fps", "0.0001"], "--fps is 0.0001, must be 0.001"),
        (["{video}", "--click", "1@0:3,3", "-o", "{out}", "--json", "{out}"], "cannot be both outputs"),
        (["{video}", "--click", "1@0:3,3", "--json", "-"], "- is no file"),
        (["{video}", "--click", "1@0:3,3", "-o", "{out}", "--server", "localhost"], "must be HOST:PORT"),
        (["{images}", "--click", "1@9:3,3", "-o", "{out}"], "frame 9 would never apply: the source has 1 frames"),
        (["{video}" + "x" * 300, "--click", "1@0:3,3", "-o", "{out}"], "cannot be read (File name too long)"),
        (["{video}", "--click", "1@0:3,3", "-o", "{out}.xyz", "--server", "{server}"], "cannot be written as video"),
        (["{video}", "--click", "1@0:3,3", "-o", "{out}.webm", "--server", "{server}"], "cannot be written as video"),
        (["{video}", "--click", "1@0:3,3", "-o", "{out}.jpg", "--server", "{server}"], "cannot be written as video"),
        (["{video}", "--click", "1@0:3,3", "-o", "{out}", "--server", "127.0.0.1:1"], "no masklet server answers at"),
    ],
)
def test_bad_arguments_are_one_clear_line(
    far_address: str,
    video: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    message: str,
) -> None:
    (tmp_path / "text.mp4").write_text("not a video")
    (tmp_path / "images").mkdir()
    Image.new("RGB", (64, 48)).save(tmp_path / "images" / "0.png")
    places = {
        "images": tmp_path / "images",
        "video": video,
        "folder": tmp_path,
        "text": tmp_path / "text.mp4",
        "out": tmp_path / "o.mp4",
    }
    assert main(["track", *(word.format(server=far_address, **places) for word in words), "--quiet"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and message in said and said.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ctrl_c_and_sigterm_finish_the_files(
    far_address: str, frames: list[ImageArray], tmp_path: Path, number: signal.Signals, status: int
) -> None:
    (tmp_path / "in").mkdir()
    for index in range(3000):
        os.link(_saved(tmp_path, frames[0]), tmp_path / "in" / f"{index:05}.png")
    out, lines = tmp_path / "o.mp4", tmp_path / "o.jsonl"
    words = ["track", str(tmp_path / "in"), "--click", "1@0:30,20", "-o", str(out), "--json", str(lines)]
    command = [sys.executable, "-m", "masklet_client.cli", *words, "--server", far_address]
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    assert process.stderr is not None
    while b"frame/s" not in process.stderr.read(64):
        pass
    process.send_signal(number)
    process.communicate(timeout=30)
    with open_source(str(out)) as source:
        written = len(list(source.frames()))
    assert process.returncode == status and 0 < written < 3000 and written == len(_lines(lines))


def _saved(folder: Path, image: ImageArray) -> Path:
    path = folder / "one.png"
    if not path.exists():
        Image.fromarray(image).save(path)
    return path


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_lines_on_a_full_disk_are_one_clear_error(
    far_address: str, video: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["track", str(video), "--click", "1@0:30,20", "--json", "/dev/full", "--quiet"]
    assert main([*words, "--server", far_address]) == 2
    said = capsys.readouterr()
    assert said.err == "error: /dev/full: cannot be written (No space left on device)\n"
    assert "wrote" not in said.out
    assert "not all of it is in /dev/full" in said.out


async def test_what_was_not_answered_is_told_with_its_reason(
    video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with open_source(str(video)) as source:
        tracking = Tracking(source, Outputs(None, None), max_frames=None, quiet=True)
        tracking.dropped.update({DropReason.CONNECTION_LOST: 2, DropReason.STALE: 1})
        tracking.lost[2] = 7
        args = argparse.Namespace(output=None, json=tmp_path / "o.jsonl")
        async with running() as server, connect(f"127.0.0.1:{server.port}") as client:
            _summarise(args, client, tracking, complete=True)
    said = capsys.readouterr().out
    assert "2 more frames were not answered: their answers were lost with a connection" in said
    assert "1 more frames were not answered: the server could not keep up" in said
    assert "object 2 is not followed from frame 7 on: its session was lost" in said


def test_no_stderr_is_no_error(far_address: str, video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    words = ["track", str(video), "--click", "1@0:30,20", "-o", str(tmp_path / "o.mp4")]
    assert main([*words, "--server", far_address]) == 0


@pytest.mark.parametrize("program", ["masklet", "masklet_client.cli"])
def test_output_nobody_reads_is_no_crash(
    far_address: str, frames: list[ImageArray], tmp_path: Path, program: str
) -> None:
    words = ["segment", str(_saved(tmp_path, frames[0])), "--click", "1@3,3", "-o", str(tmp_path / "out.png")]
    command = [sys.executable, "-m", program, *words, "--server", far_address]
    unread, written = os.pipe()
    os.close(unread)
    with os.fdopen(written, "wb") as sink:
        done = subprocess.run(command, stdout=sink, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    assert done.returncode == 141 and "Traceback" not in done.stderr


@pytest.mark.parametrize("before", [None, "kept"])
def test_a_stream_that_is_refused_leaves_files_as_they_were(
    far_address: str, video: Path, tmp_path: Path, before: str | None
) -> None:
    files = (tmp_path / "o.mp4", tmp_path / "o.jsonl")
    for file in files if before else ():
        file.write_text(before or "")
    wide = tmp_path / "in"
    wide.mkdir()
    Image.new("RGB", (20_000, 2)).save(wide / "0.png")
    words = ["track", str(wide), "--click", "1@0:1,1", "-o", str(files[0]), "--json", str(files[1])]
    assert main([*words, "--server", far_address, "--quiet"]) == 2
    assert [file.read_text() if file.exists() else None for file in files] == [before] * 2
    words[1] = str(video)
    assert main([*words, "--server", far_address, "--quiet"]) == 0
    assert len(_lines(files[1])) == 10
    with open_source(str(files[0])) as source:
        assert len(list(source.frames())) == 10


@pytest.mark.parametrize(("flags", "gaps"), [([], [0.01, 0.74]), (["--fps", "10"], [0.1, 0.1])])
def test_frames_are_shown_at_their_times_but_for_a_rate_that_is_asked_for(
    far_address: str, frames: list[ImageArray], tmp_path: Path, flags: list[str], gaps: list[float]
) -> None:
    uneven, out = tmp_path / "uneven.mkv", tmp_path / "o.mp4"
    with VideoFile(uneven, SIZE, Fraction(30)) as file:
        for frame, pts_s in zip(frames, (5, 5.01, 5.75), strict=False):
            file.write(frame, pts_s)
    words = ["track", str(uneven), "--click", "1@0:3,3", "-o", str(out), *flags]
    assert main([*words, "--server", far_address, "--quiet"]) == 0
    with open_source(str(out)) as source:
        times = [frame.pts_s for frame in source.frames()]
    assert np.allclose(np.diff(times), gaps, atol=0.002)


def test_output_that_a_console_cannot_show_is_escaped(far_address: str, video: Path, tmp_path: Path) -> None:
    out = tmp_path / "käse.jsonl"
    words = ["track", str(video), "--click", "1@0:3,3", "--json", str(out), "--server", far_address, "--quiet"]
    for program in ("masklet", "masklet_client.cli"):
        done = subprocess.run(
            [sys.executable, "-m", program, *words],
            capture_output=True,
            timeout=60,
            env=os.environ | {"PYTHONIOENCODING": "ascii"},
        )
        assert (done.returncode, done.stderr) == (0, b"")
        assert b"k\\xe4se.jsonl" in done.stdout
