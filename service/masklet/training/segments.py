"""Regions of a photograph found without learning: a watershed of the colour gradient, merged greedily by Ward's cost.

The network must learn that real image edges bound things; regions of photographs teach it real edges.
"""

from __future__ import annotations

import heapq

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from masklet.types import FloatArray, ImageArray, IntArray

_SMOOTHING_PX = 1.2
_REGIONS = 14
_MIN_SHARE, _MAX_SHARE = 0.008, 0.45
_CLEAR_SLOPE, _CLEAR_SHARE = 50.0, 0.65
_AREA_WEIGHT, _FLAT_COST, _EDGE_COST = 0.6, 25.0, 8.0
_BASIN_SMOOTHING_PX = 1.5
_PAIRINGS = 2
Counts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
_OPPONENT = np.asarray([[0.3, 0.59, 0.11], [0.5, -0.5, 0.0], [0.25, 0.25, -0.5]], np.float32)


def segment(photo: ImageArray, *, regions: int = _REGIONS) -> ImageArray:
    """Split a photograph into about `regions` regions and keep those that stand out.

    Args:
        photo: [H, W, 3] uint8 RGB.
        regions: merging stops when so many are left.

    Returns:
        [H, W] uint8: 0 where nothing stands out, else region numbers from 1 by falling contrast along the boundary.
    """
    colour = ndimage.gaussian_filter(photo.astype(np.float32) @ _OPPONENT.T, (_SMOOTHING_PX, _SMOOTHING_PX, 0))
    slope = np.sqrt(sum(ndimage.sobel(colour, axis) ** 2 for axis in (0, 1)).sum(-1))
    basins = _watershed(slope)
    for _ in range(_PAIRINGS):
        basins = _paired(basins, colour, slope)
    merged = _Merger(basins, colour, slope).merge(regions)
    return _distinct(_smooth(merged), slope)


def _watershed(slope: FloatArray) -> IntArray:
    """Where a drop of water that falls on the slope would end up: [H, W] basin numbers, from 0.

    Every pixel points at its lowest neighbour; following the pointers to the end doubles the step each time.
    """
    height, width = slope.shape
    smooth = np.pad(ndimage.gaussian_filter(slope, _BASIN_SMOOTHING_PX), 1, constant_values=np.inf)
    steps = [(y, x) for y in (0, -1, 1) for x in (0, -1, 1)]
    around = np.stack([smooth[1 + y : 1 + y + height, 1 + x : 1 + x + width] for y, x in steps])
    offsets = np.asarray([y * width + x for y, x in steps])
    lowest = np.arange(height * width) + offsets[around.argmin(axis=0)].ravel()
    while not np.array_equal(lowest, further := lowest[lowest]):
        lowest = further
    return np.unique(lowest, return_inverse=True)[1].reshape(slope.shape).astype(np.int32)


class _Merger:
    """Regions and what they cost to join, cheapest first."""

    def __init__(self, basins: IntArray, colour: FloatArray, slope: FloatArray) -> None:
        area, means = _means(basins, colour)
        self._basins = basins
        self._area: list[float] = area.astype(float).tolist()
        self._colour: list[list[float]] = means.tolist()
        self._parent = np.arange(len(area))
        self._edges: list[dict[int, tuple[float, float]]] = [{} for _ in area]
        for a, b, length, strength in zip(*(column.tolist() for column in _borders(basins, slope)), strict=True):
            self._edges[a][b] = self._edges[b][a] = (float(length), strength)

    def merge(self, regions: int) -> IntArray:
        """Join the cheapest pair until `regions` are left: [H, W] region numbers."""
        queue = [(self._cost(a, b), a, b) for a, row in enumerate(self._edges) for b in row if a < b]
        heapq.heapify(queue)
        left = len(self._edges)
        while queue and left > regions:
            cost, a, b = heapq.heappop(queue)
            if b not in self._edges[a]:
                continue
            now = self._cost(a, b)
            if now > cost:
                heapq.heappush(queue, (now, a, b))
                continue
            left -= 1
            for other in self._join(a, b):
                heapq.heappush(queue, (self._cost(a, other), min(a, other), max(a, other)))
        return self._numbers()

    def _cost(self, a: int, b: int) -> float:
        """Ward's: the variance that joining adds, more across an edge of the picture."""
        length, strength = self._edges[a][b]
        area = self._area[a] * self._area[b] / (self._area[a] + self._area[b])
        (x0, y0, z0), (x1, y1, z1) = self._colour[a], self._colour[b]
        distance = (x0 - x1) ** 2 + (y0 - y1) ** 2 + (z0 - z1) ** 2
        return float(area**_AREA_WEIGHT * (distance + _FLAT_COST) * (_EDGE_COST + strength / length))

    def _join(self, a: int, b: int) -> list[int]:
        """Make `b` a part of `a`: the neighbours of `b` whose cost to `a` may have fallen."""
        area_a, area_b = self._area[a], self._area[b]
        mixed = [
            (u * area_a + v * area_b) / (area_a + area_b) for u, v in zip(self._colour[a], self._colour[b], strict=True)
        ]
        self._colour[a], self._area[a], self._parent[b] = mixed, area_a + area_b, a
        neighbours, self._edges[b] = self._edges[b], {}
        del self._edges[a][b], neighbours[a]
        for other, (length, strength) in neighbours.items():
            del self._edges[other][b]
            known = self._edges[a].get(other, (0.0, 0.0))
            self._edges[a][other] = self._edges[other][a] = (known[0] + length, known[1] + strength)
        return list(neighbours)

    def _numbers(self) -> IntArray:
        parent = self._parent
        while not np.array_equal(parent, parent[parent]):
            parent = parent[parent]
        return np.asarray(np.unique(parent, return_inverse=True)[1][self._basins], np.int32)


def _means(regions: IntArray, colour: FloatArray) -> tuple[Counts, Floats]:
    """Area [R] and mean colour [R, 3] of every region."""
    flat = regions.ravel()
    area = np.bincount(flat)
    sums = [np.bincount(flat, colour[..., c].ravel()) for c in range(3)]
    return area, np.stack(sums, -1) / np.maximum(area, 1)[:, None]


def _borders(regions: IntArray, slope: FloatArray) -> tuple[Counts, Counts, Counts, Floats]:
    """Pairs of neighbours, a < b, the length of their border and the summed slope along it: four times [E]."""
    count = int(regions.max()) + 1
    keys: list[Counts] = []
    slopes: list[FloatArray] = []
    for near, far in ((np.s_[:, :-1], np.s_[:, 1:]), (np.s_[:-1], np.s_[1:])):
        a, b = regions[near].astype(np.int64), regions[far].astype(np.int64)
        differ = a != b
        keys.append((np.minimum(a, b) * count + np.maximum(a, b))[differ])
        slopes.append(np.maximum(slope[near], slope[far])[differ])
    pairs, index = np.unique(np.concatenate(keys), return_inverse=True)
    strengths = np.asarray(np.bincount(index, np.concatenate(slopes)), np.float64)
    return pairs // count, pairs % count, np.asarray(np.bincount(index), np.int64), strengths


def _paired(regions: IntArray, colour: FloatArray, slope: FloatArray) -> IntArray:
    """Join every region with the neighbour most like it, all at once: far fewer are left for the careful merger."""
    a, b, length, strength = _borders(regions, slope)
    if not len(a):
        return regions
    means = _means(regions, colour)[1]
    cost = (((means[a] - means[b]) ** 2).sum(-1) + _FLAT_COST) * (_EDGE_COST + strength / length)
    order = np.argsort(-cost, kind="stable")
    nearest = np.arange(len(means))
    nearest[a[order]] = b[order]
    cheapest = np.full(len(means), np.inf)
    np.minimum.at(cheapest, a, cost)
    better = order[cost[order] <= cheapest[b[order]]]
    nearest[b[better]] = a[better]
    graph = coo_array((np.ones(len(means)), (np.arange(len(means)), nearest)), shape=(len(means), len(means)))
    return np.asarray(connected_components(graph, directed=False)[1][regions], np.int32)


def _smooth(regions: IntArray) -> IntArray:
    """Boundaries without the watershed's one-pixel ragged steps."""
    return np.asarray(ndimage.median_filter(regions, 3), np.int32)


def _distinct(regions: IntArray, slope: FloatArray) -> ImageArray:
    """Number the regions that have a fitting size and a clear boundary; the clearest first."""
    boundary = np.zeros(regions.shape, np.bool_)
    boundary[:, 1:] |= regions[:, 1:] != regions[:, :-1]
    boundary[1:] |= regions[1:] != regions[:-1]
    numbers = np.arange(regions.max() + 1)
    share = np.bincount(regions.ravel(), minlength=len(numbers)) / regions.size
    edge, height = regions[boundary], slope[boundary]
    length = np.maximum(np.bincount(edge, minlength=len(numbers)), 1)
    contrast = np.bincount(edge, np.minimum(height, 4 * _CLEAR_SLOPE), len(numbers)) / length
    clear = np.bincount(edge, height >= _CLEAR_SLOPE, len(numbers)) / length
    fits = (share >= _MIN_SHARE) & (share <= _MAX_SHARE) & (clear >= _CLEAR_SHARE)
    kept = sorted(numbers[fits], key=lambda n: -contrast[n])
    lookup = np.zeros(len(numbers), np.uint8)
    lookup[kept] = np.arange(1, len(kept) + 1)
    return lookup[regions]
