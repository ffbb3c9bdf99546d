from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

import masklet.engine.pool
from masklet.engine.pool import Pool, write_all

CPU = torch.device("cpu")


def small(capacity: int = 2, dtype: torch.dtype = torch.float32) -> Pool:
    return Pool((3,), dtype, CPU, capacity=capacity)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(-3, 5), max_size=40))
def test_pages_keep_what_was_written_through_frees_and_growth(script):
    """A positive number writes so many pages, a negative one frees so many, oldest first."""
    pool, value = small(), 0.0
    held: dict[int, torch.Tensor] = {}
    for count in script:
        if count > 0:
            values = value + torch.arange(count * 3.0).view(count, 3)
            value += 3 * count
            fresh = pool.write(values)
            assert not held.keys() & set(fresh)
            held.update(zip(fresh, values, strict=True))
        for number in list(held)[: max(0, -count)]:
            pool.free(number)
            del held[number]
        assert pool.used == len(held)
        if held:
            assert torch.equal(pool.read([list(held)])[0], torch.stack(list(held.values())))


def test_freed_pages_are_used_again_before_the_pool_grows():
    pool = small(capacity=2)
    for _ in range(50):
        for number in pool.write(torch.ones(2, 3)):
            assert number < 2
            pool.free(number)


class Allocations(TorchDispatchMode):
    """Bytes of the tensors made meanwhile, other than those that share memory with one known."""

    def __init__(self, *known: torch.Tensor) -> None:
        super().__init__()
        self._known = {tensor.untyped_storage().data_ptr() for tensor in known}
        self.byte_count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        storage = made.untyped_storage()
        if storage.data_ptr() not in self._known:
            self._known.add(storage.data_ptr())
            self.byte_count += storage.nbytes()
        return made


def test_growing_takes_no_more_memory_than_the_larger_pool():
    pool = small(capacity=1024)
    with Allocations(pool._pages) as made:
        pool._grow()
    assert made.byte_count == 2 * 1024 * pool.page_bytes


def test_freeing_twice_is_a_bug_and_raises():
    pool = small()
    (number,) = pool.write(torch.ones(1, 3))
    pool.free(number)
    with pytest.raises(KeyError):
        pool.free(number)


def test_pages_have_the_pool_s_type_and_their_bytes_are_known():
    pool = small(dtype=torch.bfloat16)
    (number,) = pool.write(torch.full((1, 3), 1.0 + 2**-12))
    assert pool.read([[number]]).dtype == torch.bfloat16
    assert pool.read([[number]]).tolist() == [[[1.0, 1.0, 1.0]]]
    assert pool.page_bytes == 6


def test_nothing_is_written_and_read_as_nothing():
    pool = small()
    assert pool.write(torch.zeros(0, 3)) == []
    assert pool.read([[], []]).shape == (2, 0, 3)


def test_a_write_that_fails_takes_no_page():
    pool = small(capacity=2)
    pool.write(torch.zeros(1, 3))
    with pytest.raises(RuntimeError):
        pool.write(torch.zeros(1, 4))
    assert pool.used == 1
    assert pool.write(torch.ones(1, 3)) != [0]
    assert pool.used == 2


def test_values_are_written_to_all_pools_or_to_none():
    pools = small(), small()
    with pytest.raises(RuntimeError):
        write_all((pools[0], torch.zeros(2, 3)), (pools[1], torch.zeros(2, 4)))
    assert [pool.used for pool in pools] == [0, 0]
    assert [len(numbers) for numbers in write_all((pools[0], torch.zeros(2, 3)), (pools[1], torch.ones(5, 3)))] == [
        2,
        5,
    ]
    assert [pool.used for pool in pools] == [2, 5]


def test_a_large_pool_grows_by_a_quarter(monkeypatch):
    """Old and new pages are there together: doubling would take three times the memory for a moment."""
    monkeypatch.setattr(masklet.engine.pool, "_DOUBLED_UP_TO_BYTES", 100)
    pool, sizes = small(capacity=2), []
    for _ in range(30):
        pool.write(torch.zeros(1, 3))
        sizes.append(len(pool._pages))
    assert sorted(set(sizes)) == [2, 4, 8, 16, 20, 25, 31]
