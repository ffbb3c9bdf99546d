"""What `masklet evaluate` evaluates on: a dataset's folder, or synthetic clips of some seeds."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from masklet.errors import ConfigError
from masklet.training.datasets import KINDS, VideoSequence, open_dataset
from masklet.training.datasets.clip_sequence import ClipSequence

_SYNTHETIC = "synthetic"
_DEFAULT_SEEDS = range(40)
_SYNTHETIC_MIN_AREA_PX = 64
_FRAMES, _SIDE_PX, _OBJECTS = 32, 256, 4
_MOST_CLIPS = 100_000
_LIMITS = (("frames", 3, 10_000, _FRAMES), ("size", 32, 4096, _SIDE_PX), ("objects", 1, 64, _OBJECTS))
# Of a part or a stretch of backdrop no single click says where it ends.
_WHOLE_OBJECTS: Mapping[str, Any] = {"regions": 0.0, "part": 0.0}


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what says where the video comes from; `open_data` reads it."""
    group = parser.add_argument_group("data")
    group.add_argument(
        "--data",
        required=True,
        metavar="DIR|synthetic[:SEED0-SEED1]",
        help="a folder of DAVIS, YouTube-VOS or SA-V; or clips drawn here (default seeds: 0-39; training uses none "
        "below 1000000)",
    )
    group.add_argument("--kind", choices=("auto", *KINDS), default="auto", help="of the folder (default: %(default)s)")
    group.add_argument("--split", default="", metavar="NAME", help="of the folder, for example val (default: all)")
    group.add_argument("--sequences", type=int, metavar="N", help="the first N only (default: all)")
    group.add_argument("--frames", type=int, metavar="N", help=f"of a synthetic clip (default: {_FRAMES})")
    group.add_argument("--size", type=int, metavar="PX", help=f"synthetic sides (default: {_SIDE_PX})")
    group.add_argument("--objects", type=int, metavar="N", help=f"synthetic, at most (default: {_OBJECTS})")
    group.add_argument("--assets", type=Path, nargs="+", action="extend", metavar="DIR",
                       help="pictures for synthetic clips; may be given again")  # fmt: skip


def min_area_px(args: argparse.Namespace) -> int:
    """From how many pixels on an object starts: datasets say themselves, synthetic objects may enter pixel by pixel."""
    return _SYNTHETIC_MIN_AREA_PX if _seeds(args.data) is not None else 1


def open_data(args: argparse.Namespace) -> Sequence[VideoSequence]:
    """The sequences asked for.

    Raises:
        ConfigError: numbers that make no sense.
        DatasetError: no dataset there, or one that does not agree with itself.
    """
    if args.sequences is not None and args.sequences < 1:
        raise ConfigError(f"--sequences is {args.sequences}, must be at least 1")
    seeds = _seeds(args.data)
    given = [name for name in ("frames", "size", "objects", "assets") if getattr(args, name) is not None]
    if seeds is None and given:
        raise ConfigError(f"--{given[0]} is of synthetic clips, --data is {args.data}")
    for name, usual in (("kind", "auto"), ("split", "")):
        if seeds is not None and getattr(args, name) != usual:
            raise ConfigError(f"--{name} is of a folder, --data is {args.data}")
    found = open_dataset(Path(args.data), kind=args.kind, split=args.split) if seeds is None else _drawn(args, seeds)
    return found[: args.sequences]


def _seeds(text: str) -> range | None:
    """None: `text` is a folder."""
    name, _, listed = text.partition(":")
    if name != _SYNTHETIC:
        return None
    if not listed:
        return _DEFAULT_SEEDS
    match = re.fullmatch(r"(\d{1,20})-(\d{1,20})", listed)
    if match is None or int(match[1]) > int(match[2]):
        raise ConfigError(f"--data is {text}, must be {_SYNTHETIC}:FIRST-LAST, for example {_SYNTHETIC}:0-39")
    first, last = int(match[1]), int(match[2])
    if last - first >= _MOST_CLIPS:
        raise ConfigError(f"--data is {text}: {last - first + 1} clips, must be at most {_MOST_CLIPS}")
    return range(first, last + 1)


def _drawn(args: argparse.Namespace, seeds: range) -> list[VideoSequence]:
    """Clips are drawn when they are needed, and one is kept."""
    from masklet.training.assets import AssetBank
    from masklet.training.synthetic import SyntheticSettings, SyntheticVideo

    numbers = []
    for name, least, most, usual in _LIMITS:
        number = usual if getattr(args, name) is None else getattr(args, name)
        if number < least:
            raise ConfigError(f"--{name} is {number}, must be at least {least}")
        if number > most:
            raise ConfigError(f"--{name} is {number}, must be at most {most}")
        numbers.append(number)
    frames, side, objects = numbers
    assets = AssetBank.from_folders(args.assets) if args.assets else AssetBank.procedural()
    settings = SyntheticSettings(frames, (side, side), objects, **_WHOLE_OBJECTS)
    draw = lru_cache(maxsize=1)(SyntheticVideo(assets, settings).clip)
    return [ClipSequence(f"{_SYNTHETIC}-{seed:06d}", partial(draw, seed)) for seed in seeds]
