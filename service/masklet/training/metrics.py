"""J and F of the DAVIS benchmark (Perazzi et al. 2016, section 5; Pont-Tuset et al. 2017), and their statistics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.spatial import KDTree

from masklet.codecs.masks import mask_box
from masklet.types import MaskArray

BOUNDARY_TOLERANCE = 0.008
"""How far apart two boundaries may be and still match: a share of the frame's diagonal, rounded up to whole pixels."""
_RECALL_ABOVE = 0.5
_DECAY_BINS = 4
_Points = npt.NDArray[np.intp]


def region_similarity(truth: MaskArray, answer: MaskArray) -> float:
    """J: intersection over union of two [H, W] masks, 0 to 1; 1 if both are empty."""
    union = int(np.count_nonzero(truth | answer))
    return int(np.count_nonzero(truth & answer)) / union if union else 1.0


def boundary_accuracy(truth: MaskArray, answer: MaskArray, *, tolerance: float = BOUNDARY_TOLERANCE) -> float:
    """F: harmonic mean of the precision and the recall of the answer's boundary, 0 to 1.

    A boundary pixel is matched if one of the other mask's lies within the tolerance (Euclidean, inclusive). Two empty
    boundaries agree (1); with one empty boundary F is 0.

    Args:
        truth: [H, W].
        answer: [H, W].
        tolerance: share of the diagonal.
    """
    reach_px = float(np.ceil(tolerance * np.hypot(*truth.shape)))
    expected, found = boundary_points(truth), boundary_points(answer)
    if not len(expected) or not len(found):
        return float(len(expected) == len(found))
    precision = _share_within(found, expected, reach_px)
    recall = _share_within(expected, found, reach_px)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def boundary_points(mask: MaskArray) -> _Points:
    """(row, column) of the pixels of [H, W] whose neighbour to the east, south or south-east differs: [P, 2].

    Beyond the last row and column nothing differs.
    """
    box = mask_box(mask)
    if box is None:
        return np.zeros((0, 2), np.intp)
    top, left = max(box[1] - 1, 0), max(box[0] - 1, 0)
    part = np.pad(mask[top : box[3] + 1, left : box[2] + 1], ((0, 1), (0, 1)), mode="edge")
    here, east, south = part[:-1, :-1], part[:-1, 1:], part[1:, :-1]
    edge = (here != east) | (here != south) | (here != part[1:, 1:])
    points: _Points = np.argwhere(edge) + np.asarray((top, left))
    return points


def _share_within(points: _Points, others: _Points, reach_px: float) -> float:
    tree = KDTree(others, leafsize=16, balanced_tree=False)  # built for one query: balancing costs more than it saves
    nearest_px, _ = tree.query(points, distance_upper_bound=reach_px + 1)
    return float(np.mean(nearest_px <= reach_px))


@dataclass(frozen=True, slots=True)
class Statistics:
    """Of one measure over the frames of one object.

    Attributes:
        mean: over frames.
        recall: share of frames above 0.5.
        decay: mean of the first quarter of the frames less that of the last; neighbouring quarters share a frame.
    """

    mean: float
    recall: float
    decay: float


def statistics(values: Sequence[float]) -> Statistics:
    """Mean, recall and decay of a measure; at least one value."""
    scores = np.asarray(values, np.float64)
    edges = np.round(np.linspace(1, len(scores), _DECAY_BINS + 1) + 1e-10).astype(int) - 1
    first, last = scores[edges[0] : edges[1] + 1], scores[edges[-2] : edges[-1] + 1]
    return Statistics(
        mean=float(scores.mean()),
        recall=float((scores > _RECALL_ABOVE).mean()),
        decay=float(first.mean() - last.mean()),
    )
