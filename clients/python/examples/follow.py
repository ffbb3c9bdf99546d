"""Follow what is in the middle of a camera's picture: python follow.py [CAMERA, FILE or rtsp://...] [HOST:PORT]."""

import asyncio
import sys

import masklet_client
from masklet_client.source import Source, open_source


async def send_all(camera: Source, stream: masklet_client.TrackStream) -> None:
    """Every frame, then the end."""
    frames = camera.frames()
    while (frame := await asyncio.to_thread(next, frames, None)) is not None:
        await stream.send(frame.image)
    await stream.finish()


async def main(source: str = "0", address: str = "localhost:50051") -> None:
    """Click, send, and print what comes back."""
    with open_source(source) as camera:
        policy = "latest" if camera.live else "block"
        async with masklet_client.connect(address) as client, client.track(camera.size, policy=policy) as stream:
            await stream.click(1, (camera.size[1] / 2, camera.size[0] / 2))
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(send_all(camera, stream))
                async for result in stream:  # of a camera, of the newest frames: others are dropped to keep up
                    for found in result:  # not `result[1]`: a server may lose an object that is out of sight
                        print(result.frame_index, found.state, found.box, found.area_px, f"{result.latency_s:.3f} s")


asyncio.run(main(*sys.argv[1:]))
