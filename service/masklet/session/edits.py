"""What is to happen to the objects on the next frame, and what has been said about answered ones.

Edits (prompts, removals, resets) are folded in the order of their `seq` into what one backend step takes: reset, then
removals, then prompts. A prompt whose object is removed, or that is reset away, before a frame came is refused with
`UnknownObject`; it is never dropped silently.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from masklet.config import LimitsConfig
from masklet.errors import LimitExceeded, MaskletError, UnknownFrame, UnknownObject
from masklet.session.messages import RemoveObject, Reset
from masklet.types import Prompt


@dataclass(frozen=True, slots=True, eq=False)
class Edit:
    """A request that takes effect on the next frame sent after it."""

    seq: int
    change: Prompt | RemoveObject | Reset


@dataclass(frozen=True, slots=True, eq=False)
class WaitingPrompt:
    """A prompt accepted for the next frame; `points` of its object so far, those kept from before included."""

    seq: int
    prompt: Prompt
    points: int


@dataclass(frozen=True, slots=True)
class Refusal:
    """A request that is not going to be carried out; `prompt` if it was one."""

    seq: int
    error: MaskletError
    prompt: Prompt | None = None


@dataclass(frozen=True, slots=True)
class AnsweredFrame:
    """A frame in the history window: what its correction echoes, and points per object id said about it so far."""

    capture_time_ns: int | None
    points: dict[int, int] = field(default_factory=dict)


class PendingEdits:
    """Folds edits, and knows which objects there are and which frames may be corrected.

    Args:
        limits: `max_objects`, `max_points_per_prompt` and `max_prompts_per_object` count here, where order is known.
        history_frames: answered frames that may still be corrected.
        reserve: asked before there is one more object, with how many there are going to be; may raise OverCapacity.

    Attributes:
        prompts: waiting for the next frame, in order.
        remove: objects the backend is to forget.
        reset: whether the backend is to forget everything first.
        tracked: objects the backend has.
        history: the frames that may be corrected, oldest first, by seq.
    """

    def __init__(
        self, limits: LimitsConfig, *, history_frames: int, reserve: Callable[[int], None] = lambda _: None
    ) -> None:
        self._limits = limits
        self._reserve = reserve
        self._history_frames = history_frames
        self.prompts: list[WaitingPrompt] = []
        self.remove: set[int] = set()
        self.reset = False
        self.tracked: frozenset[int] = frozenset()
        self.history: dict[int, AnsweredFrame] = {}

    def adopt(self, object_ids: Iterable[int], frame_seqs: Iterable[int]) -> None:
        """Objects and correctable frames that a memory bank taken over holds; their points are not known."""
        self.tracked = frozenset(object_ids)
        self.history = {frame_seq: AnsweredFrame(None) for frame_seq in frame_seqs}

    def fold(self, edit: Edit) -> list[Refusal]:
        """Takes one edit; returns the requests refused by it or because of it."""
        try:
            if isinstance(edit.change, Prompt):
                return self._add_prompt(edit.seq, edit.change)
            if isinstance(edit.change, RemoveObject):
                return self._remove(edit.seq, edit.change.object_id)
            return self._reset(edit.seq)
        except MaskletError as error:
            return [Refusal(edit.seq, error, edit.change if isinstance(edit.change, Prompt) else None)]

    def check_correction(self, prompt: Prompt, frame_seq: int) -> int:
        """Points of the object on the frame once `prompt` is added.

        Raises:
            UnknownFrame: the frame was not answered, or has left the history window.
            LimitExceeded: too many objects, or too many points.
            OverCapacity: there is no room for the load of one more object.
        """
        answered = self.history.get(frame_seq)
        if answered is None:
            window = f"{next(iter(self.history))} to {next(reversed(self.history))}" if self.history else "none"
            raise UnknownFrame(
                f"frame {frame_seq} cannot be corrected: it is not among the last {self._history_frames} frames"
                f" answered since the last reset ({window})",
                field="prompt.frame_seq",
            )
        self._check_room(prompt.object_id)
        return self._count_points(prompt, answered.points.get(prompt.object_id, 0))

    def answered(self, frame_seq: int, capture_time_ns: int | None, objects: Iterable[int]) -> None:
        """A frame was answered with everything pending, and these are its objects."""
        frame = AnsweredFrame(capture_time_ns, {waiting.prompt.object_id: waiting.points for waiting in self.prompts})
        self.prompts.clear()
        self.remove.clear()
        self.reset = False
        self.tracked = frozenset(objects)
        self.history[frame_seq] = frame
        while len(self.history) > self._history_frames:
            del self.history[next(iter(self.history))]

    def corrected(self, frame_seq: int, object_id: int, points: int) -> None:
        """A frame was corrected, and pending removals were carried out with it."""
        self.tracked = (self.tracked - self.remove) | {object_id}
        self.remove.clear()
        self.history[frame_seq].points[object_id] = points

    def refuse_all(self, error: MaskletError) -> list[Refusal]:
        """Gives up all waiting prompts, with one error, and all waiting removals."""
        refusals = [Refusal(waiting.seq, error, waiting.prompt) for waiting in self.prompts]
        self.prompts.clear()
        self.remove.clear()
        return refusals

    @property
    def mask_bytes(self) -> int:
        """Bytes of the mask prompts waiting."""
        return sum(waiting.prompt.mask.nbytes for waiting in self.prompts if waiting.prompt.mask is not None)

    def __len__(self) -> int:
        """Edits waiting for the next frame."""
        return len(self.prompts) + len(self.remove) + self.reset

    def _objects(self) -> set[int]:
        waiting = {prompted.prompt.object_id for prompted in self.prompts}
        return waiting if self.reset else waiting | (self.tracked - self.remove)

    def _add_prompt(self, seq: int, prompt: Prompt) -> list[Refusal]:
        self._check_room(prompt.object_id)
        said = [waiting.points for waiting in self.prompts if waiting.prompt.object_id == prompt.object_id]
        if len(said) >= self._limits.max_prompts_per_object:
            raise LimitExceeded(
                f"object {prompt.object_id} would have {len(said) + 1} prompts waiting for one frame,"
                f" the limit is {self._limits.max_prompts_per_object}; one prompt may have several points",
                field="prompt.object_id",
            )
        points = self._count_points(prompt, said[-1] if said else 0)
        self.prompts.append(WaitingPrompt(seq, prompt, points))
        return []

    def _remove(self, seq: int, object_id: int) -> list[Refusal]:
        objects = self._objects()
        if object_id not in objects:
            raise UnknownObject(
                f"object {object_id} is not tracked; {len(objects)} are", field="remove_object.object_id"
            )
        gone = [waiting for waiting in self.prompts if waiting.prompt.object_id == object_id]
        self.prompts = [waiting for waiting in self.prompts if waiting.prompt.object_id != object_id]
        if object_id in self.tracked and not self.reset:
            self.remove.add(object_id)
        text = f"object {object_id} was removed by request {seq} before a frame came"
        return [Refusal(waiting.seq, UnknownObject(text), waiting.prompt) for waiting in gone]

    def _reset(self, seq: int) -> list[Refusal]:
        refusals = self.refuse_all(UnknownObject(f"all objects were reset by request {seq} before a frame came"))
        self.history.clear()
        self.reset = True
        return refusals

    def _check_room(self, object_id: int) -> None:
        objects = self._objects()
        if object_id in objects:
            return
        if len(objects) >= self._limits.max_objects:
            raise LimitExceeded(
                f"object {object_id} would be one more than the limit of {self._limits.max_objects} objects",
                field="prompt.object_id",
            )
        self._reserve(len(objects) + 1)

    def _count_points(self, prompt: Prompt, before: int) -> int:
        total = len(prompt.points) + (before if prompt.keep_old_points and prompt.box is None else 0)
        if total > self._limits.max_points_per_prompt:
            raise LimitExceeded(
                f"object {prompt.object_id} would have {total} points on one frame, those kept included;"
                f" the limit is {self._limits.max_points_per_prompt}",
                field="prompt.points",
            )
        return total
