"""Prompts as written on a command line: `OBJECT@FRAME:X,Y` and the like."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image

from masklet.types import MaskArray, Prompt
from masklet_client.command_error import CommandError

_HEAD = re.compile(r"(?P<object>\d+)@(?:(?P<frame>\d+):)?(?P<rest>.+)")
_LABELS = {"include": 1, "exclude": 0}
Value = TypeVar("Value")

CLICK_FORM = "OBJECT@FRAME:X,Y[,exclude], for example 1@0:300,200"
BOX_FORM = "OBJECT@FRAME:X_MIN,Y_MIN,X_MAX,Y_MAX, for example 2@0:10,20,200,180"
MASK_FORM = "OBJECT@FRAME:FILE, for example 3@0:mask.png"


@dataclass(frozen=True, slots=True, eq=False)
class Placed:
    """A prompt and the frame (from 0) it is for."""

    frame: int
    prompt: Prompt


def parse_prompts(clicks: Iterable[str], boxes: Iterable[str], masks: Iterable[str]) -> dict[int, list[Prompt]]:
    """Prompts by frame; what is said about one object on one frame comes together: mask, then box and clicks.

    Raises:
        CommandError: a text is not of its form, or a mask file cannot be read.
    """
    placed = [_placed(text, MASK_FORM, "mask", _mask) for text in masks]
    placed += _merged(
        [_placed(text, BOX_FORM, "box", _box) for text in boxes]
        + [_placed(text, CLICK_FORM, "click", _click) for text in clicks]
    )
    by_frame: dict[int, list[Prompt]] = {}
    for one in placed:
        by_frame.setdefault(one.frame, []).append(one.prompt)
    return by_frame


def _merged(placed: Iterable[Placed]) -> list[Placed]:
    """One prompt for all clicks and the box of an object on a frame."""
    merged: dict[tuple[int, int], Prompt] = {}
    for one in placed:
        key = (one.frame, one.prompt.object_id)
        merged[key] = _joined(merged[key], one.prompt) if key in merged else one.prompt
    return [Placed(frame, prompt) for (frame, _), prompt in merged.items()]


def _joined(first: Prompt, more: Prompt) -> Prompt:
    if more.box is not None:
        raise CommandError(f"object {first.object_id} has two boxes on one frame")
    return replace(
        first,
        points=np.concatenate([first.points, more.points]),
        labels=np.concatenate([first.labels, more.labels]),
    )


def _placed(text: str, form: str, kind: str, parse: Callable[[int, str], Prompt]) -> Placed:
    found = _HEAD.fullmatch(text)
    if found is None:
        raise CommandError(f"--{kind} {text}: must be {form}")
    try:
        return Placed(int(found["frame"] or 0), parse(int(found["object"]), found["rest"]))
    except ValueError:
        raise CommandError(f"--{kind} {text}: must be {form}") from None


def _click(object_id: int, rest: str) -> Prompt:
    x, y, *label = rest.split(",")
    if len(label) > 1 or (label and label[0] not in _LABELS):
        raise ValueError(rest)
    return Prompt.clicks(object_id, [(float(x), float(y))], [_LABELS[label[0]] if label else 1], keep_old_points=True)


def _box(object_id: int, rest: str) -> Prompt:
    edges = [float(edge) for edge in rest.split(",")]
    if len(edges) != 4:
        raise ValueError(rest)
    return Prompt(object_id, box=np.asarray(edges, np.float32))


def _mask(object_id: int, rest: str) -> Prompt:
    return Prompt(object_id, mask=read_mask(Path(rest)))


def read_mask(path: Path) -> MaskArray:
    """[H, W] bool from an image file: any pixel that is not black (palette entry 0) belongs to the object.

    Raises:
        CommandError: no such file, not an image, or a huge one.
    """
    try:
        with Image.open(path) as image:
            plain = image if image.mode in ("1", "L", "P", "I", "I;16") else image.convert("RGB")
            pixels = np.asarray(plain)
    except FileNotFoundError:
        raise CommandError(f"mask {path}: no such file") from None
    except Exception as error:  # Pillow's parsers raise nearly anything on damaged files
        raise CommandError(f"mask {path}: cannot be read as an image ({error})") from None
    return np.asarray(pixels.reshape(*pixels.shape[:2], -1).any(axis=-1), np.bool_)
