from __future__ import annotations

from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from masklet.engine import pixels
from masklet.engine.pixels import fill_holes, fit_frame, full_masks, normalise, squash
from masklet.types import Profile

CPU = torch.device("cpu")


def textured(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Smooth shapes, hard edges and noise."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    image = np.stack([127 + 120 * np.sin(x / 7 + c) * np.cos(y / 5 - c) for c in range(3)], axis=2)
    image[height // 4 : height // 2, width // 3 : width // 2] = 255
    image += random.normal(0, 20, image.shape)
    return image.clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("size", [(240, 320), (97, 53), (64, 200), (40, 31), (128, 127)])
@pytest.mark.parametrize("way", ["fit_frame", "squash"])
def test_frames_are_resized_as_pillow_resizes_them(size, way):
    image = textured(*size)
    expected = np.asarray(Image.fromarray(image).resize((128, 128), Image.Resampling.BICUBIC), np.int16)
    pixels = torch.from_numpy(image).permute(2, 0, 1)
    found = fit_frame(image, 128, CPU) if way == "fit_frame" else squash(pixels, 128)
    off = np.abs(found.permute(1, 2, 0).numpy().astype(np.int16) - expected)
    assert off.max() <= 2
    assert (off > 0).mean() < 0.01
    assert (off > 1).mean() < 1e-4


def test_read_only_and_flipped_frames_are_taken_too():
    image = textured(20, 30)
    image.flags.writeable = False
    flipped = textured(20, 30)[:, ::-1]
    assert torch.equal(fit_frame(image, 32, CPU), fit_frame(textured(20, 30), 32, CPU))
    assert torch.equal(fit_frame(flipped, 32, CPU), fit_frame(flipped.copy(), 32, CPU))


def test_a_frame_of_the_model_s_size_is_copied_unchanged():
    image = textured(32, 32)
    found = fit_frame(image, 32, CPU)
    assert np.array_equal(found.permute(1, 2, 0).numpy(), image)
    image[:] = 0
    assert found.any()


def test_pixels_are_normalised_channel_by_channel():
    frame = torch.tensor([0, 255, 51], dtype=torch.uint8).view(1, 3, 1, 1)
    expected = [(0 - 0.485) / 0.229, (1 - 0.456) / 0.224, (0.2 - 0.406) / 0.225]
    assert normalise(frame).flatten().tolist() == pytest.approx(expected, abs=1e-6)


def specks_by_flooding(background: np.ndarray, area: int) -> np.ndarray:
    """Cells of 8-connected background regions of at most `area` cells, the slow way."""
    left = {(int(y), int(x)) for y, x in zip(*np.nonzero(background), strict=True)}
    found = np.zeros_like(background)
    while left:
        region = [left.pop()]
        for y, x in region:
            near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= near
            region += near
        if len(region) <= area:
            found[tuple(np.array(region).T)] = True
    return found


@pytest.mark.parametrize("area", range(13))
@pytest.mark.parametrize("share", [0.1, 0.3, 0.5])
def test_specks_of_at_most_an_area_are_filled_and_nothing_else(area, share):
    random = np.random.default_rng(100 * area + int(10 * share))
    background = random.random((4, 24, 31)) < share
    logits = np.where(background, -random.random(background.shape), 0.01 + random.random(background.shape))
    specks = np.stack([specks_by_flooding(one, area) for one in background])
    found = fill_holes(torch.from_numpy(logits.astype(np.float32)), area).numpy()
    assert np.array_equal(found, np.where(specks, np.float32(0.1), logits.astype(np.float32)))
    assert specks.any() == bool(area)


def test_a_snake_of_exactly_the_area_is_filled_and_one_cell_more_is_not():
    logits = torch.ones(2, 5, 20)
    logits[0, 2, 3:11] = -1
    logits[1, 2, 3:12] = -1
    filled = fill_holes(logits, 8)
    assert (filled[0] > 0).all()
    assert torch.equal(filled[1], logits[1])


def test_a_logit_of_zero_is_background_and_an_absent_mask_stays_absent():
    spot = torch.ones(1, 5, 5)
    spot[0, 2, 2] = 0.0
    assert fill_holes(spot, 1)[0, 2, 2] == pytest.approx(0.1)
    absent = torch.full((1, 16, 16), -1024.0)
    assert torch.equal(fill_holes(absent, 8), absent)


def test_full_masks_are_bilinear_and_of_the_frame_s_size():
    logits = torch.tensor([[[-1.0, 3.0], [-1.0, 3.0]]])
    masks = full_masks(logits, (2, 8), Profile.INTERACTIVE)
    assert masks.shape == (1, 2, 8)
    assert masks[0, 0].tolist() == [False] * 3 + [True] * 5  # the zero crossing is a quarter of the way between centres


def test_objects_may_overlap_except_in_vos_where_the_higher_logit_wins():
    logits = torch.tensor([[[2.0, 2.0], [2.0, -2.0]], [[1.0, 3.0], [-2.0, -1.0]]])
    both = full_masks(logits, (2, 2), Profile.INTERACTIVE)
    apart = full_masks(logits, (2, 2), Profile.VOS)
    assert both.tolist() == [[[True, True], [True, False]], [[True, True], [False, False]]]
    assert apart.tolist() == [[[True, False], [True, False]], [[False, True], [False, False]]]


def by_definition(logits: torch.Tensor, size: tuple[int, int], profile: Profile) -> torch.Tensor:
    full = functional.interpolate(logits[:, None], size, mode="bilinear", align_corners=False)[:, 0]
    masks = full > 0
    return (
        masks if profile is Profile.INTERACTIVE else masks & (full.argmax(0) == torch.arange(len(full))[:, None, None])
    )


@pytest.mark.parametrize("profile", Profile)
@pytest.mark.parametrize("absent", [[], [0], [1, 2], [0, 3], [0, 1, 2, 3]])
def test_absent_objects_are_not_resized_and_change_nothing(monkeypatch, profile, absent):
    random = torch.Generator().manual_seed(len(absent))
    logits = torch.randn(4, 16, 16, generator=random).round(decimals=1) * 10  # so that some are equal, and some are 0
    logits[absent] = -logits[absent].abs() if profile is Profile.VOS else torch.tensor(-1024.0)
    expected = by_definition(logits, (45, 70), profile)
    resize = Mock(wraps=functional.interpolate)
    monkeypatch.setattr(functional, "interpolate", resize)
    assert torch.equal(full_masks(logits, (45, 70), profile), expected)
    assert resize.call_count == 4 - len(absent)


def test_absent_objects_are_not_searched_for_holes(monkeypatch):
    logits = torch.full((3, 9, 9), -1024.0)
    logits[1] = 1.0
    logits[1, 4, 4] = -1.0
    spread = Mock(wraps=pixels._neighbours_max)
    monkeypatch.setattr(pixels, "_neighbours_max", spread)
    filled = fill_holes(logits, 8)
    assert {len(call.args[0]) for call in spread.call_args_list} == {1}
    assert filled[1].min() == pytest.approx(0.1)
    assert torch.equal(filled[[0, 2]], logits[[0, 2]])
    assert torch.equal(
        fill_holes(logits[:1], 100), logits[:1]
    )  # nothing at all is no hole, however large a hole may be


def test_no_objects_have_no_masks():
    assert full_masks(torch.zeros(0, 16, 16), (9, 7), Profile.VOS).shape == (0, 9, 7)
