"""A short rolling restart, and what is made of one; the long one is `make rolling`."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from tests.faults.camera import Account
from tests.faults.rolling import LONGEST_GAP_S, Plan, report, roll

from masklet.types import StateOrigin


@pytest.mark.slow
@pytest.mark.triton
@pytest.mark.timeout(300)
async def test_two_fronts_and_two_tritons_restarted_in_turn_lose_nothing(tmp_path: Path) -> None:
    accounts = await roll(Plan(streams=2, rate_hz=3.0, pause_s=0.5, policy="block"), tmp_path)
    assert report(accounts), "see above"
    assert all(len(account.masks) > 10 for account in accounts)
    origins = {origin for account in accounts for origin in account.resumed | account.origins}
    assert origins >= {StateOrigin.INTACT, StateOrigin.MIGRATED}


def account(*, answered: int = 10, dropped: int = 0, gap_s: float = 0.2, resumed: StateOrigin | None = None) -> Account:
    """Of ten frames."""
    masks = dict.fromkeys(range(answered), b"")
    reasons = dict.fromkeys(range(answered, answered + dropped), "queue_full")
    return Account(10, masks, reasons, resumed=Counter([resumed] if resumed else []), gaps_s=[0.2, gap_s])


@pytest.mark.parametrize(
    ("found", "good"),
    [
        (account(resumed=StateOrigin.INTACT), True),
        (account(resumed=StateOrigin.RESEEDED), False),
        (account(answered=9), False),
        (account(answered=9, dropped=1), False),
        (account(gap_s=LONGEST_GAP_S), True),
        (account(gap_s=LONGEST_GAP_S + 0.1), False),
    ],
    ids=["good", "begun anew", "missing", "dropped", "waited", "waited too long"],
)
def test_what_was_lost_dropped_or_late_fails_a_rolling_restart(found: Account, good: bool) -> None:
    assert report([account(), found]) is good


def test_how_much_is_too_much_can_be_told(capsys: pytest.CaptureFixture[str]) -> None:
    found = [account(), account(answered=8, dropped=2, gap_s=90.0)]
    assert report(found, gap_s=90.0, dropped_share=0.1)
    assert not report(found, gap_s=89.0, dropped_share=0.1)
    assert not report(found, gap_s=90.0, dropped_share=0.09)
    said = capsys.readouterr().out
    assert "2 of 20 frames dropped, limit 10.0%\n" in said and "longest gap of all 90.00 s, limit 90 s\n" in said
