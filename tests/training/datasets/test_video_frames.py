from pathlib import Path

import av
import numpy as np
import pytest
from tests.training.datasets.samples import SIZE, picture

from masklet.errors import DatasetError
from masklet.training.datasets.video_frames import VideoFrames

FRAMES, KEY_EVERY = 40, 8


class Counted(VideoFrames):
    """Counts the frames it decodes."""

    decoded = 0

    def _decode(self, first):
        for one in super()._decode(first):
            self.decoded += 1
            yield one


def write(path: Path, **options: str) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=24, options={"crf": "10", "g": str(KEY_EVERY)} | options)
        stream.height, stream.width, stream.pix_fmt = *SIZE, "yuv420p"
        for index in range(FRAMES):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(index % 12), format="rgb24")))
        container.mux(stream.encode(None))
    return path


def straight(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


@pytest.mark.parametrize("options", [{}, {"bf": "0"}, {"bf": "3", "x264-params": "open-gop=1:scenecut=0"}])
@pytest.mark.parametrize("ending", ["mp4", "mkv"])
def test_every_frame_is_the_same_in_whatever_order_they_are_read(tmp_path, options, ending):
    path = write(tmp_path / f"video.{ending}", **options)
    expected, video = straight(path), VideoFrames(path)
    order = np.random.default_rng(0).permutation(FRAMES).tolist()
    for index in [*range(FRAMES), *reversed(range(FRAMES)), *order]:
        assert np.array_equal(video.read(index, SIZE), expected[index])


def test_going_back_decodes_from_the_last_key_frame_only(tmp_path):
    video = Counted(write(tmp_path / "video.mp4", bf="0", sc_threshold="0"))
    for index in reversed(range(FRAMES)):
        video.read(index, SIZE)
    assert video.decoded <= FRAMES * (KEY_EVERY + 1) // 2


def test_going_forward_decodes_every_frame_once(tmp_path):
    video = Counted(write(tmp_path / "video.mp4"))
    for index in range(FRAMES):
        video.read(index, SIZE)
    assert video.decoded == FRAMES


def test_a_frame_beyond_the_end_is_an_error(tmp_path):
    video = VideoFrames(write(tmp_path / "video.mp4"))
    with pytest.raises(DatasetError, match=f"has {FRAMES} frames, number {FRAMES} .from 0. was asked for"):
        video.read(FRAMES, SIZE)
