"""Pictures for synthetic video: what is read, what it becomes, and what is refused."""

from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from masklet.errors import ConfigError
from masklet.training.assets import AssetBank
from masklet.training.synthetic import SyntheticSettings, SyntheticVideo


def _photo(seed: int = 0, size: tuple[int, int] = (80, 64)) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 255, (8, 8, 3), np.uint8)
    return Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)


def _cutout() -> Image.Image:
    picture = Image.new("RGBA", (90, 60))
    picture.paste((200, 30, 30, 255), (10, 10, 70, 50))
    return picture


def _film(path: Path, frames: int) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for number in range(frames):
            picture = np.asarray(_photo(number, (96, 64)))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def test_photographs_and_cutouts_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    _photo().save(tmp_path / "a.jpg")
    _photo().convert("RGBA").save(tmp_path / "deep" / "opaque.png")
    _cutout().save(tmp_path / "deep" / "er" / "c.png")
    bank = AssetBank.from_folders([tmp_path])
    assert [p.mode for p in bank.photos] == ["RGB", "RGB"]
    assert [(p.mode, p.size) for p in bank.cutouts] == [("RGBA", (60, 40))]


def test_large_pictures_are_shrunk(tmp_path: Path) -> None:
    _photo(size=(1000, 640)).save(tmp_path / "a.webp")
    _cutout().resize((900, 600)).save(tmp_path / "b.png")
    bank = AssetBank.from_folders([tmp_path])
    assert bank.photos[0].size == (500, 320) and max(bank.cutouts[0].size) == 192


def test_a_video_is_a_film(tmp_path: Path) -> None:
    _film(tmp_path / "a.mp4", 12)
    bank = AssetBank.from_folders([tmp_path])
    assert len(bank.photos) == 12 and bank.films == (tuple(range(12)),)


def test_numbered_pictures_are_a_film_and_others_are_not(tmp_path: Path) -> None:
    for number in range(9):
        _photo(number).save(tmp_path / f"walk{number:05d}.jpg")
        _photo(number).save(tmp_path / f"{'xyzuvwrst'[number]}.jpg")
    bank = AssetBank.from_folders([tmp_path])
    assert [len(film) for film in bank.films] == [9] and len(bank.photos) == 18


def test_half_of_the_photographs_drawn_are_stills(tmp_path: Path) -> None:
    _film(tmp_path / "a.mp4", 40)
    _photo().save(tmp_path / "still.jpg")
    bank = AssetBank.from_folders([tmp_path])
    random = np.random.default_rng(0)
    drawn = [bank.draw_photo(random) == 40 for _ in range(400)]
    assert 0.4 < np.mean(drawn) < 0.6


def test_clips_from_folders_are_a_function_of_their_seed(tmp_path: Path) -> None:
    _film(tmp_path / "a.mp4", 10)
    _photo(3, (200, 160)).save(tmp_path / "still.jpg")
    _cutout().save(tmp_path / "c.png")
    settings = SyntheticSettings(frames=4, size=(64, 64), film=0.5, regions=0.5)
    for seed in range(12):
        one, two = (SyntheticVideo(AssetBank.from_folders([tmp_path]), settings).clip(seed) for _ in range(2))
        assert np.array_equal(one.frames, two.frames) and np.array_equal(one.masks, two.masks)


def test_nothing_to_read_is_an_error_that_names_the_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=tmp_path.name):
        AssetBank.from_folders([tmp_path])
    with pytest.raises(ConfigError, match="no folder"):
        AssetBank.from_folders([tmp_path / "missing"])
    with pytest.raises(ConfigError, match="no folder"):
        AssetBank.from_folders([])


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.mp4"])
def test_unreadable_files_are_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"no picture at all" * 20)
    with pytest.raises(ConfigError, match=name):
        AssetBank.from_folders([tmp_path])


def test_textures_differ_and_repeat() -> None:
    bank = AssetBank.procedural()
    one, again, other = (np.asarray(bank.texture(index)) for index in (1, 1, 2))
    assert np.array_equal(one, again) and not np.array_equal(one, other)


def test_pictures_named_by_number_alone_are_a_film(tmp_path: Path) -> None:
    (tmp_path / "film").mkdir()
    for number in range(9):
        _photo(number).save(tmp_path / "film" / f"{number:05d}.png")
    bank = AssetBank.from_folders([tmp_path])
    assert (len(bank.films), len(bank.films[0])) == (1, 9)


def test_a_damaged_picture_is_named(tmp_path: Path) -> None:
    _photo().save(tmp_path / "a.png")
    content = bytearray((tmp_path / "a.png").read_bytes())
    content[37:45] = b"\x00" * 8
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(ConfigError, match=r"cannot read .*a\.png"):
        AssetBank.from_folders([tmp_path])
