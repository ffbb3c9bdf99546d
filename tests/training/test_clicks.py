import numpy as np
import pytest

from masklet.training.clicks import corrective_click, first_click


def rectangle(rows: slice, columns: slice, size: tuple[int, int] = (40, 60)) -> np.ndarray:
    mask = np.zeros(size, bool)
    mask[rows, columns] = True
    return mask


def farthest(mask: np.ndarray) -> float:
    """Largest distance from a mask pixel to one outside; outside the frame counts."""
    padded = np.pad(mask, 1)
    outside = np.argwhere(~padded)
    return max(float(np.hypot(*(outside - place).T).min()) for place in np.argwhere(padded))


def test_centre_is_as_far_from_the_boundary_as_any_pixel() -> None:
    mask = rectangle(slice(0, 15), slice(3, 30)) | rectangle(slice(10, 38), slice(20, 24))
    x, y = first_click(mask, None)
    outside = np.argwhere(~np.pad(mask, 1))
    assert np.hypot(*(outside - (y + 1, x + 1)).T).min() == pytest.approx(farthest(mask))


def test_centre_of_a_mask_at_the_edge_keeps_away_from_the_edge() -> None:
    assert first_click(rectangle(slice(0, 9), slice(0, 9)), None) == (4, 4)


def test_random_click_is_anywhere_inside() -> None:
    mask, random = rectangle(slice(5, 9), slice(7, 10)), np.random.default_rng(0)
    clicks = {first_click(mask, random) for _ in range(300)}
    assert clicks == {(x, y) for x in range(7, 10) for y in range(5, 9)}


def test_nothing_to_click_on_is_an_error() -> None:
    with pytest.raises(ValueError, match="mask of 40 x 60 pixels is empty"):
        first_click(np.zeros((40, 60), bool), None)


@pytest.mark.parametrize("random", [None, np.random.default_rng(1)])
def test_what_is_missing_gets_an_include_click(random: np.random.Generator | None) -> None:
    truth = rectangle(slice(10, 30), slice(10, 50))
    answer = rectangle(slice(10, 30), slice(10, 20)) | rectangle(slice(0, 3), slice(0, 3))
    (x, y), label = corrective_click(truth, answer, random) or ((0, 0), -1)
    assert label == 1
    assert truth[y, x] and not answer[y, x]


@pytest.mark.parametrize("random", [None, np.random.default_rng(1)])
def test_what_is_too_much_gets_an_exclude_click(random: np.random.Generator | None) -> None:
    truth = rectangle(slice(10, 20), slice(10, 20))
    answer = rectangle(slice(10, 20), slice(12, 40))
    (x, y), label = corrective_click(truth, answer, random) or ((0, 0), -1)
    assert label == 0
    assert answer[y, x] and not truth[y, x]


def test_centres_compare_by_depth_and_not_by_area() -> None:
    thin, thick = rectangle(slice(0, 2), slice(0, 60)), rectangle(slice(10, 20), slice(10, 20))
    assert thin.sum() > thick.sum()
    assert corrective_click(truth=thick, answer=thin, random=None) == ((14, 14), 1)
    assert corrective_click(truth=thin, answer=thick, random=None) == ((14, 14), 0)


def test_a_perfect_answer_is_not_corrected() -> None:
    mask = rectangle(slice(3, 9), slice(3, 9))
    assert corrective_click(mask, mask.copy(), None) is None
    assert corrective_click(mask, mask.copy(), np.random.default_rng(0)) is None
