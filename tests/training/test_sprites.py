"""Pictures of single objects."""

import numpy as np
import pytest
from PIL import Image

from masklet.training.assets import AssetBank
from masklet.training.sprites import colour_range, crop, draw_bar, draw_sprite, recoloured


def _scenery(value: int) -> tuple[np.ndarray, np.ndarray]:
    return colour_range(Image.new("RGB", (30, 30), (value, value, value)))


@pytest.mark.parametrize("area", [100, 1000, 6000])
def test_sprites_cover_about_the_area_asked_for(area: int) -> None:
    cutout = Image.new("RGBA", (64, 48), (10, 200, 30, 255))
    bank = AssetBank(cutouts=[cutout])
    for seed in range(12):
        sprite = draw_sprite(np.random.default_rng(seed), bank, area_px=area, scenery=_scenery(100))
        covered = (np.asarray(sprite.getchannel("a")) > 127).sum()
        assert 0.4 * area < covered < 1.8 * area + 60


def test_sprites_have_a_see_through_margin() -> None:
    sprite = draw_sprite(np.random.default_rng(0), AssetBank(), area_px=900, scenery=_scenery(100))
    alpha = np.asarray(sprite.getchannel("a"))
    assert sprite.mode == "RGBa" and not alpha[:2].any() and not alpha[:, -2:].any()


def test_recolouring_pulls_towards_the_scenery_at_times() -> None:
    bright = Image.fromarray(np.random.default_rng(0).integers(180, 255, (20, 20, 3), np.uint8))
    means = [np.asarray(recoloured(np.random.default_rng(s), bright, _scenery(30))).mean() for s in range(30)]
    assert min(means) < 110 and max(means) > 200


def test_a_crop_has_the_size_asked_for_and_only_the_source_s_colours() -> None:
    source = Image.new("RGB", (50, 90), (12, 34, 56))
    piece = crop(np.random.default_rng(0), source, (40, 70), share=0.5)
    assert piece.size == (70, 40) and np.asarray(piece).reshape(-1, 3).tolist() == [[12, 34, 56]] * 2800


def test_a_bar_is_longer_than_the_frame() -> None:
    assert draw_bar(np.random.default_rng(0), AssetBank(), (64, 100)).height > 150
