"""Calls on a connection that ends."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from masklet.backends.triton_channel import TritonChannel
from masklet.backends.triton_messages import Call, SentFrame
from masklet.backends.triton_tensors import Operation
from masklet.errors import BackendUnavailable
from masklet.types import FrameCodec, StepRequest


async def test_a_connection_closed_while_a_frame_is_packed_is_one_that_is_gone():
    pixels = np.zeros((720, 1280, 3), np.uint8)
    call = Call(Operation.STEP, step=StepRequest(1, None), frame=SentFrame(FrameCodec.RGB8, (720, 1280), pixels))
    channel = TritonChannel("127.0.0.1:1")
    channel.connect()
    asking = asyncio.create_task(channel.infer("s", call))
    await asyncio.sleep(0)  # it is packed in a thread now
    await channel.close()
    with pytest.raises(BackendUnavailable, match=r"Triton at 127\.0\.0\.1:1 is not connected"):
        await asking
