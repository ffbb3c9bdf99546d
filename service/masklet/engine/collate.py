"""Requests become rows: which objects are tracked on which frame, and what is said about them. Changes nothing."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from masklet.engine.pixels import fit_frame
from masklet.engine.track import Answer, ObjectTrack, PastFrame, Said, SessionState
from masklet.errors import InvalidPrompt, UnknownFrame, UnknownObject
from masklet.model import FrameFeatures
from masklet.types import Prompt, PromptMode, StepRequest


@dataclass(slots=True)
class Row:
    """One object on one frame.

    Attributes:
        object_id: the client's id.
        track: the object.
        index: frame index in the session.
        job: index of the request, and so of its frame, in the batch.
        prompts: what is said about the object on this frame, in order.
        initial: memory is ignored: a new object, or one restarted.
        earlier: the answer given before, if an answered frame is corrected.
        said: what was said about the object on this frame before.
    """

    object_id: int
    track: ObjectTrack
    index: int
    job: int = 0
    prompts: tuple[Prompt, ...] = ()
    initial: bool = False
    earlier: Answer | None = None
    said: Said | None = None

    @property
    def tracked(self) -> bool:
        """Whether the object is first tracked through the frame, whatever is said about it after."""
        return not self.initial and self.earlier is None


@dataclass(slots=True)
class Job:
    """One request, ready to run.

    Attributes:
        session: the session's state.
        request: what was asked.
        index: frame index in the session.
        frame: the frame at model size.
        objects: the object table as it will be.
        rows: the objects that go through the network.
        features: of the frame, if it was encoded before its turn.
    """

    session: SessionState
    request: StepRequest
    index: int
    frame: PastFrame
    objects: dict[int, ObjectTrack]
    rows: list[Row] = field(default_factory=list)
    features: FrameFeatures | None = None

    @property
    def is_correction(self) -> bool:
        """Whether an answered frame is corrected."""
        return self.request.image is None


@dataclass(frozen=True, slots=True)
class EncodedFrame:
    """A frame before its turn: its pixels at model size [3, S, S] uint8, and its features."""

    pixels: Tensor
    features: FrameFeatures


def collate(
    session: SessionState,
    request: StepRequest,
    *,
    size: int,
    device: torch.device,
    encoded: EncodedFrame | None = None,
) -> Job:
    """Plan one request.

    Args:
        session: the session's state; not changed.
        request: what is asked.
        size: the model's input size.
        device: where frames go.
        encoded: what the request's frame was made into before its turn, if it was.

    Raises:
        UnknownFrame: a correction of a frame that is not in the history window, or that `reset` forgets.
        UnknownObject: a removal of an object that is not tracked.
        InvalidPrompt: a prompt that says nothing, or a mask of another size than the frame.
    """
    index, frame = _frame(session, request, size, device, encoded)
    planned = Job(session, request, index, frame, _surviving(session, request))
    planned.features = encoded.features if encoded is not None and not planned.is_correction else None
    said = _by_object(request.prompts, frame)
    known = set(planned.objects)
    for object_id in sorted(said if planned.is_correction else known | said.keys()):
        track = planned.objects.setdefault(object_id, session.new_track())
        row = Row(object_id, track, index, prompts=_in_force(said.get(object_id, [])))
        _resolve(row, known=object_id in known, correction=planned.is_correction)
        planned.rows.append(row)
    return planned


def _frame(
    session: SessionState, request: StepRequest, size: int, device: torch.device, encoded: EncodedFrame | None
) -> tuple[int, PastFrame]:
    if request.image is None:
        if request.reset:
            raise UnknownFrame(f"frame {request.frame_seq} cannot be corrected: the same request resets the session")
        index = session.past_index(request.frame_seq)
        return index, session.past[index]
    height, width = request.image.shape[:2]
    pixels: Tensor = encoded.pixels if encoded is not None else fit_frame(request.image, size, device)
    return session.next_index, PastFrame(request.frame_seq, (height, width), pixels)


def _surviving(session: SessionState, request: StepRequest) -> dict[int, ObjectTrack]:
    objects = {} if request.reset else dict(session.objects)
    for object_id in request.remove:
        if object_id not in objects:
            raise UnknownObject(f"object {object_id} is not tracked; tracked: {sorted(objects)}")
        del objects[object_id]
    return objects


def _by_object(prompts: tuple[Prompt, ...], frame: PastFrame) -> dict[int, list[Prompt]]:
    said: dict[int, list[Prompt]] = {}
    for prompt in prompts:
        if prompt.mask is None and prompt.box is None and not len(prompt.points):
            raise InvalidPrompt(f"prompt for object {prompt.object_id} has no point, box or mask")
        if prompt.mask is not None and prompt.mask.shape != frame.size:
            raise InvalidPrompt(
                f"mask of object {prompt.object_id} is {prompt.mask.shape}, the frame is {frame.size} (height, width)"
            )
        said.setdefault(prompt.object_id, []).append(prompt)
    return said


def _in_force(prompts: list[Prompt]) -> tuple[Prompt, ...]:
    """Without those that a later one makes void: a restart, unless it keeps the points before it; or a mask.

    Each of the rest is a pass of the decoder, one after the other.
    """
    start = 0
    for number, prompt in enumerate(prompts):
        restarts = prompt.mode is PromptMode.RESTART and not prompt.keep_old_points
        if restarts or prompt.mask is not None:
            start = number
    kept = prompts[start:]
    restart = any(prompt.mode is PromptMode.RESTART for prompt in prompts[:start])
    if restart and kept[0].mode is not PromptMode.RESTART:
        kept[0] = replace(kept[0], mode=PromptMode.RESTART)
    return tuple(kept)


def _resolve(row: Row, *, known: bool, correction: bool) -> None:
    """Decide whether memory is read and whether an earlier answer is refined.

    Corrections of the frame an object started on go on without memory, as clicks before tracking starts do in the
    reference.
    """
    restart = any(prompt.mode is PromptMode.RESTART for prompt in row.prompts)
    answer = row.track.answers.get(row.index) if correction else None
    row.said = answer.said if answer else None
    row.earlier = None if restart else answer
    row.initial = restart or not known or (correction and (answer is None or answer.initial))
