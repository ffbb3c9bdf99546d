"""The service beside the engine: what decoding, queueing, encoding and gRPC cost on top of the network.

The service runs in a process of its own, as in production; its client sends 1280x720 JPEGs as fast as they are answered
(drop policy "block") and receives run lengths. The engine gets the same pictures already decoded, in this process. The
two take turns, a block of frames each.
"""

from __future__ import annotations

import asyncio
import io
import os
import signal
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image as Picture

import masklet_client
from bench_report import spread
from bench_runners import Image, Load, OurRunner, seeded_state, synthetic_frames
from masklet.model.checkpoint import save_checkpoint
from masklet.types import TrackSettings

HEIGHT, WIDTH = 720, 1280
_START_TIMEOUT_S = 120.0
_STOP_TIMEOUT_S = 20.0
_WARM_UP = 16
_BLOCK = 20


@dataclass(frozen=True, slots=True)
class Clip:
    """The same frames, decoded and as JPEG."""

    images: tuple[Image, ...]
    payloads: tuple[bytes, ...]

    @classmethod
    def synthetic(cls, count: int) -> Clip:
        """`count` frames of 1280x720."""
        frames = synthetic_frames(WIDTH)
        payloads = tuple(encoded(next(frames)[:HEIGHT]) for _ in range(count))
        return cls(tuple(np.array(Picture.open(io.BytesIO(p)).convert("RGB")) for p in payloads), payloads)


def encoded(image: Image) -> bytes:
    """A JPEG."""
    written = io.BytesIO()
    Picture.fromarray(np.ascontiguousarray(image)).save(written, "JPEG", quality=90)
    return written.getvalue()


async def compare_service(load: Load, *, frames: int) -> list[dict[str, Any]]:
    """Rows for the engine and the service, `frames` timed frames each (whole blocks of them)."""
    state = seeded_state(load.variant, load.size)
    clip = Clip.synthetic(_BLOCK)
    engine = OurRunner(load, state, frame_size=(HEIGHT, WIDTH), track=TrackSettings(history_frames=8))
    per_frame: dict[str, list[float]] = {"engine": [], "service": []}
    timings: list[masklet_client.events.Timing] = []
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "weights.pt"
        save_checkpoint(state, weights)
        async with (
            served(_flags(load, weights)) as address,
            masklet_client.connect(address) as client,
            client.track((HEIGHT, WIDTH), policy="block", mask_encoding="rle", codec="jpeg") as stream,
        ):
            for number, point in enumerate(load.clicks((HEIGHT, WIDTH)), start=1):
                await stream.click(number, point)
            await _service_block(stream, clip.payloads[:_WARM_UP])
            _engine_block(engine, clip.images[:_WARM_UP])
            for _ in range(max(1, frames // _BLOCK)):
                per_frame["engine"].append(_engine_block(engine, clip.images))
                seconds, block = await _service_block(stream, clip.payloads)
                per_frame["service"].append(seconds)
                timings += block
    return _rows(load, per_frame, timings)


def _engine_block(engine: OurRunner, images: Sequence[Image]) -> float:
    started = time.perf_counter()
    for image in images:
        engine.step(image)
    return (time.perf_counter() - started) / len(images)


async def _service_block(
    stream: masklet_client.TrackStream, payloads: Sequence[bytes]
) -> tuple[float, list[masklet_client.events.Timing]]:
    started = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        group.create_task(send_all(stream, payloads))
        timings = [(await anext(stream)).timing for _ in payloads]
    return (time.perf_counter() - started) / len(payloads), timings


async def send_all(stream: masklet_client.TrackStream, payloads: Sequence[bytes]) -> None:
    """One after the other, as fast as they are taken."""
    for payload in payloads:
        await stream.send(payload)


def _flags(load: Load, weights: Path) -> dict[str, object]:
    return {
        "--weights": weights,
        "--variant": load.variant,
        "--model.input_size": load.size,
        "--model.precision": load.precision,
        "--model.memory_precision": load.precision,
        "--model.threads": torch.get_num_threads(),
        "--device": load.device,
    }


@asynccontextmanager
async def served(flags: Mapping[str, object]) -> AsyncIterator[str]:
    """A server process with these flags; yields its address once it is ready."""
    port = _free_port()
    flags = {"--port": port, "--metrics-port": 0, "--log-level": "warning", **flags}
    arguments = [str(word) for pair in flags.items() for word in pair]
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "masklet", "serve", *arguments)
    try:
        await masklet_client.wait_until_serving(f"127.0.0.1:{port}", timeout_s=_START_TIMEOUT_S)
        yield f"127.0.0.1:{port}"
    finally:
        await _stop(process)


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        os.kill(process.pid, signal.SIGTERM)
    try:
        await asyncio.wait_for(process.wait(), _STOP_TIMEOUT_S)
    except TimeoutError:
        process.kill()
        await process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _rows(
    load: Load, per_frame: dict[str, list[float]], timings: Sequence[masklet_client.events.Timing]
) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for side, seconds in per_frame.items():
        timing = spread(seconds)
        rows.append({"side": side, "pixels": load.size, "objects": load.objects, "precision": load.precision})
        rows[-1] |= {"ms per frame (range of blocks)": timing, "frames/s": 1 / timing.median}
    rows[-1] |= {
        f"median ms {stage}": 1e3 * statistics.median(getattr(timing, f"{stage}_s") for timing in timings)
        for stage in ("queue", "decode", "inference", "encode")
    }
    rows[-1]["service over engine"] = rows[1]["frames/s"] / rows[0]["frames/s"]
    return rows
