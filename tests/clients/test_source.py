"""Frames from files and folders, and what is said when there are none."""

import threading
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from masklet.codecs.frames import decode_frame
from masklet.types import FrameCodec, ImageArray
from masklet_client import source as source_module
from masklet_client.command_error import CommandError
from masklet_client.source import VideoSource, open_source
from masklet_client.video_file import VideoFile


def test_video_file_gives_all_frames_with_their_times(video: Path) -> None:
    with open_source(str(video)) as source:
        frames = list(source.frames())
    assert (source.size, source.frame_rate, source.frame_count, source.live) == ((48, 64), Fraction(12), 10, False)
    assert [frame.index for frame in frames] == list(range(10))
    assert [round(frame.pts_s * 12) for frame in frames] == list(range(10))
    assert frames[0].image.shape == (48, 64, 3)


def test_folder_gives_images_by_name(tmp_path: Path, frames: list[ImageArray]) -> None:
    for name, image in (("b.png", frames[1]), ("a.png", frames[0]), ("c.png", frames[2])):
        Image.fromarray(image).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("not an image")
    with open_source(str(tmp_path), frame_rate=10) as source:
        read = [(frame.pts_s, frame.image) for frame in source.frames()]
    assert [pts_s for pts_s, _ in read] == [0, 0.1, 0.2]
    assert all(np.array_equal(image, frames[k]) for k, (_, image) in enumerate(read))


def test_what_is_no_image_in_a_folder_is_passed_over(tmp_path: Path, frames: list[ImageArray]) -> None:
    Image.fromarray(frames[0]).save(tmp_path / "1.png")
    (tmp_path / "._1.png").write_bytes(b"what macOS says of 1.png")
    (tmp_path / "0.png").mkdir()
    with open_source(str(tmp_path)) as source:
        assert len(list(source.frames())) == source.frame_count == 1


def test_folder_gives_numbered_images_in_the_order_of_their_numbers(tmp_path: Path, frames: list[ImageArray]) -> None:
    for number, image in ((10, frames[2]), (9, frames[1]), (1, frames[0])):
        Image.fromarray(image).save(tmp_path / f"{number}.png")
    with open_source(str(tmp_path)) as source:
        read = [frame.image for frame in source.frames()]
    assert all(np.array_equal(image, frames[k]) for k, image in enumerate(read))


def test_images_of_different_sizes_are_an_error(tmp_path: Path) -> None:
    for name, width in (("a.png", 8), ("b.png", 9)):
        Image.new("RGB", (width, 6)).save(tmp_path / name)
    with open_source(str(tmp_path)) as source, pytest.raises(CommandError, match=r"b.png: is 9x6, the first .* 8x6"):
        list(source.frames())


def test_missing_file_empty_folder_and_text_are_named(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("not a video at all")
    (tmp_path / "empty").mkdir()
    for name, message in (("gone.mp4", "no such file"), ("text.mp4", "not a video"), ("empty", "has no image in it")):
        with pytest.raises(CommandError, match=rf"{name}: {message}"):
            open_source(str(tmp_path / name))


def test_camera_that_is_not_there_and_unknown_protocol_are_named() -> None:
    with pytest.raises(CommandError, match="cannot be opened"):
        open_source("97")
    with pytest.raises(CommandError, match="nonsense://x: cannot be opened"):
        open_source("nonsense://x")


def test_url_is_opened_as_a_stream(video: Path) -> None:
    with open_source(video.as_uri()) as source:
        assert len(list(source.frames())) == 10


def test_a_video_is_not_closed_while_another_thread_reads_from_it(video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_module, "_LAST_READ_S", 0.1)
    reading, release = threading.Event(), threading.Event()

    def stalled() -> Iterator[av.VideoFrame]:
        reading.set()
        release.wait(30)
        yield from ()

    container = av.open(str(video))
    with VideoSource("camera 0", container) as source:
        source._decoded = stalled()
        thread = threading.Thread(target=lambda: list(source.frames()))
        thread.start()
        assert reading.wait(10)
    container.seek(0)  # raises if it is closed
    release.set()
    thread.join()
    with source:
        pass
    with pytest.raises(AssertionError, match="not open"):
        container.seek(0)
    assert len(list(source.frames())) == 1  # the one read to learn the size, and then the end


@pytest.mark.parametrize("size", [(48, 64), (47, 63), (1, 1)])
def test_video_file_pads_odd_sizes_and_keeps_every_frame(tmp_path: Path, size: tuple[int, int]) -> None:
    with VideoFile(tmp_path / "new" / "odd.mp4", size, Fraction(30000, 1001)) as file:
        for level in range(7):
            file.write(np.full((*size, 3), 30 * level, np.uint8))
    with open_source(str(tmp_path / "new" / "odd.mp4")) as source:
        levels = [int(frame.image.mean()) for frame in source.frames()]
    assert source.size == (size[0] + size[0] % 2, size[1] + size[1] % 2)
    assert source.frame_rate == Fraction(30000, 1001)
    assert np.abs(np.array(levels) - 30 * np.arange(7)).max() <= 4


def test_file_name_without_a_video_format_is_named(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match=r"out.xyz: cannot be written as video .*\.mp4"):
        VideoFile(tmp_path / "out.xyz", (8, 8), Fraction(1))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("frames", [1, 200])
def test_a_full_disk_is_one_error_and_no_crash(tmp_path: Path, frames: int) -> None:
    (tmp_path / "out.mp4").symlink_to("/dev/full")
    noise = np.random.default_rng(0)
    with (
        pytest.raises(CommandError, match=r"out\.mp4: cannot be written: No space left"),
        VideoFile(tmp_path / "out.mp4", (240, 320), Fraction(8)) as file,
    ):
        for _ in range(frames):
            file.write(noise.integers(0, 256, (240, 320, 3), dtype=np.uint8))


def test_leaving_does_not_hide_what_went_wrong(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), VideoFile(tmp_path / "out.mp4", (8, 8), Fraction(8)):
        raise KeyboardInterrupt


@pytest.mark.parametrize("suffix", ["webm", "gif", "wav", "jpg", "ogg", "mpg"])
def test_file_format_without_h264_is_named(tmp_path: Path, suffix: str) -> None:
    with pytest.raises(CommandError, match=rf"out.{suffix}: cannot be written as video .*\.mp4"):
        VideoFile(tmp_path / f"out.{suffix}", (8, 8), Fraction(1))


def test_sixteen_bit_grey_keeps_its_levels(tmp_path: Path) -> None:
    levels = np.linspace(0, 65_535, 40 * 60).reshape(40, 60).astype(np.uint16)
    Image.fromarray(levels).save(tmp_path / "0.png")
    image = source_module.read_image(tmp_path / "0.png")
    assert (image == (levels >> 8)[:, :, None]).all()
    payload = (tmp_path / "0.png").read_bytes()
    assert (image == decode_frame(FrameCodec.PNG, payload, (40, 60))).all()


def test_a_video_that_cannot_be_written_is_refused_before_its_first_frame(tmp_path: Path) -> None:
    (tmp_path / "folder.mp4").mkdir()
    with pytest.raises(CommandError, match=r"folder\.mp4: cannot be written as video \(Is a directory\)"):
        VideoFile(tmp_path / "folder.mp4", (48, 64), Fraction(10))


@pytest.mark.parametrize("secret", ["user:secret", "user:sec/ret", "user:s@secret"])
def test_a_password_is_never_shown(video: Path, secret: str) -> None:
    for name in (f"nonsense://{secret}@camera/1", f"rtsp://{secret}@127.0.0.1:1/stream"):
        with pytest.raises(CommandError, match="cannot be opened") as refused:
            open_source(name)
        assert "sec" not in str(refused.value) and "user" not in str(refused.value)
    assert source_module.shown("rtsp://user:secret@camera/1") == "rtsp://camera/1"
    assert source_module.shown("C:\\clip@2.mp4") == "C:\\clip@2.mp4"


def test_damaged_packets_are_passed_over_and_said(
    tmp_path: Path, frames: list[ImageArray], caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "damaged.avi"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("png", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "rgb24"
        for number, frame in enumerate(frames * 4):  # more than a decoder has threads: it tells of damage late
            for packet in stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")):
                if number in (3, 4):
                    damaged = av.Packet(b"damaged" * 9)
                    damaged.pts, damaged.dts, damaged.time_base = packet.pts, packet.dts, packet.time_base
                    damaged.stream = stream
                    packet = damaged
                container.mux(packet)
    with VideoSource("cam", av.open(str(path))) as source:
        read = [frame.index for frame in source.frames()]
    assert read == list(range(len(read)))
    assert 36 <= len(read) <= 38  # a decoder with threads may tell of damage with another frame, which is lost then
    assert 1 <= source.damaged <= 2
    assert [record.getMessage() for record in caplog.records] == ["cam: damaged packets passed over: 1 so far"]


@pytest.mark.parametrize("suffix", ["mp4", "m4v", "mov", "mkv", "avi", "ts", "flv", "MP4"])
def test_all_formats_take_frames_at_uneven_times(tmp_path: Path, frames: list[ImageArray], suffix: str) -> None:
    path = tmp_path / f"o.{suffix}"
    times = [7.0, 7.01, 8.5, 8.5, 8.4, 9.0]
    with VideoFile(path, (48, 64), Fraction(30), pixel_aspect=Fraction(4, 3)) as file:
        for frame, pts_s in zip(frames, times, strict=False):
            file.write(frame, pts_s)
    with open_source(str(path)) as source:
        shown = [frame.pts_s for frame in source.frames()]
    assert source.pixel_aspect == Fraction(4, 3)
    assert len(shown) == 6
    if suffix != "avi":  # has but one rate
        assert np.allclose(np.subtract(shown, shown[0]), [0, 0.01, 1.5, 1.501, 1.502, 2.0], atol=0.0011)


def test_a_file_without_a_frame_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "old.mp4").write_text("old")
    for name in ("new.mp4", "old.mp4"):
        with VideoFile(tmp_path / name, (8, 8), Fraction(1)):
            pass
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("old.mp4", "old")]
