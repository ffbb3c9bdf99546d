"""Downloading a checkpoint from a server that misbehaves in every way we could think of."""

import contextlib
import hashlib
import threading
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from masklet.errors import WeightsError
from masklet.model.download import DownloadSettings, download
from masklet.model.published import PublishedCheckpoint

BODY = bytes(range(256)) * 4096
CHECKPOINT = PublishedCheckpoint("tiny", "092824", len(BODY), hashlib.sha256(BODY).hexdigest())


@dataclass
class Behaviour:
    """What the server does; `cut_after` bytes per connection, `fail_first` requests answered with `status`."""

    body: bytes = BODY
    ranges: bool = True
    cut_after: int | None = None
    fail_first: int = 0
    status: int = 503
    lie_about_range: bool = False
    send_length: bool = True
    asked: list[str] = field(default_factory=list)


class _Server(ThreadingHTTPServer):
    behaviour: Behaviour


class _Mirror(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self):
        behaviour = self.server.behaviour
        asked = self.headers.get("Range", "")
        behaviour.asked.append(asked)
        if len(behaviour.asked) <= behaviour.fail_first:
            self.send_error(behaviour.status)
            return
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and behaviour.ranges else 0
        if start >= len(behaviour.body):
            self.send_error(416)
            return
        self._send(behaviour, start)

    def _send(self, behaviour, start):
        body = behaviour.body[start:]
        self.send_response(206 if start else 200)
        if start:
            shown = start + 1 if behaviour.lie_about_range else start
            self.send_header("Content-Range", f"bytes {shown}-{len(behaviour.body) - 1}/{len(behaviour.body)}")
        if behaviour.send_length:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with contextlib.suppress(ConnectionError):
            self.wfile.write(body[: behaviour.cut_after])

    def log_message(self, *_):
        pass


@pytest.fixture
def mirror():
    server = _Server(("127.0.0.1", 0), _Mirror)
    server.behaviour = Behaviour()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join(5)
    server.server_close()


def fetch(mirror, folder, **more):
    settings = DownloadSettings(
        url_base=f"http://127.0.0.1:{mirror.server_port}", first_pause_s=0.001, longest_pause_s=0.01, timeout_s=5
    )
    settings = replace(settings, **{key: more.pop(key) for key in ("attempts",) if key in more})
    return download(more.pop("checkpoint", CHECKPOINT), folder, settings=settings, **more)


def test_the_file_is_fetched_whole_with_progress(mirror, tmp_path):
    seen = []
    path = fetch(mirror, tmp_path / "new" / "folder", progress=lambda received, total: seen.append((received, total)))
    assert path.read_bytes() == BODY
    assert seen[0] == (0, len(BODY))
    assert seen[-1] == (len(BODY), len(BODY))
    assert [file.name for file in path.parent.iterdir()] == ["tiny.pt"]


def test_a_file_that_is_there_is_not_fetched_again(mirror, tmp_path):
    fetch(mirror, tmp_path)
    fetch(mirror, tmp_path)
    assert len(mirror.behaviour.asked) == 1


def test_cut_connections_are_resumed_where_they_broke(mirror, tmp_path):
    mirror.behaviour.cut_after = 300_000
    assert fetch(mirror, tmp_path).read_bytes() == BODY
    assert mirror.behaviour.asked == ["", "bytes=300000-", "bytes=600000-", "bytes=900000-"]


def test_a_server_without_ranges_makes_it_begin_anew(mirror, tmp_path):
    (tmp_path / "tiny.pt.part").write_bytes(b"x" * 1000)
    mirror.behaviour.ranges = False
    assert fetch(mirror, tmp_path).read_bytes() == BODY
    assert mirror.behaviour.asked == ["bytes=1000-"]


def test_giving_up_keeps_what_was_received_and_the_next_call_goes_on(mirror, tmp_path):
    mirror.behaviour.cut_after = 300_000
    with pytest.raises(WeightsError, match=r"gave up after 2 attempts.*600000 of 1048576 bytes are kept"):
        fetch(mirror, tmp_path, attempts=2)
    assert (tmp_path / "tiny.pt.part").stat().st_size == 600_000
    mirror.behaviour.cut_after = None
    assert fetch(mirror, tmp_path).read_bytes() == BODY
    assert mirror.behaviour.asked[-1] == "bytes=600000-"


def test_passing_failures_of_the_server_are_retried(mirror, tmp_path):
    mirror.behaviour.fail_first = 3
    assert fetch(mirror, tmp_path).read_bytes() == BODY


def test_a_file_that_does_not_exist_is_not_retried(mirror, tmp_path):
    mirror.behaviour.fail_first, mirror.behaviour.status = 99, 404
    with pytest.raises(WeightsError, match="HTTP 404"):
        fetch(mirror, tmp_path)
    assert len(mirror.behaviour.asked) == 1


def test_garbage_of_the_right_size_is_removed_and_both_sums_are_named(mirror, tmp_path):
    mirror.behaviour.body = bytes(len(BODY))
    with pytest.raises(WeightsError) as caught:
        fetch(mirror, tmp_path)
    assert CHECKPOINT.sha256 in str(caught.value)
    assert hashlib.sha256(bytes(len(BODY))).hexdigest() in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_partial_file_is_found_by_the_checksum(mirror, tmp_path):
    (tmp_path / "tiny.pt.part").write_bytes(b"x" * 1000)
    with pytest.raises(WeightsError, match="expected sha256"):
        fetch(mirror, tmp_path)
    assert fetch(mirror, tmp_path).read_bytes() == BODY


@pytest.mark.parametrize("body", [BODY + b"more", b"<html>log in first</html>"])
def test_a_file_of_another_size_is_refused_before_it_is_read(mirror, tmp_path, body):
    mirror.behaviour.body = body
    with pytest.raises(WeightsError, match=f"has {len(body)} bytes; tiny.pt has {len(BODY)}"):
        fetch(mirror, tmp_path)


def test_no_more_than_the_published_size_is_ever_read(mirror, tmp_path):
    mirror.behaviour.send_length, mirror.behaviour.body = False, BODY + bytes(1 << 20)
    assert fetch(mirror, tmp_path).stat().st_size == len(BODY)


def test_a_server_that_sends_another_range_is_not_believed(mirror, tmp_path):
    (tmp_path / "tiny.pt.part").write_bytes(BODY[:1000])
    mirror.behaviour.lie_about_range = True
    with pytest.raises(WeightsError, match="asked for bytes from 1000"):
        fetch(mirror, tmp_path, attempts=2)


def test_a_range_the_server_has_not_got_begins_anew(mirror, tmp_path):
    (tmp_path / "tiny.pt.part").write_bytes(BODY[:1000])
    mirror.behaviour.fail_first, mirror.behaviour.status = 1, 416
    assert fetch(mirror, tmp_path).read_bytes() == BODY
    assert mirror.behaviour.asked == ["bytes=1000-", ""]


def test_a_complete_partial_file_needs_no_server(tmp_path):
    (tmp_path / "tiny.pt.part").write_bytes(BODY)
    assert download(CHECKPOINT, tmp_path, settings=DownloadSettings(url_base="http://127.0.0.1:1")).exists()


def test_a_partial_file_that_is_too_long_is_removed(mirror, tmp_path):
    (tmp_path / "tiny.pt.part").write_bytes(BODY + b"x")
    with pytest.raises(WeightsError, match=f"got .* and {len(BODY) + 1} bytes; removed"):
        fetch(mirror, tmp_path)


def test_another_file_of_that_name_is_left_alone(mirror, tmp_path):
    (tmp_path / "tiny.pt").write_bytes(b"my own weights")
    with pytest.raises(WeightsError, match="not the published file"):
        fetch(mirror, tmp_path)
    assert (tmp_path / "tiny.pt").read_bytes() == b"my own weights"


def test_no_server_is_an_error_of_ours(tmp_path):
    settings = DownloadSettings(url_base="http://127.0.0.1:1", attempts=2, first_pause_s=0.001)
    with pytest.raises(WeightsError, match="gave up after 2 attempts"):
        download(CHECKPOINT, tmp_path, settings=settings)


def test_only_web_addresses_are_opened(tmp_path):
    (tmp_path / "tiny.pt.src").write_bytes(BODY)
    with pytest.raises(WeightsError, match="only http and https"):
        download(CHECKPOINT, tmp_path / "to", settings=DownloadSettings(url_base=f"file://{tmp_path}"))


def test_too_little_room_is_said_before_anything_is_fetched(mirror, tmp_path):
    with pytest.raises(WeightsError, match=r"\d+ bytes are needed, \d+ are free"):
        fetch(mirror, tmp_path, checkpoint=replace(CHECKPOINT, size_bytes=1 << 60))
    assert mirror.behaviour.asked == []


def test_a_folder_that_cannot_be_made_is_an_error_of_ours(mirror, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(WeightsError, match="cannot be written"):
        fetch(mirror, tmp_path / "file")
