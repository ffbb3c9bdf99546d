"""Regions of a photograph found without learning: a watershed of the colour gradient, merged greedily by Ward's cost.

The network must learn that real image edges bound things; regions of photographs teach it real edges.
"""

from __future__ import annotations

import heapq

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from masklet.types import FloatArray, ImageArray, IntArray

_SMOOTHING_PX = 1.2
_REGIONS = 14
_MIN_SHARE, _MAX_SHARE = 0.008, 0.45
_CLEAR_SLOPE, _CLEAR_SHARE = 34.0, 0.7
_AREA_WEIGHT, _FLAT_COST, _EDGE_COST = 0.6, 25.0, 8.0
_BASIN_PX = 13
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
    merged = _Merger(basins, colour, slope).merge(regions)
    return _distinct(_smooth(merged), slope)


def _watershed(slope: FloatArray) -> IntArray:
    """One basin per spot flatter than everything within six pixels: [H, W], from 0."""
    height = np.minimum(slope, 255).astype(np.uint8)
    wide = ndimage.gaussian_filter(slope, 1.0)
    minima = wide <= ndimage.minimum_filter(wide, _BASIN_PX)
    seeds, _ = ndimage.label(minima, np.ones((3, 3)))
    flooded = ndimage.watershed_ift(height, seeds.astype(np.int32))
    return np.asarray(np.maximum(flooded - 1, 0), np.int32)


class _Merger:
    """Regions and what they cost to join, cheapest first."""

    def __init__(self, basins: IntArray, colour: FloatArray, slope: FloatArray) -> None:
        flat = basins.ravel()
        count = int(flat.max()) + 1
        area = np.bincount(flat, minlength=count)
        sums = [np.bincount(flat, colour[..., c].ravel(), count) for c in range(3)]
        self._basins = basins
        self._area: list[float] = area.astype(float).tolist()
        self._colour: list[list[float]] = (np.stack(sums, -1) / np.maximum(area, 1)[:, None]).tolist()
        self._parent = np.arange(count)
        self._edges = _boundaries(basins, slope, count)

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


def _boundaries(basins: IntArray, slope: FloatArray, count: int) -> list[dict[int, tuple[float, float]]]:
    """For each region its neighbours, with the length of the common boundary and the summed slope along it."""
    keys: list[npt.NDArray[np.int64]] = []
    slopes: list[FloatArray] = []
    for near, far in ((np.s_[:, :-1], np.s_[:, 1:]), (np.s_[:-1], np.s_[1:])):
        a, b = basins[near].astype(np.int64), basins[far].astype(np.int64)
        differ = a != b
        keys.append((np.minimum(a, b) * count + np.maximum(a, b))[differ])
        slopes.append(np.maximum(slope[near], slope[far])[differ])
    pairs, index = np.unique(np.concatenate(keys), return_inverse=True)
    lengths, strengths = np.bincount(index), np.bincount(index, np.concatenate(slopes))
    edges: list[dict[int, tuple[float, float]]] = [{} for _ in range(count)]
    for pair, length, strength in zip(pairs.tolist(), lengths.tolist(), strengths.tolist(), strict=True):
        a, b = divmod(pair, count)
        edges[a][b] = edges[b][a] = (float(length), strength)
    return edges


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
