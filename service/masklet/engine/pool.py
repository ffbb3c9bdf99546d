"""Pages of equal shape in one tensor: what many objects remember is one gather to read, one scatter to write."""

from __future__ import annotations

import torch
from torch import Tensor

_DOUBLED_UP_TO_BYTES = 256 * 1024 * 1024


class Pool:
    """Rows of one growing tensor, handed out by number."""

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, *, capacity: int = 16) -> None:
        """`shape` of one page; room for `capacity` pages at first, which grows when they run out."""
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
        """Store [B, *shape] values in B fresh pages; returns their numbers. If it fails no page is taken."""
        while len(self._free) < len(values):
            self._grow()
        rest = len(self._free) - len(values)
        numbers = self._free[rest:]
        self._pages[self._index(numbers)] = values.to(self._pages.dtype)
        del self._free[rest:]
        self._used.update(numbers)
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
        """Twice as many pages; a quarter more once they are many, since old and new ones are there together."""
        capacity = len(self._pages)
        many = capacity * self.page_bytes > _DOUBLED_UP_TO_BYTES
        larger = capacity + max(1, capacity // 4) if many else 2 * capacity
        grown = self._pages.new_empty((larger, *self._pages.shape[1:]))
        grown[:capacity] = self._pages
        self._pages = grown
        self._free.extend(range(larger - 1, capacity - 1, -1))


def write_all(*parts: tuple[Pool, Tensor]) -> list[list[int]]:
    """Store values in several pools, in all of them or, if one fails (out of memory), in none; their page numbers."""
    written: list[list[int]] = []
    try:
        for pool, values in parts:
            written.append(pool.write(values))
    except RuntimeError:
        for (pool, _), numbers in zip(parts, written, strict=False):
            for number in numbers:
                pool.free(number)
        raise
    return written
