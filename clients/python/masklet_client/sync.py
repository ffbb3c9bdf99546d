"""The client without `await`: the same names, run by an event loop in a thread of its own.

    with masklet_client.sync.connect("localhost:50051") as client:
        with client.track(size=(720, 1280)) as stream:
            stream.click(1, (640, 360))
            for frame in camera:
                result = stream.step(frame)

Errors are those of the async client.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

from masklet.errors import ProtocolViolation
from masklet.types import FrameCodec, ImageArray, MaskArray, MaskEncoding, Profile, Prompt, PromptMode
from masklet_client import client as asynchronous
from masklet_client.events import Event, GoAway, ImageResult, Opened, RequestFailed, Result, ServerDescription
from masklet_client.following import Prompts
from masklet_client.settings import StreamOptions, StreamSettings
from masklet_client.stream import CLOSE_TIMEOUT_S
from masklet_client.stream import TrackStream as AsyncTrackStream

Answer = TypeVar("Answer")

_CANCEL_TIMEOUT_S = 10.0


class _Loop:
    """An event loop in a daemon thread, within the `with` block."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._pid = 0

    def __enter__(self) -> Self:
        if self._loop is not None:
            raise ProtocolViolation("the client is connected: `with` is for one block at a time")
        self._pid = os.getpid()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="masklet-client", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        loop, thread, self._loop = self._loop, self._thread, None
        assert loop is not None and thread is not None
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.run_until_complete(_ended(asyncio.all_tasks(loop)))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()

    @property
    def elsewhere(self) -> bool:
        """Whether this process was forked from the one that entered the block."""
        return self._pid != os.getpid()

    def run(self, work: Coroutine[Any, Any, Answer]) -> Answer:
        """Wait for `work`; Ctrl-C while waiting cancels it, and waits until it has cleaned up, 10 s at most.

        Raises:
            ProtocolViolation: outside the `with` block, also if another thread leaves it meanwhile, in a forked
                process, or in the loop's own thread, which would wait for itself.
        """
        loop, refusal = self._loop, self._refusal()
        if loop is None or refusal:
            work.close()
            raise ProtocolViolation(refusal)
        ended = threading.Event()

        async def watched() -> Answer:
            try:
                return await work
            finally:
                ended.set()

        future = asyncio.run_coroutine_threadsafe(watched(), loop)
        try:
            return future.result()
        except CancelledError:
            raise ProtocolViolation("the client was closed meanwhile") from None
        except BaseException:
            future.cancel()
            ended.wait(_CANCEL_TIMEOUT_S)
            raise

    def _refusal(self) -> str:
        """Why the caller may not wait; empty: it may."""
        if self._loop is None:
            return "the client is not connected"
        if self.elsewhere:
            return "the client was connected in another process: connect one in this"
        own = threading.current_thread() is self._thread
        return "`on_event` cannot wait: call the client elsewhere" if own else ""


class Client:
    """A connection; see `masklet_client.Client`."""

    def __init__(self, inner: asynchronous.Client) -> None:
        """`inner`: not yet connected."""
        self._inner = inner
        self._loop = _Loop()
        self._following: set[Any] = set()
        self._held = ExitStack()

    def __enter__(self) -> Self:
        """Connect; raises as `masklet_client.Client` does."""
        with ExitStack() as held:
            held.enter_context(self._loop)
            self._loop.run(self._inner.__aenter__())
            held.callback(lambda: self._loop.run(self._inner.__aexit__(None, None, None)))
            held.callback(self._leave_all)
            self._held = held.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        if self._loop.elsewhere:  # what is open belongs to the process that opened it
            self._held.pop_all()
        self._held.close()

    @property
    def address(self) -> str:
        """host:port of the first server."""
        return self._inner.address

    @property
    def addresses(self) -> tuple[str, ...]:
        """host:port of every server."""
        return self._inner.addresses

    @property
    def server(self) -> ServerDescription:
        """The model behind the server, and its limits."""
        return self._inner.server

    def describe(self) -> ServerDescription:
        """Ask what runs on the server now."""
        return self._loop.run(self._inner.describe())

    def track(
        self,
        size: tuple[int, int],
        *,
        on_event: Callable[[Event], None] | None = None,
        **options: Unpack[StreamOptions],
    ) -> TrackStream:
        """A stream for frames of `size` (height, width); `with` opens it. `on_event` runs in the loop's thread."""
        return TrackStream(self._loop, self._inner.track(size, on_event=on_event, **options))

    @contextmanager
    def _followed(self, frames: Iterable[ImageArray], prompts: Prompts, **rest: Any) -> Iterator[Any]:
        results: Any = self._inner.follow(frames, prompts, **rest)
        self._following.add(results)
        try:
            yield results
        finally:
            self._leave(results)

    def _leave(self, results: Any) -> None:
        """Close it, unless that was done, or was being done when Ctrl-C came once more."""
        if results in self._following and not results.ag_running:
            self._loop.run(results.aclose())
        self._following.discard(results)

    def _leave_all(self) -> None:
        """Close those whose iterators are still held somewhere."""
        for results in list(self._following):
            self._leave(results)

    def follow(
        self, frames: Iterable[ImageArray], prompts: Prompts, *, in_flight: int = 8, **options: Unpack[StreamOptions]
    ) -> Iterator[Result]:
        """Send all `frames`, yield the result of each, in order."""
        with self._followed(frames, prompts, in_flight=in_flight, **options) as results:
            while (result := self._loop.run(_next_or_none(results))) is not None:
                yield result

    def segment(
        self,
        image: ImageArray | bytes,
        prompts: Prompt | Iterable[Prompt],
        *,
        codec: FrameCodec = FrameCodec.JPEG,
        mask_encoding: MaskEncoding = MaskEncoding.RLE,
        profile: Profile | None = None,
    ) -> ImageResult:
        """Masks for one image."""
        work = self._inner.segment(image, prompts, codec=codec, mask_encoding=mask_encoding, profile=profile)
        return self._loop.run(work)


class TrackStream:
    """An open stream; see `masklet_client.TrackStream`. Iterating waits for the next result."""

    def __init__(self, loop: _Loop, inner: AsyncTrackStream) -> None:
        """`inner`: not yet opened."""
        self._loop, self._inner = loop, inner

    def __enter__(self) -> Self:
        """Open the session; raises whatever the server refuses it with."""
        self._loop.run(self._inner.__aenter__())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.run(self._inner.__aexit__(kind, error, trace))

    @property
    def settings(self) -> StreamSettings:
        """As asked for."""
        return self._inner.settings

    @property
    def opened(self) -> Opened:
        """As granted."""
        return self._inner.opened

    @property
    def dropped(self) -> int:
        """Frames so far that the server did not answer, or whose results newer ones overtook unread."""
        return self._inner.dropped

    @property
    def failures(self) -> tuple[RequestFailed, ...]:
        """The last 256 refused requests."""
        return tuple(self._inner.failures)

    @property
    def resume_token(self) -> bytes:
        """The session's newest token."""
        return self._inner.resume_token

    @property
    def go_away(self) -> GoAway | None:
        """Set once the server drains."""
        return self._inner.go_away

    def step(self, frame: ImageArray | bytes, *, capture_time_ns: int | None = None) -> Result:
        """Send the next frame and wait for its result; raises if it is not going to be answered."""
        return self._loop.run(self._inner.step(frame, capture_time_ns=capture_time_ns))

    def send(self, frame: ImageArray | bytes, *, capture_time_ns: int | None = None) -> int:
        """Send the next frame; returns its seq."""
        return self._loop.run(self._inner.send(frame, capture_time_ns=capture_time_ns))

    def prompt(self, prompt: Prompt, *, frame_seq: int = 0) -> int:
        """Say something about an object on the next frame (0) or an answered one."""
        return self._loop.run(self._inner.prompt(prompt, frame_seq=frame_seq))

    def click(
        self,
        object_id: int,
        point: tuple[float, float],
        label: int = 1,
        *,
        frame_seq: int = 0,
        mode: PromptMode = PromptMode.REFINE,
    ) -> int:
        """Click at (x, y): label 1 is on the object, 0 is not."""
        return self._loop.run(self._inner.click(object_id, point, label, frame_seq=frame_seq, mode=mode))

    def box(self, object_id: int, edges: tuple[float, float, float, float], *, frame_seq: int = 0) -> int:
        """Draw a box (x_min, y_min, x_max, y_max) around an object."""
        return self._loop.run(self._inner.box(object_id, edges, frame_seq=frame_seq))

    def mask(self, object_id: int, mask: MaskArray, *, frame_seq: int = 0) -> int:
        """Give an object's mask, [H, W] bool of the frame's size."""
        return self._loop.run(self._inner.mask(object_id, mask, frame_seq=frame_seq))

    def remove(self, object_id: int) -> int:
        """Forget one object from the next frame on."""
        return self._loop.run(self._inner.remove(object_id))

    def reset(self) -> int:
        """Forget all objects from the next frame on."""
        return self._loop.run(self._inner.reset())

    def finish(self) -> None:
        """Nothing more is sent; iteration ends once the frames already sent are answered."""
        self._loop.run(self._inner.finish())

    def close(self, *, timeout_s: float = CLOSE_TIMEOUT_S) -> None:
        """End the stream; answers not read yet are lost. Cut off if the server does not end it in time."""
        self._loop.run(self._inner.close(timeout_s=timeout_s))

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Result:
        result: Result | None = self._loop.run(_next_or_none(self._inner))
        if result is None:
            raise StopIteration
        return result

    def events(self) -> Iterator[Event]:
        """Everything the server says, in order."""
        events = self._inner.events()
        while (event := self._loop.run(_next_or_none(events))) is not None:
            yield event

    def latest(self) -> Result | None:
        """The newest result that has arrived and was not read, without waiting; older ones are skipped."""
        return self._loop.run(self._latest())

    async def _latest(self) -> Result | None:
        return self._inner.latest()


def connect(address: str | Sequence[str] = asynchronous.DEFAULT_ADDRESS, **settings: Any) -> Client:
    """A client for the server at `address`; `with` connects it. Settings as in `masklet_client.connect`."""
    return Client(asynchronous.connect(address, **settings))


async def _ended(tasks: set[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _next_or_none(answers: Any) -> Any:
    return await anext(answers, None)
