"""Pages of equal shape in one tensor: what many objects remember is one gather to read, one scatter to write."""

from __future__ import annotations

import torch
from torch import Tensor


class Pool:
    """Rows of one growing tensor, handed out by number."""

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, *, capacity: int = 16) -> None:
        """`shape` of one page; room for `capacity` pages at first, doubled when they run out."""
        self._pages = torch.empty((capacity, *shape), dtype=dtype, device=device)
        self._free = list(range(capacity - 1, -1, -1))
        self._used: set[int] = set()

    @property
    def used(self) -> int:
        """Pages handed out."""
        return len(self._used)

    @property
    def page_bytes(self) -> int:
        """Bytes of one page."""
        return self._pages[0].numel() * self._pages.element_size()

    def write(self, values: Tensor) -> list[int]:
        """Store [B, *shape] values in B fresh pages; returns their numbers."""
        while len(self._free) < len(values):
            self._grow()
        numbers = [self._free.pop() for _ in range(len(values))]
        self._used.update(numbers)
        self._pages[self._index(numbers)] = values.to(self._pages.dtype)
        return numbers

    def read(self, numbers: list[list[int]]) -> Tensor:
        """[B, K, *shape] of B lists of K page numbers."""
        return self._pages[self._index(numbers)]

    def free(self, number: int) -> None:
        """Give one page back."""
        self._used.remove(number)
        self._free.append(number)

    def _index(self, numbers: list[int] | list[list[int]]) -> Tensor:
        return torch.tensor(numbers, dtype=torch.long).to(self._pages.device, non_blocking=True)

    def _grow(self) -> None:
        capacity = len(self._pages)
        grown = self._pages.new_empty((2 * capacity, *self._pages.shape[1:]))
        grown[:capacity] = self._pages
        self._pages = grown
        self._free.extend(range(2 * capacity - 1, capacity - 1, -1))
