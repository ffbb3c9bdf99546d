"""Client for masklet: frames and clicks in, a mask per object per frame out.

    async with masklet_client.connect("localhost:50051") as client:
        async with client.track(size=(720, 1280)) as stream:
            await stream.click(1, (640, 360))
            await stream.send(frame)
            await stream.finish()
            async for result in stream:
                for found in result:
                    use(found.object_id, found.mask)

`masklet_client.sync.connect` offers the same without `await`.
"""

from masklet.errors import MaskletError
from masklet.types import (
    DropPolicy,
    DropReason,
    FrameCodec,
    MaskEncoding,
    ObjectState,
    Profile,
    Prompt,
    PromptMode,
    StateOrigin,
)
from masklet_client.client import Client, connect
from masklet_client.events import (
    Dropped,
    Event,
    GoAway,
    ImageResult,
    Limits,
    ObjectResult,
    Opened,
    PromptApplied,
    RequestFailed,
    Result,
    Resumed,
    ServerDescription,
)
from masklet_client.serving import wait_until_serving
from masklet_client.settings import Reconnect, StreamSettings
from masklet_client.stream import TrackStream

__all__ = [
    "Client",
    "DropPolicy",
    "DropReason",
    "Dropped",
    "Event",
    "FrameCodec",
    "GoAway",
    "ImageResult",
    "Limits",
    "MaskEncoding",
    "MaskletError",
    "ObjectResult",
    "ObjectState",
    "Opened",
    "Profile",
    "Prompt",
    "PromptApplied",
    "PromptMode",
    "Reconnect",
    "RequestFailed",
    "Result",
    "Resumed",
    "ServerDescription",
    "StateOrigin",
    "StreamSettings",
    "TrackStream",
    "connect",
    "wait_until_serving",
]
