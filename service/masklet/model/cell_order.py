"""The order of a map's cells in memory: row by row, or window by window, so that windows need no cutting.

Nested order (as the Hiera authors' "unroll"): blocks of `side` x `side` cells row by row; within a block its four
quadrants, within each of these its four quadrants, and so on. Aligned windows whose side is a power of two, and the
four cells that are pooled into one, then lie one after the other, before pooling and after.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


def nested_run(height: int, blocks: Iterable[tuple[int, bool]]) -> tuple[int, int]:
    """How far nested order carries on a square map.

    Args:
        height: side of the map in cells.
        blocks: window side in cells (0: the whole map) and whether the queries are pooled by 2, block after block.

    Returns:
        How many of the first blocks can be carried out in nested order, and the side of the order's blocks in cells.
    """
    side, shrunk, count = 1, 1, 0
    for window, pools in blocks:
        needed = max(side, window * shrunk, 2 * shrunk if pools else 1)
        if window & (window - 1) or height % needed:
            break
        side, shrunk, count = needed, shrunk * 2 if pools else shrunk, count + 1
    return count, side


def to_nested(x: Tensor, side: int) -> Tensor:
    """[F, H, W, C] -> [F, H * W, C]; `side` is a power of two that divides H and W."""
    frames, height, width, channels = x.shape
    halvings = side.bit_length() - 1
    x = x.reshape(frames, height // side, *[2] * halvings, width // side, *[2] * halvings, channels)
    return x.permute(0, *_pairs(halvings, rows_at=1, columns_at=2 + halvings), x.dim() - 1).reshape(
        frames, height * width, channels
    )


def from_nested(x: Tensor, side: int, size: tuple[int, int]) -> Tensor:
    """[F, H * W, C] -> [F, H, W, C] of `size` (H, W); undoes `to_nested`."""
    height, width = size
    halvings = side.bit_length() - 1
    order = _pairs(halvings, rows_at=1, columns_at=2 + halvings)
    x = x.reshape(len(x), height // side, width // side, *[2] * (2 * halvings), x.shape[-1])
    back = [order.index(place) + 1 for place in range(1, 3 + 2 * halvings)]
    return x.permute(0, *back, x.dim() - 1).reshape(len(x), height, width, x.shape[-1])


def _pairs(halvings: int, *, rows_at: int, columns_at: int) -> list[int]:
    """The dimensions of rows and columns in turns, from the coarsest."""
    return [dim for level in range(halvings + 1) for dim in (rows_at + level, columns_at + level)]


def max_pool_nested(x: Tensor) -> Tensor:
    """[F, N, C] -> [F, N / 4, C]: the largest of each four cells in a row."""
    fours = x.unflatten(1, (-1, 4))
    pairs = torch.maximum(fours[:, :, :2], fours[:, :, 2:])
    return torch.maximum(pairs[:, :, 0], pairs[:, :, 1])
