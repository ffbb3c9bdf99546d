"""Prompts that make no sense are refused before they are sent: the caller's line is in the traceback."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from masklet.errors import InvalidPrompt
from masklet.types import Prompt, PromptMode, Size

_MAX_OBJECT_ID = 2**31 - 1


def check_prompt(prompt: Prompt, size: Size | None) -> None:
    """Raises InvalidPrompt, naming the value and the limit, if `prompt` cannot be for a frame of `size` (None: any)."""
    check_object_id(prompt.object_id)
    if prompt.mode not in list(PromptMode):
        raise InvalidPrompt(f"mode is {prompt.mode!r}, must be one of: {', '.join(PromptMode)}")
    if prompt.mask is not None and not prompt.mask.any():
        raise InvalidPrompt(f"mask for object {prompt.object_id} has no pixel")
    if prompt.mask is None and prompt.box is None and not len(prompt.points):
        raise InvalidPrompt(f"prompt for object {prompt.object_id} has no point, box or mask")
    if prompt.mask is not None and (prompt.box is not None or len(prompt.points)):
        raise InvalidPrompt(f"prompt for object {prompt.object_id} has a mask, which excludes points and box")
    if len(prompt.points) != len(prompt.labels) or not np.isin(prompt.labels, (0, 1)).all():
        raise InvalidPrompt(
            f"labels are {prompt.labels.tolist()}: one per point, 1 include or 0 exclude; {len(prompt.points)} points"
        )
    for x, y in prompt.points.tolist():
        if size is not None and not (0 <= x <= size[1] and 0 <= y <= size[0]):
            raise InvalidPrompt(
                f"click at {x:g},{y:g} lies outside the frame, which is {size[1]} wide and {size[0]} high"
            )
    if prompt.box is not None:
        _check_box(prompt, size)
    if prompt.mask is not None and size is not None and prompt.mask.shape != size:
        raise InvalidPrompt(f"mask is {list(prompt.mask.shape)} (height, width), the frame is {list(size)}")


def check_object_id(object_id: int) -> None:
    """Raises InvalidPrompt, naming the value and the limit."""
    if not isinstance(object_id, int | np.integer) or not 1 <= object_id <= _MAX_OBJECT_ID:
        raise InvalidPrompt(f"object id {object_id!r} must be 1 to {_MAX_OBJECT_ID}")


def check_click(point: Sequence[float], label: int) -> None:
    """Raises InvalidPrompt if they are not two numbers, and 1 or 0."""
    if np.shape(point) != (2,):
        raise InvalidPrompt(f"point is {point!r}, must be (x, y)")
    if label not in (0, 1):
        raise InvalidPrompt(f"label is {label!r}, must be 1, on the object, or 0, not on it")


def _check_box(prompt: Prompt, size: Size | None) -> None:
    edges = np.asarray(prompt.box, np.float64).tolist()
    if len(edges) != 4:
        raise InvalidPrompt(f"box has {len(edges)} numbers, must be x_min, y_min, x_max, y_max")
    x_min, y_min, x_max, y_max = edges
    named = ",".join(f"{edge:g}" for edge in edges)
    if not (x_min < x_max and y_min < y_max):
        raise InvalidPrompt(f"box {named} is empty or inside out; it is x_min,y_min,x_max,y_max")
    if size is not None and (x_min < 0 or y_min < 0 or x_max > size[1] or y_max > size[0]):
        raise InvalidPrompt(f"box {named} reaches outside the frame, which is {size[1]} wide and {size[0]} high")
