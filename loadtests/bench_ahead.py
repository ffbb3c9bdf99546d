"""Frames encoded ahead against frames encoded in their turn: two services with `nano`, a block of frames each in turns.

python loadtests/bench_ahead.py [ROUNDS]

640x360 JPEGs are sent as fast as they are answered; client and server share the cores.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack

import masklet_client
from bench_runners import synthetic_frames
from bench_service import encoded, send_all, served

HEIGHT, WIDTH = 360, 640
BLOCK, WARM_UP = 24, 20
ROUNDS = 9
OBJECTS = (1, 4)
WAYS = {"in its turn": "false", "ahead": "true"}


async def compare(objects: int, rounds: int) -> None:
    """Prints the medians of both ways."""
    frames = synthetic_frames(WIDTH)
    payloads = [encoded(next(frames)[:HEIGHT]) for _ in range(BLOCK)]
    rates: dict[str, list[float]] = {way: [] for way in WAYS}
    async with AsyncExitStack() as stack:
        streams = {}
        for way, ahead in WAYS.items():
            address = await stack.enter_async_context(served({"--model.encode_ahead": ahead}))
            client = await stack.enter_async_context(masklet_client.connect(address))
            stream = await stack.enter_async_context(client.track((HEIGHT, WIDTH), policy="block"))
            for number in range(objects):
                await stream.click(number + 1, (WIDTH * (number + 1) / (objects + 1), HEIGHT / 2))
            streams[way] = stream
            await _block(stream, payloads[:WARM_UP])
        for _ in range(rounds):
            for way, stream in streams.items():
                rates[way].append(len(payloads) / await _block(stream, payloads))
        for stream in streams.values():
            await stream.finish()
    for way, found in rates.items():
        print(f"  {objects} objects, encoded {way:11}: {_summary(found)} frames/s")
    gains = [ahead / in_turn for in_turn, ahead in zip(*rates.values(), strict=True)]
    print(f"  {objects} objects: {_summary(gains)} times as many", flush=True)


def _summary(values: Sequence[float]) -> str:
    return f"median {statistics.median(values):.2f}, {min(values):.2f} to {max(values):.2f}"


async def _block(stream: masklet_client.TrackStream, payloads: Sequence[bytes]) -> float:
    started = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        group.create_task(send_all(stream, payloads))
        for _ in payloads:
            await anext(stream)
    return time.perf_counter() - started


async def main(rounds: int) -> None:
    """One object, then four."""
    print(f"nano at its own size, blocks of {BLOCK} frames of {WIDTH}x{HEIGHT}, {rounds} rounds in turns")
    for objects in OBJECTS:
        await compare(objects, rounds)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS))
