"""The bounded bank against one that forgets nothing."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from masklet.engine.bank import BankRead, BankRules, Entry, MemoryBank


@dataclass
class Unbounded:
    """Every frame ever written, by index: (memory page, pointer page)."""

    cap: int | None
    conditioning: dict[int, tuple[int, int]] = field(default_factory=dict)
    recent: dict[int, tuple[int, int]] = field(default_factory=dict)

    def write(self, index: int, pages: tuple[int, int], *, conditioning: bool) -> None:
        if conditioning or index in self.conditioning:
            self.conditioning[index] = pages
            self.recent.pop(index, None)
        else:
            self.recent[index] = pages

    def read(self, index: int) -> BankRead:
        """Straight from the design: newest conditioning frames, then t-6 ... t-1, pointers down to t-15."""
        past = sorted(i for i in self.conditioning if i < index)
        chosen = past if self.cap is None else past[max(0, len(past) - self.cap) :]
        near = {i: pages for i, pages in (self.conditioning | self.recent).items() if i not in chosen}
        memories = [(self.conditioning[i][0], 6) for i in chosen]
        memories += [(near[i][0], index - i - 1) for i in range(index - 6, index) if i in near]
        pointers = [(self.conditioning[i][1], index - i) for i in chosen]
        pointers += [(near[index - d][1], d) for d in range(1, 16) if index - d in near]
        return BankRead(*map(list, zip(*memories, strict=True)), *map(list, zip(*pointers, strict=True)))


@dataclass
class Twins:
    """Both banks, written alike; `pages` are those not freed yet."""

    rules: BankRules
    latest: int = -1
    page: int = 0
    memories: set[int] = field(default_factory=set)
    pointers: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.bank = MemoryBank(self.rules)
        self.whole = Unbounded(self.rules.max_conditioning)

    @property
    def window(self) -> range:
        return range(max(0, self.latest - self.rules.history + 1), self.latest + 1)

    def write(self, index: int, *, conditioning: bool) -> None:
        self.page += 1
        memory, pointer = self.page, 1000 + self.page
        self.memories.add(memory)
        self.pointers.add(pointer)
        replaced = self.bank.write(index, Entry(memory, pointer), conditioning=conditioning)
        self.whole.write(index, (memory, pointer), conditioning=conditioning)
        memories, pointers = self.bank.prune(self.latest)
        if replaced is not None:
            pointers.append(replaced.pointer)
            memories += [] if replaced.memory is None else [replaced.memory]
        self._free(memories, pointers)

    def _free(self, memories: list[int], pointers: list[int]) -> None:
        for page in memories:
            self.memories.remove(page)
        for page in pointers:
            self.pointers.remove(page)

    def check(self) -> None:
        for index in [*self.window, self.latest + 1]:
            if any(i < index for i in self.whole.conditioning):
                assert self.bank.read(index) == self.whole.read(index), index
        held = self.bank.entries()
        assert sorted(e.memory for e in held if e.memory is not None) == sorted(self.memories)
        assert sorted(e.pointer for e in held) == sorted(self.pointers)
        history, cap = self.rules.history, self.rules.max_conditioning
        assert len(self.bank.recent) <= 15 + history
        assert sum(e.memory is not None for e in self.bank.recent.values()) <= 6 + history
        if cap is not None:
            assert len(self.bank.conditioning) <= cap + history


STEPS = st.lists(
    st.tuples(st.sampled_from(["track"] * 6 + ["restart", "correct", "keep"]), st.integers(0, 3)),
    min_size=1,
    max_size=60,
)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from([None, 1, 2, 4]), st.integers(0, 4), st.integers(0, 3), STEPS)
def test_what_a_bounded_bank_reads_is_what_an_unbounded_one_would(cap, history, delay, script):
    twins = Twins(BankRules(cap, history), latest=delay - 1)
    twins.latest += 1
    twins.write(twins.latest, conditioning=True)
    for what, back in script:
        if what in ("track", "restart"):
            twins.latest += 1
            twins.write(twins.latest, conditioning=what == "restart")
        elif back < len(twins.window):
            twins.write(twins.window[-1 - back], conditioning=what == "keep")
        twins.check()


def test_only_the_first_frame_and_the_recent_ones_are_held_of_a_long_run():
    twins = Twins(BankRules(4, 1), latest=0)
    twins.write(0, conditioning=True)
    for _ in range(100):
        twins.latest += 1
        twins.write(twins.latest, conditioning=False)
        twins.check()
    assert (len(twins.memories), len(twins.pointers)) == (8, 17)
    assert twins.bank.read(101).slots == [6, 5, 4, 3, 2, 1, 0]
    assert twins.bank.read(101).distances == [101, *range(1, 16)]


def test_conditioning_frames_over_the_cap_serve_as_recent_frames():
    twins = Twins(BankRules(1, 1), latest=-1)
    for _ in range(3):
        twins.latest += 1
        twins.write(twins.latest, conditioning=True)
    read = twins.bank.read(3)
    assert (read.memories, read.slots, read.distances) == ([3, 1, 2], [6, 2, 1], [1, 2, 3])


def test_a_corrected_conditioning_frame_stays_one():
    bank = MemoryBank(BankRules(4, 1))
    bank.write(0, Entry(1, 1), conditioning=True)
    assert bank.write(0, Entry(2, 2), conditioning=False) == Entry(1, 1)
    assert (list(bank.conditioning), bank.recent) == ([0], {})
