"""One object's memory bank: which frames are remembered, what a frame may read, what can be forgotten (section 4)."""

from __future__ import annotations

from dataclasses import dataclass

from masklet.model.config import CONDITIONING_SLOT, RECENT_FRAMES, RECENT_POINTERS

__all__ = ["RECENT_FRAMES", "RECENT_POINTERS", "BankRead", "BankRules", "Entry", "MemoryBank"]


@dataclass(frozen=True, slots=True)
class BankRules:
    """How much is read and kept.

    Attributes:
        max_conditioning: at most so many conditioning frames are read, the newest; None: all.
        history: answered frames that may still be read as of, for corrections; at least 1.
    """

    max_conditioning: int | None
    history: int


@dataclass(slots=True)
class Entry:
    """What one frame left: page numbers. `memory` is None once no read can reach it."""

    memory: int | None
    pointer: int


@dataclass(frozen=True, slots=True)
class BankRead:
    """Page numbers that one frame reads, with their temporal slots and distances in frames."""

    memories: list[int]
    slots: list[int]
    pointers: list[int]
    distances: list[int]

    @property
    def shape(self) -> tuple[int, int]:
        """Rows of equal shape can share a batch."""
        return len(self.memories), len(self.pointers)


class MemoryBank:
    """Conditioning frames and recent frames, by frame index. Bounded: `prune` drops what no later read can reach."""

    def __init__(self, rules: BankRules) -> None:
        self.rules = rules
        self.conditioning: dict[int, Entry] = {}
        self.recent: dict[int, Entry] = {}

    def write(self, index: int, entry: Entry, *, conditioning: bool) -> Entry | None:
        """Remember a frame; returns the entry it replaces. A conditioning frame stays one when corrected."""
        replaced = self.conditioning.get(index) or self.recent.pop(index, None)
        if conditioning or index in self.conditioning:
            self.conditioning[index] = entry
        else:
            self.recent[index] = entry
        return replaced

    def read(self, index: int) -> BankRead:
        """What frame `index` attends to: conditioning frames first, then the recent ones, oldest first."""
        selected, others = self._select(index)
        near = {**others, **{i: e for i, e in self.recent.items() if i < index}}
        conditioning = [(e.memory, CONDITIONING_SLOT) for e in selected.values()]
        recent = [(near[index - d].memory, d - 1) for d in range(RECENT_FRAMES, 0, -1) if index - d in near]
        memories = [(page, slot) for page, slot in conditioning + recent if page is not None]
        pointers = [(e.pointer, index - i) for i, e in selected.items()]
        pointers += [(near[index - d].pointer, d) for d in range(1, RECENT_POINTERS + 1) if index - d in near]
        return BankRead(
            memories=[page for page, _ in memories],
            slots=[slot for _, slot in memories],
            pointers=[page for page, _ in pointers],
            distances=[distance for _, distance in pointers],
        )

    def _select(self, index: int) -> tuple[dict[int, Entry], dict[int, Entry]]:
        """Conditioning frames before `index`: the newest up to the cap, and the others."""
        past = sorted(i for i in self.conditioning if i < index)
        cap = self.rules.max_conditioning
        cut = 0 if cap is None else max(0, len(past) - cap)
        return {i: self.conditioning[i] for i in past[cut:]}, {i: self.conditioning[i] for i in past[:cut]}

    def prune(self, latest: int) -> tuple[list[int], list[int]]:
        """Forget what no read as of frame `latest` - history + 1 or later can reach.

        Returns:
            Memory pages and pointer pages to be freed.
        """
        oldest_reader = latest - self.rules.history + 1
        memories, pointers = [], []
        for index in self._unreachable_conditioning(oldest_reader):
            self.recent[index] = self.conditioning.pop(index)
        for index, entry in list(self.recent.items()):
            if index < oldest_reader - RECENT_FRAMES and entry.memory is not None:
                memories.append(entry.memory)
                entry.memory = None
            if index < oldest_reader - RECENT_POINTERS:
                pointers.append(self.recent.pop(index).pointer)
        return memories, pointers

    def _unreachable_conditioning(self, oldest_reader: int) -> list[int]:
        """Conditioning frames that neither the cap nor any future read selects; they serve as recent frames a while."""
        past = sorted(i for i in self.conditioning if i < oldest_reader)
        cap = self.rules.max_conditioning
        return [] if cap is None else past[: max(0, len(past) - cap)]

    def entry(self, index: int) -> Entry:
        """What a frame left. Raises KeyError if it is not remembered."""
        return self.conditioning[index] if index in self.conditioning else self.recent[index]

    def entries(self) -> list[Entry]:
        """All that is held."""
        return [*self.conditioning.values(), *self.recent.values()]
