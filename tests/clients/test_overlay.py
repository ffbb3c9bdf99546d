"""Masks drawn over frames."""

import numpy as np

from masklet_client.overlay import draw_masks, draw_note, object_colour

GREY = np.full((120, 160, 3), 100, np.uint8)


def _square() -> np.ndarray:
    mask = np.zeros((120, 160), np.bool_)
    mask[40:100, 50:130] = True
    return mask


def test_colours_of_neighbouring_objects_differ() -> None:
    colours = np.array([object_colour(k) for k in range(1, 9)], int)
    apart = np.abs(colours[:, None] - colours[None]).sum(-1)
    assert apart[~np.eye(8, dtype=bool)].min() > 60


def test_mask_is_tinted_inside_outlined_at_the_edge_and_untouched_outside() -> None:
    drawn = draw_masks(GREY, [(3, _square())])
    assert tuple(drawn[99, 90]) == object_colour(3)
    inside = drawn[80, 100].astype(int) - 100
    assert np.array_equal(np.sign(inside), np.sign(np.array(object_colour(3)) - 100))
    assert (drawn[110:, :] == 100).all() and (drawn[:, 140:] == 100).all()


def test_the_frame_itself_is_left_alone() -> None:
    frame = GREY.copy()
    draw_masks(frame, [(1, _square()), (2, np.zeros((120, 160), np.bool_))], note="x")
    assert np.array_equal(frame, GREY)


def test_absent_object_is_listed_in_the_lower_left_corner() -> None:
    drawn = draw_masks(GREY, [(2, np.zeros((120, 160), np.bool_))])
    changed = np.argwhere((drawn != GREY).any(-1))
    assert changed[:, 0].min() > 80 and changed[:, 1].min() < 10
    assert (drawn.reshape(-1, 3) == object_colour(2)).all(-1).sum() > 100


def test_nothing_to_draw_changes_nothing_and_a_note_goes_top_right() -> None:
    assert np.array_equal(draw_masks(GREY, []), GREY)
    changed = np.argwhere((draw_note(GREY, "not answered") != GREY).any(-1))
    assert changed[:, 0].max() < 30 and changed[:, 1].max() > 140


def test_objects_on_the_same_place_keep_their_labels_and_small_ones_lie_on_top() -> None:
    everywhere, square = np.ones((120, 160), np.bool_), _square()
    drawn = draw_masks(GREY, [(1, square), (2, everywhere), (3, everywhere)])
    plates = [(drawn[:30, :60].reshape(-1, 3) == object_colour(k)).all(-1).sum() for k in (2, 3)]
    assert min(plates) > 100
    assert tuple(drawn[99, 90]) == object_colour(1)


def test_a_label_at_the_edge_stays_within_the_frame() -> None:
    corner = np.zeros((120, 160), np.bool_)
    corner[117:, 157:] = True
    drawn = draw_masks(GREY, [(5, corner)])
    assert ((drawn == object_colour(5)).all(-1)).sum() > 150
