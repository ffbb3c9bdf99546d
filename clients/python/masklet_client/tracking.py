"""Driving one source through one stream into files: order, progress, and what Ctrl-C does."""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, contextmanager, suppress
from itertools import islice

from tqdm import tqdm

from masklet.errors import RequestError
from masklet.types import DropReason, ImageArray, Prompt
from masklet_client.client import Client
from masklet_client.events import Dropped, Resumed
from masklet_client.following import Answer, follow_all
from masklet_client.outputs import Outputs
from masklet_client.source import Source, SourceFrame

_EXIT_LOST = 1


class Tracking:
    """One run of `masklet track`.

    Attributes:
        answered: frames that came back with masks.
        dropped: frames that were not answered, by reason.
        lost: objects that a session begun anew did not take over, and the first frame without them.
        frame_rate_hz: frames answered per second, from opening the stream to now.
    """

    def __init__(self, source: Source, outputs: Outputs, *, max_frames: int | None, quiet: bool) -> None:
        """`max_frames` None: all."""
        self._source, self._outputs, self._max_frames = source, outputs, max_frames
        known = [count for count in (max_frames, source.frame_count) if count is not None]
        self._bar = tqdm(total=min(known, default=None), unit="frame", disable=quiet or sys.stderr is None)
        self._stop = threading.Event()
        self._waiting: dict[int, SourceFrame] = {}
        self._early: dict[int, Answer] = {}
        self._next_index = 0
        self._signal = 0
        self.answered = 0
        self.dropped: Counter[DropReason] = Counter()
        self.lost: dict[int, int] = {}
        self.frame_rate_hz = 0.0

    async def run(self, client: Client, prompts: dict[int, list[Prompt]], *, policy: str, codec: str) -> int:
        """Track to the end; the exit status. The first Ctrl-C or SIGTERM ends the source, the second stops at once."""
        with self._bar, ThreadPoolExecutor(1, "masklet-writer") as writer, self._signals():
            answers = follow_all(client, self._images(), prompts, policy=policy, codec=codec, raise_request_errors=True)
            try:
                async with aclosing(answers):
                    await self._write_all(answers, writer)
            except RequestError:  # after Ctrl-C, prompts for frames that never came are no mistake
                if not self._stop.is_set():
                    raise
        if self._signal:
            return 128 + self._signal
        return _EXIT_LOST if self.lost else 0

    async def _write_all(self, answers: AsyncIterator[Answer | Resumed], writer: ThreadPoolExecutor) -> None:
        loop, started_s = asyncio.get_running_loop(), time.monotonic()
        async for answer in answers:
            if isinstance(answer, Resumed):
                self.lost |= dict.fromkeys(answer.lost_objects, self._next_index)
                continue
            for frame, ready in self._in_order(answer):
                await loop.run_in_executor(writer, self._outputs.write, frame, ready)
                self._bar.update()
            self.frame_rate_hz = self.answered / (time.monotonic() - started_s)

    def _images(self) -> Iterator[ImageArray]:
        """The source's images, each kept until it is written. Runs in a thread."""
        for frame in islice(self._source.frames(), self._max_frames):
            if self._stop.is_set():
                return
            self._waiting[frame.index] = frame
            yield frame.image

    def _in_order(self, answer: Answer) -> Iterator[tuple[SourceFrame, Answer]]:
        """Frames that can be written now: a frame may be reported dropped before an earlier one is answered."""
        if isinstance(answer, Dropped):
            self.dropped[answer.reason] += 1
        else:
            self.answered += 1
        self._early[answer.frame_index] = answer
        while (ready := self._early.pop(self._next_index, None)) is not None:
            yield self._waiting.pop(self._next_index), ready
            self._next_index += 1

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """The first Ctrl-C or SIGTERM ends the source, so that files are finished in order; the second cancels."""
        loop, running = asyncio.get_running_loop(), asyncio.current_task()

        def stopped(number: signal.Signals) -> None:
            if self._stop.is_set() and running is not None:
                running.cancel()
            self._stop.set()
            self._signal = self._signal or number
            print("stopping after the frames already sent; Ctrl-C again stops at once", file=sys.stderr)

        added: list[signal.Signals] = []
        with suppress(NotImplementedError):  # Windows: the default, which cancels, has to do
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(number, stopped, number)
                added.append(number)
        try:
            yield
        finally:
            for number in added:
                loop.remove_signal_handler(number)
