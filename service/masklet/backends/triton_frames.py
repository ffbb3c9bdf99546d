"""Frames on their way to the Triton model: raw, as JPEG, or through shared memory when both are on one host.

Shared memory is a file in /dev/shm that the model maps for the time of one request, so neither the server nor the model
holds on to it. Its owner locks it: a file that can be locked was left behind by a process that died, and is swept.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import mmap
import os
import re
import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from masklet.backends.triton_messages import SentFrame
from masklet.codecs.frames import decode_frame, encode_frame
from masklet.errors import BackendError
from masklet.types import FrameCodec, ImageArray

SHARED_MEMORY = Path("/dev/shm")
_PREFIX = "masklet-frame-"
_NAME = re.compile(_PREFIX + r"[0-9a-f]{32}")
_JPEG_QUALITY = 95
_PAGE_BYTES = mmap.PAGESIZE


class SharedSlot:
    """One frame's worth of shared memory, ours until `close`."""

    def __init__(self, byte_count: int) -> None:
        """At least `byte_count` bytes. Raises OSError if there is no room, or no shared memory at all."""
        self.name = f"{_PREFIX}{uuid.uuid4().hex}"
        self.byte_count = -(-byte_count // _PAGE_BYTES) * _PAGE_BYTES
        unborn = SHARED_MEMORY / f".{self.name}"  # under its own name it is never without its lock
        self._file = os.open(unborn, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX)
            unborn.rename(SHARED_MEMORY / self.name)
            os.posix_fallocate(self._file, 0, self.byte_count)  # now, instead of SIGBUS when it is written to
            self._memory = mmap.mmap(self._file, self.byte_count)
        except BaseException:
            self._unlink()
            raise
        atexit.register(self.close)

    def write(self, image: ImageArray) -> None:
        """Put a frame [H, W, 3] there."""
        np.frombuffer(self._memory, np.uint8, image.size).reshape(image.shape)[:] = image

    def close(self) -> None:
        """Give the memory back; can be repeated."""
        if not self._memory.closed:
            self._memory.close()
            self._unlink()
            atexit.unregister(self.close)

    def _unlink(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            (SHARED_MEMORY / self.name).unlink()
        os.close(self._file)


class SlotPool:
    """Slots to be used again: as many as there are frames on their way at a time."""

    def __init__(self) -> None:
        self._free: list[SharedSlot] = []

    @contextlib.contextmanager
    def lent(self, byte_count: int) -> Iterator[SharedSlot]:
        """A slot of at least that many bytes; after an error nobody knows who still reads it, so it is given up.

        Raises:
            OSError: there is no room for one now.
        """
        slot = self._fitting(byte_count) or SharedSlot(byte_count)
        try:
            yield slot
        except BaseException:
            slot.close()
            raise
        self._free.append(slot)

    def _fitting(self, byte_count: int) -> SharedSlot | None:
        """The smallest one that is large enough; if all are too small, one of them makes room."""
        self._free.sort(key=lambda slot: slot.byte_count)
        for place, slot in enumerate(self._free):
            if slot.byte_count >= byte_count:
                return self._free.pop(place)
        if self._free:
            self._free.pop().close()
        return None

    def close(self) -> None:
        """Give all memory back."""
        while self._free:
            self._free.pop().close()


def as_raw(image: ImageArray) -> SentFrame:
    """[H, W, 3] uint8 RGB, byte for byte."""
    return SentFrame(FrameCodec.RGB8, _size(image), np.ascontiguousarray(image).reshape(-1))


def as_jpeg(image: ImageArray) -> SentFrame:
    """Lossy: quality 95."""
    payload = encode_frame(FrameCodec.JPEG, image, quality=_JPEG_QUALITY)
    return SentFrame(FrameCodec.JPEG, _size(image), np.frombuffer(payload, np.uint8))


def as_shared(image: ImageArray, slot: SharedSlot) -> SentFrame:
    """Byte for byte, in `slot`."""
    slot.write(image)
    return SentFrame(FrameCodec.RGB8, _size(image), shared=slot.name)


def received(frame: SentFrame) -> ImageArray:
    """The model's end: [H, W, 3] uint8, valid until the call is answered.

    Raises:
        BackendError: the shared memory named is not there, or smaller than the frame.
        InvalidFrame: the payload is not such a frame.
    """
    if not frame.shared:
        assert frame.payload is not None
        return decode_frame(frame.codec, frame.payload.tobytes(), frame.size)
    height, width = frame.size
    memory = _mapped(frame.shared, height * width * 3)
    return np.frombuffer(memory, np.uint8).reshape(height, width, 3)


def is_visible(name: str) -> bool:
    """Whether shared memory of this name is on this host, and ours to read."""
    try:
        _mapped(name, 1).close()
    except BackendError:
        return False
    return True


def _mapped(name: str, byte_count: int) -> mmap.mmap:
    if not _NAME.fullmatch(name):  # nothing else in there is anybody's business
        raise BackendError(f"shared memory {name!r:.60} is not a frame's")
    try:
        file = os.open(SHARED_MEMORY / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            return mmap.mmap(file, byte_count, prot=mmap.PROT_READ)
        finally:
            os.close(file)
    except (OSError, ValueError) as error:
        raise BackendError(f"shared memory {name} of {byte_count} bytes cannot be read: {error}") from error


def sweep() -> int:
    """Remove what processes that died left behind; how many frames."""
    removed = 0
    for path in SHARED_MEMORY.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):  # another sweep was first, or it is another user's
            file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # BlockingIOError: its owner lives
                path.unlink()
                removed += 1
            finally:
                os.close(file)
    return removed


def _size(image: ImageArray) -> tuple[int, int]:
    height, width = image.shape[:2]
    return height, width
