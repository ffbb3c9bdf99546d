"""One image and what is said about the objects in it: a video of one frame."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from dataclasses import replace

from masklet.codecs.frames import decode_frame
from masklet.codecs.stills import jpeg_size, png_size
from masklet.errors import AdmissionRefused, InvalidFrame, InvalidPrompt, LimitExceeded, RequestError
from masklet.session.answer import encode_objects
from masklet.session.closing import close_bank
from masklet.session.context import StreamContext
from masklet.session.edits import Edit, PendingEdits
from masklet.session.messages import ObjectResult, Timing
from masklet.session.object_states import ObjectStates
from masklet.session.opening import open_bank
from masklet.session.terms import profile_settings
from masklet.session.validation import (
    check_codec,
    check_payload,
    check_payload_length,
    check_prompt,
    check_size,
    limits_of_frames,
)
from masklet.types import FrameCodec, MaskEncoding, Profile, Prompt, Size, StepRequest, StepResult

_SEVERAL_OBJECTS_HZ = 1.0  # what an image with more than one object counts as, for its load


async def segment_image(
    context: StreamContext,
    codec: FrameCodec,
    payload: bytes,
    size: Size | None,
    prompts: Sequence[Prompt],
    *,
    mask_encoding: MaskEncoding = MaskEncoding.RLE,
    with_logits: bool = False,
    profile: Profile | None = None,
) -> tuple[tuple[ObjectResult, ...], Timing]:
    """Masks for one image, by rising object id; `size` (height, width) None: as the payload's header says.

    It takes a session's place while it runs, and is checked as a stream's frame and prompts are.

    Raises:
        RequestError: what a stream would answer with an error, and no prompts at all.
        AdmissionRefused: there is no room; OverCapacity: none for the load of so many objects.
        ServerDraining: the server is going away.
        BackendError: the backend failed.
    """
    check_codec(codec, field="codec")
    check_payload_length(payload, context.limits)
    frame_size = _header_size(codec, payload) if size is None else size
    _check_image(context, codec, payload, frame_size)
    _check_prompts(context, prompts, frame_size)
    clock = context.clock
    session_id = uuid.uuid4().hex
    context.registry.add(session_id, peer="", size=frame_size, image=True)
    try:
        started_s = clock()
        image = await asyncio.to_thread(decode_frame, codec, payload, frame_size)
        decoded_s = clock()
        request = StepRequest(1, image, prompts=tuple(prompts), with_logits=with_logits)
        result = await _step_once(context, session_id, request, profile)
        stepped_s = clock()
        states = ObjectStates(context.session.lost_after_frames).advance(result.objects)
        objects = await asyncio.to_thread(encode_objects, result.objects, states, mask_encoding)
        return objects, Timing(0.0, decoded_s - started_s, stepped_s - decoded_s, clock() - stepped_s)
    except AdmissionRefused as error:
        context.registry.withdraw(session_id, error)
        raise
    finally:
        context.registry.remove(session_id)


async def _step_once(
    context: StreamContext, session_id: str, request: StepRequest, profile: Profile | None
) -> StepResult:
    settings, objects = profile_settings(profile, context.session), len({one.object_id for one in request.prompts})
    if objects > 1:  # else its load is that of any session whose client names no rate
        settings = replace(settings, frame_rate_hz=_SEVERAL_OBJECTS_HZ)
    try:
        await open_bank(context.backend, session_id, settings)
        context.backend.reserve(session_id, objects)
        return await context.backend.step(session_id, request)
    finally:
        await close_bank(context.backend, session_id)


def _check_image(context: StreamContext, codec: FrameCodec, payload: bytes, size: Size) -> None:
    try:
        check_size(size, context.limits, field="image")
    except LimitExceeded:
        raise
    except RequestError as error:
        raise InvalidFrame(str(error), field="height") from error
    check_payload(codec, payload, size, context.limits)


def _check_prompts(context: StreamContext, prompts: Sequence[Prompt], size: Size) -> None:
    if not prompts:
        raise InvalidPrompt("an image needs at least one prompt", field="prompts")
    if len(prompts) > context.limits.max_prompts_per_frame:
        limit = context.limits.max_prompts_per_frame
        raise LimitExceeded(f"the image has {len(prompts)} prompts, the limit is {limit}", field="prompts")
    edits = PendingEdits(limits_of_frames(context.limits, size), history_frames=1)
    for number, prompt in enumerate(prompts, 1):
        check_prompt(prompt, size, context.limits)
        for refusal in edits.fold(Edit(number, prompt)):
            raise refusal.error


def _header_size(codec: FrameCodec, payload: bytes) -> Size:
    if codec is FrameCodec.RGB8:
        raise InvalidFrame("an rgb8 image has no header: height and width are needed", field="height")
    try:
        return jpeg_size(payload) if codec is FrameCodec.JPEG else png_size(payload)
    except ValueError as error:
        raise InvalidFrame(
            f"{codec} image of {len(payload)} bytes has no readable header: {error}", field="payload"
        ) from error
