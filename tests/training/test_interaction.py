from __future__ import annotations

import numpy as np
import pytest
import torch

from masklet.model.prompt_encoder import EXCLUDE, INCLUDE
from masklet.training.interaction import (
    FirstPrompt,
    InteractionSettings,
    Points,
    click_in,
    corrective_clicks,
    draw_plan,
    first_points,
    noisy_boxes,
)

SETTINGS = InteractionSettings()


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def square(size: int = 32) -> torch.Tensor:
    mask = torch.zeros(1, size, size, dtype=torch.bool)
    mask[0, 4:12, 20:28] = True
    return mask


def plans(frames: int, count: int = 300) -> list:
    return [draw_plan(np.random.default_rng(seed), frames, SETTINGS) for seed in range(count)]


def test_images_are_never_started_by_a_mask():
    assert {plan.first for plan in plans(1)} == {FirstPrompt.CLICK, FirstPrompt.BOX}


def test_videos_are_started_in_all_three_ways_and_at_most_two_frames_are_prompted():
    drawn = plans(8)
    assert {plan.first for plan in drawn} == set(FirstPrompt)
    assert max(len(set(plan.corrections) | {0}) for plan in drawn) == 2
    assert all(0 <= frame < 8 for plan in drawn for frame in plan.corrections)


def test_a_second_frame_is_prompted_where_it_is_trained_on():
    drawn = [draw_plan(np.random.default_rng(seed), 8, SETTINGS, burn_in=5) for seed in range(300)]
    assert {frame for plan in drawn for frame in plan.corrections} == {0, 5, 6, 7}
    assert {plan.burn_in for plan in drawn} == {5}


def test_without_corrections_nothing_is_corrected():
    plans = [draw_plan(np.random.default_rng(seed), 8, InteractionSettings(max_corrections=0)) for seed in range(20)]
    assert all(not plan.corrections for plan in plans)


def test_a_video_may_have_corrections_on_its_first_frame_at_least_and_images_none():
    settings = InteractionSettings(min_corrections=2, max_corrections=3)
    videos, images = (
        [draw_plan(np.random.default_rng(seed), frames, settings) for seed in range(200)] for frames in (8, 1)
    )
    assert {plan.corrections.get(0, 0) for plan in videos if plan.first is not FirstPrompt.MASK} == {2, 3}
    assert {plan.corrections.get(0, 0) for plan in videos if plan.first is FirstPrompt.MASK} == {0}
    assert {plan.corrections.get(0, 0) for plan in images} == {0, 1, 2, 3}


def test_a_given_mask_is_not_corrected_on_its_frame():
    assert all(0 not in plan.corrections for plan in plans(8) if plan.first is FirstPrompt.MASK)


@pytest.mark.parametrize("seed", range(20))
def test_a_first_click_is_inside_and_includes(seed):
    points = first_points(FirstPrompt.CLICK, square(), SETTINGS, generator(seed))
    x, y = points.at[0, 0].long().tolist()
    assert bool(square()[0, y, x]) and points.labels.tolist() == [[INCLUDE]]


def test_a_box_without_noise_is_tight():
    assert noisy_boxes(square(), 0.0, generator()).tolist() == [[[20, 4], [28, 12]]]


@pytest.mark.parametrize(("side", "limit_px"), [(64, 6.4), (400, 20.0)])
def test_a_box_is_off_by_a_tenth_of_its_side_and_never_by_more_than_20_pixels_of_1024(side, limit_px):
    truth = torch.zeros(300, 1024, 1024, dtype=torch.bool)
    truth[:, 300 : 300 + side, 300 : 300 + side] = True
    off = (noisy_boxes(truth, 0.1, generator()) - torch.tensor([[300.0, 300], [300 + side, 300 + side]])).abs()
    assert 0.95 * limit_px < float(off.max()) <= limit_px + 1e-3
    assert float(off.mean()) == pytest.approx(limit_px / 2, rel=0.1)  # standard error 1.7 %


def test_the_box_of_nothing_is_inside_the_frame():
    boxes = noisy_boxes(torch.zeros(2, 32, 32, dtype=torch.bool), 0.5, generator())
    assert float(boxes.min()) >= 0 and float(boxes.max()) <= 31


@pytest.mark.parametrize("seed", range(20))
def test_missing_pixels_are_included_and_surplus_ones_excluded(seed):
    truth = square()
    missing = corrective_clicks(torch.full((1, 32, 32), -1.0), truth, generator(seed))
    surplus = corrective_clicks(torch.ones(1, 32, 32), truth, generator(seed))
    inside = [bool(truth[0, int(p.at[0, 0, 1]), int(p.at[0, 0, 0])]) for p in (missing, surplus)]
    assert inside == [True, False]
    assert (missing.labels.item(), surplus.labels.item()) == (INCLUDE, EXCLUDE)


def test_where_nothing_is_wrong_the_click_confirms():
    truth = torch.cat((square(), torch.zeros(1, 32, 32, dtype=torch.bool)))
    click = corrective_clicks(torch.where(truth, 1.0, -1.0), truth, generator())
    assert click.labels.tolist() == [[INCLUDE], [EXCLUDE]]


def test_clicks_from_the_truth_are_inside_whatever_was_answered():
    truth = square().expand(200, -1, -1)
    everything = torch.ones(200, 32, 32)
    labels = [
        corrective_clicks(everything, truth, generator(), from_truth=odds).labels.flatten() for odds in (0.0, 0.3, 1.0)
    ]
    assert labels[0].eq(EXCLUDE).all() and labels[2].eq(INCLUDE).all()
    assert 35 <= int(labels[1].eq(INCLUDE).sum()) <= 85  # 60 expected, standard deviation 6.5


def test_without_a_target_there_is_no_truth_to_click_on():
    nothing = torch.zeros(1, 32, 32, dtype=torch.bool)
    assert corrective_clicks(torch.ones(1, 32, 32), nothing, generator(), from_truth=1.0).labels.item() == EXCLUDE


def test_clicks_are_spread_and_prefer_the_inside():
    region = torch.zeros(2000, 32, 32, dtype=torch.bool)
    region[:, 8:24, 8:24] = True
    at = click_in(region, generator())
    assert len(at.unique(dim=0)) > 50
    from_edge = torch.minimum(at - 8, 23 - at).amin(dim=1)
    assert float(from_edge.mean()) > 2.2  # the mean of a uniform click is 2.19


def test_points_are_joined_in_order():
    first = Points(torch.zeros(1, 1, 2), torch.ones(1, 1, dtype=torch.long))
    second = Points(torch.ones(1, 2, 2), torch.zeros(1, 2, dtype=torch.long))
    assert first.joined(second).labels.tolist() == [[1, 0, 0]]
