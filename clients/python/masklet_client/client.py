"""A connection to a masklet server."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable, Sequence
from types import TracebackType
from typing import Any, Self, Unpack

import grpc
import grpc.aio

from masklet.codecs.frames import encode_frame
from masklet.errors import InvalidOpen, ProtocolViolation
from masklet.types import FrameCodec, ImageArray, MaskEncoding, Profile, Prompt
from masklet.v1 import segmentation_pb2 as pb
from masklet.v1.segmentation_pb2_grpc import SegmentationServiceStub
from masklet_client.address import parse_addresses
from masklet_client.call import FRONT_KEY, Call
from masklet_client.events import Event, ImageResult, Result, ServerDescription
from masklet_client.following import Prompts, follow
from masklet_client.prompt_check import check_prompt
from masklet_client.resuming import passes
from masklet_client.settings import StreamOptions, StreamSettings, choice
from masklet_client.status import error_from_rpc, lost_on_the_way
from masklet_client.stream import TrackStream
from masklet_client.wire import (
    codec_to_proto,
    description_from_proto,
    encoding_to_proto,
    image_result_from_proto,
    profile_to_proto,
    prompts_to_proto,
)

DEFAULT_ADDRESS = "localhost:50051"
CONNECT_TIMEOUT_S = 10.0
_STREAM_TIMEOUT_S = 1.0
_LARGE_IMAGE_QUALITY = 95
_CHANNEL_OPTIONS = (
    ("grpc.max_receive_message_length", 64 * 1024 * 1024),
    ("grpc.max_send_message_length", 64 * 1024 * 1024),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.keepalive_time_ms", 20_000),  # else a server that vanished without a word is waited for without end
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.initial_reconnect_backoff_ms", 100),  # gRPC's own goes up to two minutes, long after a server is back
    ("grpc.min_reconnect_backoff_ms", 5_000),  # how long a connection may take to be made
    ("grpc.max_reconnect_backoff_ms", 2_000),
)


class Client:
    """A connection; get one from `connect`. Any number of streams may be open on it; those left open end with it.

    Attributes:
        address: host:port of the first server.
        server: the model behind it and its limits, as told when the connection was made.
    """

    server: ServerDescription

    def __init__(
        self,
        address: str | Sequence[str],
        *,
        credentials: grpc.ChannelCredentials | None = None,
        metadata: Sequence[tuple[str, str]] = (),
        timeout_s: float = CONNECT_TIMEOUT_S,
    ) -> None:
        """See `connect`."""
        self.addresses = parse_addresses(address)
        self.address = self.addresses[0]
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._streams: set[TrackStream] = set()
        self._entered = False
        self._credentials, self._metadata, self._timeout_s = credentials, _metadata(metadata), timeout_s

    async def __aenter__(self) -> Self:
        """Connect.

        Raises:
            BackendUnavailable: nobody answers at the address.
            AccessDenied: the server does not let this client in.
            ProtocolViolation: it is connected.
        """
        if self._entered:
            raise ProtocolViolation("the client is connected: `with` is for one block at a time")
        self._entered = True
        try:
            self.server = await self.describe()
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._close()

    async def describe(self) -> ServerDescription:
        """Ask what runs on the server now; the first that answers."""
        for address in self.addresses:
            try:
                answer = await self._stub(address).DescribeModel(
                    pb.DescribeModelRequest(), timeout=self._timeout_s, metadata=self._metadata
                )
                return description_from_proto(answer)
            except grpc.aio.AioRpcError as error:
                failure = error_from_rpc(error, address)
                failure.__cause__ = error
        raise failure

    def track(
        self,
        size: tuple[int, int],
        *,
        on_event: Callable[[Event], None] | None = None,
        **options: Unpack[StreamOptions],
    ) -> TrackStream:
        """A stream for frames of `size` (height, width); `async with` opens it. Options as in `StreamSettings`.

        Raises:
            InvalidOpen: an option that is not offered.
        """
        settings = StreamSettings.of(size, options)
        return TrackStream(
            self._dial, settings, addresses=self.addresses, on_event=on_event, open_streams=self._streams
        )

    def follow(
        self,
        frames: Iterable[ImageArray] | AsyncIterable[ImageArray],
        prompts: Prompts,
        *,
        in_flight: int = 8,
        **options: Unpack[StreamOptions],
    ) -> AsyncGenerator[Result, None]:
        """Send all `frames`, yield the result of each, in order; see `masklet_client.following.follow`."""
        return follow(self, frames, prompts, in_flight=in_flight, **options)

    async def segment(
        self,
        image: ImageArray | bytes,
        prompts: Prompt | Iterable[Prompt],
        *,
        codec: FrameCodec = FrameCodec.JPEG,
        mask_encoding: MaskEncoding = MaskEncoding.RLE,
        profile: Profile | None = None,
    ) -> ImageResult:
        """Masks for one image: [H, W, 3] uint8 RGB, or an encoded image of `codec`.

        Arrays are sent as PNG, so unchanged; those whose PNG the server would not take, as JPEG of quality 95.
        The first server that takes it answers. `codec` is JPEG or PNG: raw pixels are given as an array.

        Raises:
            InvalidPrompt: a prompt that makes no sense.
            InvalidFrame: an image that cannot be read.
            InvalidOpen: a codec or mask encoding that is not offered.
        """
        prompts = [prompts] if isinstance(prompts, Prompt) else list(prompts)
        encoding = choice(MaskEncoding, "mask_encoding", mask_encoding) or MaskEncoding.RLE
        if isinstance(image, bytes | bytearray | memoryview):
            payload, size = bytes(image), None
        else:
            max_bytes = self.server.limits.max_frame_bytes if hasattr(self, "server") else 0
            codec, payload = await asyncio.to_thread(_encoded, image, max_bytes)
            size = (image.shape[0], image.shape[1])
        for prompt in prompts:
            check_prompt(prompt, size)
        request = pb.SegmentImageRequest(
            codec=codec_to_proto(choice(FrameCodec, "codec", codec) or FrameCodec.JPEG),
            payload=payload,
            prompts=[message for prompt in prompts for message in prompts_to_proto(prompt)],
            mask_encoding=encoding_to_proto(encoding),
            profile=profile_to_proto(profile),
        )
        for address in self.addresses:
            try:
                answer = await self._stub(address).SegmentImage(request, metadata=self._metadata)
                return image_result_from_proto(answer)
            except grpc.aio.AioRpcError as error:
                failure = error_from_rpc(error, address)
                failure.__cause__ = error
                if not passes(failure, on_the_way=lost_on_the_way(error)):
                    break
        raise failure

    def _dial(self, address: str, front: str) -> Call:
        at = ((FRONT_KEY, front),) if front else ()
        call: Call = self._stub(address).Track(metadata=self._metadata + at)
        return call

    def _stub(self, address: str) -> Any:
        if not self._entered:  # nobody would close its channel
            raise ProtocolViolation("the client is not connected: `async with` (or `with`) connects it")
        if address not in self._channels:
            self._channels[address] = self._connected(address)
        return SegmentationServiceStub(self._channels[address])

    def _connected(self, address: str) -> grpc.aio.Channel:
        if self._credentials is None:
            return grpc.aio.insecure_channel(address, options=_CHANNEL_OPTIONS)
        return grpc.aio.secure_channel(address, self._credentials, options=_CHANNEL_OPTIONS)

    async def _close(self) -> None:
        try:
            await asyncio.gather(*(stream.close(timeout_s=_STREAM_TIMEOUT_S) for stream in list(self._streams)))
        finally:
            self._entered = False
            channels = list(self._channels.values())
            self._channels.clear()
            for channel in channels:
                await channel.close(None)


def connect(
    address: str | Sequence[str] = DEFAULT_ADDRESS,
    *,
    credentials: grpc.ChannelCredentials | None = None,
    metadata: Sequence[tuple[str, str]] = (),
    timeout_s: float = CONNECT_TIMEOUT_S,
) -> Client:
    """A client for the server at `address` (host:port); `async with` connects it.

    Args:
        address: host:port; several, in a list or with commas between them, if they share a resume key: a stream that
            loses one goes on at the next.
        credentials: for TLS, from `grpc.ssl_channel_credentials`; None: plain text.
        metadata: sent with every call, for example `("authorization", "Bearer ...")`.
        timeout_s: how long the server may take to answer when connecting.

    Raises:
        InvalidOpen: no address, one that is not host:port, or metadata that gRPC does not send.
    """
    return Client(address, credentials=credentials, metadata=metadata, timeout_s=timeout_s)


def _encoded(image: ImageArray, max_bytes: int) -> tuple[FrameCodec, bytes]:
    payload = encode_frame(FrameCodec.PNG, image)
    if 0 < max_bytes < len(payload):
        return FrameCodec.JPEG, encode_frame(FrameCodec.JPEG, image, quality=_LARGE_IMAGE_QUALITY)
    return FrameCodec.PNG, payload


def _metadata(given: Sequence[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    for key, value in given:
        if not re.fullmatch(r"[0-9a-z_.-]+", key):
            raise InvalidOpen(f"metadata key {key!r} must be lower case letters, digits, _ . -", field="metadata")
        if not (key.endswith("-bin") or re.fullmatch(r"[ -~]*", value)):
            raise InvalidOpen(f"metadata {key!r} must have a value of printable ASCII characters", field="metadata")
    return tuple(given)
