"""`make bench-triton`: how frames should travel to Triton, and what Triton costs beside the embedded engine.

Streams of one object, uint8 frames in, full-size masks out, closed loop. Triton shares this machine and its cores.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench_report import Report
from masklet.backends.base import Backend
from masklet.backends.embedded import EmbeddedBackend
from masklet.backends.triton import TritonBackend
from masklet.backends.triton_server import TritonOptions, TritonServer, model_environment
from masklet.config import ModelConfig
from masklet.types import ImageArray, Prompt, StepRequest, TrackSettings

READY_S = 120.0
SIZES = {"256x256": (256, 256), "720x1280": (720, 1280)}
TRANSPORTS = ("shm", "raw", "jpeg")


@dataclass(frozen=True, slots=True)
class Measured:
    """One run: frames per second over all streams, milliseconds per step (median), streams per batch (mean)."""

    frames_per_s: float
    step_ms: float
    batch: float


Found = dict[str, list[Measured]]


def frames(size: tuple[int, int], count: int) -> list[ImageArray]:
    """A bright square moving over smooth noise: JPEG has something to do, as with a camera."""
    height, width = size
    coarse = np.random.default_rng(0).integers(0, 200, (height // 16, width // 16, 3), dtype=np.uint8)
    ground = np.repeat(np.repeat(coarse, 16, 0), 16, 1)
    made = []
    for number in range(count):
        image = ground.copy()
        image[height // 4 : height // 2, width // 4 + number : width // 2 + number] = (230, 190, 40)
        made.append(image)
    return made


async def measure(backend: Backend, images: Sequence[ImageArray], streams: int) -> Measured:
    """All streams at a time, each as fast as it is answered; the first two frames of each are not counted."""
    seconds: list[float] = []
    names = [f"bench-{number}" for number in range(streams)]
    height, width = images[0].shape[:2]
    click = Prompt.clicks(1, [(width * 3 / 8, height * 3 / 8)])
    for name in names:
        await backend.open(name, TrackSettings())
        await backend.step(name, StepRequest(1, images[0], (click,)))
        await backend.step(name, StepRequest(2, images[1]))
    before, started = backend.stats(), time.perf_counter()

    async def follow(name: str) -> None:
        for seq, image in enumerate(images[2:], 3):
            begun = time.perf_counter()
            await backend.step(name, StepRequest(seq, image))
            seconds.append(time.perf_counter() - begun)

    await asyncio.gather(*map(follow, names))
    took, after = time.perf_counter() - started, backend.stats()
    for name in names:
        await backend.close(name)
    batch = (after.batched_steps - before.batched_steps) / (after.batches - before.batches)
    return Measured(len(seconds) / took, statistics.median(seconds) * 1000, batch)


async def compare_transports(endpoint: str, *, rounds: int, count: int) -> Found:
    """Ways for a frame to travel, taking turns."""
    found: Found = {}
    async with AsyncExitStack() as stack:
        ways = {name: await stack.enter_async_context(TritonBackend(endpoint, transport=name)) for name in TRANSPORTS}
        for _ in range(rounds):
            for size_name, size in SIZES.items():
                images = frames(size, count)
                for name, backend in ways.items():
                    found.setdefault(f"{size_name} by {name}", []).append(await measure(backend, images, 1))
    return found


async def compare_backends(
    config: ModelConfig, endpoint: str, *, rounds: int, count: int, streams: Sequence[int]
) -> Found:
    """Triton and the embedded engine, taking turns."""
    found: Found = {}
    images = frames(SIZES["256x256"], count)
    async with EmbeddedBackend(config) as embedded, TritonBackend(endpoint) as triton:
        for _ in range(rounds):
            for number in streams:
                for name, backend in (("embedded", embedded), ("triton", triton)):
                    found.setdefault(f"{number} streams, {name}", []).append(await measure(backend, images, number))
    return found


def main() -> None:
    """Print what was measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--transports", action="store_true", help="compare transports instead of backends")
    parser.add_argument("--variant", default="sam2.1_hiera_tiny")
    parser.add_argument("--input-size", type=int, default=256, help="model input side in pixels")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--frames", type=int, default=20, help="per stream and run")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--streams", type=int, nargs="*", default=[1, 4, 8])
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="write the report there as JSON and Markdown")
    args = parser.parse_args()
    config = ModelConfig(args.variant, input_size=args.input_size, device="cpu", precision=args.precision)
    with TritonServer(TritonOptions(environment=model_environment(config), log=Path("/dev/null"))) as server:
        server.wait_ready(READY_S)
        if args.transports:
            comparing = compare_transports(server.endpoint, rounds=args.rounds, count=args.frames)
        else:
            kept = {"rounds": args.rounds, "count": args.frames, "streams": args.streams}
            comparing = compare_backends(config, server.endpoint, **kept)
        found = asyncio.run(comparing)
    report = Report("bench_triton_transports" if args.transports else "bench_triton")
    report.notes.append(f"best of {args.rounds} runs of {args.frames} frames per stream")
    section = f"{args.variant} at {args.input_size} px, {args.precision}"
    for key, measured in found.items():
        best = max(measured, key=lambda run: run.frames_per_s)
        numbers = {"frames/s": best.frames_per_s, "ms per step": best.step_ms, "streams per batch": best.batch}
        report.add(section, {"what": key, **numbers})
    if args.out:
        print(report.save(args.out))


if __name__ == "__main__":
    main()
