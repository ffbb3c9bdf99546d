"""Fetches a published checkpoint: resumes, retries, never keeps a file with a wrong checksum. Standard library only."""

from __future__ import annotations

import hashlib
import http.client
import os
import shutil
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from masklet.errors import WeightsError
from masklet.model.published import PublishedCheckpoint

Progress = Callable[[int, int], None]
_BLOCK_BYTES = 1 << 18
_RETRYABLE_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})


@dataclass(frozen=True, slots=True)
class DownloadSettings:
    """How patient to be.

    Attributes:
        url_base: a mirror that has the files directly under it; empty: the official address.
        attempts: connections at most.
        first_pause_s: pause after the first failure; doubles with each one.
        longest_pause_s: pauses grow to this at most.
        timeout_s: longest silence of the server.
    """

    url_base: str = ""
    attempts: int = 8
    first_pause_s: float = 0.5
    longest_pause_s: float = 20.0
    timeout_s: float = 30.0


class _Interrupted(Exception):
    """This attempt failed; another may not."""


class _Response(Protocol):
    status: int
    headers: http.client.HTTPMessage

    def read(self, amount: int) -> bytes: ...


def _ignore(received: int, total: int) -> None:
    return


def download(
    checkpoint: PublishedCheckpoint,
    folder: str | Path,
    *,
    settings: DownloadSettings | None = None,
    progress: Progress = _ignore,
) -> Path:
    """Put `checkpoint` into `folder` and return its path; nothing is fetched if it is there already.

    An interrupted download leaves `<file>.part`, and the next call goes on from there.

    Args:
        checkpoint: what to fetch.
        folder: where to; made if it is missing.
        settings: retries and mirror.
        progress: called with (bytes so far, bytes in all).

    Raises:
        WeightsError: not to be had, the wrong file, wrong checksum (the file is removed), or no room on the disk.
    """
    target = Path(folder) / checkpoint.file_name
    if target.exists():
        _check_present(target, checkpoint)
        return target
    part = target.with_name(f"{target.name}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _check_room(part, checkpoint)
        _fetch(part, checkpoint, settings or DownloadSettings(), progress=progress)
        _verify(part, checkpoint)
        os.replace(part, target)
    except OSError as error:
        raise WeightsError(f"{target}: cannot be written: {error}") from error
    return target


def _fetch(part: Path, checkpoint: PublishedCheckpoint, settings: DownloadSettings, *, progress: Progress) -> None:
    url, pause_s, attempt = checkpoint.url(settings.url_base), settings.first_pause_s, 0
    if not url.startswith(("https://", "http://")):
        raise WeightsError(f"{url}: only http and https addresses can be downloaded from")
    while _size(part) < checkpoint.size_bytes:
        attempt += 1
        try:
            _attempt(url, part, checkpoint, timeout_s=settings.timeout_s, progress=progress)
        except _Interrupted as error:
            if attempt >= settings.attempts:
                kept = f"{_size(part)} of {checkpoint.size_bytes} bytes are kept in {part}"
                raise WeightsError(f"{url}: gave up after {attempt} attempts: {error}; {kept}") from error
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, settings.longest_pause_s)


def _attempt(url: str, part: Path, checkpoint: PublishedCheckpoint, *, timeout_s: float, progress: Progress) -> None:
    start = _size(part)
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    try:
        with urllib.request.urlopen(request, timeout=timeout_s) as response:
            start = _accepted_start(response, start, checkpoint, url=url)
            with part.open("r+b" if start else "wb") as file:
                file.seek(start)
                _copy(response, file, checkpoint, start=start, progress=progress)
    except urllib.error.HTTPError as error:
        _judge(error, part, url)
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError, ssl.SSLError) as error:
        raise _Interrupted(str(getattr(error, "reason", error) or type(error).__name__)) from error


def _accepted_start(response: _Response, start: int, checkpoint: PublishedCheckpoint, *, url: str) -> int:
    """Where the body belongs in the file: a server without ranges answers 200 and begins anew."""
    content_range = response.headers.get("Content-Range", "")
    if response.status == 206 and not content_range.startswith(f"bytes {start}-"):
        raise _Interrupted(f"asked for bytes from {start}, was sent {content_range!r}")
    start = start if response.status == 206 else 0
    length = response.headers.get("Content-Length", "")
    if length.isdecimal() and start + int(length) != checkpoint.size_bytes:
        offered = start + int(length)
        raise WeightsError(f"{url} has {offered} bytes; {checkpoint.file_name} has {checkpoint.size_bytes}")
    return start


def _copy(
    response: _Response, file: BinaryIO, checkpoint: PublishedCheckpoint, *, start: int, progress: Progress
) -> None:
    received = start
    progress(received, checkpoint.size_bytes)
    while received < checkpoint.size_bytes:
        block = response.read(min(_BLOCK_BYTES, checkpoint.size_bytes - received))
        if not block:
            raise _Interrupted(f"the connection ended after {received} of {checkpoint.size_bytes} bytes")
        file.write(block)
        received += len(block)
        progress(received, checkpoint.size_bytes)


def _judge(error: urllib.error.HTTPError, part: Path, url: str) -> None:
    if error.code == 416:
        part.unlink(missing_ok=True)
        raise _Interrupted("the server has not got the range asked for; beginning anew") from error
    if error.code in _RETRYABLE_STATUS:
        raise _Interrupted(f"HTTP {error.code} {error.reason}") from error
    raise WeightsError(f"{url}: HTTP {error.code} {error.reason}") from error


def _verify(part: Path, checkpoint: PublishedCheckpoint) -> None:
    found, size = _sha256(part), _size(part)
    if found != checkpoint.sha256:
        part.unlink()
        expected = f"expected sha256 {checkpoint.sha256} and {checkpoint.size_bytes} bytes"
        raise WeightsError(f"{checkpoint.file_name}: {expected}, got {found} and {size} bytes; removed")


def _check_present(target: Path, checkpoint: PublishedCheckpoint) -> None:
    if target.is_dir():
        raise WeightsError(f"{target} is a directory")
    found = _sha256(target)
    if found != checkpoint.sha256:
        raise WeightsError(
            f"{target} is not the published file: sha256 {found} instead of {checkpoint.sha256}; move it away first"
        )


def _check_room(part: Path, checkpoint: PublishedCheckpoint) -> None:
    needed, free = checkpoint.size_bytes - _size(part), shutil.disk_usage(part.parent).free
    if needed > free:
        raise WeightsError(f"{part.parent}: {needed} bytes are needed, {free} are free")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
