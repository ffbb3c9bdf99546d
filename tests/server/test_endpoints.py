"""The ports: what the transport lets through, and addresses that cannot be served."""

from __future__ import annotations

import dataclasses
from typing import Any

import grpc.aio
import numpy as np
import pytest

from masklet.codecs.masks import encode_mask
from masklet.config import Config, LimitsConfig
from masklet.errors import ConfigError
from masklet.server.lifecycle import Server
from masklet.types import MaskEncoding
from masklet.v1 import mask_pb2, prompt_pb2
from masklet.v1 import segmentation_pb2 as pb
from masklet.v1.segmentation_pb2_grpc import SegmentationServiceStub


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
async def test_compressed_requests_are_not_unpacked(server: Server, compression: grpc.Compression) -> None:
    """A few thousand bytes may be gigabytes, and gRPC looks at the size afterwards."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}", compression=compression) as channel:
        stub: Any = SegmentationServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.SegmentImage(
                pb.SegmentImageRequest(codec=pb.FRAME_CODEC_PNG, payload=bytes(1 << 20)), timeout=10
            )
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def noise(object_id: int, height: int, width: int) -> prompt_pb2.Prompt:
    """As many bytes as a mask of this size may have packed."""
    mask = np.random.default_rng(0).random((height, width)) < 0.5
    wire = mask_pb2.Mask(encoding=mask_pb2.MASK_ENCODING_BITS, height=height, width=width)
    wire.data = encode_mask(mask, MaskEncoding.BITS)
    return prompt_pb2.Prompt(object_id=object_id, mask=wire)


async def test_a_mask_larger_than_any_frame_passes(client: Any, config: Config) -> None:
    talk, prompt = client.talk(), noise(1, 1080, 1920)
    assert len(prompt.mask.data) > 2 * config.limits.max_frame_bytes
    await talk.send(open=pb.Open(codec=pb.FRAME_CODEC_PNG, height=1080, width=1920))
    await talk.receive("opened")
    await talk.send(prompt=prompt)
    await talk.settle()


async def test_the_largest_image_passes_with_a_mask_for_each_object(config: Config, connect: Any) -> None:
    height, width = 512, 512
    limits = LimitsConfig(max_frame_bytes=height * width * 3)
    async with Server(dataclasses.replace(config, limits=limits)) as server, connect(server.port) as client:
        answer = await client.tracker.SegmentImage(
            pb.SegmentImageRequest(
                codec=pb.FRAME_CODEC_RGB8,
                payload=bytes(limits.max_frame_bytes),
                height=height,
                width=width,
                mask_encoding=mask_pb2.MASK_ENCODING_NONE,
                prompts=[noise(object_id, height, width) for object_id in range(1, 65)],
            ),
            timeout=60,
        )
    assert len(answer.objects) == 64


async def test_too_large_a_frame_is_refused_on_a_stream_that_goes_on(client: Any) -> None:
    talk = client.talk()
    await talk.open()
    await talk.frame(bytes(1_000_000))
    assert "1000000 bytes, the limit is 100000" in (await talk.receive("error")).error.status.message


@pytest.mark.parametrize("host", ["a..b", "x" * 64])
async def test_what_is_no_host_name_is_named(config: Config, host: str) -> None:
    served = dataclasses.replace(config, server=dataclasses.replace(config.server, metrics_host=host))
    with pytest.raises(ConfigError, match=rf"metrics on {host}:0 .*: .*label") as caught:
        await Server(served).__aenter__()
    assert caught.value.field == "server.metrics_port"
