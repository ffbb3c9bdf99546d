import numpy as np
import pytest

from masklet.training.evaluation.presence import Presence


def seen(*frames: tuple[int, int, float]) -> tuple[int, int, int, int]:
    """(truth pixels, answered pixels, IoU) per frame."""
    presence = Presence()
    for truth, answer, iou in frames:
        pixels = np.arange(400).reshape(20, 20)
        presence.add(pixels < truth, pixels < answer, iou=iou)
    return presence.absent_frames, presence.reported_absent, presence.reappearances, presence.found_again


HERE, GONE, LOST = (100, 100, 0.9), (0, 0, 1.0), (100, 100, 0.5)


def test_an_object_that_stays_counts_nowhere():
    assert seen(HERE, LOST, HERE) == (0, 0, 0, 0)


def test_absence_is_reported_by_an_empty_mask_only():
    assert seen(HERE, GONE, (0, 1, 0.0), GONE) == (3, 2, 0, 0)


def test_it_is_found_on_the_frame_it_reappears_on_or_one_of_the_next_four():
    assert seen(HERE, GONE, HERE) == (1, 1, 1, 1)
    assert seen(HERE, GONE, LOST, LOST, LOST, LOST, HERE) == (1, 1, 1, 1)
    assert seen(HERE, GONE, LOST, LOST, LOST, LOST, LOST, HERE) == (1, 1, 1, 0)


def test_every_reappearance_counts_once():
    assert seen(HERE, GONE, HERE, HERE, GONE, GONE, LOST, HERE) == (3, 3, 2, 2)


def test_vanishing_again_ends_the_search():
    assert seen(HERE, GONE, LOST, GONE, LOST) == (2, 2, 2, 0)


@pytest.mark.parametrize(("area", "reappearances"), [(63, 0), (64, 1)])
def test_a_few_pixels_are_no_reappearance(area: int, reappearances: int):
    assert seen(HERE, GONE, (area, area, 0.9))[2] == reappearances


def test_it_reappears_once_enough_of_it_shows():
    assert seen(HERE, GONE, (10, 0, 0.0), (80, 80, 0.8)) == (1, 1, 1, 1)
