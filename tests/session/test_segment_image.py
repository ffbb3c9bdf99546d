from __future__ import annotations

import numpy as np
import pytest
from tests.session.conftest import FRAME, SIZE, MakeWorld, World

from masklet.backends.fake import Fault
from masklet.codecs.frames import encode_frame
from masklet.codecs.masks import decode_mask
from masklet.config import LimitsConfig
from masklet.errors import (
    AdmissionRefused,
    BackendError,
    InvalidFrame,
    InvalidOpen,
    InvalidPrompt,
    LimitExceeded,
    MaskletError,
    ServerDraining,
)
from masklet.session.image import segment_image
from masklet.types import FrameCodec, MaskEncoding, Prompt, Size

PNG = encode_frame(FrameCodec.PNG, np.zeros((*SIZE, 3), np.uint8))
CLICK = Prompt.clicks(1, [(8, 8)])


async def test_an_image_s_size_is_read_from_its_header(world: World) -> None:
    prompts = [Prompt(2, box=np.array([1, 2, 5, 6], np.float32)), CLICK]
    objects, timing = await segment_image(
        world.context, FrameCodec.PNG, PNG, None, prompts, mask_encoding=MaskEncoding.BITS, with_logits=True
    )
    assert [(found.object_id, found.box) for found in objects] == [(1, (6, 6, 10, 10)), (2, (1, 2, 5, 6))]
    assert decode_mask(objects[1].mask, MaskEncoding.BITS, SIZE).sum() == objects[1].area_px == 16
    assert objects[0].logits is not None
    assert timing.decode_s > 0
    assert timing.inference_s > 0


@pytest.mark.parametrize(
    ("codec", "payload", "size", "prompts", "error"),
    [
        (FrameCodec.AV1, PNG, None, [CLICK], InvalidOpen),
        (FrameCodec.PNG, b"", None, [CLICK], InvalidFrame),
        (FrameCodec.PNG, b"garbage", None, [CLICK], InvalidFrame),
        (FrameCodec.PNG, PNG, (99, 99), [CLICK], InvalidFrame),
        (FrameCodec.RGB8, FRAME.payload, None, [CLICK], InvalidFrame),
        (FrameCodec.RGB8, FRAME.payload, (0, 24), [CLICK], InvalidFrame),
        (FrameCodec.RGB8, FRAME.payload, (5000, 24), [CLICK], LimitExceeded),
        (FrameCodec.PNG, PNG, None, [], InvalidPrompt),
        (FrameCodec.PNG, PNG, None, [Prompt.clicks(1, [(99, 1)])], InvalidPrompt),
        (FrameCodec.PNG, PNG, None, [CLICK] * 129, LimitExceeded),
        (FrameCodec.PNG, PNG, None, [Prompt.clicks(n, [(1, 1)]) for n in range(1, 66)], LimitExceeded),
    ],
)
async def test_a_bad_request_is_refused_before_any_work(
    world: World, codec: FrameCodec, payload: bytes, size: Size | None, prompts: list[Prompt], error: type[MaskletError]
) -> None:
    with pytest.raises(error):
        await segment_image(world.context, codec, payload, size, prompts)
    assert world.backend.steps_started == 0


async def test_a_failure_leaves_no_session(make_world: MakeWorld) -> None:
    world = await make_world([Fault(BackendError("broken"))])
    with pytest.raises(BackendError):
        await segment_image(world.context, FrameCodec.PNG, PNG, None, [CLICK])
    assert len(world.context.registry) == world.backend.stats().sessions == 0


async def test_an_image_takes_a_session_s_place(make_world: MakeWorld) -> None:
    world = await make_world(limits=LimitsConfig(max_sessions=1))
    await world.opened()
    with pytest.raises(AdmissionRefused):
        await segment_image(world.context, FrameCodec.PNG, PNG, None, [CLICK])


async def test_a_draining_server_takes_no_images(world: World) -> None:
    world.context.registry.drain(1.0)
    with pytest.raises(ServerDraining):
        await segment_image(world.context, FrameCodec.PNG, PNG, None, [CLICK])
