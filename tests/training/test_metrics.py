"""J and F against a recomputation from the definitions, pixel by pixel."""

import time

import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt, gaussian_filter

from masklet.training.metrics import boundary_accuracy, boundary_points, region_similarity, statistics


def blobs(seed: int, size: tuple[int, int], share: float = 0.4) -> np.ndarray:
    noise = gaussian_filter(np.random.default_rng(seed).random(size), min(size) / 12)
    mask: np.ndarray = noise > np.quantile(noise, 1 - share)
    return mask


def naive_boundary(mask: np.ndarray) -> set[tuple[int, int]]:
    """Pixels whose label changes to the east, south or south-east, one at a time."""
    height, width = mask.shape
    neighbours = ((0, 1), (1, 0), (1, 1))
    return {
        (y, x)
        for y in range(height)
        for x in range(width)
        for dy, dx in neighbours
        if y + dy < height and x + dx < width and mask[y, x] != mask[y + dy, x + dx]
    }


def naive_f(truth: np.ndarray, answer: np.ndarray) -> float:
    """Boundaries drawn thick with a disk, then counted."""
    radius = int(np.ceil(0.008 * np.sqrt(truth.shape[0] ** 2 + truth.shape[1] ** 2)))
    disk = [
        (dy, dx)
        for dy in range(-radius, radius + 1)
        for dx in range(-radius, radius + 1)
        if dy * dy + dx * dx <= radius * radius
    ]
    found, expected = naive_boundary(answer), naive_boundary(truth)
    thick = {(y + dy, x + dx) for y, x in expected for dy, dx in disk}
    thick_found = {(y + dy, x + dx) for y, x in found for dy, dx in disk}
    precision = len(found & thick) / len(found) if found else 1.0
    recall = len(expected & thick_found) / len(expected) if expected else 1.0
    if bool(found) != bool(expected):  # the toolkit: one of them is 0, the other 1
        return 0.0
    return 0.0 if precision + recall == 0 else 2 * precision * recall / (precision + recall)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("size", [(40, 57), (130, 90)])
def test_f_equals_the_recomputation_on_random_masks(seed: int, size: tuple[int, int]) -> None:
    truth, answer = blobs(seed, size), blobs(seed + 100, size, share=0.25)
    near = truth ^ blobs(seed + 200, size, share=0.05)
    for other in (answer, near, truth, np.roll(truth, 2, axis=1)):
        assert boundary_accuracy(truth, other) == pytest.approx(naive_f(truth, other), abs=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_f_equals_the_recomputation_on_noise(seed: int) -> None:
    random = np.random.default_rng(seed)
    truth, answer = random.random((2, 33, 41)) < 0.03
    assert boundary_accuracy(truth, answer) == pytest.approx(naive_f(truth, answer), abs=1e-12)
    assert 0 < naive_f(truth, answer) < 1


@pytest.mark.parametrize("seed", range(6))
def test_boundary_equals_the_recomputation_up_to_the_frames_edges(seed: int) -> None:
    mask = blobs(seed, (31, 45), share=0.6)
    assert mask[0].any() or mask[-1].any() or mask[:, 0].any() or mask[:, -1].any()
    assert {(int(y), int(x)) for y, x in boundary_points(mask)} == naive_boundary(mask)


EMPTY, FULL = np.zeros((20, 30), bool), np.ones((20, 30), bool)
SOME = blobs(3, (20, 30))


@pytest.mark.parametrize(
    ("truth", "answer", "j", "f"),
    [(EMPTY, EMPTY, 1, 1), (EMPTY, SOME, 0, 0), (SOME, EMPTY, 0, 0), (FULL, FULL, 1, 1), (EMPTY, FULL, 0, 1)],
)
def test_empty_masks_and_empty_boundaries(truth: np.ndarray, answer: np.ndarray, j: float, f: float) -> None:
    assert region_similarity(truth, answer) == j
    assert boundary_accuracy(truth, answer) == f == naive_f(truth, answer)


def test_j_is_the_share_of_pixels_in_both() -> None:
    truth, answer = blobs(1, (50, 60)), blobs(2, (50, 60))
    both = sum(1 for a, b in zip(truth.flat, answer.flat, strict=True) if a and b)
    either = sum(1 for a, b in zip(truth.flat, answer.flat, strict=True) if a or b)
    assert region_similarity(truth, answer) == pytest.approx(both / either)


def test_the_tolerance_is_inclusive_and_rounded_up() -> None:
    truth, answer = np.zeros((2, 90, 120), bool)  # 0.008 of a diagonal of 150: 2 pixels, rounded up from 1.2
    truth[20:60, 20:60] = True
    answer[22:62, 20:60] = True
    assert boundary_accuracy(truth, answer) == 1.0
    assert boundary_accuracy(truth, np.roll(truth, 3, axis=0)) < 1.0


def test_statistics_are_the_toolkits() -> None:
    found = statistics([1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3])
    assert found.mean == pytest.approx(0.65)
    assert found.recall == pytest.approx(5 / 8)
    assert found.decay == pytest.approx(np.mean([1.0, 0.9, 0.8]) - np.mean([0.5, 0.4, 0.3]))


def test_decay_of_one_frame_is_none() -> None:
    assert statistics([0.3]).decay == 0


def f_by_distances(truth: np.ndarray, answer: np.ndarray) -> float:
    """From how far every pixel of the frame is from a boundary."""
    expected, found = np.zeros((2, *truth.shape), bool)
    expected[tuple(boundary_points(truth).T)] = True
    found[tuple(boundary_points(answer).T)] = True
    radius = np.ceil(0.008 * np.hypot(*truth.shape))
    precision = (distance_transform_edt(~expected)[found] <= radius).mean()
    recall = (distance_transform_edt(~found)[expected] <= radius).mean()
    return float(2 * precision * recall / (precision + recall))


def test_f_of_480p_takes_a_third_of_what_distances_of_all_pixels_take() -> None:
    truth = blobs(5, (480, 854), share=0.2)
    answer = np.roll(truth, 4, axis=1)
    assert len(boundary_points(truth)) > 1500
    spent: dict[str, list[float]] = {"ours": [], "theirs": []}
    for _ in range(12):  # in turns, so that a busy machine slows both
        for name, function in (("ours", boundary_accuracy), ("theirs", f_by_distances)):
            started = time.process_time()
            function(truth, answer)
            spent[name].append(time.process_time() - started)
    assert f_by_distances(truth, answer) == pytest.approx(boundary_accuracy(truth, answer), abs=1e-12)
    assert min(spent["ours"]) < min(spent["theirs"]) / 3
