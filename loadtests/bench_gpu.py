"""`make bench-gpu`: our engine against `transformers` on a GPU, 1024 px, bfloat16, by streams and objects.

Needs torch, safetensors and masklet's sources (`PYTHONPATH=service`); `transformers` for the other side. Stops
by itself at `--minutes` and writes what it has by then.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from bench_report import Report, spread
from bench_runners import (
    Image,
    Load,
    OurRunner,
    PeerRunner,
    Runner,
    mask_iou,
    seeded_state,
    synthetic_frames,
    timed_step,
)

# (streams, objects): one of each alone, then both, most telling first
GRID = ((1, 1), (4, 1), (16, 1), (1, 4), (1, 16), (4, 4))
FULL_POINTERS = 16
SIDES: dict[str, type[OurRunner] | type[PeerRunner]] = {"masklet": OurRunner, "transformers": PeerRunner}


@dataclass(frozen=True, slots=True)
class Limits:
    """When to stop: `deadline` on the monotonic clock, and timed frames per row."""

    deadline: float
    rounds: int

    @property
    def reached(self) -> bool:
        """No further row is begun."""
        return time.monotonic() > self.deadline


def compare(report: Report, loads: Sequence[Load], sides: Sequence[str], limits: Limits) -> None:
    """One row per load and side, and the ratio of the two."""
    for load in loads:
        state = seeded_state(load.variant, load.size)
        rates: dict[str, float] = {}
        for side in sides:
            if limits.reached:
                report.notes.append(f"Out of time before {load.variant}, {load.streams} x {load.objects}, {side}.")
                return
            _start_memory_count(load.device)
            try:
                row = measure(SIDES[side](load, state), load, limits)
            except torch.OutOfMemoryError:
                report.notes.append(f"Out of GPU memory: {load.variant}, {load.streams} x {load.objects}, {side}.")
                continue
            rates[side] = float(row["frames/s"])
            report.add("engine", {**_of(load), "side": side, **row})
        if len(rates) == 2:
            report.add("ratio", {**_of(load), "masklet over transformers": rates["masklet"] / rates["transformers"]})


def measure(runner: Runner, load: Load, limits: Limits) -> dict[str, Any]:
    """Fill the banks, then time steps of all streams."""
    frames = synthetic_frames(load.size)
    for image in islice(frames, FULL_POINTERS + 2):
        _step(runner, image)
    seconds = []
    for image in islice(frames, limits.rounds):
        seconds.append(_step(runner, image))
        if limits.reached and len(seconds) >= 3:
            break
    timing = spread(seconds)
    return {
        "ms per step (range)": timing,
        "frames/s": load.streams / timing.median,
        "object-frames/s": load.streams * load.objects / timing.median,
        "rounds": len(seconds),
        "peak GPU GiB": torch.cuda.max_memory_allocated() / 2**30 if load.device == "cuda" else 0.0,
    }


def _start_memory_count(device: str) -> None:
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def _step(runner: Runner, image: Image) -> float:
    seconds = timed_step(runner, image)
    if isinstance(runner, PeerRunner):
        runner.trim()
    return seconds


def precision_check(report: Report, base: Load, sides: Sequence[str], *, frames: int = 12) -> None:
    """Median IoU of each side's bfloat16 masks to its own float32 masks, one stream and two objects."""
    state = seeded_state(base.variant, base.size)
    for side in sides:
        runners = [SIDES[side](base.with_precision(precision), state) for precision in ("bfloat16", "float32")]
        agreement = []
        for image in islice(synthetic_frames(base.size), frames):
            for runner in runners:
                _step(runner, image)
            agreement.append(mask_iou(runners[0].masks(), runners[1].masks()))
        report.add("precision", {"variant": base.variant, "side": side, "median IoU": statistics.median(agreement)})


def _of(load: Load) -> dict[str, object]:
    return {"variant": load.variant, "streams": load.streams, "objects": load.objects}


def main() -> int:
    """Run, as far as there is time and a GPU."""
    args = _arguments()
    if args.device == "cuda" and not torch.cuda.is_available():
        print("bench_gpu: there is no CUDA device here; nothing measured")
        return 0
    limits = Limits(time.monotonic() + 60 * args.minutes, args.rounds)
    sides = [side for side in args.sides if side != "transformers" or _has_transformers()]
    report = Report("bench_gpu")
    report.notes += NOTES
    for variant in args.variants:
        loads = [Load(variant, args.size, o, s, "bfloat16", args.device) for s, o in GRID]
        compare(report, loads, sides, limits)
        report.save(args.out)
    if not limits.reached:
        precision_check(report, Load(args.variants[0], args.size, objects=2, device=args.device), sides)
    print(report.save(args.out).read_text())
    return 0


def _has_transformers() -> bool:
    try:
        importlib.import_module("peer_transformers")
    except ImportError as error:
        print(f"bench_gpu: without the other side: {error}")
        return False
    return True


NOTES = [
    "A step is one frame on every stream; frames/s counts those of all streams. All banks are full.",
    "masklet: from uint8 pixels to full-size masks in host memory. transformers: from normalised pixels on the device "
    "to low-resolution logits on the device. Nothing is compiled on either side.",
]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--variants", nargs="+", default=["sam2.1_hiera_tiny", "sam2.1_hiera_base_plus"])
    parser.add_argument("--sides", nargs="+", choices=tuple(SIDES), default=list(SIDES))
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--minutes", type=float, default=7.0, help="no row is begun after so long")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: to try this script out")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
