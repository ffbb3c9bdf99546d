"""Placing pictures on frames."""

import numpy as np
from PIL import Image

from masklet.training.warp import Wobble, affine, window_of, wobbled

PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (5, 5, 3), np.uint8)).resize((40, 30))


def _place(x: float, y: float, scale: float = 1.0) -> np.ndarray:
    return np.asarray([[scale, 0, x], [0, scale, y], [0, 0, 1.0]])


def test_middle_of_the_picture_lands_where_the_map_says() -> None:
    placed = np.asarray(affine(PICTURE, _place(30, 25), (0, 0, 60, 50)))
    assert np.array_equal(placed[10:40, 10:50], np.asarray(PICTURE))
    assert not placed[:9].any() and not placed[:, 51:].any()


def test_a_window_is_a_piece_of_the_whole() -> None:
    place = _place(31.3, 22.8, 1.4)
    whole = np.asarray(affine(PICTURE, place, (0, 0, 60, 50)), int)
    piece = np.asarray(affine(PICTURE, place, (7, 9, 50, 44)), int)
    assert np.abs(piece - whole[9:44, 7:50]).max() <= 1


def test_window_contains_every_touched_pixel() -> None:
    for seed in range(20):
        random = np.random.default_rng(seed)
        place = _place(*random.uniform(-20, 80, 2))
        place[:2, :2] = random.normal(0, 1, (2, 2)) + np.eye(2)
        touched = np.asarray(affine(PICTURE, place, (0, 0, 60, 50))).max(-1) > 0
        window = window_of(PICTURE, place, (50, 60))
        if window is not None:
            touched[window[1] : window[3], window[0] : window[2]] = False
        assert not touched.any()


def test_nothing_in_sight_has_no_window() -> None:
    assert window_of(PICTURE, _place(200, 200), (50, 60)) is None


def test_a_wobble_of_no_reach_is_the_plain_map() -> None:
    place, window = _place(30, 25, 1.3), (0, 0, 60, 50)
    still = Wobble(0.0, np.ones(2), np.zeros((1, 2)))
    plain = np.asarray(affine(PICTURE, place, window), int)
    assert np.abs(np.asarray(wobbled(PICTURE, place, window, still, frame=0), int) - plain).max() <= 2


def test_a_wobble_changes_with_time() -> None:
    wobble = Wobble.draw(np.random.default_rng(1), 3, 30)
    first, last = (np.asarray(wobbled(PICTURE, _place(30, 25), (0, 0, 60, 50), wobble, frame=t)) for t in (0, 2))
    assert (first != last).any()
