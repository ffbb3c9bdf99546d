"""Small frames, and a few words to drive an engine with."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from masklet.engine import Engine
from masklet.types import ImageArray, ObjectMask, Prompt, PromptMode, Size, StepRequest, StepResult

INPUT = 64
SIZE: Size = (40, 56)


def picture(number: int, size: Size = SIZE) -> ImageArray:
    """A bright square that moves over coarse noise; the same for the same number and size."""
    height, width = size
    coarse = np.random.default_rng(number).integers(0, 120, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
    image = np.kron(coarse, np.ones((8, 8, 1), np.uint8))[:height, :width].copy()
    left = (5 + 3 * number) % (width - 16)
    image[10:26, left : left + 16] = (230, 190, 40)
    return image


def click(object_id: int = 1, x: float = 12.0, y: float = 16.0, *, keep: bool = False, restart: bool = False) -> Prompt:
    mode = PromptMode.RESTART if restart else PromptMode.REFINE
    return Prompt.clicks(object_id, [(x, y)], keep_old_points=keep, mode=mode)


def box(object_id: int, *corners: float) -> Prompt:
    return Prompt(object_id, box=np.array(corners, np.float32))


def painted(object_id: int, rows: slice, columns: slice, size: Size = SIZE) -> Prompt:
    mask = np.zeros(size, bool)
    mask[rows, columns] = True
    return Prompt(object_id, mask=mask)


def frame(
    seq: int, *prompts: Prompt, remove: tuple[int, ...] = (), reset: bool = False, size: Size = SIZE
) -> StepRequest:
    return StepRequest(seq, picture(seq, size), prompts, remove, reset, with_logits=True, with_pointers=True)


def correction(seq: int, *prompts: Prompt) -> StepRequest:
    return StepRequest(seq, None, prompts, with_logits=True, with_pointers=True)


def step(engine: Engine, session_id: str, request: StepRequest) -> StepResult:
    """One step alone, which must succeed."""
    (result,) = engine.step([(session_id, request)])
    if isinstance(result, Exception):
        raise result
    return result


def steps(engine: Engine, session_id: str, requests: Iterable[StepRequest]) -> list[StepResult]:
    return [step(engine, session_id, request) for request in requests]


def only(result: StepResult) -> ObjectMask:
    (found,) = result.objects
    return found


def numbers(found: ObjectMask) -> np.ndarray:
    """Everything the network said, as one vector."""
    assert found.logits is not None
    assert found.pointer is not None
    scores = [found.object_score, found.predicted_iou]
    return np.concatenate([found.logits.ravel(), found.pointer, np.array(scores, np.float32)])


def present(results: Iterable[StepResult]) -> bool:
    """Whether every object is there on every frame: without masks, comparisons say little."""
    return all(found.object_score > 0 for result in results for found in result.objects)


def distance(one: StepResult, other: StepResult) -> float:
    """Largest difference of what the network said; infinite if different objects are listed."""
    if [o.object_id for o in one.objects] != [o.object_id for o in other.objects]:
        return float("inf")
    pairs = zip(one.objects, other.objects, strict=True)
    return max((float(np.abs(numbers(a) - numbers(b)).max()) for a, b in pairs), default=0.0)


def identical(one: StepResult, other: StepResult) -> bool:
    """Bit for bit, masks included."""
    same = distance(one, other) == 0.0 and (one.frame_seq, one.revised) == (other.frame_seq, other.revised)
    return same and all(np.array_equal(a.mask, b.mask) for a, b in zip(one.objects, other.objects, strict=True))


def pages_used(engine: Engine) -> tuple[int, int]:
    return engine.pools.memories.used, engine.pools.pointers.used
