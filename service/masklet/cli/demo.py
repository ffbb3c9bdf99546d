"""`masklet demo`: a synthetic video through a real server and the real client, next to the truth."""

from __future__ import annotations

import argparse
import asyncio
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from tqdm import tqdm

from masklet.errors import BackendUnavailable, ConfigError
from masklet.terminable import terminable
from masklet.training.clip import Clip
from masklet.training.showcase import synthesize
from masklet.types import MaskArray, ModelDescription, Prompt, Size
from masklet_client.client import connect
from masklet_client.command_error import CommandError
from masklet_client.events import Result
from masklet_client.overlay import draw_masks
from masklet_client.serving import wait_until_serving
from masklet_client.video_file import VideoFile

_SEED = 7
_OBJECTS = 4
_RATE = Fraction(24)
_MOST_FRAMES = 10_000  # they are held in memory
_READY_TIMEOUT_S = 120.0
_STOP_TIMEOUT_S = 10.0
_LOG_LINES_SHOWN = 8
_EXIT_TERMINATED = 143
_UNTRAINED = """\
The weights are untrained random stand-ins: nothing has been learnt, so the masks and the IoU above mean nothing.
What this shows is the way of a frame through client, server and model. For masks that follow objects, give trained
weights: masklet demo --weights FILE (see `masklet weights`)."""


@dataclass(frozen=True, slots=True)
class _Tracked:
    """What came back: [T, N, H, W] bool masks (False before an object's click), frames/s, and the model."""

    masks: MaskArray
    frame_rate_hz: float
    model: ModelDescription


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the `demo` command."""
    parser = subparsers.add_parser(
        "demo",
        help="see it work on a synthetic video",
        description="Make a video, start a server, follow the objects with one click each, compare with the truth.",
    )
    parser.add_argument("--out", type=Path, default=Path("out/demo"), metavar="DIR", help="default: %(default)s")
    parser.add_argument("--frames", type=int, default=96, metavar="N", help="default: %(default)s")
    parser.add_argument("--size", default="360x640", metavar="HxW", help="default: %(default)s")
    parser.add_argument("--input-size", type=int, default=0, metavar="PX", help="of the model (default: its own)")
    parser.add_argument("--weights", default="", metavar="FILE", help="a checkpoint (default: masklet's own)")
    parser.add_argument("--backend", choices=("embedded", "fake"), default="embedded", help="default: %(default)s")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the demo; raises ConfigError or whatever the server or client raises."""
    try:
        return _run(args)
    except CommandError as error:
        raise ConfigError(str(error)) from error


def _run(args: argparse.Namespace) -> int:
    size = _size(args.size)
    if not 1 <= args.frames <= _MOST_FRAMES:
        raise ConfigError(f"--frames is {args.frames}, must be 1 to {_MOST_FRAMES}")
    try:
        args.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--out is {args.out}, which cannot be made: {error.strerror}") from error
    _say(f"1/4 drawing {args.frames} frames of {args.size} with {_OBJECTS} objects (seconds)")
    clip = synthesize(_SEED, frames=args.frames, size=size, objects=_OBJECTS)
    with VideoFile(args.out / "clip.mp4", size, _RATE) as video:
        for frame in clip.frames:
            video.write(frame)
    try:
        tracked = asyncio.run(_through_server(args, clip))
    except asyncio.CancelledError:
        return _EXIT_TERMINATED
    _say("4/4 writing the comparison (seconds)")
    _write_comparison(args.out / "demo.mp4", clip, tracked)
    _report(args.out, clip, tracked)
    return 0


async def _through_server(args: argparse.Namespace, clip: Clip) -> _Tracked:
    log = args.out / "server.log"
    flags = [f"--backend={args.backend}", f"--model.input_size={args.input_size}", f"--model.weights={args.weights}"]
    async with terminable():
        _say(f"2/4 starting a server, log in {log} (gives up after {_READY_TIMEOUT_S:g} s)")
        async with _service(flags, log) as address:
            _say(f"3/4 tracking through {address} (a CPU may take minutes, the bar tells)")
            return await _track(address, clip)


@asynccontextmanager
async def _service(flags: list[str], log: Path) -> AsyncIterator[str]:
    """A server process of our own, ready; stopped by its process id however the block ends."""
    port = _free_port()
    command = [sys.executable, "-P", "-m", "masklet", "serve", f"--port={port}", "--metrics-port=0", *flags]
    with log.open("wb") as sink:
        process = subprocess.Popen(command, stdout=sink, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
    try:
        address = f"127.0.0.1:{port}"
        await _until_ready(process, address, log)
        yield address
    finally:
        _stop(process)


async def _until_ready(process: subprocess.Popen[bytes], address: str, log: Path) -> None:
    """Raises BackendUnavailable with the end of the log if the server dies or takes too long."""
    serving = asyncio.create_task(wait_until_serving(address, timeout_s=_READY_TIMEOUT_S))
    try:
        while not serving.done():
            if process.poll() is not None:
                said = "\n".join(log.read_text(errors="replace").splitlines()[-_LOG_LINES_SHOWN:])
                raise BackendUnavailable(f"the server ended with status {process.returncode}; its last words:\n{said}")
            await asyncio.wait([serving], timeout=0.2)
        await serving
    finally:
        serving.cancel()


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


async def _track(address: str, clip: Clip) -> _Tracked:
    predicted = np.zeros_like(clip.masks)
    frames = len(clip.frames)
    async with connect(address) as client:
        started_s = time.monotonic()
        with tqdm(total=frames, unit="frame") as bar:
            async for result in client.follow(list(clip.frames), first_clicks(clip)):
                _fill(predicted[result.frame_index], result)
                bar.update()
        return _Tracked(predicted, frames / (time.monotonic() - started_s), client.server.model)


def _fill(masks: MaskArray, result: Result) -> None:
    for found in result.objects:
        masks[found.object_id - 1] = found.mask


def first_clicks(clip: Clip) -> dict[int, list[Prompt]]:
    """One click per object, well inside it, on the first frame on which it shows; object ids count from 1."""
    clicks: dict[int, list[Prompt]] = {}
    for index in range(clip.masks.shape[1]):
        frame = clip.first_visible(index)
        if frame is not None:
            click = Prompt.clicks(index + 1, [inner_point(clip.masks[frame, index])])
            clicks.setdefault(frame, []).append(click)
    return clicks


def inner_point(mask: MaskArray) -> tuple[int, int]:
    """(x, y) of a pixel as far from the edge of `mask` [H, W] as any: what is left before erosion leaves nothing.

    Raises:
        ValueError: the mask is empty.
    """
    if not mask.any():
        raise ValueError("mask is empty")
    left = np.pad(mask, 1)
    while left.any():
        core = left
        left = np.zeros_like(core)
        left[1:-1, 1:-1] = core[1:-1, 1:-1] & core[:-2, 1:-1] & core[2:, 1:-1] & core[1:-1, :-2] & core[1:-1, 2:]
    rows, columns = np.nonzero(core)
    middle = len(rows) // 2
    return int(columns[middle]) - 1, int(rows[middle]) - 1


def mean_iou(predicted: MaskArray, truth: MaskArray) -> float:
    """Mean over frames of the IoU of [T, H, W] masks; 1 where both are empty."""
    both = (predicted & truth).sum(axis=(1, 2))
    either = (predicted | truth).sum(axis=(1, 2))
    return float(np.where(either, both / np.maximum(either, 1), 1.0).mean())


def _write_comparison(path: Path, clip: Clip, tracked: _Tracked) -> None:
    height, width = clip.frames.shape[1:3]
    said = "prediction" if tracked.model.trained else "prediction, untrained"
    with VideoFile(path, (height, 2 * width), _RATE) as video:
        for t, frame in enumerate(clip.frames):
            sides = [
                draw_masks(frame, list(enumerate(masks[t], start=1)), note=note)
                for masks, note in ((tracked.masks, said), (clip.masks, "truth"))
            ]
            video.write(np.concatenate(sides, axis=1))


def _report(out: Path, clip: Clip, tracked: _Tracked) -> None:
    _say("")
    for index in range(clip.masks.shape[1]):
        start = clip.first_visible(index)
        if start is not None:
            iou = mean_iou(tracked.masks[start:, index], clip.masks[start:, index])
            _say(f"object {index + 1}: mean IoU {iou:.3f} over {len(clip.frames) - start} frames")
    model = tracked.model
    _say(f"{tracked.frame_rate_hz:.1f} frames/s with {model.model} at {model.input_size} px on {model.device}")
    _say(f"{out / 'demo.mp4'}: prediction beside truth; {out / 'clip.mp4'}: the clip; {out / 'server.log'}: the log")
    if not model.trained:
        _say(_UNTRAINED)


def _size(text: str) -> Size:
    height, _, width = text.partition("x")
    if not all(side.isdecimal() and len(side) <= 4 and 32 <= int(side) <= 4096 for side in (height, width)):
        raise ConfigError(f"--size is {text}, must be HEIGHTxWIDTH in pixels, each 32 to 4096, for example 360x640")
    return int(height), int(width)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _say(text: str) -> None:
    print(text, flush=True)
