from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from masklet.backends import triton_frames
from masklet.backends.triton_frames import (
    SharedSlot,
    SlotPool,
    as_jpeg,
    as_raw,
    as_shared,
    is_visible,
    received,
    sweep,
)
from masklet.errors import BackendError

IMAGE = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)


@pytest.fixture(autouse=True)
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place of our own, so that other tests' frames are not seen."""
    monkeypatch.setattr(triton_frames, "SHARED_MEMORY", tmp_path)
    return tmp_path


def names(memory: Path) -> list[str]:
    return sorted(path.name for path in memory.iterdir())


def test_raw_frames_arrive_byte_for_byte():
    assert np.array_equal(received(as_raw(IMAGE)), IMAGE)
    assert np.array_equal(received(as_raw(IMAGE[::2, ::-1])), IMAGE[::2, ::-1])


def test_jpeg_frames_arrive_nearly():
    smooth = np.broadcast_to(np.arange(0, 240, 2, dtype=np.uint8)[None, :, None], (80, 120, 3))
    assert np.abs(received(as_jpeg(smooth)).astype(int) - smooth).max() <= 3


def test_shared_frames_arrive_byte_for_byte(memory):
    slot = SharedSlot(IMAGE.nbytes)
    assert np.array_equal(received(as_shared(IMAGE, slot)), IMAGE)
    assert names(memory) == [slot.name]
    slot.close()
    assert names(memory) == []


def test_a_closed_slot_cannot_be_read():
    slot = SharedSlot(IMAGE.nbytes)
    sent = as_shared(IMAGE, slot)
    assert is_visible(slot.name)
    slot.close()
    slot.close()
    assert not is_visible(slot.name)
    with pytest.raises(BackendError, match=slot.name):
        received(sent)


def test_less_memory_than_the_frame_is_refused():
    slot = SharedSlot(100)
    sent = as_shared(np.zeros((4, 4, 3), np.uint8), slot)
    with pytest.raises(BackendError, match="of 4915200 bytes cannot be read"):
        received(type(sent)(sent.codec, (1280, 1280), shared=sent.shared))
    slot.close()


@pytest.mark.parametrize("name", ["passwd", "../passwd", "masklet-frame-0/../passwd", "masklet-frame-" + "g" * 32])
def test_nothing_else_can_be_read(memory, name):
    (memory / "passwd").write_text("secret")
    assert not is_visible(name)


def test_a_link_is_not_followed(memory):
    (memory / "passwd").write_text("secret")
    link = "masklet-frame-" + "a" * 32
    (memory / link).symlink_to(memory / "passwd")
    assert not is_visible(link)


def test_slots_are_used_again_and_grow(memory):
    pool = SlotPool()
    with pool.lent(1000) as one, pool.lent(1000) as other:
        assert one.name != other.name
    with pool.lent(500) as again:
        assert again.name in (one.name, other.name)
    with pool.lent(1_000_000) as large:
        assert large.byte_count >= 1_000_000
        assert len(names(memory)) == 2
    pool.close()
    assert names(memory) == []


def test_the_slot_that_fits_best_is_lent(memory):
    pool = SlotPool()
    with pool.lent(1_000_000) as large, pool.lent(5000) as small, pool.lent(9000) as middle:
        pass
    with pool.lent(4000) as first, pool.lent(8193) as second, pool.lent(10) as third:
        assert (first.name, second.name, third.name) == (small.name, middle.name, large.name)
    assert len(names(memory)) == 3
    pool.close()


def test_a_slot_is_given_up_after_an_error(memory):
    pool = SlotPool()
    with pytest.raises(ValueError, match="broken"), pool.lent(10):
        raise ValueError("broken")
    assert names(memory) == []


def test_no_room_is_an_error_and_leaves_nothing(memory):
    with pytest.raises(OSError, match=r".*"):
        SharedSlot(1 << 60)
    assert names(memory) == []


PROGRAM = """
import os, signal, sys
from pathlib import Path
from masklet.backends import triton_frames
triton_frames.SHARED_MEMORY = Path(sys.argv[1])
slots = [triton_frames.SharedSlot(10) for _ in range(3)]
print("ready", flush=True)
{end}
"""


def run_and_end(memory: Path, end: str) -> int:
    words = [sys.executable, "-c", PROGRAM.format(end=end), str(memory)]
    return subprocess.run(words, timeout=60, check=False, capture_output=True).returncode


@pytest.mark.parametrize(("end", "status"), [("sys.exit(3)", 3), ("raise RuntimeError", 1)])
def test_a_process_that_ends_leaves_nothing(memory, end, status):
    assert run_and_end(memory, end) == status
    assert names(memory) == []


def test_what_a_killed_process_left_is_swept_and_what_lives_stays(memory):
    assert run_and_end(memory, "os.kill(os.getpid(), signal.SIGKILL)") == -signal.SIGKILL
    assert len(names(memory)) == 3
    ours = SharedSlot(10)
    (memory / "other").write_text("not ours")
    assert sweep() == 3
    assert names(memory) == [ours.name, "other"]
    ours.close()


def test_another_process_s_frames_are_not_swept(memory):
    words = [sys.executable, "-c", PROGRAM.format(end="sys.stdin.read()"), str(memory)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"ready\n"
        assert (sweep(), len(names(memory))) == (0, 3)
        process.communicate(timeout=60)
    assert names(memory) == []


def test_frames_are_private(memory):
    slot = SharedSlot(10)
    assert os.stat(memory / slot.name).st_mode & 0o777 == 0o600
    slot.close()
