"""One open stream: frames and prompts go in, results come out."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from types import TracebackType
from typing import Self

import numpy as np

from masklet.codecs.frames import encode_frame
from masklet.errors import InvalidFrame, LimitExceeded, MaskletError, ProtocolViolation, RequestError, UnknownFrame
from masklet.types import DropPolicy, ImageArray, MaskArray, Prompt, PromptMode
from masklet.v1 import segmentation_pb2 as pb
from masklet_client.call import Call
from masklet_client.events import Dropped, Event, GoAway, Opened, RequestFailed, Result, Resumed
from masklet_client.inbox import Inbox
from masklet_client.journal import Journal
from masklet_client.prompt_check import check_click, check_object_id, check_prompt
from masklet_client.reader import Reader
from masklet_client.resuming import Resuming, given_up
from masklet_client.settings import Reconnect, StreamSettings
from masklet_client.wire import frame_to_proto, prompts_to_proto

CLOSE_TIMEOUT_S = 5.0
_HURRIED_CLOSE_TIMEOUT_S = 1.0
_BUFFERED_EVENTS = 256
_UNREAD_EVENTS = 1024
_FRESH_RESULTS = 4
_PATIENCE_S = 0.5
_UNREAD_S = 10.0
logger = logging.getLogger("masklet_client")


class TrackStream:
    """An open stream; get one from `Client.track`. Iterating yields `Result`s, `events()` everything.

    Read while you send, or in turn. With policy "latest" the newest four unread results are kept, `Dropped` in place
    of older ones, so that a slow reader sees what is new; with "block" `send` waits while 1024 events or more are
    unread. Sending and reading may happen in different tasks, which more frames than that need, and either may be
    cancelled without harm to the stream.

    Attributes:
        settings: as asked for.
    """

    def __init__(
        self,
        dial: Callable[[str, str], Call],
        settings: StreamSettings,
        *,
        addresses: Sequence[str],
        on_event: Callable[[Event], None] | None = None,
        open_streams: set[TrackStream] | None = None,
    ) -> None:
        """`dial`: see `Resuming`; `on_event` is called with every event as it arrives, and must not block.

        `open_streams`: this one is in it while it is open.
        """
        self.settings = settings
        self._open_streams = set() if open_streams is None else open_streams
        kept = settings.reconnect or Reconnect()
        latest = settings.policy is DropPolicy.LATEST
        self._inbox = Inbox(_BUFFERED_EVENTS, fresh=_FRESH_RESULTS) if latest else Inbox(_UNREAD_EVENTS)
        self._journal = Journal(
            max_bytes=kept.max_buffered_bytes,
            max_requests=kept.max_buffered_requests,
            patience_s=_PATIENCE_S if latest else None,
        )
        resumes = settings.reconnect is not None
        self._reader = Reader(self._journal, self._inbox, on_event=on_event, resumes=resumes)
        self._resuming = Resuming(dial, addresses, settings, journal=self._journal, reader=self._reader)
        self._reading: asyncio.Task[None] | None = None
        self._finished = self._closed = self._told_unread = False

    async def __aenter__(self) -> Self:
        """Open the session; raises whatever the server refuses it with."""
        if self._reading is not None or self._closed:
            raise ProtocolViolation("a stream is opened once: get another one from `track`")
        try:
            await self._resuming.open()
        except BaseException:
            self._resuming.stop()
            raise
        self._reading = asyncio.create_task(self._read())
        self._open_streams.add(self)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the stream; raises what broke it, if nobody was told yet."""
        unseen = self._inbox.unseen_error
        await self.close(timeout_s=CLOSE_TIMEOUT_S if error is None else _HURRIED_CLOSE_TIMEOUT_S)
        if error is None and unseen is not None:
            raise unseen

    async def step(self, frame: ImageArray | bytes, *, capture_time_ns: int | None = None) -> Result:
        """Send the next frame and wait for its result; older events that were not read are skipped.

        Args:
            frame: as for `send`.
            capture_time_ns: as for `send`.

        Raises:
            RequestError: the frame is not going to be answered; the stream goes on.
            MaskletError: what the server refused the frame with (the stream goes on), or what ended the stream.
        """
        frame_seq = await self._send(frame, _captured(capture_time_ns))
        while (event := await self._inbox.get()) is not None:
            if isinstance(event, Result) and event.frame_seq == frame_seq and not event.revised:
                return event
            if isinstance(event, Dropped) and event.frame_seq == frame_seq:
                raise RequestError(f"frame {event.frame_index} (from 0) is not going to be answered: {event.reason}")
            if isinstance(event, RequestFailed) and event.request_seq == frame_seq:
                raise event.error
            self._raise_if_asked(event)
        raise ProtocolViolation("the server has ended the stream")

    async def send(self, frame: ImageArray | bytes, *, capture_time_ns: int | None = None) -> int:
        """Send the next frame; waits while the server is behind, or the network is slow.

        With policy "block" it also waits while 1024 events are unread; a warning in the log says so after ten seconds.
        With policy "latest" it does not wait for longer than half a second, once, while a connection is slow or lost:
        a newer frame then takes the place of those not sent yet, which are reported as dropped.

        Args:
            frame: [H, W, 3] uint8 RGB of the stream's size, or an encoded payload of the stream's codec.
            capture_time_ns: nanoseconds since the epoch; None: now. Echoed in the result.

        Returns:
            The frame's seq, as in `Result.frame_seq`.

        Raises:
            InvalidFrame: an array of another shape or dtype, or neither array nor bytes.
            LimitExceeded: more bytes than the server takes; the stream goes on.
        """
        self._check_open()
        captured_ns = _captured(capture_time_ns)
        await self._until_read()
        return await self._send(frame, captured_ns)

    async def prompt(self, prompt: Prompt, *, frame_seq: int = 0) -> int:
        """Say something about an object on the next frame (0), or on an answered one still in the history window.

        Returns:
            The prompt's seq, as in `PromptApplied.prompt_seq`; the last one, if it took two messages (box and points).

        Raises:
            InvalidPrompt: it makes no sense for frames of this size.
            UnknownFrame: `frame_seq` is no seq.
        """
        check_prompt(prompt, self.settings.size)
        if frame_seq < 0:
            raise UnknownFrame(f"frame_seq is {frame_seq}, must be what `send` returned, or 0 for the next frame")
        seq = 0
        for message in prompts_to_proto(prompt, frame_seq):
            seq = await self._post(prompt=message)
        return seq

    async def click(
        self,
        object_id: int,
        point: tuple[float, float],
        label: int = 1,
        *,
        frame_seq: int = 0,
        mode: PromptMode = PromptMode.REFINE,
    ) -> int:
        """Click at (x, y): label 1 is on the object, 0 is not. Adds to other clicks on the object and frame."""
        check_click(point, label)
        clicks = Prompt.clicks(object_id, [point], [label], keep_old_points=True, mode=mode)
        return await self.prompt(clicks, frame_seq=frame_seq)

    async def box(self, object_id: int, edges: tuple[float, float, float, float], *, frame_seq: int = 0) -> int:
        """Draw a box (x_min, y_min, x_max, y_max) around an object; replaces clicks on the object and frame."""
        return await self.prompt(Prompt(object_id, box=np.asarray(edges, np.float32)), frame_seq=frame_seq)

    async def mask(self, object_id: int, mask: MaskArray, *, frame_seq: int = 0) -> int:
        """Give an object's mask, [H, W] bool of the frame's size."""
        return await self.prompt(Prompt(object_id, mask=np.asarray(mask, np.bool_)), frame_seq=frame_seq)

    async def remove(self, object_id: int) -> int:
        """Forget one object from the next frame on. Raises InvalidPrompt if it is no object id."""
        check_object_id(object_id)
        return await self._post(remove_object=pb.RemoveObject(object_id=object_id))

    async def reset(self) -> int:
        """Forget all objects from the next frame on."""
        return await self._post(reset=pb.Reset())

    async def finish(self) -> None:
        """Nothing more is sent; iteration ends once the frames already sent are answered."""
        if not self._finished and not self._inbox.ended:
            self._finished = True
            self._journal.finish()

    async def close(self, *, timeout_s: float = CLOSE_TIMEOUT_S) -> None:
        """End the stream; answers not read yet are lost. Cut off if the server does not end it in time."""
        if self._closed:
            return
        self._closed = self._finished = True
        self._inbox.discard()
        self._journal.hurry()
        try:
            if self._reading is not None:
                async with asyncio.timeout(timeout_s):
                    await asyncio.wait([self._reading])
        except TimeoutError:
            logger.warning("%s did not end the stream within %g s: cut off", self._resuming.address, timeout_s)
        finally:
            await self._stop()

    @property
    def opened(self) -> Opened:
        """As granted, when the session was last opened or resumed."""
        return self._resuming.opened

    @property
    def dropped(self) -> int:
        """Frames so far that the server did not answer, or whose results newer ones overtook unread."""
        return self._reader.dropped

    @property
    def failures(self) -> Sequence[RequestFailed]:
        """The last 256 refused requests."""
        return tuple(self._reader.failures)

    @property
    def resume_token(self) -> bytes:
        """The session's newest token."""
        return self._reader.resume_token

    @property
    def go_away(self) -> GoAway | None:
        """Set once the server drains."""
        return self._reader.go_away

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Result:
        self._check_open()
        while (event := await self._inbox.get()) is not None:
            if isinstance(event, Result):
                return event
            self._raise_if_asked(event)
        raise StopAsyncIteration

    async def events(self) -> AsyncGenerator[Event, None]:
        """Everything the server says, in order. Use this or iterate over results: an event is given out once."""
        self._check_open()
        while (event := await self._inbox.get()) is not None:
            yield event

    def latest(self) -> Result | None:
        """The newest result that has arrived and was not read, without waiting; older ones are skipped."""
        self._check_open()
        newest: Result | None = None
        while (event := self._inbox.take()) is not None:
            newest = event if isinstance(event, Result) else newest
        if newest is None and self._inbox.ended and self._inbox.error is not None:
            self._inbox.error_seen = True
            raise self._inbox.error
        return newest

    def _raise_if_asked(self, event: Event) -> None:
        """What could not be done is raised with `raise_request_errors`."""
        error = event.error if isinstance(event, RequestFailed | Resumed) else None
        if error is not None and self.settings.raise_request_errors:
            raise error

    async def _until_read(self) -> None:
        """Waits for room for answers: whoever does not read must not send, else nobody would read the connection."""
        try:
            async with asyncio.timeout(None if self._told_unread else _UNREAD_S):
                await self._inbox.wait_for_room()
        except TimeoutError:
            self._told_unread = True
            logger.warning("`send` waits because %d events are unread: read in another task", self._inbox.unread)
            await self._inbox.wait_for_room()

    async def _send(self, frame: ImageArray | bytes, captured_ns: int) -> int:
        self._check_open()
        payload = bytes(frame) if isinstance(frame, bytes | bytearray | memoryview) else await self._encode(frame)
        limit = self.opened.limits.max_frame_bytes
        if 0 < limit < len(payload):  # sent, it would end the stream
            raise LimitExceeded(f"frame has {len(payload)} bytes, the server takes {limit}", field="frame.payload")
        return await self._post(frame=frame_to_proto(payload, captured_ns))

    async def _encode(self, image: ImageArray) -> bytes:
        if isinstance(image, np.ndarray) and image.shape[:2] != self.settings.size:
            height, width = self.settings.size
            raise InvalidFrame(f"image is {list(image.shape)}, the stream was opened for [{height}, {width}, 3]")
        return await asyncio.to_thread(encode_frame, self.settings.codec, image, quality=self.settings.jpeg_quality)

    async def _post(self, **body: object) -> int:
        if self._finished or self._closed:
            raise ProtocolViolation("nothing can be sent after `finish` or `close`")
        self._check_open()
        self._raise_if_ended()
        try:
            seq = await self._journal.post(**body)
        except MaskletError:  # what the stream is about to end with
            self._inbox.error_seen = True
            raise
        self._raise_if_ended()
        return seq

    def _check_open(self) -> None:
        if self._reading is None:
            raise ProtocolViolation("the stream is not open: `async with` (or `with`) opens it")

    def _raise_if_ended(self) -> None:
        if self._inbox.ended:
            self._inbox.error_seen = True
            raise self._inbox.error or ProtocolViolation("the server has ended the stream")

    async def _read(self) -> None:
        """Reads until the stream ends, and ends the inbox however that happens: nobody shall wait for ever."""
        failure: MaskletError | None = None
        reporting = asyncio.create_task(self._reader.report_skipped())
        running = asyncio.create_task(self._resuming.run())
        try:
            await asyncio.wait([running, reporting], return_when=asyncio.FIRST_COMPLETED)
            await (running if running.done() else reporting)  # which ends by itself only if `on_event` raises
        except Exception as error:
            failure = given_up(error)
        finally:
            running.cancel()
            self._journal.end(failure or ProtocolViolation("the server has ended the stream"))
            try:  # a cancellation may come at any `await`, and again
                await asyncio.gather(running, reporting, return_exceptions=True)
                await self._reader.give_up()
            finally:
                self._inbox.end(failure)

    async def _stop(self) -> None:
        self._open_streams.discard(self)
        self._resuming.stop()
        self._inbox.end(None)
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)


def _captured(capture_time_ns: int | None) -> int:
    return time.time_ns() if capture_time_ns is None else capture_time_ns
