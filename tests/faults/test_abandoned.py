"""A thousand sessions that nobody closes, over a real Triton: nothing of them stays."""

from __future__ import annotations

import asyncio
import signal
import subprocess
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from tests.backends.contract import SIZE, picture
from tests.e2e.talk import click
from tests.faults.fleet import MODEL, READY_S, start_triton
from tests.faults.front_process import FrontProcess, all_ready, fronts

from masklet.backends.triton import TritonBackend
from masklet.backends.triton_server import TritonServer, default_repository, model_environment
from masklet.backends.triton_tensors import MODEL as MODEL_NAME
from masklet.types import BackendStats
from masklet.v1 import segmentation_pb2 as pb
from masklet.v1.segmentation_pb2_grpc import SegmentationServiceStub

IDLE_S = 3
ROUND = 200
EXIT_S = 100
LOG_LINES = 40


def forgetful_repository(folder: Path) -> Path:
    """The model repository, but Triton forgets idle sequences after IDLE_S, as the model does by configuration."""
    source = default_repository() / MODEL_NAME
    made = folder / MODEL_NAME
    (made / "1").mkdir(parents=True)
    (made / "1" / "model.py").write_text((source / "1" / "model.py").read_text())
    settings, idle = (source / "config.pbtxt").read_text(), "max_sequence_idle_microseconds: 600000000"
    assert settings.count(idle) == 1
    (made / "config.pbtxt").write_text(settings.replace(idle, f"max_sequence_idle_microseconds: {IDLE_S * 1000000}"))
    return folder


async def abandon(front: FrontProcess, sessions: int, *, kill: bool) -> set[Path]:
    """Opens sessions, every fourth with a frame, and leaves: the client's connection is cut, or the front killed.

    Returns:
        The shared memory its frames travelled through.
    """
    async with grpc.aio.insecure_channel(front.address, (("grpc.use_local_subchannel_pool", 1),)) as channel:
        stub = SegmentationServiceStub(channel)
        calls = [stub.Track() for _ in range(sessions)]  # type: ignore[call-arg]
        await asyncio.gather(*(begin(call, with_frame=number % 4 == 0) for number, call in enumerate(calls)))
        files = front.shared_frames()
        if kill:
            await front.end(signal.SIGKILL)
    return files


async def begin(call: Any, *, with_frame: bool) -> None:
    height, width = SIZE
    await call.write(pb.TrackRequest(seq=1, open=pb.Open(codec=pb.FRAME_CODEC_RGB8, height=height, width=width)))
    answers = 1
    if with_frame:
        await call.write(pb.TrackRequest(seq=2, prompt=click(1, 16.0, 24.0)))
        await call.write(pb.TrackRequest(seq=3, frame=pb.Frame(payload=picture(0).tobytes())))
        answers = 3
    for _ in range(answers):
        assert isinstance(await call.read(), pb.TrackResponse)


async def held(endpoint: str) -> BackendStats:
    """What the model holds; entering sweeps shared memory of services that died."""
    async with TritonBackend(endpoint) as backend:
        return backend.stats()


def ended(server: TritonServer, log: Path) -> int:
    """Triton's exit status; if it does not end, its log tells what it waits for."""
    try:
        return server.process.wait(EXIT_S / 2)
    except subprocess.TimeoutExpired:
        words = log.read_text(errors="replace").splitlines()[-LOG_LINES:]
        pytest.fail("Triton does not end; its log says:\n" + "\n".join(words))


@pytest.mark.slow
@pytest.mark.triton
@pytest.mark.timeout(300)
async def test_a_thousand_abandoned_sessions_leave_nothing(tmp_path: Path) -> None:
    limits = {"MASKLET_TRITON_IDLE_TIMEOUT_S": str(IDLE_S), "MASKLET_TRITON_MAX_SESSIONS": "1100"}
    environment = {**model_environment(MODEL), **limits}
    repository, log = forgetful_repository(tmp_path / "models"), tmp_path / "triton.log"
    server = start_triton(repository=repository, environment=environment, exit_timeout_s=EXIT_S, log=log)
    await asyncio.to_thread(server.wait_ready, READY_S)
    shared: set[Path] = set()
    settings = {"limits__max_sessions": str(ROUND), "session__resume_ttl_s": "10"}
    with fronts(1, tmp_path, [server], **settings) as (front,):
        for number in range(5):
            await all_ready([front])
            shared |= await abandon(front, ROUND, kill=number < 4)
            if number < 4:
                front.restart()
        assert (await held(server.endpoint)).sessions > 0
        async with asyncio.timeout(60):
            while await asyncio.to_thread(front.metric, "masklet_sessions"):
                await asyncio.sleep(0.2)
        await front.end(signal.SIGTERM)
    async with asyncio.timeout(60):
        while (stats := await held(server.endpoint)).sessions:
            await asyncio.sleep(0.2)
    assert stats.bank_bytes == 0
    assert shared and not [path for path in shared if path.exists()]
    await asyncio.sleep(IDLE_S)
    server.signal(signal.SIGTERM)
    assert await asyncio.to_thread(ended, server, log) == 0  # sooner than with any sequence left
