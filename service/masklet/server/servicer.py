"""SegmentationService: unpack, call the session room, pack."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import aclosing
from functools import partial
from typing import Any, TypeVar

import masklet
from masklet.codecs.frames import SUPPORTED
from masklet.errors import ProtocolViolation
from masklet.server.requests import from_image_request, from_track_request
from masklet.server.responses import to_description, to_image_response, to_track_response
from masklet.session.context import StreamContext
from masklet.session.image import segment_image
from masklet.session.messages import ClientMessage
from masklet.session.stream import SessionStream
from masklet.session.terms import announce_limits
from masklet.v1 import segmentation_pb2 as pb
from masklet.v1.segmentation_pb2_grpc import SegmentationServiceServicer

_T = TypeVar("_T")
_MASK_DECODERS = 2
_TRACE_KEYS = ("traceparent", "tracestate")


def tenant_of(context: Any) -> str:
    """Whose call it is: nobody is told apart before there is authentication."""
    return ""


class SegmentationServicer(SegmentationServiceServicer):
    """Streams and images in, masks out. Errors of the tree leave as they are: the interceptor maps them."""

    def __init__(self, context: StreamContext) -> None:
        self._context = context
        self._of_streams = ThreadPoolExecutor(_MASK_DECODERS, "masks-of-streams")
        self._of_images = ThreadPoolExecutor(_MASK_DECODERS, "masks-of-images")

    async def Track(
        self, request_iterator: AsyncIterator[pb.TrackRequest], context: Any
    ) -> AsyncGenerator[pb.TrackResponse, None]:
        """One stream, from `open` to its end."""
        stream = SessionStream(
            self._context, peer=context.peer(), tenant=tenant_of(context), trace_headers=_trace_headers(context)
        )
        async with aclosing(self._messages(request_iterator)) as requests, aclosing(stream.run(requests)) as answers:
            async for answer in answers:
                yield to_track_response(answer, wall_s=time.time())

    async def SegmentImage(self, request: pb.SegmentImageRequest, context: Any) -> pb.SegmentImageResponse:
        """One image."""
        convert = partial(from_image_request, request, self._context.limits)
        masks = any(prompt.HasField("mask") for prompt in request.prompts)
        asked = await _decoded(self._of_images, convert) if masks else convert()
        objects, timing = await segment_image(
            self._context,
            asked.codec,
            asked.payload,
            asked.size,
            asked.prompts,
            mask_encoding=asked.mask_encoding,
            with_logits=asked.with_logits,
            profile=asked.profile,
        )
        return to_image_response(objects, timing)

    async def DescribeModel(self, request: pb.DescribeModelRequest, context: Any) -> pb.DescribeModelResponse:
        """The model, and what is accepted."""
        model = self._context.backend.describe()
        limits = announce_limits(self._context.limits, self._context.session)
        return to_description(model, limits, codecs=SUPPORTED, version=masklet.__version__)

    async def _messages(self, requests: AsyncIterator[pb.TrackRequest]) -> AsyncGenerator[ClientMessage, None]:
        limits, size = self._context.limits, None
        async for request in requests:
            convert = partial(from_track_request, request, limits, received_s=self._context.clock(), size=size)
            if not (request.HasField("prompt") and request.prompt.HasField("mask")):
                yield convert()
            elif size:
                yield await _decoded(self._of_streams, convert)
            else:  # as the stream would say, but before any work is done
                raise ProtocolViolation("the first message is `prompt`, must be `open`")
            size = size or (request.open.height, request.open.width)


async def _decoded(pool: Executor, convert: Callable[[], _T]) -> _T:
    """Masks may take long and much memory to decode, so only a few are at a time."""
    return await asyncio.get_running_loop().run_in_executor(pool, convert)


def _trace_headers(context: Any) -> dict[str, str]:
    """The W3C trace context of a call."""
    sent = dict(context.invocation_metadata() or ())
    return {key: str(sent[key]) for key in _TRACE_KEYS if key in sent}
