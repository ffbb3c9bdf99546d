"""deploy/README.md lists what a running service exports: all of it, and nothing else."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from tests.e2e.conftest import Served
from tests.e2e.talk import HEIGHT, JPEG, WIDTH, Talk, click
from tests.metrics_table import SERVICE, Metric, differences, documented, scraped

from masklet.observability.metrics import STAGES
from masklet.v1 import segmentation_pb2 as pb
from masklet.v1.segmentation_pb2_grpc import SegmentationServiceStub

WITHOUT_SAMPLES_HERE = {"masklet_triton_endpoints"}  # tests/backends/test_triton_metrics.py has them


@pytest.fixture
async def exported(served: Served, talk: Talk) -> tuple[dict[str, Metric], set[str]]:
    """After a stream with a prompt, a correction and a frame that is none, and an image."""
    await talk.open()
    await talk.send(prompt=click(1))
    frame_seq = await talk.frame()
    await talk.send(prompt=click(1, 30.0, frame_seq=frame_seq))
    await talk.frame(b"no image")
    await talk.close()
    image = pb.SegmentImageRequest(
        payload=JPEG, codec=pb.FRAME_CODEC_JPEG, height=HEIGHT, width=WIDTH, prompts=[click(1)]
    )
    stub: Any = SegmentationServiceStub(talk.channel)
    await stub.SegmentImage(image, timeout=20)
    return await asyncio.to_thread(scraped, served.server.metrics_port)


async def test_the_table_is_what_is_exported(exported: tuple[dict[str, Metric], set[str]]) -> None:
    found, empty = exported
    assert differences(documented(SERVICE), found, empty=empty) == []
    assert empty <= WITHOUT_SAMPLES_HERE


async def test_a_table_that_is_wrong_would_be_noticed(exported: tuple[dict[str, Metric], set[str]]) -> None:
    found, empty = exported
    wrong = documented(SERVICE)
    wrong["masklet_frames"] = wrong.pop("masklet_frames_received_total")
    wrong["masklet_stage_seconds"] = replace(wrong["masklet_stage_seconds"], kind="gauge", labels=frozenset())
    assert differences(wrong, found, empty=empty) == [
        "masklet_frames_received_total is exported and not documented",
        "masklet_frames is documented and not exported",
        "masklet_stage_seconds is a histogram, documented as a gauge",
        "masklet_stage_seconds has labels ['stage'], documented []",
    ]


def test_units_are_those_the_names_say() -> None:
    base = {"seconds", "bytes"}
    for name, metric in documented(SERVICE).items():
        said = base & {name.removesuffix("_total").rpartition("_")[2]}
        assert (said or {metric.unit}) == {metric.unit}, name
        assert name.endswith("_total") == (metric.kind == "counter"), name


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("frames_received_total", {"codec": "jpeg"}),
        ("frame_results_total", {"outcome": "answered", "reason": "none"}),
        ("frame_results_total", {"outcome": "dropped", "reason": "decode_error"}),
        ("object_frames_total", {}),
        ("frame_latency_seconds_count", {}),
        *(("stage_seconds_count", {"stage": stage}) for stage in STAGES),
        ("prompts_total", {"kind": "points", "outcome": "applied"}),
        ("stream_closed_total", {"reason": "close"}),
        ("rpcs_total", {"method": "/masklet.v1.SegmentationService/Track", "code": "OK"}),
        ("rpc_seconds_count", {"method": "/masklet.v1.SegmentationService/SegmentImage"}),
        ("session_duration_seconds_count", {}),
        ("batches_total", {}),
        ("batched_steps_total", {}),
        ("event_loop_lag_seconds_count", {}),
        ("ready", {}),
    ],
)
async def test_a_stream_moves_it(
    served: Served, exported: tuple[dict[str, Metric], set[str]], name: str, labels: dict[str, str]
) -> None:
    async with asyncio.timeout(10):  # some are sampled once a second
        while not served.server.metrics.registry.get_sample_value(f"masklet_{name}", labels):
            await asyncio.sleep(0.05)
