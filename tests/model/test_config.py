"""What is fixed in all networks, and what may differ."""

from dataclasses import fields

import pytest
import torch

from masklet.engine.bank import BankRules, Entry, MemoryBank
from masklet.model import VARIANTS, SAM2Config
from masklet.model.config import MEMORY_SLOTS, RECENT_POINTERS
from masklet.model.sam2 import SAM2


def test_what_a_bank_reads_fits_the_network():
    bank = MemoryBank(BankRules(max_conditioning=None, history=1))
    for index in range(40):
        bank.write(index, Entry(index, index), conditioning=index == 0)
    read = bank.read(40)
    assert sorted(read.slots) == list(range(MEMORY_SLOTS))
    assert max(distance for distance in read.distances if distance < 40) == RECENT_POINTERS


@pytest.mark.parametrize("variant", ["nano", "sam2_hiera_tiny", "sam2.1_hiera_large"])
def test_every_network_has_all_slots(variant):
    with torch.device("meta"):
        assert len(SAM2(VARIANTS[variant]).maskmem_tpos_enc) == MEMORY_SLOTS


def test_no_field_promises_what_the_bank_does_not_do():
    assert not {"memory_slots", "pointer_slots"} & {field.name for field in fields(SAM2Config)}
