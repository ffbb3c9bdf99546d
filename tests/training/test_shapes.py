"""Procedural outlines."""

import numpy as np

from masklet.training.shapes import SHAPE_PX, SHAPES, outline


def test_outlines_are_there_and_fit() -> None:
    for index in range(0, SHAPES, 5):
        alpha = np.asarray(outline(index))
        assert max(alpha.shape) <= SHAPE_PX and min(alpha.shape) >= 8
        assert 0.02 < (alpha > 127).mean() <= 1.0


def test_outlines_touch_all_sides_of_their_picture() -> None:
    for index in range(20):
        alpha = np.asarray(outline(index))
        assert all(edge.max() > 0 for edge in (alpha[0], alpha[-1], alpha[:, 0], alpha[:, -1]))


def test_numbers_repeat_and_differ() -> None:
    assert np.array_equal(np.asarray(outline(3)), np.asarray(outline(3 + SHAPES)))
    assert len({np.asarray(outline(index)).tobytes() for index in range(30)}) == 30


def test_some_are_thin() -> None:
    fills = [(np.asarray(outline(index)) > 127).mean() for index in range(100)]
    assert min(fills) < 0.2 and max(fills) > 0.8
