"""What the soak makes of its streams; the soak itself: `python -m tests.faults.soak`."""

from __future__ import annotations

import numpy as np
import pytest
from tests.faults.soak import RECOVERY_S, Account, report

FRAME_S = 0.2
IMAGE = np.zeros((8, 8, 3), np.uint8)


def account(*, answered: int = 2, gap_s: float = FRAME_S) -> Account:
    masks = dict.fromkeys(range(1, answered + 1), b"")
    return Account({1: IMAGE, 2: IMAGE}, masks, longest_gap_s=gap_s)


@pytest.mark.parametrize(
    ("found", "different", "good"),
    [
        (account(gap_s=FRAME_S + RECOVERY_S), 0, True),
        (account(gap_s=FRAME_S + RECOVERY_S + 0.1), 0, False),
        (account(answered=1), 0, False),
        (account(), 1, False),
    ],
    ids=["good", "gap", "missing", "different"],
)
def test_a_stream_that_lost_or_waited_too_long_fails_the_soak(capsys, found, different, good):
    assert report([account(), found], [0, different], frame_s=FRAME_S) is good
    assert "limit 2.20 s" in capsys.readouterr().out
