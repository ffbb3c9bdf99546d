"""Streams through the whole service while its Tritons are killed in turn; every frame is accounted for and compared.

GRPC_ENABLE_FORK_SUPPORT=0 python -m tests.faults.soak --minutes 10 --every 30

The variable keeps gRPC from touching the Tritons that this process starts.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from tests.backends.contract import SIZE, click, picture
from tests.e2e.talk import EOF, Talk, talk_to
from tests.e2e.talk import click as wire_click
from tests.faults.fleet import MODEL, READY_S, routed, start_triton, stop_fleet
from tests.faults.stub import stub_of

from masklet.backends.embedded import EmbeddedBackend
from masklet.backends.triton_server import TritonServer
from masklet.codecs.masks import encode_mask
from masklet.config import Config, ServerConfig, SessionConfig
from masklet.server.lifecycle import Server
from masklet.types import ImageArray, MaskEncoding, StateOrigin, StepRequest, TrackSettings
from masklet.v1 import segmentation_pb2 as pb
from masklet_load.facts import machine_facts

CONFIG = Config(server=ServerConfig(port=0, metrics_port=0), session=SessionConfig(idle_timeout_s=300.0))
RECOVERY_S = 2.0
"""How long a Triton's end may hold up a stream, besides the pause between two of its frames."""
KINDS = ("SIGTERM", "kill server", "kill stub")


@dataclass(slots=True)
class Account:
    """What became of one stream's frames: their masks, and why others were dropped."""

    images: dict[int, ImageArray] = field(default_factory=dict)
    masks: dict[int, bytes] = field(default_factory=dict)
    dropped: dict[int, str] = field(default_factory=dict)
    recovered: Counter[str] = field(default_factory=Counter)
    longest_gap_s: float = 0.0

    @property
    def missing(self) -> list[int]:
        """Frames that were neither answered nor reported."""
        return sorted(self.images.keys() - self.masks.keys() - self.dropped.keys())


async def stream(address: str, ends_s: float, frame_s: float) -> Account:
    """One stream with a pause of `frame_s` between two frames, and a click on its first."""
    account = Account()
    async with talk_to(address) as talk:
        await talk.open(codec=pb.FRAME_CODEC_RGB8, height=SIZE[0], width=SIZE[1])
        await talk.send(prompt=wire_click(1, 16.0, 24.0))
        reading = asyncio.create_task(_read(talk, account))
        for number in itertools.count():
            if time.monotonic() > ends_s:
                break
            image = picture(number % 20)
            account.images[talk.seq + 1] = image
            await talk.frame(image.tobytes())
            await asyncio.sleep(frame_s)
        await talk.send(close=pb.Close())
        await talk.call.done_writing()
        await reading
    return account


async def _read(talk: Talk, account: Account) -> None:
    before_s = time.monotonic()
    async with asyncio.timeout(None):
        while (response := await talk.call.read()) is not EOF:
            kind = response.WhichOneof("message")
            if kind == "dropped":
                account.dropped[response.dropped.frame_seq] = pb.DropReason.Name(response.dropped.reason)
            if kind != "result":
                continue
            account.longest_gap_s = max(account.longest_gap_s, time.monotonic() - before_s)
            before_s = time.monotonic()
            account.masks[response.result.frame_seq] = response.result.objects[0].mask.data
            if response.result.recovered:
                origin = pb.StateOrigin.Name(response.result.recovered).removeprefix("STATE_ORIGIN_")
                account.recovered[StateOrigin[origin]] += 1


async def compare(account: Account) -> int:
    """How many answers differ from those of an engine that nothing happens to."""
    different = 0
    async with EmbeddedBackend(MODEL) as backend:
        await backend.open("s", TrackSettings(history_frames=CONFIG.session.history_frames))
        for index, (seq, image) in enumerate(account.images.items()):
            if seq in account.dropped:
                continue
            prompts = (click(),) if index == 0 else ()
            result = await backend.step("s", StepRequest(seq, np.ascontiguousarray(image), prompts))
            expected = encode_mask(result.objects[0].mask, MaskEncoding.RLE)
            different += expected != account.masks.get(seq)
    return different


async def kill_in_turn(servers: list[TritonServer], every_s: float) -> None:
    """One after the other, in one way after the other, each restarted at its address before the next one's turn."""
    kinds: Iterator[str] = itertools.cycle(KINDS)
    for turn in itertools.count():
        await asyncio.sleep(every_s / 2)
        place = turn % len(servers)
        kind = next(kinds)
        print(f"{time.strftime('%X')} {kind} {servers[place].endpoint}", flush=True)
        _kill(servers[place], kind)
        await asyncio.sleep(every_s / 2)
        servers[place].process.kill()
        await asyncio.to_thread(servers[place].process.wait)
        servers[place] = start_triton(grpc_port=servers[place].grpc_port)


def _kill(server: TritonServer, kind: str) -> None:
    if kind == "SIGTERM":
        server.signal(signal.SIGTERM)
    elif kind == "kill server":
        server.process.kill()
    else:
        os.kill(stub_of(server), signal.SIGKILL)


async def soak(*, seconds: float, every_s: float, streams: int, frame_s: float) -> list[Account]:
    """The streams' accounts."""
    servers = [start_triton(), start_triton()]
    for server in servers:
        server.wait_ready(READY_S)
    async with Server(CONFIG, backend=routed(servers)) as service:
        killing = asyncio.create_task(kill_in_turn(servers, every_s))
        ends_s = time.monotonic() + seconds
        address = f"127.0.0.1:{service.port}"
        accounts = await asyncio.gather(*(stream(address, ends_s, frame_s) for _ in range(streams)))
        killing.cancel()
    return list(accounts)


def report(accounts: Sequence[Account], different: Sequence[int], *, frame_s: float) -> bool:
    """Prints what became of all frames; whether nothing is missing, nothing differs and nobody waited too long."""
    longest_s, limit_s = max(account.longest_gap_s for account in accounts), frame_s + RECOVERY_S
    for account, wrong in zip(accounts, different, strict=True):
        reasons = dict(Counter(account.dropped.values()))
        print(
            f"sent {len(account.images)}, answered {len(account.masks)}, dropped {reasons}, "
            f"unaccounted for {len(account.missing)}, different masks {wrong}, "
            f"recovered {dict(account.recovered)}, longest gap {account.longest_gap_s:.2f} s"
        )
    print(f"longest gap of all {longest_s:.2f} s, limit {limit_s:.2f} s")
    return not any(account.missing for account in accounts) and not any(different) and longest_s <= limit_s


async def _main(minutes: float, every_s: float, streams: int, frame_s: float) -> bool:
    accounts = await soak(seconds=60 * minutes, every_s=every_s, streams=streams, frame_s=frame_s)
    return report(accounts, [await compare(account) for account in accounts], frame_s=frame_s)


def main() -> int:
    """0 if every frame was answered as if nothing had happened, or reported, and none of them late."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--every", type=float, default=30.0, help="seconds between two kills")
    parser.add_argument("--streams", type=int, default=3)
    parser.add_argument("--rate", type=float, default=5.0, help="frames per second of each stream")
    args = parser.parse_args()
    for key, fact in machine_facts(sys.argv[1:], program="python -m tests.faults.soak").items():
        print(f"- {key}: {fact}")
    torch.set_num_threads(1)
    try:
        good = asyncio.run(_main(args.minutes, args.every, args.streams, 1 / args.rate))
    finally:
        stop_fleet()
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
