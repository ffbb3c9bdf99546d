"""`make bench`: our engine against `transformers` on this CPU, the service against the engine, 2,000 frames in a row.

Both sides get the same random weights, the same frames and the same threads, and take turns frame by frame, so that
whatever else the machine does hits both alike.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch

from bench_report import Report, resident_bytes, spread
from bench_runners import (
    Image,
    Load,
    Masks,
    OurRunner,
    PeerRunner,
    Runner,
    State,
    mask_iou,
    seeded_state,
    synthetic_frames,
    timed_step,
)

Entry = tuple[str, str]
SIDES: dict[str, type[OurRunner] | type[PeerRunner]] = {"masklet": OurRunner, "transformers": PeerRunner}
PRECISIONS = ("float32", "bfloat16")
EVERYONE: list[Entry] = [(name, precision) for precision in PRECISIONS for name in SIDES]
LARGE = 1024
FEWEST_ROUNDS = 3
FULL_MEMORIES, FULL_POINTERS = 7, 16


@dataclass(frozen=True, slots=True)
class Plan:
    """How long each comparison may take.

    Attributes:
        variant: published variant.
        sizes: model input sides in pixels.
        objects: object counts.
        rounds: timed frames per comparison.
        budget_s: no further round is begun after so long, but there are always three.
        deadline: on the monotonic clock; no comparison is begun later.
    """

    variant: str
    sizes: tuple[int, ...]
    objects: tuple[int, ...]
    rounds: int
    budget_s: float
    deadline: float


@dataclass(slots=True)
class Contestant:
    """One side in one precision."""

    name: str
    precision: str
    runner: Runner
    seconds: list[float]
    masks: list[Masks]

    def step(self, image: Image, *, timed: bool) -> None:
        """Track one frame; remember masks always, time when `timed`."""
        seconds = timed_step(self.runner, image)
        self.masks.append(self.runner.masks())
        if timed:
            self.seconds.append(seconds)
        if isinstance(self.runner, PeerRunner):
            self.runner.trim()


def engine_section(report: Report, plan: Plan) -> None:
    """Frames per second of both sides, for every size and number of objects.

    From 1024 px on, more objects run only in the precision that was each side's best with the first number of them.
    """
    for size in plan.sizes:
        state, entered = seeded_state(plan.variant, size), EVERYONE
        for objects in plan.objects:
            if time.monotonic() > plan.deadline:
                report.notes.append(f"Out of time before {size} px with {objects} objects; see --minutes.")
                continue
            contestants = _contestants(Load(plan.variant, size, objects=objects), state, entered)
            _take_turns(contestants, size, plan)
            best = _report_comparison(report, size, objects, contestants)
            entered = best if size >= LARGE else EVERYONE


def _contestants(load: Load, state: State, entered: Sequence[Entry]) -> list[Contestant]:
    return [
        Contestant(name, precision, SIDES[name](load.with_precision(precision), state), [], [])
        for name, precision in entered
    ]


def warm_up_frames(size: int) -> int:
    """Frames until the bank is full; at 1024 px the pointers may lack: nine of them are 36 of 28,736 keys."""
    return FULL_POINTERS if size < LARGE else FULL_MEMORIES


def _take_turns(contestants: Sequence[Contestant], size: int, plan: Plan) -> None:
    frames: Iterator[Image] = synthetic_frames(size)
    for image in islice(frames, warm_up_frames(size)):
        for contestant in contestants:
            contestant.step(image, timed=False)
    started = time.monotonic()
    for number, image in enumerate(islice(frames, plan.rounds)):
        if number >= FEWEST_ROUNDS and time.monotonic() - started > plan.budget_s:
            break
        for contestant in contestants[:: 1 if number % 2 else -1]:
            contestant.step(image, timed=True)


def _report_comparison(report: Report, size: int, objects: int, contestants: Sequence[Contestant]) -> list[Entry]:
    """A row per contestant and the headline; each side's best precision."""
    rates = {(c.name, c.precision): 1 / spread(c.seconds).median for c in contestants}
    for contestant in contestants:
        row = {
            "pixels": size,
            "objects": objects,
            "side": contestant.name,
            "precision": contestant.precision,
            "ms per frame (range)": spread(contestant.seconds),
            "frames/s": rates[contestant.name, contestant.precision],
            "session MiB": f"{contestant.runner.state_bytes() / 2**20:.1f}",
            "rounds": len(contestant.seconds),
            "median IoU to own float32": _agreement(contestant, contestants),
        }
        report.add("engine", row)
    best = [max((entry for entry in rates if entry[0] == name), key=lambda entry: rates[entry]) for name in SIDES]
    shown = {f"{name}, best, frames/s": rates[name, precision] for name, precision in best}
    ours, peers = (rates[entry] for entry in best)
    in_precisions = " / ".join(precision for _, precision in best)
    report.add("headline", {"pixels": size, "objects": objects, **shown, "in": in_precisions, "ratio": ours / peers})
    return best


def _agreement(contestant: Contestant, contestants: Sequence[Contestant]) -> float | str:
    for other in contestants:
        if (other.name, other.precision) == (contestant.name, "float32"):
            return statistics.median(mask_iou(a, b) for a, b in zip(contestant.masks, other.masks, strict=True))
    return "-"


def flatness_section(report: Report, plan: Plan, *, frames: int, size: int) -> None:
    """Whether time per frame and memory stay flat: one stream, one object, no end in sight.

    The time of a fixed matrix product, taken now and then on the way, tells the machine's own drift.
    """
    runner = OurRunner(Load(plan.variant, size, precision="bfloat16"), seeded_state(plan.variant, size))
    images = list(islice(synthetic_frames(size), 64))
    for number in range(200):
        runner.step(images[number % 64])
    quarter = frames // 4
    for part in range(4):
        seconds, products = [], []
        for number in range(part * quarter, (part + 1) * quarter):
            seconds.append(timed_step(runner, images[number % 64]))
            if number % 10 == 0:
                products.append(_product_seconds())
        report.add(
            "flatness",
            {
                "pixels": size,
                "frames": f"{part * quarter}-{(part + 1) * quarter}",
                "median ms per frame": 1e3 * statistics.median(seconds),
                "median ms of a fixed product": 1e3 * statistics.median(products),
                "resident MiB": f"{resident_bytes() / 2**20:.1f}",
            },
        )


def _product_seconds() -> float:
    matrix = torch.ones(768, 768)
    started = time.perf_counter()
    torch.mm(matrix, matrix)
    return time.perf_counter() - started


def service_section(report: Report, plan: Plan, *, frames: int) -> None:
    """The service's frames per second, 1280x720 JPEG in and RLE out, beside the engine's on the same pixels."""
    from bench_service import compare_service

    for precision in PRECISIONS:
        load = Load(plan.variant, 256, precision=precision)
        for row in asyncio.run(compare_service(load, frames=frames)):
            report.add("service", row)


def main() -> int:
    """Run the sections asked for."""
    args = _arguments()
    if args.threads:
        torch.set_num_threads(args.threads)
    quick = args.quick
    deadline = time.monotonic() + 60 * args.minutes
    plan = Plan(args.variant, tuple(args.sizes), tuple(args.objects), 4 if quick else 12, 60.0, deadline)
    report = Report(args.name or ("bench_cpu_quick" if quick else "bench_cpu"))
    report.notes += NOTES
    sections = {
        "service": lambda: service_section(report, plan, frames=40 if quick else 120),
        "flatness": lambda: flatness_section(report, plan, frames=args.frames, size=256),
        "engine": lambda: engine_section(report, plan),
    }
    for name in args.sections:
        sections[name]()
        page = report.save(args.out)
    print(page.read_text())
    return 0


NOTES = [
    "Weights are random, so masks are ragged and bfloat16 IoUs are lower than on trained weights.",
    "masklet: from uint8 pixels to full-size masks. transformers: from normalised pixels to low-resolution logits.",
    "transformers rounds memories to bfloat16 in either precision; masklet keeps them in the row's precision.",
]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sections", nargs="+", choices=("engine", "service", "flatness"), default=None)
    parser.add_argument("--sizes", nargs="+", type=int, default=None, help="model input sides in pixels")
    parser.add_argument("--objects", nargs="+", type=int, default=[1, 4])
    parser.add_argument("--variant", default="sam2.1_hiera_tiny")
    parser.add_argument("--frames", type=int, default=0, help="frames of the flatness run (default 2000)")
    parser.add_argument("--minutes", type=float, default=13.0, help="no comparison of engines is begun after so long")
    parser.add_argument("--threads", type=int, default=0, help="torch threads (default: all cores)")
    parser.add_argument("--quick", action="store_true", help="256 px only, few rounds, 200 frames in a row")
    parser.add_argument("--name", default="", help="of the report (default bench_cpu, or bench_cpu_quick)")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()
    args.sections = args.sections or ["service", "flatness", "engine"]
    args.sizes = args.sizes or ([256] if args.quick else [256, 512, 1024])
    args.frames = args.frames or (200 if args.quick else 2000)
    return args


if __name__ == "__main__":
    raise SystemExit(main())
